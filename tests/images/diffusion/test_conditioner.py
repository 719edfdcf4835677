"""What the UNet is told of a prompt, step by step: diffusers' own where diffusers has it, the web UI's beyond."""

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from illustrious.images.diffusion import conditioner as conditioner_module
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.conditioner import Conditioner, ConditioningSchedule, Half, TextEncoder
from illustrious.types import ImageRequest
from tests import tiny

PIPELINES = ("starter", "tiny")


class Bench:
    """One pipeline, and a conditioner of its text encoders."""

    def __init__(self, pipeline: StableDiffusionXLPipeline) -> None:
        self.pipeline = pipeline
        self.length = pipeline.tokenizer.model_max_length
        self.encoders = (
            TextEncoder(pipeline.tokenizer, pipeline.text_encoder.eval()),
            TextEncoder(pipeline.tokenizer_2, pipeline.text_encoder_2.eval()),
        )
        self.conditioner = Conditioner(self.encoders, pipeline.config.force_zeros_for_empty_prompt)

    def schedule(self, prompt: str, steps: int = 1, **fields: Any) -> ConditioningSchedule:
        return self.told(prompt, steps, **fields)[0]

    def told(self, prompt: str, steps: int = 1, **fields: Any) -> tuple[ConditioningSchedule, list[str]]:
        embeddings = fields.pop("embeddings", None)
        return self.conditioner.condition(
            ImageRequest(prompt=prompt, **fields), (64, 32), steps, guided=True, embeddings=embeddings
        )

    def half(self, prompt: str, **fields: Any) -> Half:
        return self.schedule(prompt, **fields).at(0).positive

    def chunk(self, prompt: str, number: int = 0) -> Tensor:
        """Embeddings of one of the prompt's chunks."""
        return self.half(prompt).embeddings[:, self.length * number : self.length * (number + 1)]


@pytest.fixture(scope="module")
def tiny_bench() -> Bench:
    return Bench(tiny.Tiny().pipeline().to(torch.float32))


@pytest.fixture(scope="module")
def starter_bench() -> Bench:
    return Bench(StableDiffusionXLPipeline.from_pretrained(starter_folder(), dtype=torch.float32))


@pytest.fixture(params=PIPELINES)
def bench(request: pytest.FixtureRequest) -> Bench:
    bench: Bench = request.getfixturevalue(f"{request.param}_bench")
    return bench


@pytest.mark.parametrize("prompt", ["a cat", "", "A red apple, on a table;  Ünïcode 猫", "castle, " * 10])
@pytest.mark.parametrize("negative", ["", "blurry, dog"])
def test_a_plain_prompt_is_to_the_bit_what_diffusers_makes_of_it(bench: Bench, prompt: str, negative: str) -> None:
    with torch.inference_mode():
        expected = bench.pipeline.encode_prompt(prompt, negative_prompt=negative or None)
    told = bench.schedule(prompt, negative_prompt=negative).at(0)
    assert told.negative is not None
    ours = (told.positive.embeddings, told.negative.embeddings, told.positive.pooled, told.negative.pooled)
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_the_sizes_are_those_of_diffusers(bench: Bench) -> None:
    expected = bench.pipeline._get_add_time_ids(
        (32, 64), (0, 0), (32, 64), torch.float32, bench.half("").pooled.shape[1]
    )
    assert torch.equal(bench.half("a cat").sizes, expected)


def test_steps_alike_share_one_conditioning(bench: Bench) -> None:
    schedule = bench.schedule("a [cat:dog:2] [red|blue]", steps=5)
    assert not schedule.is_constant
    assert schedule.at(0) is not schedule.at(1)
    assert schedule.at(2) is schedule.at(4)
    assert schedule.at(9) is schedule.at(4)
    assert bench.schedule("a cat", steps=5).is_constant


def test_each_step_is_told_what_its_own_text_would_tell(bench: Bench) -> None:
    schedule = bench.schedule("a [cat:dog:2]", steps=4, negative_prompt="[red|blue]")
    alone = bench.schedule("a dog", negative_prompt="blue").at(0)
    assert torch.equal(schedule.at(3).positive.embeddings, alone.positive.embeddings)
    assert torch.equal(schedule.at(3).negative.embeddings, alone.negative.embeddings)  # type: ignore[union-attr]


def test_without_guidance_there_is_no_negative_half(bench: Bench) -> None:
    request = ImageRequest(prompt="a cat", negative_prompt="a dog")
    told = bench.conditioner.condition(request, (64, 32), 1, guided=False)[0].at(0)
    assert told.negative is None
    assert told.halves == (told.positive,)
    guided = bench.schedule("a cat", negative_prompt="a dog").at(0)
    assert guided.halves == (guided.negative, guided.positive)


