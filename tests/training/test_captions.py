import numpy as np
import pytest
from training.captions import altered, words


def test_an_article_says_nothing_of_a_picture() -> None:
    assert words("an owl") == words("a owl") == ("owl",)
    assert words("A T-Rex, detailed") == ("t-rex", "detailed")


@pytest.mark.parametrize(
    ("caption", "wrong"),
    [
        ("a purple owl", {"a red owl", "a purple rocket"}),
        ("two owls", {"three owls", "two rockets"}),
        ("a cat left of a house", {"a cat right of a house", "a cat left of a rocket"}),
        ("a frog on a light blue background", {"a frog on a red background"}),
    ],
)
def test_one_phrase_is_exchanged_for_one_of_its_kind(caption: str, wrong: set[str]) -> None:
    random = np.random.default_rng(0)
    found = {altered(caption, random) for _ in range(3000)}
    assert caption not in found
    assert wrong <= found


def test_the_longest_phrase_counts() -> None:
    random = np.random.default_rng(0)
    assert not [1 for _ in range(200) if "light" in altered("light blue", random).replace("light blue", "")]


def test_a_caption_without_such_a_phrase_stays() -> None:
    assert altered("something else", np.random.default_rng(0)) == "something else"
