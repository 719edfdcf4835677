"""CLIP's vocabulary from package data."""

from pathlib import Path

import pytest

from illustrious.errors import Unavailable
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.tokenizer import VOCABULARY, clip_tokenizers, folder_tokenizer


def test_the_published_tokens_of_a_photo_of_a_cat() -> None:
    for tokenizer in clip_tokenizers(77):
        assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
        assert len(tokenizer) == VOCABULARY


def test_the_second_pads_with_an_exclamation_mark() -> None:
    first, second = (
        tokenizer("cat", padding="max_length", max_length=77).input_ids for tokenizer in clip_tokenizers(77)
    )
    assert first == [49406, 2368] + [49407] * 75
    assert second == [49406, 2368, 49407] + [0] * 74


def test_they_are_made_once_and_every_text_survives() -> None:
    first, _ = clip_tokenizers(77)
    assert first is clip_tokenizers(77)[0]
    for text in ("masterpiece, 1girl, <3, (o_o)", "桜の木 🌸", "naïve café"):
        assert first.decode(first(text).input_ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


def test_a_folder_has_its_own_and_its_length_is_the_models() -> None:
    assert folder_tokenizer(starter_folder() / "tokenizer", 77).model_max_length == 32
    assert folder_tokenizer(starter_folder() / "tokenizer", 16).model_max_length == 16


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="tokenizer"):
        folder_tokenizer(tmp_path, 77)
