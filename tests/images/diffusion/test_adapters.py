"""LoRAs at work: as diffusers applies them, in any order of pictures, and leaving the model as it is."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, StableDiffusionXLPipeline
from torch import Tensor

from illustrious.images.diffusion.adapters import Adapters, Loras, WeightedLora, text_key
from tests import tiny, tiny_lora

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value."""

SCHEDULERS = {"Euler": EulerDiscreteScheduler, "DPM++ 2M": DPMSolverMultistepScheduler}


def new_pipeline(prediction: str = "epsilon") -> StableDiffusionXLPipeline:
    pipeline = tiny.Tiny(prediction=prediction).pipeline().to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def new_adapters(pipeline: StableDiffusionXLPipeline, **options: int) -> Adapters:
    return Adapters(pipeline.unet, (pipeline.text_encoder, pipeline.text_encoder_2), **options)


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    return new_pipeline()


@pytest.fixture
def adapters(pipeline: StableDiffusionXLPipeline) -> Iterator[Adapters]:
    adapters = new_adapters(pipeline)
    yield adapters
    adapters.use(())


def draw(pipeline: StableDiffusionXLPipeline) -> Tensor:
    latents: Tensor = pipeline(
        "an apple",
        negative_prompt="blue",
        num_inference_steps=3,
        guidance_scale=5,
        generator=torch.Generator().manual_seed(3),
        width=64,
        height=64,
        output_type="latent",
    ).images
    return latents


def difference(mine: Tensor, reference: Tensor) -> float:
    return float((mine - reference).abs().max() / reference.abs().max())


def write(path: Path, layout: str, seed: int) -> Path:
    if layout == "peft":
        return tiny_lora.write_peft(path, seed=seed)
    if layout == "kohya, LDM names":
        return tiny_lora.write_kohya(path, seed=seed, rank=3)
    # diffusers mistakes these two layers for others under its own names.
    layers = (layer for layer in tiny_lora.targets() if not layer.diffusers.startswith("add_embedding"))
    return tiny_lora.write_kohya(path, layers, names="diffusers", seed=seed)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("layout", "sampler"),
    [("kohya, LDM names", "Euler"), ("kohya, diffusers' names", "DPM++ 2M"), ("peft", "Euler")],
)
def test_two_loras_with_weights_apart_act_as_in_diffusers(
    layout: str, sampler: str, prediction: str, tmp_path: Path
) -> None:
    first, second = (write(tmp_path / f"{seed}.safetensors", layout, seed) for seed in (1, 2))
    pipeline, reference = new_pipeline(prediction), new_pipeline(prediction)
    for one in (pipeline, reference):
        one.scheduler = SCHEDULERS[sampler].from_config(one.scheduler.config)
    plain = draw(pipeline)

    adapters = new_adapters(pipeline)
    loras = WeightedLora(adapters.load(first), 0.8, 0.3), WeightedLora(adapters.load(second), -0.5, 0.6)
    assert adapters.use(loras) == []
    mine = draw(pipeline)

    reference.load_lora_weights(tmp_path, weight_name=first.name, adapter_name="first")
    reference.load_lora_weights(tmp_path, weight_name=second.name, adapter_name="second")
    weights = [
        {"unet": lora.weight, "text_encoder": lora.text_weight, "text_encoder_2": lora.text_weight} for lora in loras
    ]
    reference.set_adapters(["first", "second"], weights)
    assert difference(mine, draw(reference)) <= TOLERANCE
    assert difference(mine, plain) > 0.01


def test_without_loras_the_bytes_are_the_models_own(
    pipeline: StableDiffusionXLPipeline, adapters: Adapters, tmp_path: Path
) -> None:
    plain = draw(pipeline)
    lora = adapters.load(write(tmp_path / "style.safetensors", "peft", 1))
    adapters.use((WeightedLora(lora),))
    changed = draw(pipeline)
    assert not torch.equal(changed, plain)
    adapters.use(())
    assert torch.equal(draw(pipeline), plain)
    adapters.use((WeightedLora(lora, 0.0, 0.0),))
    assert torch.equal(draw(pipeline), plain)
    adapters.use((WeightedLora(lora),))
    assert torch.equal(draw(pipeline), changed)


@torch.inference_mode()
def steps(pipeline: StableDiffusionXLPipeline, adapters: Adapters, loras: Loras) -> Iterator[Tensor]:
    """A picture's latents after each of its steps. Whoever asks for the next may have used other LoRAs meanwhile."""
    scheduler = EulerDiscreteScheduler.from_config(pipeline.scheduler.config)
    adapters.use(loras)
    words, _, pooled, _ = pipeline.encode_prompt("an apple", do_classifier_free_guidance=False)
    scheduler.set_timesteps(3)
    latents = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(3)) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        adapters.use(loras)
        prediction = pipeline.unet(
            scheduler.scale_model_input(latents, timestep),
            timestep,
            encoder_hidden_states=words,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": torch.zeros(1, 6)},
        ).sample
        latents = scheduler.step(prediction, timestep, latents).prev_sample
        yield latents


