"""Every mode of the engine as a whole, a request in and latents out, against diffusers' own pipelines.

In float32 on tiny random checkpoints, with the same noise: each mode on two samplers or three, for both kinds of
prediction. Every sampler and schedule by itself is in ``test_schedulers``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from torch import Tensor
from torch.nn import functional

from illustrious.images.diffusion.model import Model
from illustrious.types import Control, Hires, ImageRequest, Lora
from tests import tiny, tiny_controlnet, tiny_lora
from tests.images.diffusion.drawing import latents as ours
from tests.images.diffusion.drawing import loaded
from tests.images.diffusion.editing import TOLERANCE, difference, encode_without_chance, photo, png, rectangle
from tests.images.diffusion.test_schedulers import IN_DIFFUSERS, KNOWN_TO_DIFFUSERS, METHOD

SAMPLERS = ("Euler a", "DPM++ 2M", "Heun")
"""One that draws further noise, one that remembers its last step, one with two turns a step."""

REQUEST = ImageRequest(prompt="a red apple on a table", negative_prompt="blue", steps=5, guidance=5, seed=3)
PICTURE = photo(64, 64)
MASK = rectangle(64, 64, (16, 8, 48, 40))
GUIDES = photo(64, 64, seed=4), photo(96, 64, seed=5)[:, ::-1]


@dataclass(frozen=True)
class Pair:
    """One checkpoint, as the engine has it and as diffusers has it, with the sampler that is asked for."""

    model: Model
    reference: StableDiffusionXLPipeline
    sampler: str
    schedule: str = "Automatic"

    def asked(self, **fields: Any) -> ImageRequest:
        return REQUEST.model_copy(update={"sampler": self.sampler, "schedule": self.schedule, **fields})

    def theirs(self, kind: type[Any], components: dict[str, Any] | None = None, **further: Any) -> Tensor:
        """The latents of diffusers' pipeline of this kind, around these further ``components``."""
        method = METHOD[self.sampler]
        options = {**method.options, **KNOWN_TO_DIFFUSERS.get(self.schedule, {})}
        scheduler = getattr(diffusers, method.kind).from_config(self.reference.scheduler.config, **options)
        parts = {**self.reference.components, "scheduler": scheduler, **(components or {})}
        pipeline = kind(**parts, add_watermarker=False)
        pipeline.set_progress_bar_config(disable=True)
        latents: Tensor = pipeline(
            prompt=REQUEST.prompt,
            negative_prompt=REQUEST.negative_prompt,
            guidance_scale=REQUEST.guidance,
            generator=torch.Generator().manual_seed(REQUEST.seed),
            output_type="latent",
            **{"num_inference_steps": REQUEST.steps, **further},
        ).images
        return latents


Load = Callable[..., tuple[Model, StableDiffusionXLPipeline]]
"""By prediction type and the channels of the UNet's input."""


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    folder = tmp_path_factory.mktemp("parity")

    @cache
    def load(prediction: str, channels: int, zero_snr: bool = False) -> tuple[Model, StableDiffusionXLPipeline]:
        checkpoint = tiny.Tiny(prediction=prediction, zero_snr=zero_snr, in_channels=channels)
        file = tiny.write_single_file(folder / f"{prediction}-{channels}-{zero_snr}.safetensors", checkpoint)
        return loaded(file), checkpoint.pipeline().to(torch.float32)

    return load


@pytest.fixture(params=["epsilon", "v_prediction"])
def prediction(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=SAMPLERS)
def sampler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(load: Load, prediction: str, sampler: str) -> Pair:
    return Pair(*load(prediction, 4), sampler)


@pytest.fixture
def inpainting_pair(load: Load, prediction: str, sampler: str) -> Pair:
    """With a UNet that is told what lies around the mask."""
    return Pair(*load(prediction, 9), sampler)


on_two = pytest.mark.parametrize("sampler", SAMPLERS[:2])
"""Where a third sampler would show nothing new and take its time."""


@pytest.fixture(autouse=True)
def without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    encode_without_chance(monkeypatch)


