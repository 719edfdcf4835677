"""What the UNet is told of a prompt, step by step: diffusers' own where diffusers has it, the web UI's beyond."""

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.conditioner import Conditioner, ConditioningSchedule, Half
from illustrious.images.diffusion.conditioning import TextEncoder
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
