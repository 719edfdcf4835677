"""Tiny SDXL checkpoints with random weights, in both layouts: everything real about them but size and sense.

>>> write_single_file(folder / "tiny.safetensors")        # LDM keys, CLIP's own vocabulary, 64×64 pixels
>>> write_folder(folder / "tiny", Tiny(prediction="v_prediction"))
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from illustrious.images.diffusion.tokenizer import clip_tokenizers
from tests.images.diffusion import sgm

SIZE = 64
"""Native width and height in pixels."""

STRUCTURE = sgm.Structure(
    unet=sgm.UNet(
        model_channels=32,
        channel_mult=(1, 2, 4),
        num_res_blocks=1,
        depth_in=(0, 1, 2),
        depth_middle=2,
        depth_out=(2, 2, 1, 1, 0, 0),
        context_dim=128,
        adm_in_channels=6 * 32 + 32,
    ),
    vae=sgm.Autoencoder(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1),
    text=sgm.Text(width=64, layers=2, projection=64),
    text_2=sgm.Text(width=64, layers=2, projection=32),
)


@dataclass(frozen=True)
class Tiny:
    """``zero_snr`` goes with v-prediction. ``in_channels`` 9 is an inpainting UNet."""

    prediction: str = "epsilon"
    zero_snr: bool = False
    in_channels: int = 4
    seed: int = 0

    @property
    def structure(self) -> sgm.Structure:
        unet = sgm.UNet(**{**vars(STRUCTURE.unet), "in_channels": self.in_channels})
        return sgm.Structure(unet=unet, vae=STRUCTURE.vae, text=STRUCTURE.text, text_2=STRUCTURE.text_2)

    def tensors(self) -> dict[str, Tensor]:
        """The single file's tensors, float16, of magnitudes that keep activations near 1."""
        generator = torch.Generator().manual_seed(self.seed)
        return {name: _random(name, shape, generator) for name, shape in sgm.ldm_shapes(self.structure).items()}

    def pipeline(self) -> StableDiffusionXLPipeline:
        """The same model as diffusers has it, float16."""
        structure, tensors = self.structure, sgm.diffusers_tensors(self.structure, self.tensors())
        first, second = clip_tokenizers(structure.text.positions)
        models = {
            "unet": UNet2DConditionModel(**self._unet_config()),
            "vae": AutoencoderKL(**_vae_config()),
            "text_encoder": CLIPTextModel(_text_config(structure.text, "quick_gelu")),
            "text_encoder_2": CLIPTextModelWithProjection(_text_config(structure.text_2, "gelu")),
        }
        for name, model in models.items():
            model.to(torch.float16).load_state_dict(tensors[name])
        return StableDiffusionXLPipeline(
            **models, tokenizer=first, tokenizer_2=second, scheduler=self._scheduler(), add_watermarker=False
        )

    def _unet_config(self) -> dict[str, Any]:
        return {
            "sample_size": SIZE // 4,
            "in_channels": self.in_channels,
            "block_out_channels": (32, 64, 128),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (1, 1, 2),
            "cross_attention_dim": 128,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 6 * 32 + 32,
        }

    def _scheduler(self) -> EulerDiscreteScheduler:
        return EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            prediction_type=self.prediction,
            rescale_betas_zero_snr=self.zero_snr,
            timestep_spacing="trailing" if self.zero_snr else "leading",
        )


def write_single_file(path: Path, tiny: Tiny | None = None) -> Path:
    """A ``.safetensors`` file with LDM keys, marked with ``v_pred``, ``ztsnr`` and ``modelspec.resolution``."""
    tiny = tiny or Tiny()
    marks = {"v_pred": tiny.prediction == "v_prediction", "ztsnr": tiny.zero_snr}
    tensors = {**tiny.tensors(), **{name: torch.zeros(0) for name, there in marks.items() if there}}
    save_file(tensors, path, metadata={"format": "pt", "modelspec.resolution": f"{SIZE}x{SIZE}"})
    return path


def write_folder(path: Path, tiny: Tiny | None = None, variant: str | None = None) -> Path:
    """A diffusers folder with the same weights."""
    (tiny or Tiny()).pipeline().save_pretrained(path, variant=variant)
    return path


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        values = 0.1 * noise
    elif len(shape) <= 1:  # the weights of norms, and logit_scale
        values = 1 + 0.1 * noise
    elif "embedding" in name:
        values = 0.5 * noise
    else:
        values = noise / math.sqrt(math.prod(shape[1:]))
    return values.to(torch.float16)


def _vae_config() -> dict[str, Any]:
    return {
        "block_out_channels": (32, 32, 64),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "scaling_factor": 0.13025,
        "force_upcast": False,
    }


def _text_config(text: sgm.Text, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=text.tokens,
        hidden_size=text.width,
        intermediate_size=4 * text.width,
        num_hidden_layers=text.layers,
        num_attention_heads=1,
        max_position_embeddings=text.positions,
        projection_dim=text.projection,
        hidden_act=activation,
    )