def test_pictures_with_different_sets_may_take_turns_at_every_step(
    pipeline: StableDiffusionXLPipeline, adapters: Adapters, tmp_path: Path
) -> None:
    first, second = (adapters.load(write(tmp_path / f"{seed}.safetensors", "peft", seed)) for seed in (1, 2))
    one, two = WeightedLora(first, 0.5), WeightedLora(second, 0.9, 0.2)
    sets: list[Loras] = [(), (one,), (two,), (one, two), (two, one)]
    alone = [list(steps(pipeline, adapters, loras))[-1] for loras in sets]
    taking_turns = list(zip(*(steps(pipeline, adapters, loras) for loras in sets), strict=True))[-1]
    for single, mixed in zip(alone, taking_turns, strict=True):
        assert torch.equal(single, mixed)
    assert len({tuple(latents.flatten().tolist()) for latents in alone[:4]}) == 4


def test_a_lora_of_the_unet_alone_leaves_the_prompt_as_it_was(
    pipeline: StableDiffusionXLPipeline, adapters: Adapters, tmp_path: Path
) -> None:
    unet_only = adapters.load(tiny_lora.write_peft(tmp_path / "unet.safetensors", tiny_lora.targets(parts=["unet"])))
    both = adapters.load(tiny_lora.write_peft(tmp_path / "both.safetensors"))
    plain = pipeline.encode_prompt("an apple")
    for loras, same in (
        ((WeightedLora(unet_only),), True),
        ((WeightedLora(both, 1.0, 0.0),), True),
        ((WeightedLora(both, 0.0, 0.5),), False),
    ):
        adapters.use(loras)
        encoded = pipeline.encode_prompt("an apple")
        assert torch.equal(encoded[0], plain[0]) == same
        assert torch.equal(encoded[2], plain[2]) == same
        assert (text_key(loras) == text_key(())) == same
    assert text_key((WeightedLora(both, 1.0, 0.5),)) == text_key((WeightedLora(both, 0.2, 0.5),))
    assert text_key((WeightedLora(both, 1.0, 0.5),)) != text_key((WeightedLora(both, 1.0, 0.6),))


def test_what_should_be_known_of_a_lora_is_told_whenever_it_is_used(adapters: Adapters, tmp_path: Path) -> None:
    metadata = {"ss_base_model_version": "sd_v1"}
    lora = adapters.load(tiny_lora.write_kohya(tmp_path / "style.safetensors", metadata=metadata))
    told = adapters.use((WeightedLora(lora),))
    assert "sd_v1" in told[0]
    assert adapters.use((WeightedLora(lora),)) == told
    assert adapters.use(()) == []


def test_the_name_is_the_callers_where_it_gives_one(adapters: Adapters, tmp_path: Path) -> None:
    file = tiny_lora.write_kohya(tmp_path / "style.safetensors")
    assert adapters.load(file, "a style").name == "a style"


def test_loras_are_kept_while_there_is_room_and_their_files_are_the_same(
    pipeline: StableDiffusionXLPipeline, tmp_path: Path
) -> None:
    files = [tiny_lora.write_kohya(tmp_path / f"{seed}.safetensors", seed=seed) for seed in range(3)]
    room = 2 * new_adapters(pipeline).load(files[0]).size
    adapters = new_adapters(pipeline, capacity=room)
    first, second = adapters.load(files[0]), adapters.load(files[1])
    assert adapters.load(files[0]) is first
    adapters.load(files[2])
    assert adapters.load(files[0]) is first
    assert adapters.load(files[1]) is not second
    tiny_lora.write_kohya(files[1], seed=9, rank=2)
    changed = adapters.load(files[1])
    assert changed.identity != second.identity
    assert {len(change.tensors["down"]) for change in changed.deltas.values()} == {2}


def test_a_lora_acts_in_the_models_own_dtype(tmp_path: Path) -> None:
    pipeline = new_pipeline().to(torch.bfloat16)
    adapters = new_adapters(pipeline)
    adapters.use((WeightedLora(adapters.load(tiny_lora.write_kohya(tmp_path / "style.safetensors"))),))
    latents = draw(pipeline)
    assert latents.dtype == torch.bfloat16
    assert latents.isfinite().all()


def test_nothing_keeps_a_model_in_memory_that_loras_acted_on(tmp_path: Path) -> None:
    pipeline = new_pipeline()
    adapters = new_adapters(pipeline)
    adapters.use((WeightedLora(adapters.load(write(tmp_path / "one.safetensors", "peft", seed=1)), 1.0),))
    layer = weakref.ref(pipeline.unet.conv_in)
    gc.disable()  # it frees what waits for nobody but itself, some day; memory is needed now
    try:
        del pipeline, adapters
        assert layer() is None
    finally:
        gc.enable()
