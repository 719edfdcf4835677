"""Safetensors files by their headers alone: every tensor is there by name and shape, and takes no room on the disk."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

Shapes = Mapping[str, Sequence[int]]


def write_header(path: Path, shapes: Shapes, metadata: Mapping[str, str] | None = None) -> Path:
    """A float16 file of these shapes; its tensors are a hole in the file, so they read as zeros."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


UNET = "model.diffusion_model."
CLIP_L = "conditioner.embedders.0.transformer.text_model."

SDXL: Shapes = {
    f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    f"{UNET}label_emb.0.0.weight": (1280, 2816),
    f"{CLIP_L}embeddings.position_embedding.weight": (77, 768),
    "conditioner.embedders.1.model.positional_embedding": (77, 1280),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}
"""What tells a full-size SDXL checkpoint from all others."""

SDXL_INPAINTING: Shapes = {**SDXL, f"{UNET}input_blocks.0.0.weight": (320, 9, 3, 3)}

REFINER: Shapes = {
    f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3),
    f"{UNET}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (768, 1280),
    f"{UNET}label_emb.0.0.weight": (1536, 2560),
    "conditioner.embedders.0.model.positional_embedding": (77, 1280),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}

SD1: Shapes = {
    f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
    "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}

SD2: Shapes = {
    f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3),
    f"{UNET}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
    "cond_stage_model.model.positional_embedding": (77, 1024),
    "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
}

FLUX: Shapes = {f"{UNET}double_blocks.0.img_attn.qkv.weight": (9216, 3072), f"{UNET}img_in.weight": (3072, 64)}

LORA: Shapes = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight": (16, 2048),
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_up.weight": (640, 16),
    "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (16, 1280),
}
"""A LoRA for SDXL in kohya's layout."""

LORA_SD1: Shapes = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": (16, 768),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": (16, 768),
}

LORA_PEFT: Shapes = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": (16, 2048),
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": (640, 16),
}

EMBEDDING: Shapes = {"clip_l": (4, 768), "clip_g": (4, 1280)}

EMBEDDING_SD1: Shapes = {"emb_params": (8, 768)}

VAE_LDM: Shapes = {"encoder.conv_in.weight": (128, 3, 3, 3), "decoder.conv_in.weight": (512, 4, 3, 3)}

VAE_DIFFUSERS: Shapes = {
    "decoder.conv_in.weight": (512, 4, 3, 3),
    "decoder.up_blocks.0.resnets.0.conv1.weight": (512, 512, 3, 3),
}

CONTROLNET: Shapes = {
    "controlnet_cond_embedding.conv_in.weight": (16, 3, 3, 3),
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
}

CONTROLNET_LDM: Shapes = {
    "control_model.input_hint_block.0.weight": (16, 3, 3, 3),
    "control_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768),
}

UPSCALER: Shapes = {"model.0.weight": (64, 3, 3, 3), "model.1.sub.0.RDB1.conv1.0.weight": (32, 64, 3, 3)}
"""An ESRGAN in its first layout."""
