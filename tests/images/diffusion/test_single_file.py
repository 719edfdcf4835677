"""A single file's structure is read off its tensors: held against SDXL's published structure, name by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from illustrious.errors import Unavailable
from illustrious.images.diffusion.parts import Checkpoint, Part
from illustrious.images.diffusion.single_file import parse
from illustrious.images.diffusion.weights import build
from tests.images.diffusion import sgm
from tests.tiny import STRUCTURE

SDXL: dict[str, dict[str, Any]] = {
    # The configurations published with stabilityai/stable-diffusion-xl-base-1.0, as far as they shape the models.
    "unet": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
    },
    "text_encoder_2": {
        "vocab_size": 49408,
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
        "max_position_embeddings": 77,
        "projection_dim": 1280,
        "hidden_act": "gelu",
    },
}

# Depths of the distilled cousins, in the order of the blocks: ComfyUI's comfy/model_detection.py, which lists those
# of the output blocks backwards. The diffusers form is that of unet/config.json in segmind/SSD-1B and
# segmind/Segmind-Vega.
SSD_1B = sgm.UNet(depth_in=(0, 0, 2, 2, 4, 4), depth_middle=-1, depth_out=(4, 4, 10, 2, 1, 1, 0, 0, 0))
VEGA = sgm.UNet(depth_in=(0, 0, 1, 1, 2, 2), depth_middle=-1, depth_out=(2, 2, 2, 1, 1, 1, 0, 0, 0))
KOALA_1B = sgm.UNet(num_res_blocks=1, depth_in=(0, 2, 6), depth_middle=6, depth_out=(6, 6, 2, 2, 0, 0))

COUSINS = {
    "inpainting": (sgm.UNet(in_channels=9), {"in_channels": 9}),
    "SSD-1B": (
        SSD_1B,
        {
            "mid_block_type": "UNetMidBlock2D",
            "transformer_layers_per_block": [1, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1],
        },
    ),
    "Segmind Vega": (VEGA, {"mid_block_type": "UNetMidBlock2D", "transformer_layers_per_block": [1, 1, 2]}),
    "KOALA-1B": (KOALA_1B, {"layers_per_block": 1, "transformer_layers_per_block": [1, 2, 6]}),
}


def file_of(structure: sgm.Structure) -> dict[str, Tensor]:
    """The file's names and shapes, without values."""
    return {key: torch.empty(shape, device="meta") for key, shape in sgm.ldm_shapes(structure).items()}


def parts_of(checkpoint: Checkpoint) -> dict[str, Part]:
    first, second = checkpoint.text_encoders
    return {"unet": checkpoint.unet, "vae": checkpoint.vae, "text_encoder": first, "text_encoder_2": second}


def published(part: str, changes: dict[str, Any]) -> nn.Module:
    config = {**SDXL[part], **changes}
    with torch.device("meta"):
        match part:
            case "unet":
                return UNet2DConditionModel(**config)
            case "vae":
                return AutoencoderKL(**config)
            case "text_encoder":
                return CLIPTextModel(CLIPTextConfig(**config))
            case _:
                return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def names(model: nn.Module) -> dict[str, torch.Size]:
    """Parameter names without transformers' ``text_model.``, which one class has and the other has not."""
    return {name.removeprefix("text_model."): value.shape for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def full_size() -> tuple[dict[str, Tensor], Checkpoint]:
    file = file_of(sgm.Structure())
    return file, parse(Path("full-size"), file, {})


@pytest.mark.parametrize("part", list(SDXL))
def test_every_tensor_of_full_size_sdxl_gets_the_name_and_shape_of_the_published_model(
    full_size: tuple[dict[str, Tensor], Checkpoint], part: str
) -> None:
    file, checkpoint = full_size
    converted = parts_of(checkpoint)[part].tensors
    expected = names(published(part, {}))
    got = {name.removeprefix("text_model."): tensor.shape for name, tensor in converted.items()}
    got.pop("logit_scale", None)
    assert got == expected
    for old, new, _ in sgm.layers(sgm.Structure())[part]:
        mine, theirs = converted.get(new, converted.get(f"text_model.{new}")), sgm.diffusers_tensor(old, new, file)
        assert mine is not None, old
        assert mine.shape == theirs.shape, old
        if theirs is file.get(old):
            assert mine is theirs, f"{new} is not {old}"


@pytest.mark.parametrize("part", list(SDXL))
def test_the_configurations_are_the_published_ones(full_size: tuple[dict[str, Tensor], Checkpoint], part: str) -> None:
    config = parts_of(full_size[1])[part].config
    assert {name: config[name] for name in SDXL[part]} == SDXL[part]
    assert names(build(parts_of(full_size[1])[part])) == names(published(part, {}))


def test_full_size_sdxl_has_the_published_number_of_parameters(
    full_size: tuple[dict[str, Tensor], Checkpoint],
) -> None:
    parts = parts_of(full_size[1])
    counts = {name: sum(tensor.numel() for tensor in part.tensors.values()) for name, part in parts.items()}
    assert counts["unet"] == 2_567_463_684
    assert counts["vae"] == 83_653_863
    assert counts["text_encoder"] == 123_060_480


@pytest.mark.parametrize("cousin", list(COUSINS))
def test_inpainting_and_distilled_cousins_are_read_off_their_shapes(cousin: str) -> None:
    structure, changes = COUSINS[cousin]
    file = file_of(replace(sgm.Structure(), unet=structure))
    unet = parse(Path(cousin), file, {}).unet
    expected = {**SDXL["unet"], **changes}
    assert {name: unet.config[name] for name in expected} == expected
    assert {name: tensor.shape for name, tensor in unet.tensors.items()} == names(published("unet", changes))
    assert names(build(unet)) == names(published("unet", changes))
    for old, new, _ in sgm.layers(replace(sgm.Structure(), unet=structure))["unet"]:
        assert unet.tensors[new] is file[old]


# What a file says about itself

TINY = file_of(STRUCTURE)


@pytest.mark.parametrize(
    ("marks", "metadata", "expected"),
    [
        ((), {}, ("epsilon", False, "leading")),
        (("v_pred",), {}, ("v_prediction", False, "leading")),
        (("v_pred", "ztsnr"), {}, ("v_prediction", True, "trailing")),
        ((), {"modelspec.prediction_type": "v"}, ("v_prediction", False, "leading")),
        ((), {"modelspec.prediction_type": "epsilon"}, ("epsilon", False, "leading")),
    ],
)
def test_the_prediction_type_comes_from_keys_and_metadata(
    marks: tuple[str, ...], metadata: dict[str, str], expected: tuple[str, bool, str]
) -> None:
    used = parse(Path("tiny"), {**TINY, **{mark: torch.zeros(0) for mark in marks}}, metadata).sampler
    assert used.name == "Euler"
    config = used.scheduler().config
    assert (config.prediction_type, config.rescale_betas_zero_snr, config.timestep_spacing) == expected
    assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.012, "scaled_linear")


