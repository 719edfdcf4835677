"""How captions are read; and the judge that is shipped."""

import hashlib

import pytest
import torch
from training.concepts import STARTER, nouns
from training.matcher import JUDGE, UNKNOWN, Judge, Matcher
from training.prompts import FOUNDING, true_picture
from training.score import answers

from tests.training import tiny


@pytest.fixture(scope="module")
def shipped() -> Judge:
    return Judge.load()


def test_captions_are_read_alike_whatever_stands_beside_them() -> None:
    torch.manual_seed(0)
    matcher = Matcher(["two", "frog", "on", "red", "background"]).eval()
    with torch.no_grad():
        alone = matcher.meanings(["two frogs"])
        beside = matcher.meanings(["two frogs on a red background", "two frogs"])[1:]
    assert torch.allclose(alone, beside, atol=1e-6)


def test_the_shipped_judge_is_what_its_checksum_says() -> None:
    digest, name = (JUDGE.parent / "SHA256SUMS").read_text(encoding="utf-8").split()
    assert name == JUDGE.name
    assert hashlib.sha256(JUDGE.read_bytes()).hexdigest() == digest


def test_the_shipped_judge_knows_every_noun(shipped: Judge) -> None:
    known = shipped.matcher.numbers
    assert not [noun for label in STARTER for noun in nouns(label) if UNKNOWN in known(noun)]


def test_the_shipped_judge_tells_true_pictures_of_scenes(shipped: Judge) -> None:
    scenes = [prompt for prompt in FOUNDING if not prompt.labels] * 4
    pictures = [true_picture(prompt, tiny.icons(64), 64, seed) for seed, prompt in enumerate(scenes)]
    assert sum(one.right for one in answers(shipped, scenes, pictures, FOUNDING)) >= 10