def test_from_text(pair: Pair) -> None:
    expected = pair.theirs(StableDiffusionXLPipeline, width=72, height=48)
    assert difference(ours(pair.model, pair.asked(width=72, height=48)), expected) <= TOLERANCE


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        ("Euler", "Karras"),
        ("Euler", "Exponential"),
        ("Euler a", "Trailing"),
        ("Euler a", "Normal"),
        ("Heun", "Karras"),
        ("DPM2", "Normal"),
        ("DPM++ 2M", "Karras"),
        ("DPM++ 2M SDE", "Exponential"),
        ("UniPC", "Trailing"),
        ("DDIM", "Trailing"),
        ("DDPM", "Automatic"),
        ("LCM", "Automatic"),
    ],
)
def test_with_a_schedule_of_its_own(load: Load, prediction: str, sampler: str, schedule: str) -> None:
    pair = Pair(*load(prediction, 4), sampler, schedule)
    expected = pair.theirs(StableDiffusionXLPipeline, width=48, height=32)
    assert difference(ours(pair.model, pair.asked(width=48, height=32)), expected) <= TOLERANCE


def test_over_a_picture(pair: Pair) -> None:
    expected = pair.theirs(StableDiffusionXLImg2ImgPipeline, image=Image.fromarray(PICTURE), strength=0.6)
    assert difference(ours(pair.model, pair.asked(init_image=png(PICTURE), strength=0.6)), expected) <= TOLERANCE


@pytest.mark.parametrize("prediction", ["epsilon"])
@pytest.mark.parametrize("sampler", [name for name in IN_DIFFUSERS if name not in SAMPLERS])
def test_over_a_picture_by_the_other_samplers(pair: Pair) -> None:
    further = {"eta": 0.3} if pair.sampler == "TCD" else {}  # else it gets 0 for TCD's own default
    expected = pair.theirs(StableDiffusionXLImg2ImgPipeline, image=Image.fromarray(PICTURE), strength=0.6, **further)
    assert difference(ours(pair.model, pair.asked(init_image=png(PICTURE), strength=0.6)), expected) <= TOLERANCE


UNDER_A_MASK = {"init_image": png(PICTURE), "mask": png(MASK), "mask_blur": 0, "strength": 0.8}
THEIR_MASK = {
    "image": Image.fromarray(PICTURE),
    "mask_image": Image.fromarray(MASK),
    "strength": 0.8,
    "width": 64,
    "height": 64,
}


def test_under_a_mask(pair: Pair) -> None:
    expected = pair.theirs(StableDiffusionXLInpaintPipeline, **THEIR_MASK)
    assert difference(ours(pair.model, pair.asked(**UNDER_A_MASK)), expected) <= TOLERANCE


def test_under_a_mask_with_an_inpainting_unet(inpainting_pair: Pair) -> None:
    expected = inpainting_pair.theirs(StableDiffusionXLInpaintPipeline, **THEIR_MASK)
    assert difference(ours(inpainting_pair.model, inpainting_pair.asked(**UNDER_A_MASK)), expected) <= TOLERANCE


def test_in_two_passes(pair: Pair) -> None:
    """diffusers' text-to-image, an interpolation of its latents, and its img2img."""
    first = pair.theirs(StableDiffusionXLPipeline, width=64, height=48)
    enlarged = functional.interpolate(first, size=(18, 24), mode="bilinear")
    expected = pair.theirs(
        StableDiffusionXLImg2ImgPipeline, image=enlarged, strength=0.6, num_inference_steps=REQUEST.steps + 1
    )
    hires = Hires(scale=1.5, upscaler="latent", steps=REQUEST.steps + 1, strength=0.6)
    assert difference(ours(pair.model, pair.asked(width=64, height=48, hires=hires)), expected) <= TOLERANCE


@on_two
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_over_a_picture_and_under_a_mask_with_zero_terminal_snr(load: Load, sampler: str, strength: float) -> None:
    pair = Pair(*load("v_prediction", 4, zero_snr=True), sampler)
    expected = pair.theirs(StableDiffusionXLImg2ImgPipeline, image=Image.fromarray(PICTURE), strength=strength)
    request = pair.asked(init_image=png(PICTURE), strength=strength)
    assert difference(ours(pair.model, request), expected) <= TOLERANCE
    expected = pair.theirs(StableDiffusionXLInpaintPipeline, **{**THEIR_MASK, "strength": strength})
    request = pair.asked(**{**UNDER_A_MASK, "strength": strength})
    assert difference(ours(pair.model, request), expected) <= TOLERANCE