def test_zeros_for_an_empty_negative_prompt_are_as_long_as_the_prompt(tiny_bench: Bench) -> None:
    told = tiny_bench.schedule("a cat BREAK a dog").at(0)
    assert told.negative is not None
    assert told.negative.embeddings.shape == told.positive.embeddings.shape
    assert not told.negative.embeddings.any()
    assert not told.negative.pooled.any()


def test_a_longer_prompt_goes_on_in_the_next_chunk(bench: Bench) -> None:
    room = bench.length - 2
    first, second = "cat " * room, "dog, castle"
    half = bench.half(first + second)
    assert half.embeddings.shape[1] == 2 * bench.length
    assert torch.equal(bench.chunk(first + second, 0), bench.half(first).embeddings)
    assert torch.equal(bench.chunk(first + second, 1), bench.half(second).embeddings)
    assert torch.equal(half.pooled, bench.half(first).pooled)


def test_a_prompt_of_many_chunks_is_whole(bench: Bench) -> None:
    half = bench.half("cat " * (bench.length - 2) * 5 + "dog")
    assert half.embeddings.shape[1] == 6 * bench.length


def test_words_after_the_last_comma_of_a_full_chunk_move_on(bench: Bench) -> None:
    room = bench.length - 2
    kept, moved = "cat " * (room - 6) + ",", "dog " * 6
    assert torch.equal(bench.chunk(kept + moved, 0), bench.half(kept).embeddings)
    assert torch.equal(bench.chunk(kept + moved, 1), bench.half(moved).embeddings)


def test_a_break_begins_a_new_chunk(bench: Bench) -> None:
    assert torch.equal(bench.chunk("a cat BREAK a dog", 0), bench.half("a cat").embeddings)
    assert torch.equal(bench.chunk("a cat BREAK a dog", 1), bench.half("a dog").embeddings)


def test_quality_words_go_before_the_prompt(bench: Bench) -> None:
    one, other = bench.half("a cat", prompt_prefix="best, "), bench.half("best, a cat")
    assert torch.equal(one.embeddings, other.embeddings)


def test_a_weight_multiplies_hidden_states_and_the_mean_is_restored_for_each_text_encoder(bench: Bench) -> None:
    plain = bench.half("a cat castle")
    weighed = bench.half("a (cat:1.5) castle")
    factors = torch.ones(1, bench.length, 1)
    factors[0, 2] = 1.5  # after the start token and "a"
    widths = [encoder.model.config.hidden_size for encoder in bench.encoders]
    expected = []
    for hidden in plain.embeddings.split(widths, dim=-1):
        multiplied = hidden * factors
        expected.append(multiplied * (hidden.mean() / multiplied.mean()))
    torch.testing.assert_close(weighed.embeddings, torch.cat(expected, dim=-1), rtol=1e-5, atol=1e-6)
    assert torch.equal(weighed.pooled, plain.pooled)


def test_weights_keep_the_text_encoders_precision() -> None:
    bench = Bench(tiny.Tiny().pipeline().to(torch.bfloat16))
    assert bench.half("a (cat:1.5)").embeddings.dtype == torch.bfloat16


def test_a_weight_acts_in_its_own_chunk_only(bench: Bench) -> None:
    assert torch.equal(bench.chunk("(cat:1.5) BREAK a dog", 1), bench.half("a dog").embeddings)


def test_weights_that_turn_the_mean_around_act_as_they_stand_with_a_warning(bench: Bench) -> None:
    text = "cat " * (bench.length - 2)
    schedule, warnings = bench.told(f"({text}:-3)")
    plain = bench.half(text).embeddings
    # With every word negative, both means change sign here.
    torch.testing.assert_close(schedule.at(0).positive.embeddings[:, 1:-1], -3 * plain[:, 1:-1])
    assert any("weights" in warning for warning in warnings)


def test_clip_skip_one_and_two_are_the_last_layer_but_one(bench: Bench) -> None:
    unset = bench.half("a cat").embeddings
    assert torch.equal(bench.half("a cat", clip_skip=1).embeddings, unset)
    assert torch.equal(bench.half("a cat", clip_skip=2).embeddings, unset)


