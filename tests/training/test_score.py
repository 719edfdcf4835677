"""How scores are made; and what the shipped weights reach."""

from pathlib import Path

import numpy as np
import pytest
import torch
from training.captions import words
from training.concepts import ADDED, FIRST
from training.matcher import SIZE, Judge, reduced
from training.prompts import TEN, Prompt, held_out_prompts, true_picture
from training.score import REFERENCES, Scorer, answers, choices, drawn, frechet, main, share, table, told_apart
from training.ship import DATA

from illustrious.images.diffusion.checkpoint import starter_folder
from tests.training.tiny import icons

CPU = torch.device("cpu")
OTHERS = held_out_prompts(FIRST)


def test_a_caption_is_looked_for_among_fifty_and_half_of_the_others_are_nearly_right() -> None:
    prompt = next(prompt for prompt in OTHERS if prompt.asked == "ground")
    found = choices(prompt, OTHERS)
    assert found[0] == prompt.caption
    assert len(set(found)) == 50
    assert found == choices(prompt, OTHERS)
    near = [caption for caption in found[1:] if caption not in {other.caption for other in OTHERS}]
    assert len(near) >= 20
    assert all(set(caption.split()) & set(prompt.caption.split()) >= {"on", "background"} for caption in near)


def test_what_is_true_by_another_noun_is_no_wrong_caption() -> None:
    gems = Prompt("two gems", "count", ("gem stone",), "count", 2)
    assert not {"two diamonds", "two gem stones"} & set(choices(gems, OTHERS))
    assert len(choices(gems, [Prompt("two diamonds", "count", ()), *OTHERS])) == 50
    for prompt in [*OTHERS, *held_out_prompts(ADDED)]:
        found = [words(caption) for caption in choices(prompt, OTHERS)]
        assert found.count(words(prompt.caption)) == 1
        if prompt.labels == ("cat face",):
            assert words(prompt.caption.replace("cat face", "cat")) not in found


def test_a_share_is_as_sure_as_its_prompts_are_many() -> None:
    prompts = [Prompt(f"{number} owls", "count", ()) for number in range(40)]
    halves = [[(prompt, place % 2 == 0) for place, prompt in enumerate(those)] for those in (prompts[:10], prompts)]
    few, many = map(share, halves)
    assert few.value == many.value == 0.5
    assert (few.prompts, many.prompts) == (10, 40)
    assert few.low < many.low < 0.5 < many.high < few.high
    assert share(halves[1] * 5) == many, "pictures of one prompt tell no more than one"


def test_that_all_of_few_are_right_does_not_make_it_sure() -> None:
    """The intervals are Wilson's, worked out by hand: 6 / (6 + 1.96²) = 0.61."""
    six = [Prompt(f"{number} owls", "count", ()) for number in range(6)]
    assert str(share((prompt, True) for prompt in six * 4)) == "100 % [61 … 100]"
    assert str(share((prompt, False) for prompt in six)) == "0 % [0 … 39]"


def test_the_frechet_distance_of_normal_distributions_is_that_of_their_means_and_deviations() -> None:
    random = torch.Generator().manual_seed(0)
    one = torch.randn(20_000, 3, generator=random)
    other = 2 * torch.randn(20_000, 3, generator=random) + 1
    assert frechet(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet(one, other) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, rel=0.05)


def test_true_pictures_pass_what_the_pixels_tell_and_blank_ones_do_not() -> None:
    counted = [
        Prompt("two apples", "count", ("red apple",), "count", 2),
        Prompt("four frogs", "count", ("frog",), "count", 4),
    ]
    prompts = [*held_out_prompts(("red apple", "house", "frog"), each=2), *counted]
    truth = [true_picture(prompt, icons(SIZE), SIZE, seed=0) for prompt in prompts]
    sets = {"first": prompts, "added": prompts, "founding": prompts}
    unseen = [np.rot90(picture).copy() for picture in truth]  # stands for another style
    scorer = Scorer(Judge.load(), sets, {"twemoji": truth * 3, "noto": unseen * 3})
    blank = [np.full((SIZE, SIZE, 3), 255, np.uint8)] * len(truth) * 3
    columns = {"true": scorer.figures(truth * 3), "blank": scorer.figures(blank)}
    checks = [row for row in columns["true"] if "pixels" in row]
    assert [columns["true"][row].value for row in checks] == [1] * 6
    assert [columns["blank"][row].value for row in checks] == [0] * 6
    own, other = (f"first: {REFERENCES[style]}" for style in ("twemoji", "noto"))
    assert columns["true"][own] == pytest.approx(0, abs=1e-3)
    assert 0.01 < columns["true"][other] < columns["blank"][own], "what another style alone makes"
    lines = table(columns).splitlines()
    assert len(lines) == len(columns["true"]) + 2
    assert {line.count("|") for line in lines} == {5}
    assert lines[2].startswith(f"| **the {len(FIRST)} things of the first starter** | {len(prompts)} | ")


def test_models_whose_folders_have_one_name_have_columns_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert told_apart([Path("starter")]) == ["starter"]
    assert told_apart([Path("first/model"), Path("image/model")]) == ["first/model", "image/model"]
    assert told_apart([Path("a/b/model"), Path("c/b/model"), Path("a/b/other")]) == [
        "a/b/model",
        "c/b/model",
        "a/b/other",
    ]
    with pytest.raises(SystemExit):
        main(["image/model", "image/../image/model"])
    assert "A model is named twice" in capsys.readouterr().err


RECOGNISED = 5
"""Of the ten fixed prompts, in which true pictures reach 8 and more, and the first starter model 2."""


@pytest.mark.parametrize("few_steps", [None, DATA / "loras" / "starter-4-steps.safetensors"])
def test_the_shipped_weights_draw_what_they_are_asked_for(few_steps: Path | None) -> None:
    """The founding document's examples and four things, at fixed seeds, told among fifty captions each: in 20 steps,
    and in 4 with the LoRA for it."""
    pictures = [reduced(picture) for picture in drawn(starter_folder(), TEN, CPU, few_steps)]
    found = answers(Judge.load(), TEN, pictures, [*TEN, *OTHERS])
    assert sum(one.right for one in found) >= RECOGNISED, [(one.prompt.caption, one.chosen) for one in found]
