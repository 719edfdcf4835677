"""Prompts → what the UNet is told: embeddings of both text encoders, the pooled embedding, the sizes."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPTokenizer


@dataclass(frozen=True)
class TextEncoder:
    tokenizer: CLIPTokenizer
    model: Any

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Hidden states of the last layer but one (1 × tokens × width), and the first output, which is the pooled
        embedding (1 × width) where the model projects one."""
        tokens = self.tokenizer(
            text,
            padding="max_length",
            max_length=self.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        output = self.model(tokens.input_ids.to(self.model.device), output_hidden_states=True)
        return output.hidden_states[-2], output[0]

    def lost(self, text: str) -> str:
        """The end of the text that does not fit into the tokenizer's length."""
        tokens = self.tokenizer(text, return_offsets_mapping=True, verbose=False)
        kept = self.tokenizer.model_max_length - 1  # the last place is the end token's
        if len(tokens.input_ids) <= kept + 1:
            return ""
        return text[tokens.offset_mapping[kept][0] :].strip()


@dataclass(frozen=True)
class Conditioning:
    """One row per half: only the prompt, or first the negative prompt and then the prompt.

    ``embeddings`` rows × tokens × width, ``pooled`` rows × width, ``sizes`` rows × 6.
    """

    embeddings: Tensor
    pooled: Tensor
    sizes: Tensor


@torch.inference_mode()
def condition(
    encoders: tuple[TextEncoder, TextEncoder],
    prompt: str,
    negative_prompt: str | None,
    size: tuple[int, int],
    zeros_for_empty_negative: bool,
) -> Conditioning:
    """``negative_prompt`` ``None`` leaves its half out. ``size`` is the picture's width and height in pixels."""
    halves = [_encode(encoders, prompt)]
    if negative_prompt is not None:
        if zeros_for_empty_negative and not negative_prompt:
            negative = tuple(torch.zeros_like(half) for half in halves[0])
        else:
            negative = _encode(encoders, negative_prompt)
        halves.insert(0, (negative[0], negative[1]))
    embeddings = torch.cat([embedding for embedding, _ in halves])
    width, height = size
    # Original size, crop offset, target size, each as height and width (SDXL report, section 2.2).
    sizes = [height, width, 0, 0, height, width]
    return Conditioning(
        embeddings=embeddings,
        pooled=torch.cat([pooled for _, pooled in halves]),
        sizes=torch.tensor([sizes] * len(halves), dtype=embeddings.dtype, device=embeddings.device),
    )


def _encode(encoders: tuple[TextEncoder, TextEncoder], text: str) -> tuple[Tensor, Tensor]:
    (first, _), (second, pooled) = (encoder.encode(text) for encoder in encoders)
    return torch.cat([first, second], dim=-1), pooled


def truncations(encoders: tuple[TextEncoder, TextEncoder], prompt: str, negative_prompt: str | None) -> list[str]:
    """A warning for each text that is longer than a tokenizer takes, naming the words that were lost."""
    warnings = []
    for title, text in (("prompt", prompt), ("negative prompt", negative_prompt or "")):
        lost = max((encoder.lost(text) for encoder in encoders), key=len)
        if lost:
            length = min(encoder.tokenizer.model_max_length for encoder in encoders)
            warnings.append(
                f"The {title} is longer than the {length - 2} tokens this model reads, so its end was lost: {lost!r}."
            )
    return warnings