def test_clip_skip_goes_further_back_as_diffusers_does_with_two_less(starter_bench: Bench) -> None:
    with torch.inference_mode():
        expected, _, pooled, _ = starter_bench.pipeline.encode_prompt("a cat", clip_skip=1)
    half = starter_bench.half("a cat", clip_skip=3)
    assert torch.equal(half.embeddings, expected)
    assert torch.equal(half.pooled, pooled)


def test_clip_skip_beyond_the_first_layer_is_the_first_layer_with_a_warning(starter_bench: Bench) -> None:
    schedule, (warning,) = starter_bench.told("a cat", clip_skip=12)
    assert "3" in warning
    assert torch.equal(schedule.at(0).positive.embeddings, starter_bench.half("a cat", clip_skip=3).embeddings)


def test_a_verbatim_prompt_stands_for_itself(bench: Bench) -> None:
    prompt = r"(a:1.3) [cat|dog] BREAK \("
    with torch.inference_mode():
        expected = bench.pipeline.encode_prompt(prompt)[0]
    schedule = bench.schedule(prompt, steps=4, prompt_syntax="verbatim")
    assert schedule.is_constant
    assert torch.equal(schedule.at(0).positive.embeddings, expected)
    long = bench.half("cat " * bench.length, prompt_syntax="verbatim")
    assert torch.equal(long.embeddings, bench.half("cat " * bench.length).embeddings)


def test_texts_of_one_schedule_are_filled_up_to_one_length(bench: Bench) -> None:
    schedule = bench.schedule("a [cat:dog BREAK castle:1]", steps=2)
    short, long = schedule.at(0).positive.embeddings, schedule.at(1).positive.embeddings
    assert short.shape == long.shape
    assert torch.equal(short, torch.cat([bench.half("a cat").embeddings, bench.half("").embeddings], dim=1))


def test_a_prompt_over_one_chunk_is_told(bench: Bench) -> None:
    room = bench.length - 2
    assert bench.told("cat " * room)[1] == []
    _, warnings = bench.told("cat " * (room + 1), negative_prompt="dog BREAK " * 2 + "dog")
    first, second = warnings
    assert first.startswith("The prompt")
    assert f"{room + 1} tokens" in first
    assert "2 chunks" in first
    assert second.startswith("The negative prompt is 3 tokens long and is read in 3 chunks")


def test_malformed_brackets_warn_of_nothing(bench: Bench) -> None:
    assert bench.told("a ((cat [dog:] |:1.3 \\")[1] == []


class Words:
    """Embeddings of a test."""

    def __init__(self, **vectors: tuple[Tensor, Tensor] | None) -> None:
        self._vectors = vectors

    def names(self) -> Iterable[str]:
        return self._vectors

    def find(self, name: str) -> tuple[Tensor, Tensor] | None:
        return self._vectors[name]

    def problem(self, name: str) -> str | None:
        return f"{name} is for another family"


def vectors(bench: Bench, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randn(count, encoder.model.config.hidden_size, generator=generator) for encoder in bench.encoders
    )
    return first, second


@pytest.mark.parametrize("count", [1, 3])
def test_an_embedding_acts_as_in_diffusers(count: int) -> None:
    """Diffusers adds tokens to tokenizers and text encoders; here both stay as they are."""
    ours, theirs = Bench(tiny.Tiny().pipeline().to(torch.float32)), tiny.Tiny().pipeline().to(torch.float32)
    learned = vectors(ours, count)
    theirs.tokenizer, theirs.tokenizer_2 = copy.deepcopy(theirs.tokenizer), copy.deepcopy(theirs.tokenizer_2)
    sides = ((theirs.text_encoder, theirs.tokenizer), (theirs.text_encoder_2, theirs.tokenizer_2))
    for vector, (encoder, tokenizer) in zip(learned, sides, strict=True):
        theirs.load_textual_inversion({"badhands": vector}, token="badhands", text_encoder=encoder, tokenizer=tokenizer)
    with torch.inference_mode():
        expected = theirs.encode_prompt("a cat, badhands, a dog", negative_prompt="badhands")
    told = ours.schedule("a cat, badhands, a dog", negative_prompt="BadHands", embeddings=Words(badhands=learned)).at(0)
    assert told.negative is not None
    found = (told.positive.embeddings, told.negative.embeddings, told.positive.pooled, told.negative.pooled)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_vectors_take_their_words_weight(bench: Bench) -> None:
    words = Words(style=vectors(bench, 2))
    plain, weighed = bench.half("style", embeddings=words), bench.half("(style:1.4)", embeddings=words)
    ratio = weighed.embeddings / plain.embeddings
    torch.testing.assert_close(ratio[:, 1:3] / ratio[:, 3:5], torch.full_like(ratio[:, 1:3], 1.4), rtol=1e-3, atol=1e-3)


