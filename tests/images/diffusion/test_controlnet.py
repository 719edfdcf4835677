"""ControlNets: every layout opens to the same model, and guides as diffusers' pipeline is guided."""

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.controlnet import ControlNets, Guide, control_image, residuals
from illustrious.images.diffusion.placement import place
from tests import tiny, tiny_controlnet

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value."""

FACTOR = 4
"""Pixels per latent of the tiny VAE."""


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    pipeline = tiny.Tiny().pipeline().to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def models(pipeline: StableDiffusionXLPipeline) -> list[ControlNetModel]:
    return [tiny_controlnet.controlnet(pipeline.unet, seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def nets(pipeline: StableDiffusionXLPipeline) -> ControlNets:
    return ControlNets(pipeline.unet, place("cpu"), FACTOR)


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def placed(image: Image.Image) -> Tensor:
    return control_image(encoded(image), (64, 64), place("cpu"), 1_000_000)


@torch.inference_mode()
def ours(pipeline: StableDiffusionXLPipeline, guides: Sequence[Guide], guidance: float, steps: int) -> Tensor:
    """The plainest denoising loop there is, with the guides' residuals given to the UNet."""
    scheduler, unet = pipeline.scheduler, pipeline.unet
    words, no_words, pooled, no_pooled = pipeline.encode_prompt("an apple", negative_prompt="blue")
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]])
    rows = (words, pooled, sizes)
    if guidance > 1:
        rows = torch.cat([no_words, words]), torch.cat([no_pooled, pooled]), sizes.repeat(2, 1)
    scheduler.set_timesteps(steps)
    noise = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(3))
    latents = noise * scheduler.init_noise_sigma
    turns = len(scheduler.timesteps)
    for turn, timestep in enumerate(scheduler.timesteps):
        sample = scheduler.scale_model_input(latents, timestep).repeat(len(rows[0]), 1, 1, 1)
        added = residuals(guides, sample, timestep, *rows, turn=turn, turns=turns)
        prediction = unet(
            sample,
            timestep,
            encoder_hidden_states=rows[0],
            added_cond_kwargs={"text_embeds": rows[1], "time_ids": rows[2]},
            down_block_additional_residuals=None if added is None else added.down,
            mid_block_additional_residual=None if added is None else added.middle,
            return_dict=False,
        )[0]
        if guidance > 1:
            negative, positive = prediction.chunk(2)
            prediction = negative + guidance * (positive - negative)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


def theirs(pipeline: StableDiffusionXLPipeline, models: Any, guidance: float, steps: int, **control: Any) -> Tensor:
    guided = StableDiffusionXLControlNetPipeline(**pipeline.components, controlnet=models, add_watermarker=False)
    guided.set_progress_bar_config(disable=True)
    latents: Tensor = guided(
        "an apple",
        negative_prompt="blue",
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(3),
        width=64,
        height=64,
        output_type="latent",
        **control,
    ).images
    return latents