@pytest.fixture(scope="module")
def shelves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with two LoRAs and two ControlNets."""
    root = tmp_path_factory.mktemp("models")
    (root / "loras").mkdir()
    unet = tiny.Tiny().pipeline().unet.to(torch.float32)
    for seed in (1, 2):
        tiny_lora.write_kohya(root / "loras" / f"style{seed}.safetensors", rank=3, seed=seed)
        tiny_controlnet.write_folder(root / "controlnet" / f"net{seed}", tiny_controlnet.controlnet(unet, seed))
    return root


@on_two
def test_with_two_loras(pair: Pair, prediction: str, shelves: Path) -> None:
    reference = tiny.Tiny(prediction=prediction).pipeline().to(torch.float32)  # what LoRAs are put into stays changed
    for name in ("style1", "style2"):
        reference.load_lora_weights(shelves / "loras", weight_name=f"{name}.safetensors", adapter_name=name)
    weights = [{"unet": unet, "text_encoder": text, "text_encoder_2": text} for unet, text in ((0.8, 0.3), (-0.5, 0.6))]
    reference.set_adapters(["style1", "style2"], weights)
    adapted = Pair(pair.model, reference, pair.sampler)
    expected = adapted.theirs(StableDiffusionXLPipeline, width=64, height=64)
    loras = Lora(name="style1", weight=0.8, text_weight=0.3), Lora(name="style2", weight=-0.5, text_weight=0.6)
    assert difference(ours(pair.model, pair.asked(loras=loras), shelves), expected) <= TOLERANCE
    assert difference(ours(pair.model, pair.asked(), shelves), expected) > 0.01


def nets(shelves: Path) -> list[ControlNetModel]:
    return [ControlNetModel.from_pretrained(shelves / "controlnet" / f"net{seed}") for seed in (1, 2)]


def controls(**stretch: float) -> tuple[Control, ...]:
    """The first net alone, at 0.7 of its weight."""
    return (Control(model="net1", image=png(GUIDES[0]), weight=0.7, **stretch),)


@on_two
def test_guided_by_a_picture_for_a_part_of_the_steps(pair: Pair, shelves: Path) -> None:
    expected = pair.theirs(
        StableDiffusionXLControlNetPipeline,
        {"controlnet": nets(shelves)[0]},
        image=Image.fromarray(GUIDES[0]),
        controlnet_conditioning_scale=0.7,
        control_guidance_start=0.2,
        control_guidance_end=0.6,
        width=64,
        height=64,
    )
    mine = ours(pair.model, pair.asked(control=controls(start=0.2, end=0.6)), shelves)
    assert difference(mine, expected) <= TOLERANCE
    assert difference(ours(pair.model, pair.asked(control=controls()), shelves), expected) > 0.01


@on_two
def test_guided_by_two_pictures_each_for_its_own_stretch(pair: Pair, shelves: Path) -> None:
    expected = pair.theirs(
        StableDiffusionXLControlNetPipeline,
        {"controlnet": nets(shelves)},
        image=[Image.fromarray(guide).resize((64, 64), Image.Resampling.LANCZOS) for guide in GUIDES],
        controlnet_conditioning_scale=[0.7, 1.2],
        control_guidance_start=[0.0, 0.4],
        control_guidance_end=[0.6, 1.0],
        width=64,
        height=64,
    )
    second = Control(model="net2", image=png(GUIDES[1]), weight=1.2, start=0.4)
    mine = ours(pair.model, pair.asked(control=(*controls(end=0.6), second)), shelves)
    assert difference(mine, expected) <= TOLERANCE


@on_two
def test_guided_over_a_picture(pair: Pair, shelves: Path) -> None:
    expected = pair.theirs(
        StableDiffusionXLControlNetImg2ImgPipeline,
        {"controlnet": nets(shelves)[0]},
        image=Image.fromarray(PICTURE),
        control_image=Image.fromarray(GUIDES[0]),
        controlnet_conditioning_scale=0.7,
        control_guidance_end=0.7,
        strength=0.8,
    )
    request = pair.asked(init_image=png(PICTURE), strength=0.8, control=controls(end=0.7))
    assert difference(ours(pair.model, request, shelves), expected) <= TOLERANCE


@on_two
def test_guided_under_a_mask(pair: Pair, shelves: Path) -> None:
    expected = pair.theirs(
        StableDiffusionXLControlNetInpaintPipeline,
        {"controlnet": nets(shelves)[0]},
        control_image=Image.fromarray(GUIDES[0]),
        controlnet_conditioning_scale=0.7,
        **THEIR_MASK,
    )
    request = pair.asked(**UNDER_A_MASK, control=controls())
    assert difference(ours(pair.model, request, shelves), expected) <= TOLERANCE
