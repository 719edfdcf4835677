"""What a seed draws: from files, from options, and how often."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illustrious.errors import InvalidRequest, StorageFailed
from illustrious.images.diffusion.wildcards import DEPTH, WildcardFiles, draw


class Lines:
    """Wildcards of a test: name → lines."""

    def __init__(self, lines: Mapping[str, Sequence[str]] = {}) -> None:
        self._lines = lines

    def names(self) -> Iterable[str]:
        return self._lines

    def lines(self, name: str) -> Sequence[str]:
        return self._lines[name]


COLOURS = Lines({"colour": ["red", "green", "blue"], "animals/cat": ["tabby"], "animals/dog": ["pug", "beagle"]})


def drawn(text: str, wildcards: Lines = COLOURS, seed: int = 0) -> str:
    drawn, warnings = draw(text, str(seed), wildcards)
    assert not warnings
    return drawn


def outcomes(text: str, wildcards: Lines = COLOURS, seeds: int = 300) -> Counter[str]:
    return Counter(drawn(text, wildcards, seed) for seed in range(seeds))


@pytest.mark.parametrize(
    ("text", "possible"),
    [
        ("{a|b|c}", {"a", "b", "c"}),
        ("x {a|} y", {"x a y", "x  y"}),
        ("{a|{b|c}}", {"a", "b", "c"}),
        ("{ a | b }", {" a ", " b "}),
        ("{0::a|b}", {"b"}),
        ("{3.5::a|.5::b}", {"a", "b"}),
        ("{0::a|0::b}", {"a", "b"}),
        # Several
        ("{2$$a|b|c}", {"a, b", "a, c", "b, a", "b, c", "c, a", "c, b"}),
        ("{2$$ and $$a|b}", {"a and b", "b and a"}),
        ("{1-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{-2$$a|b}", {"a", "b", "a, b", "b, a"}),
        ("{2-$$a|b}", {"a, b", "b, a"}),
        ("{0-1$$a|b}", {"", "a", "b"}),
        ("{3$$a|b}", {"a, b, a", "a, b, b", "b, a, a", "b, a, b"}),
        ("{1$$a}", {"a"}),
        ("{2$$0::a|b|c}", {"b, c", "c, b"}),
        # Wildcards
        ("__colour__ cat", {"red cat", "green cat", "blue cat"}),
        ("__animals/dog__", {"pug", "beagle"}),
        ("__dog__", {"pug", "beagle"}),
        ("__COLOUR__", {"red", "green", "blue"}),
        ("__animals/*__", {"tabby", "pug", "beagle"}),
        ("{__dog__|cat}", {"pug", "beagle", "cat"}),
        ("{2$$__dog__}", {"pug, beagle", "beagle, pug"}),
        # Alternations of the prompt grammar keep their bars
        ("{[a|b]|c}", {"[a|b]", "c"}),
        ("{[a|b|c}", {"[a", "b", "c"}),
        ("{a]|b}", {"a]", "b"}),
    ],
)
def test_exactly_these_are_drawn(text: str, possible: set[str]) -> None:
    assert outcomes(text).keys() == possible


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        "{a}",
        "{}",
        "{a",
        "a}",
        "a|b",
        "[a|b]",
        r"\{a\|b\}",
        r"{a\|b}",
        "__",
        "____",
        "_a_",
        "{a}$$",
        "{x$$a}",
        "{ $$a}",
        "my_long__",
        "<lora:my_lora:1>",
    ],
)
def test_what_is_none_of_it_is_text(text: str) -> None:
    assert drawn(text) == text


def test_lines_may_hold_all_of_it_again() -> None:
    wildcards = Lines({"outfit": ["{red|blue} __garment__"], "garment": ["coat", "{2$$hat|scarf}"]})
    assert outcomes("__outfit__", wildcards).keys() == {
        f"{colour} {garment}" for colour in ("red", "blue") for garment in ("coat", "hat, scarf", "scarf, hat")
    }


def test_a_weight_says_how_often() -> None:
    counts = outcomes("{3::a|b}", seeds=2000)
    assert 0.7 < counts["a"] / 2000 < 0.8
    counts = outcomes("__rare__", Lines({"rare": ["0.25::a", "b"]}), seeds=2000)
    assert 0.15 < counts["a"] / 2000 < 0.25


def test_each_mention_is_drawn_by_itself() -> None:
    assert len(outcomes("__colour__ __colour__")) == 9


def test_a_seed_draws_the_same_everywhere() -> None:
    """Written down once: it must be the same on every platform and in every version of Python."""
    text = "{a|b|c|d} {2$$1|2|3|4} __colour__ {0.1::x|y}"
    assert [drawn(text, seed=seed) for seed in range(3)] == ["b 2, 4 red x", "b 1, 4 red x", "c 2, 3 red y"]


def test_drawing_leaves_other_randomness_alone() -> None:
    random.seed(1)
    expected = random.random()
    random.seed(1)
    drawn("{a|b}")
    assert random.random() == expected


def test_an_unknown_wildcard_stays_as_text_and_names_near_ones() -> None:
    text, (warning,) = draw("a __color__ cat", "0", COLOURS)
    assert text == "a __color__ cat"
    assert "__colour__" in warning
    _, (warning,) = draw("a __xyzzy__ cat", "0", COLOURS)
    assert "xyzzy.txt" in warning
    text, (warning,) = draw("{2$$__empty__}", "0", Lines({"empty": []}))
    assert text == "__empty__, __empty__"
    assert "no lines" in warning


def test_lines_that_name_their_own_file_end_somewhere() -> None:
    text, (warning,) = draw("__self__", "0", Lines({"self": ["a __self__"]}))
    assert text == "a " * DEPTH
    assert "their own file" in warning
    with pytest.raises(InvalidRequest, match="without end"):
        draw("__self__", "0", Lines({"self": ["__self__ __self__"]}))


@pytest.mark.parametrize("text", ["{" * 20_000, "[" * 20_000 + "}" * 20_000 + "}" * 20_000])
def test_brackets_by_the_ten_thousand_are_read_at_once(text: str) -> None:
    draw(text, "0", COLOURS)


@given(st.text(max_size=60) | st.text(st.sampled_from("{}|[]$_:\\ 012ab-*"), max_size=40), st.integers(0, 9))
def test_any_text_is_drawn_without_error(text: str, seed: int) -> None:
    drawn, _ = draw(text, str(seed), Lines())
    assert drawn == draw(text, str(seed), Lines())[0]
    if "{" not in text or "}" not in text:
        assert drawn == text


def test_files_are_read_by_lines(tmp_path: Path) -> None:
    file = tmp_path / "colour.txt"
    file.write_bytes("\ufeff# warm ones\r\n red \r\n\r\n0.5::gélb\r\n".encode())
    files = WildcardFiles({"colour": file})
    assert list(files.names()) == ["colour"]
    assert files.lines("colour") == ["red", "0.5::gélb"]
    file.unlink()
    with pytest.raises(StorageFailed, match=r"colour\.txt"):
        files.lines("colour")
