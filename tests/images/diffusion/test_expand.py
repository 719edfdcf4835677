"""A request as it is written, and as it is drawn."""

from collections.abc import Iterable, Sequence

import pytest

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.expand import expand
from illustrious.types import ImageRequest, Lora


class Colours:
    def names(self) -> Iterable[str]:
        return ["colour"]

    def lines(self, name: str) -> Sequence[str]:
        return [f"<lora:{name}-{number}:0.5> shade {number}" for number in range(10)]


def test_wildcards_are_drawn_and_the_loras_in_them_taken_out() -> None:
    request = ImageRequest(prompt="a __colour__ cat<lora:style:0.8:0.4>", loras=(Lora(name="first"),), seed=3)
    expanded, warnings = expand(request, Colours())
    number = expanded.prompt.split()[2]
    assert expanded.prompt == f"a  shade {number} cat"
    assert expanded.loras == (
        Lora(name="first"),
        Lora(name=f"colour-{number}", weight=0.5),
        Lora(name="style", weight=0.8, text_weight=0.4),
    )
    assert not warnings


def test_each_seed_draws_its_own_and_always_the_same() -> None:
    prompts = [expand(ImageRequest(prompt="__colour__", seed=seed), Colours())[0].prompt for seed in range(40)]
    assert len(set(prompts)) > 5
    assert prompts[7] == expand(ImageRequest(prompt="__colour__", seed=7), Colours())[0].prompt


def test_what_the_prompt_draws_leaves_the_negative_prompt_alone() -> None:
    first, _ = expand(ImageRequest(prompt="__colour__", negative_prompt="{a|b|c|d}", seed=1), Colours())
    second, _ = expand(ImageRequest(prompt="{x|y} __colour__", negative_prompt="{a|b|c|d}", seed=1), Colours())
    assert first.negative_prompt == second.negative_prompt


def test_expanding_again_changes_nothing() -> None:
    request = ImageRequest(prompt=r"{a|b} \{c\|d\} __colour__ __nothing__", prompt_prefix="{best|good}", seed=5)
    once, (warning,) = expand(request, Colours())
    assert "__nothing__" in warning
    assert expand(once, Colours())[0] == once
    assert once.prompt_prefix in ("best", "good")


def test_a_verbatim_prompt_is_left_as_it_is() -> None:
    request = ImageRequest(prompt="{a|b} <lora:style:1> __colour__", prompt_syntax="verbatim")
    assert expand(request, Colours()) == (request, ())


def test_a_lora_in_the_negative_prompt_is_left_out_with_a_warning() -> None:
    expanded, (warning,) = expand(ImageRequest(negative_prompt="bad <lora:style:1>"), Colours())
    assert (expanded.negative_prompt, expanded.loras) == ("bad ", ())
    assert "style" in warning


def test_more_loras_than_can_act_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="32"):
        expand(ImageRequest(prompt="<lora:a:0.1>" * 33), Colours())
