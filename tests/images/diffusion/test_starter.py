"""What comes with the package draws what it says."""

from pathlib import Path

import numpy as np
import pytest

from illustrious.catalog.library import STARTER_LORAS
from illustrious.checksums import verify
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.types import ImageRequest, ImageResult, Lora
from illustrious.vision.facts import oklab
from tests.images.diffusion.conftest import Draw, pixels

PROMPTS = ("a red apple", "a rocket", "anime girl with blue hair", "an owl on a blue background")


@pytest.fixture(scope="module")
def requests() -> list[ImageRequest]:
    return [ImageRequest(prompt=prompt, steps=20, guidance=5, seed=7) for prompt in PROMPTS]


def distance(first: ImageResult, second: ImageResult) -> float:
    return float(np.square(pixels(first).astype(float) - pixels(second).astype(float)).mean())


def colour(result: ImageResult) -> float:
    """Mean Oklab chroma."""
    return float(np.hypot(*oklab(pixels(result))[..., 1:].reshape(-1, 2).T).mean())


def test_all_weights_are_what_was_trained() -> None:
    verify(starter_folder(), "The starter model")
    verify(STARTER_LORAS[0].path.parent, "The starter's LoRAs")
    assert sum(file.stat().st_size for file in starter_folder().parent.rglob("*.safetensors")) <= 40_000_000


def test_four_steps_with_the_lora_are_nearer_to_twenty_than_four_without(
    draw: Draw, requests: list[ImageRequest]
) -> None:
    quick = {"steps": 4, "guidance": 1.0}
    lora = (Lora(name="starter-4-steps"),)
    with_it, without = [], []
    for request in requests:
        whole = draw(None, request)
        adapted = draw(None, request.model_copy(update={**quick, "loras": lora}))
        assert adapted.warnings == ()
        with_it.append(distance(adapted, whole))
        without.append(distance(draw(None, request.model_copy(update=quick)), whole))
    assert sum(with_it) < 0.8 * sum(without), (with_it, without)


def test_the_style_changes_what_is_drawn_and_not_what_it_is_of(draw: Draw, requests: list[ImageRequest]) -> None:
    request = requests[0]
    plain = draw(None, request)
    styled = draw(None, request.model_copy(update={"prompt": f"{request.prompt}<lora:starter-ink:1>"}))
    assert styled.warnings == ()
    assert colour(styled) < 0.5 * colour(plain)
    inside, rim = (abs(pixels(result).astype(int).sum(axis=-1) - 765) > 150 for result in (plain, styled))
    assert (inside & rim).sum() > 0.6 * inside.sum(), "the apple is where it was"


def test_previews_of_the_starter_are_larger_than_its_latents() -> None:
    assert (starter_folder() / "preview" / "config.json").is_file()


def test_the_cards_go_with_the_weights() -> None:
    for folder in (starter_folder(), Path(STARTER_LORAS[0].path.parent)):
        assert "Twemoji" in (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
        assert (folder / "README.md").is_file()