@pytest.mark.parametrize(
    ("resolution", "size"),
    [
        (None, (1024, 1024)),
        ("1024x1024", (1024, 1024)),
        ("64x64", (64, 64)),
        ("832x1216", (832, 1216)),
        ("99999x99999", (1024, 1024)),
        ("1001x1001", (1024, 1024)),
        ("big", (1024, 1024)),
    ],
)
def test_the_native_size_is_modelspecs_resolution_where_it_is_sane(
    resolution: str | None, size: tuple[int, int]
) -> None:
    metadata = {} if resolution is None else {"modelspec.resolution": resolution}
    assert parse(Path("tiny"), TINY, metadata).size == size


# Refusals

REMEDY = "--model"


def without(prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in TINY.items() if not key.startswith(prefix)}


def renamed(before: str, after: str) -> dict[str, Tensor]:
    return {key.replace(before, after): value for key, value in TINY.items()}


def changed(key: str, *shape: int) -> dict[str, Tensor]:
    return {**TINY, key: torch.empty(shape, device="meta")}


LORA = {"lora_unet_input_blocks_1_0.lora_down.weight": torch.zeros(4, 4)}
SD_15 = {
    **{key: value for key, value in TINY.items() if key.startswith("model.") and "label_emb" not in key},
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.zeros(8, 8),
}


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (without("first_stage_model."), "has no VAE"),
        (without("conditioner.embedders.0."), "has no first text encoder"),
        (without("conditioner.embedders.1."), "has no second text encoder"),
        (without("model.diffusion_model."), "no UNet"),
        (without("conditioner."), "has no first text encoder"),
        (SD_15, "Stable Diffusion 1"),
        (LORA, "is a LoRA"),
        (renamed("embedders.0.transformer.text_model", "embedders.0.model"), "refiner"),
        (changed("model.diffusion_model.input_blocks.0.0.weight", 32, 8, 3, 3), "8 channels"),
        (changed(sgm.PREFIXES["text_encoder"] + "embeddings.token_embedding.weight", 4315, 64), "4,315"),
        (without("model.diffusion_model.label_emb.0.2.bias"), "label_emb.0.2.bias"),
        (without("model.diffusion_model.out.2"), "out.2.weight"),
        (without("model.diffusion_model.input_blocks.5.1"), "structure"),
        ({"something": torch.zeros(1)}, "no UNet"),
        ({}, "no UNet"),
        ({**TINY, "edm_mean": torch.zeros(4), "edm_std": torch.zeros(4)}, "EDM"),
    ],
)
def test_a_file_that_is_no_complete_sdxl_checkpoint_is_refused_by_what_it_is(
    file: dict[str, Tensor], said: str
) -> None:
    with pytest.raises(Unavailable, match=said) as refusal:
        parse(Path("something.safetensors"), file, {})
    assert REMEDY in str(refusal.value) or "folder" in str(refusal.value)


def test_a_tensor_that_diffusers_would_pass_over_is_kept_for_loading_to_name() -> None:
    key = "model.diffusion_model.fourier_embed.weight"
    assert "fourier_embed.weight" in parse(Path("tiny"), changed(key, 4), {}).unet.tensors
