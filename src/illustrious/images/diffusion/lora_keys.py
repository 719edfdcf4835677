"""The keys of LoRA files: which layer of the model a tensor changes, and what it is there.

A key is the name of a layer and a role: ``lora_unet_input_blocks_4_1_proj_in`` ``.lora_down.weight`` (kohya, LDM
names), ``lora_unet_down_blocks_1_attentions_0_proj_in`` ``.alpha`` (kohya, diffusers' names),
``unet.down_blocks.1.attentions.0.proj_in`` ``.lora_A.weight`` (PEFT, as diffusers saves it),
``unet.…attn1.processor.to_q`` ``_lora.down.weight`` (diffusers before 0.22).

Rather than taking such names apart, every name a layer of this very model may go by is written down once, dots as
underscores, and keys are looked up.
"""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from illustrious.images.diffusion.ldm_names import ldm_names

PREFIXES = {
    "unet": ("lora_unet_", "unet_", "diffusion_model_", "lycoris_", "base_model_model_", ""),
    "text_encoder": ("lora_te1_", "lora_te_", "text_encoder_", "te1_"),
    "text_encoder_2": ("lora_te2_", "text_encoder_2_", "te2_"),
}
"""Part of the model → what the names of its layers begin with, of all trainers' conventions."""

ATTENTION = {".q_proj": ".to_q", ".k_proj": ".to_k", ".v_proj": ".to_v", ".out_proj": ".to_out"}
"""The layers of CLIP's attention → what diffusers called them in LoRA files before 0.22."""

ROLES: tuple[tuple[re.Pattern[str], dict[str, str]], ...] = (
    (re.compile(r"[._]lora(?:_linear_layer)?[._](down|up|mid)\.weight$"), {}),
    (re.compile(r"\.lora_([AB])(?:\.\w+)?\.weight$"), {"A": "down", "B": "up"}),
    (re.compile(r"\.(alpha|hada_[wt][12](?:_[ab])?|lokr_[wt][12](?:_[ab])?)$"), {}),
    (re.compile(r"\.(dora_scale|lora_magnitude_vector|diff(?:_b)?|oft_(?:blocks|diag)|on_input|[ab][12])(?=\.|$)"), {}),
)
"""What the end of a key says of its tensor, and our name for it where it differs."""


@dataclass(frozen=True)
class Layer:
    """``part`` is ``unet``, ``text_encoder`` or ``text_encoder_2``; ``name`` the module's name in it."""

    part: str
    name: str


def split(key: str) -> tuple[str, str] | None:
    """The name of a layer, and the role of the tensor there; ``None`` for a key that is none of a LoRA file."""
    for pattern, names in ROLES:
        if match := pattern.search(key):
            role: str = match[1]
            return key[: match.start()], names.get(role, role)
    return None


class LayerNames:
    """Every name that the linear layers and convolutions of a model may have in a LoRA file."""

    def __init__(self, parts: dict[str, Any]) -> None:
        self.modules: dict[Layer, nn.Linear | nn.Conv2d] = {}
        self._layers: dict[str, Layer] = {}
        for part, model in parts.items():
            ldm = ldm_names(model) if part == "unet" else {}
            for name, module in model.named_modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    layer = Layer(part, name)
                    self.modules[layer] = module
                    for alias in (*_aliases(part, name), *([ldm[name]] if name in ldm else [])):
                        for prefix in PREFIXES[part]:
                            self._layers[prefix + alias.replace(".", "_")] = layer

    def find(self, name: str) -> Layer | None:
        return self._layers.get(name.replace(".processor", "").replace(".", "_"))


def _aliases(part: str, name: str) -> list[str]:
    if part == "unet":
        return [name, name.removesuffix(".0")] if name.endswith(".to_out.0") else [name]
    # CLIPTextModel lost its inner ``text_model`` in transformers 5.6; files have it.
    inner = name.removeprefix("text_model.")
    old = next((inner.removesuffix(end) + before for end, before in ATTENTION.items() if inner.endswith(end)), inner)
    return [form for spelt in (inner, old) for form in (spelt, f"text_model.{spelt}")]