def difference(mine: Tensor, reference: Tensor) -> float:
    return float((mine - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_one_controlnet_guides_as_in_diffusers(
    pipeline: StableDiffusionXLPipeline, models: list[ControlNetModel], scheduler: str, prediction: str
) -> None:
    kind = getattr(diffusers, scheduler)
    config = {**pipeline.scheduler.config, "prediction_type": prediction}
    drawn = StableDiffusionXLPipeline(**{**pipeline.components, "scheduler": kind.from_config(config)})
    mine = ours(drawn, [Guide(models[0], placed(picture(0)), 0.7, end=0.6)], guidance=5, steps=4)
    further = {"controlnet_conditioning_scale": 0.7, "control_guidance_end": 0.6}
    assert difference(mine, theirs(drawn, models[0], 5, 4, image=picture(0), **further)) <= TOLERANCE
    assert difference(mine, ours(drawn, [], guidance=5, steps=4)) > 0.01


def test_two_controlnets_guide_as_in_diffusers_each_with_its_own_picture_weight_and_stretch(
    pipeline: StableDiffusionXLPipeline, models: list[ControlNetModel]
) -> None:
    images = [picture(0), picture(1, (100, 40))]
    guides = [
        Guide(models[0], placed(images[0]), 0.7, start=0.0, end=0.5),
        Guide(models[1], placed(images[1]), 1.2, start=0.25, end=1.0),
    ]
    reference = theirs(
        pipeline,
        models,
        guidance=5,
        steps=4,
        image=images,
        controlnet_conditioning_scale=[0.7, 1.2],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.5, 1.0],
    )
    assert difference(ours(pipeline, guides, guidance=5, steps=4), reference) <= TOLERANCE


def test_without_guidance_there_is_one_row_to_guide(
    pipeline: StableDiffusionXLPipeline, models: list[ControlNetModel]
) -> None:
    mine = ours(pipeline, [Guide(models[0], placed(picture(0)))], guidance=1, steps=3)
    assert difference(mine, theirs(pipeline, models[0], 1, 3, image=picture(0))) <= TOLERANCE


def test_a_guide_acts_on_the_turns_that_lie_between_start_and_end_as_a_whole() -> None:
    def turns(**stretch: float) -> list[int]:
        guide = Guide(model=None, image=torch.zeros(1, 3, 8, 8), **stretch)
        return [turn for turn in range(4) if guide.acts(turn, 4)]

    assert turns() == [0, 1, 2, 3]
    assert turns(start=0.25, end=0.75) == [1, 2]
    assert turns(start=0.3, end=0.7) == []
    assert turns(end=0.0) == []
    assert turns(weight=0.0) == []


def test_guides_that_do_not_act_leave_the_unets_call_as_it_is(models: list[ControlNetModel]) -> None:
    nothing = torch.zeros(0)
    guides = [Guide(models[0], nothing, start=0.5), Guide(models[1], nothing, weight=0)]
    assert residuals(guides, nothing, nothing, nothing, nothing, nothing, turn=0, turns=4) is None


def test_an_inpainting_unets_further_channels_are_not_shown_to_the_controlnet(models: list[ControlNetModel]) -> None:
    torch.manual_seed(0)
    guides = [Guide(models[0], placed(picture(0)))]
    further = torch.tensor(500), torch.randn(1, 77, 128), torch.randn(1, 32), torch.zeros(1, 6), 0, 1
    nine = torch.randn(1, 9, 16, 16)
    with torch.inference_mode():
        shown, alone = residuals(guides, nine, *further), residuals(guides, nine[:, :4], *further)
    assert shown is not None
    assert alone is not None
    assert torch.equal(shown.middle, alone.middle)


def write(path: Path, model: ControlNetModel, layout: str) -> Path:
    if layout == "folder":
        return tiny_controlnet.write_folder(path / "net", model)
    return tiny_controlnet.write_single_file(path / "net.safetensors", model, layout)


@pytest.mark.parametrize("layout", ["folder", "diffusers", "ldm"])
def test_every_layout_opens_to_the_same_model(
    nets: ControlNets, models: list[ControlNetModel], tmp_path: Path, layout: str
) -> None:
    opened = nets.load(write(tmp_path, models[0], layout))
    expected = models[0].state_dict()
    assert opened.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in opened.state_dict().items())
    assert not opened.training
    names = ("block_out_channels", "down_block_types", "attention_head_dim", "conditioning_embedding_out_channels")
    for name in (*names, "transformer_layers_per_block", "addition_time_embed_dim", "norm_num_groups"):
        assert list_of(opened.config[name]) == list_of(models[0].config[name]), name


def list_of(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value


def test_a_single_file_may_have_fewer_attention_layers_than_the_unet(
    nets: ControlNets, pipeline: StableDiffusionXLPipeline, models: list[ControlNetModel], tmp_path: Path
) -> None:
    shallow = {"down_block_types": ["DownBlock2D"] * 3, "mid_block_type": "UNetMidBlock2D"}
    small = ControlNetModel.from_config({**models[0].config, **shallow})
    opened = nets.load(tiny_controlnet.write_single_file(tmp_path / "small.safetensors", small))
    assert opened.state_dict().keys() == small.state_dict().keys()


def test_a_controlnet_is_kept_until_its_file_changes(
    nets: ControlNets, models: list[ControlNetModel], tmp_path: Path
) -> None:
    file = write(tmp_path, models[0], "diffusers")
    first = nets.load(file)
    assert nets.load(file) is first
    written = file.stat().st_mtime_ns
    write(tmp_path, models[1], "diffusers")
    assert file.stat().st_mtime_ns != written
    assert nets.load(file) is not first


def change(file: Path, change: dict[str, Tensor | None]) -> None:
    tensors = {**load_file(file), **change}
    save_file({key: value for key, value in tensors.items() if value is not None}, file)


NOTHING = torch.zeros(1)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"lllite_unet_input_blocks_4.depth1.0.weight": NOTHING}, "LLLite"),
        ({"lora_controlnet": NOTHING}, "Control-LoRA"),
        ({"task_embedding": NOTHING}, "ControlNet-Union"),
        ({"body.0.resnets.0.block1.weight": NOTHING}, "T2I-Adapter"),
        ({"lora_unet_mid_block.lora_down.weight": NOTHING}, "LoRA"),
        ({"model.diffusion_model.out.2.weight": NOTHING}, "checkpoint"),
        ({"something.weight": NOTHING}, "no ControlNet"),
        ({"controlnet_cond_embedding.conv_in.weight": NOTHING}, "another family"),
    ],
)
def test_files_of_another_kind_are_refused_by_name(
    nets: ControlNets, tmp_path: Path, tensors: dict[str, Tensor], said: str
) -> None:
    save_file(tensors, tmp_path / "net.safetensors")
    with pytest.raises(InvalidRequest, match=said) as refused:
        nets.load(tmp_path / "net.safetensors")
    assert refused.value.field == "control"
    assert "SDXL" in str(refused.value)


