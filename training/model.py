"""The SDXL architecture in small: two CLIP text encoders, a UNet with text_time conditioning, an autoencoder of four
channels.

Everything is diffusers' and transformers' own, so that what is trained opens in any program that opens SDXL.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDPMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from training.config import ModelConfig

NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "timestep_spacing": "trailing",
}
"""SDXL's noise schedule, with v-prediction (Salimans and Ho, "Progressive Distillation for Fast Sampling", 2022)."""

START, END = "<|startoftext|>", "<|endoftext|>"


def encoded(vae: AutoencoderKL | AutoencoderTiny, pictures: Tensor) -> Tensor:
    """(n, 3, size, size) from −1 to 1 → (n, 4, h, w), as ``vae.decode`` takes them."""
    found = vae.encode(pictures)
    latents: Tensor = found.latents if isinstance(vae, AutoencoderTiny) else found.latent_dist.mode()
    return latents


@dataclass(eq=False)
class StarterModel:
    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    size: int

    @property
    def trained(self) -> nn.ModuleDict:
        """The parts the image loop trains. The autoencoder is trained before, by itself."""
        return nn.ModuleDict(
            {"unet": self.unet, "text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}
        )

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """(n, tokens) ids, padded and cut as the pipeline does."""
        batch = self.tokenizer(
            list(captions), padding="max_length", max_length=self.tokenizer.model_max_length, truncation=True
        )
        return torch.tensor(batch["input_ids"])

    def condition(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(n, tokens, width + width 2) and the pooled (n, projection), as ``StableDiffusionXLPipeline`` makes them."""
        first = self.text_encoder(tokens, output_hidden_states=True)
        second = self.text_encoder_2(tokens, output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds

    def velocity(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """What the UNet predicts for (n, 4, h, w) latents."""
        context, pooled = self.condition(tokens)
        sizes = torch.tensor([self.size, self.size, 0, 0, self.size, self.size], device=noisy.device)
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(noisy), -1).to(pooled.dtype)}
        predicted: Tensor = self.unet(noisy, timesteps, context, added_cond_kwargs=added, return_dict=False)[0]
        return predicted

    @torch.no_grad()
    def latents(self, pictures: Tensor) -> Tensor:
        """(n, 3, size, size) from −1 to 1 → (n, 4, h, w), scaled as the UNet sees them."""
        scaled: Tensor = encoded(self.vae, pictures) * self.vae.config.scaling_factor
        return scaled

    def pipeline(self) -> StableDiffusionXLPipeline:
        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer,
            unet=self.unet,
            scheduler=EulerDiscreteScheduler(**NOISE, steps_offset=1),
            force_zeros_for_empty_prompt=False,
            add_watermarker=False,
        )


def noise_schedule() -> DDPMScheduler:
    return DDPMScheduler(**NOISE, clip_sample=False)


def load(folder: Path) -> StarterModel:
    """A model of a diffusers folder, in float32."""
    size = UNet2DConditionModel.load_config(folder / "unet")["sample_size"]
    vae = load_autoencoder(folder / "vae")
    return StarterModel(
        tokenizer=CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32),
        text_encoder_2=CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2", dtype=torch.float32),
        unet=UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32),
        vae=vae,
        size=size * reduction(vae),
    )


def load_autoencoder(folder: Path) -> AutoencoderKL | AutoencoderTiny:
    """Of either kind, in float32."""
    tiny = AutoencoderTiny.load_config(folder)["_class_name"] == "AutoencoderTiny"
    vae: AutoencoderKL | AutoencoderTiny
    vae = (AutoencoderTiny if tiny else AutoencoderKL).from_pretrained(folder, torch_dtype=torch.float32)
    return vae


def build(config: ModelConfig, size: int, captions: Iterable[str], seed: int) -> StarterModel:
    """A model with random weights and a tokenizer trained on the captions.

    Raises ``ValueError`` without an autoencoder.
    """
    if config.autoencoder is None:
        raise ValueError(
            "[model] names no autoencoder; train one with python -m training.autoencoder and name its folder."
        )
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(config.autoencoder, torch_dtype=torch.float32)
    tokenizer = train_tokenizer(captions, config.vocabulary, config.tokens)
    first, second = config.text_widths
    return StarterModel(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(_text(config, tokenizer, first, "quick_gelu")),
        text_encoder_2=CLIPTextModelWithProjection(_text(config, tokenizer, second, "gelu")),
        unet=UNet2DConditionModel(**unet_config(config, size // reduction(vae))),
        vae=vae,
        size=size,
    )


def reduction(vae: AutoencoderKL | AutoencoderTiny) -> int:
    """Pixels of the picture to one of the latent, along a side."""
    if isinstance(vae, AutoencoderTiny):
        return 2 ** sum(count > 0 for count in vae.config.num_encoder_blocks[1:])
    return 2 ** (len(vae.config.block_out_channels) - 1)


def train_tokenizer(captions: Iterable[str], vocabulary: int, length: int) -> CLIPTokenizer:
    """Byte-pair encoding in CLIP's form: lower case, ``</w>`` at the end of words (Radford et al., 2021).

    The same captions give the same tokenizer, whatever their order.
    """
    plain = CLIPTokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters = [form for character in alphabet for form in (character, character + "</w>")]
    room = vocabulary - len(letters) - 2
    trainer = trainers.BpeTrainer(vocab_size=room, end_of_word_suffix="</w>", show_progress=False)
    trained.train_from_iterator(captions, trainer)
    learned: dict[str, Any] = _bpe(trained)
    learned_tokens = [token for token in learned["vocab"] if token not in letters]
    # Every byte is a token alone and at the end of a word, so that no word is unknown.
    vocab = {token: number for number, token in enumerate([*letters, *learned_tokens, START, END])}
    merges = [tuple(pair) for pair in learned["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length, pad_token=END, unk_token=END)


def _bpe(tokenizer: Tokenizer) -> dict[str, Any]:
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _text(config: ModelConfig, tokenizer: CLIPTokenizer, width: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=config.text_layers,
        num_attention_heads=width // config.head_width,
        max_position_embeddings=config.tokens,
        hidden_act=activation,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def unet_config(config: ModelConfig, sample_size: int) -> dict[str, Any]:
    """Of a UNet for latents of ``sample_size`` a side."""
    levels = len(config.channels)
    time_width = 32
    return {
        "sample_size": sample_size,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": config.channels,
        "layers_per_block": config.layers_per_block,
        "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * (levels - 1)),
        "up_block_types": (*["CrossAttnUpBlock2D"] * (levels - 1), "UpBlock2D"),
        "attention_head_dim": tuple(max(1, width // config.head_width) for width in config.channels),
        "cross_attention_dim": sum(config.text_widths),
        "norm_num_groups": 16,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": time_width,
        "projection_class_embeddings_input_dim": config.text_widths[1] + 6 * time_width,
    }
