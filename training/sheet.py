"""Pictures of fixed prompts side by side, for the eye."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image, ImageDraw

SHEET_PROMPTS = (
    "a beautiful landscape with mountains and lakes",
    "anime girl with blue hair",
    "fantasy castle in the clouds",
    "a mystical dragon breathing fire",
    "a beautiful sunset over the ocean",
    "a city at night",
    "a cyberpunk cityscape at night",
    "a landscape with mountains and lakes at sunset",
    "a red apple",
    "a cat on a red background",
    "a pink elephant",
    "an owl on a blue background",
    "a purple frog",
    "a rocket",
    "a tiger",
    "a princess with pink hair on a green background",
    "two pizzas",
    "three strawberries",
    "a cat and a rocket",
    "a bee above a sunflower",
    "a small house on a yellow background",
    "a fox in a forest",
    "a penguin in the snow",
    "a guitar",
)
"""The founding examples first; then things, colours, backgrounds, counts and places."""


def draw_all(
    pipeline: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    steps: int = 20,
    guidance: float = 5.0,
    batch: int = 8,
    told: int | None = None,
) -> list[Image.Image]:
    """One picture per prompt. Its noise depends on its place in the list alone, whatever the batch.

    ``told``: the size the UNet is told the picture has, unless it is the picture's own.
    """
    size = (told, told) if told else None
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Image.Image] = []
    for first in range(0, len(prompts), batch):
        part = list(prompts[first : first + batch])
        generators = [torch.Generator().manual_seed(1000 + first + place) for place in range(len(part))]
        pictures += pipeline(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=generators,
            original_size=size,
            target_size=size,
        ).images
    return pictures


def sheet(
    pipeline: StableDiffusionXLPipeline,
    prompts: Sequence[str],
    columns: int = 8,
    steps: int = 20,
    guidance: float = 5.0,
    told: int | None = None,
) -> Image.Image:
    return arrange(draw_all(pipeline, prompts, steps, guidance, told=told), prompts, columns)


def arrange(pictures: Sequence[Image.Image], captions: Sequence[str], columns: int, cell: int = 128) -> Image.Image:
    """Pictures at ``cell`` pixels with their captions under them, cut to fit."""
    text_height, letters = 26, cell // 6
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * (cell + 6), rows * (cell + text_height)), "white")
    writing = ImageDraw.Draw(page)
    for place, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = place % columns * (cell + 6), place // columns * (cell + text_height)
        page.paste(picture.resize((cell, cell), Image.Resampling.BICUBIC), (x, y))
        for line in range(2):
            writing.text((x, y + cell + 1 + 12 * line), caption[line * letters : (line + 1) * letters], fill="black")
    return page