def test_a_folder_of_another_kind_is_refused_by_name(
    nets: ControlNets, models: list[ControlNetModel], tmp_path: Path
) -> None:
    folder = write(tmp_path, models[0], "folder")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"ControlNetModel"', '"ControlNetUnionModel"'))
    with pytest.raises(InvalidRequest, match="ControlNetUnionModel"):
        nets.load(folder)


def test_one_for_a_wider_unet_is_refused(nets: ControlNets, models: list[ControlNetModel], tmp_path: Path) -> None:
    wide = ControlNetModel.from_config({**models[0].config, "block_out_channels": (64, 128, 192)})
    with pytest.raises(InvalidRequest, match=r"\[64, 128, 192\] channels instead of \[32, 64, 128\]"):
        nets.load(tiny_controlnet.write_single_file(tmp_path / "wide.safetensors", wide))


def test_one_for_another_vae_is_refused(nets: ControlNets, pipeline: StableDiffusionXLPipeline, tmp_path: Path) -> None:
    model = tiny_controlnet.controlnet(pipeline.unet, channels=(16, 32, 96, 256))
    with pytest.raises(InvalidRequest, match="1/8 of the picture's size, and this model has 1/4"):
        nets.load(tiny_controlnet.write_single_file(tmp_path / "net.safetensors", model))


@pytest.mark.parametrize("layout", ["folder", "diffusers", "ldm"])
def test_a_damaged_one_is_refused_with_a_remedy(
    nets: ControlNets, models: list[ControlNetModel], tmp_path: Path, layout: str
) -> None:
    path = write(tmp_path, models[0], layout)
    weights = path / "diffusion_pytorch_model.safetensors" if layout == "folder" else path
    zero_conv = "control_model.zero_convs.2.0.weight" if layout == "ldm" else "controlnet_down_blocks.2.weight"
    change(weights, {zero_conv: None})
    with pytest.raises(InvalidRequest, match=r"controlnet_down_blocks\.2\.weight.*Download the ControlNet again"):
        nets.load(path)
    change(weights, {zero_conv: torch.full((32, 32, 1, 1), torch.nan)})
    with pytest.raises(InvalidRequest, match=r"no numbers.*Download the ControlNet again"):
        nets.load(path)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InvalidRequest, match=r"incomplete.*Download the ControlNet again"):
        nets.load(path)
    weights.unlink()
    with pytest.raises(InvalidRequest, match=r"cannot be (read|used)"):
        nets.load(path)


def test_a_pickled_file_is_not_opened(nets: ControlNets, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"anything")
    with pytest.raises(InvalidRequest, match="could run any code"):
        nets.load(tmp_path / "net.pth")


def test_a_folder_without_weights_says_so(nets: ControlNets, models: list[ControlNetModel], tmp_path: Path) -> None:
    folder = write(tmp_path, models[0], "folder")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(InvalidRequest, match="no weights"):
        nets.load(folder)
    shutil.rmtree(folder)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        nets.load(folder)


def test_the_control_image_is_resized_and_brought_between_0_and_1() -> None:
    half = Image.new("L", (8, 8))
    half.paste(255, (4, 0, 8, 8))
    given = control_image(encoded(half), (32, 16), place("cpu"), 100)
    assert given.shape == (1, 3, 16, 32)
    assert (given[..., 0] == 0).all()
    assert (given[..., -1] == 1).all()


def test_a_control_image_that_is_none_is_the_requests_fault() -> None:
    with pytest.raises(InvalidRequest, match=r"control image.*PNG") as refused:
        control_image(b"no picture", (32, 16), place("cpu"), 100)
    assert refused.value.field == "control"