def test_new_vectors_of_an_old_name_are_read_anew(bench: Bench) -> None:
    one = bench.half("a style", embeddings=Words(style=vectors(bench, 1, seed=1)))
    other = bench.half("a style", embeddings=Words(style=vectors(bench, 1, seed=2)))
    assert not torch.equal(one.embeddings, other.embeddings)


def test_an_embedding_that_does_not_fit_is_read_as_words_with_a_warning(bench: Bench) -> None:
    schedule, warnings = bench.told("a style", embeddings=Words(style=None))
    assert warnings == ["style is for another family"]
    assert torch.equal(schedule.at(0).positive.embeddings, bench.half("a style").embeddings)


def test_an_embedding_longer_than_a_chunk_is_cut_with_a_warning(bench: Bench) -> None:
    schedule, warnings = bench.told("style", embeddings=Words(style=vectors(bench, bench.length)))
    assert schedule.at(0).positive.embeddings.shape[1] == bench.length
    assert any("vectors" in warning for warning in warnings)


def test_a_verbatim_prompt_names_no_embedding(bench: Bench) -> None:
    half = bench.half("style", prompt_syntax="verbatim", embeddings=Words(style=vectors(bench, 1)))
    assert torch.equal(half.embeddings, bench.half("style").embeddings)


@contextmanager
def calls(bench: Bench) -> Iterator[list[int]]:
    """Rows of every call of the first text encoder."""
    rows: list[int] = []
    hook = bench.encoders[0].model.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    try:
        yield rows
    finally:
        hook.remove()


def test_what_was_read_before_is_remembered_chunk_by_chunk(starter_bench: Bench) -> None:
    bench = Bench(starter_bench.pipeline)
    with calls(bench) as rows:
        bench.half("red apple BREAK green apple")
        bench.half("green apple BREAK (red:1.5) apple BREAK blue apple")
    # Red, green and the empty negative prompt, one by one and, to see whether that is the same, together; then blue.
    assert rows == [1, 1, 1, 3, 1]


def test_what_is_new_is_read_together_where_that_changes_no_bit(starter_bench: Bench) -> None:
    bench = Bench(starter_bench.pipeline)
    bench.half("one BREAK two")  # where it is found out
    with calls(bench) as rows:
        together = bench.half("three BREAK four BREAK two BREAK five")
    assert rows == [3]
    alone = Bench(starter_bench.pipeline)
    for text in ("three", "four", "two", "five"):
        alone.half(text)
    assert torch.equal(together.embeddings, alone.half("three BREAK four BREAK two BREAK five").embeddings)


def test_what_would_change_a_bit_is_read_one_by_one(starter_bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(starter_bench.pipeline)
    honest = conditioner_module._encode

    def sloppy(encoder: Any, chunks: Any, length: int, layer: int) -> Any:
        return [
            (hidden + 1e-6 * (len(chunks) - 1), pooled) for hidden, pooled in honest(encoder, chunks, length, layer)
        ]

    expected = bench.half("three BREAK four BREAK five")
    monkeypatch.setattr(conditioner_module, "_encode", sloppy)
    other = Bench(starter_bench.pipeline)
    other.half("one BREAK two")
    with calls(other) as rows:
        half = other.half("three BREAK four BREAK five")
    assert rows == [1, 1, 1]
    assert torch.equal(half.embeddings, expected.embeddings)


def test_with_other_adapters_or_another_layer_nothing_is_remembered(starter_bench: Bench) -> None:
    bench = Bench(starter_bench.pipeline)
    with calls(bench) as rows:
        for adapters in ((), ("style", 1.0), ("style", 0.5), ()):
            bench.conditioner.condition(ImageRequest(prompt="a"), (64, 64), 1, guided=False, adapters=adapters)
        bench.conditioner.condition(ImageRequest(prompt="a", clip_skip=3), (64, 64), 1, guided=False)
    assert len(rows) == 4


def test_the_memory_keeps_the_last_used_and_no_more_than_it_may(starter_bench: Bench) -> None:
    conditioner = Conditioner(starter_bench.encoders, zeros_for_empty_negative=True, cache_entries=2)
    with calls(starter_bench) as rows:
        for prompt in ("a", "b", "a", "c", "a", "b"):
            conditioner.condition(ImageRequest(prompt=prompt), (64, 64), 1, guided=False)
    assert len(rows) == 4  # a, b, c, and b again
