r"""The prompt grammar, case by case from its definition, and what holds for any text."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illustrious.errors import InvalidRequest
from illustrious.images.diffusion.prompt import Break, Piece, Words, escape, extract, parse, prefixed, render, weigh
from illustrious.types import Lora

DOWN = 1 / 1.1

TEXTS = st.text(max_size=60) | st.lists(
    st.sampled_from([*"()[]:|\\ ,.0123456789aB_é猫\n", "BREAK", ":1.3)", ":0.5]", "[a|b]", "[a:b:2]", "\\(", "cat "]),
    max_size=25,
).map("".join)
"""Any text, and texts that are dense with the grammar's own symbols."""

PLAIN = st.text(st.characters(exclude_characters="()[]\\", exclude_categories=["Cs"]), max_size=60).filter(
    lambda text: "BREAK" not in text
)
"""Texts without the grammar's symbols."""


def weights(text: str) -> list[tuple[str, float] | str]:
    """Pieces as pairs, weights to nine digits."""
    return ["BREAK" if isinstance(piece, Break) else (piece.text, round(piece.weight, 9)) for piece in weigh(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a cat", [("a cat", 1)]),
        ("", []),
        # Brackets
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red))", [("red", 1.21)]),
        ("(((red)))", [("red", 1.331)]),
        ("[red]", [("red", DOWN)]),
        ("[[red]]", [("red", DOWN**2)]),
        ("([red])", [("red", 1)]),
        ("(a [b] c)", [("a ", 1.1), ("b", 1), (" c", 1.1)]),
        ("()a", [("a", 1)]),
        # A number
        ("(red:1.3)", [("red", 1.3)]),
        ("(red:0.5) cat", [("red", 0.5), (" cat", 1)]),
        ("(red: 1.3 )", [("red", 1.3)]),
        ("(red:.5)", [("red", 0.5)]),
        ("(red:2.)", [("red", 2)]),
        ("(red:+2)", [("red", 2)]),
        ("(red:-1)", [("red", -1)]),
        ("(red:0)", [("red", 0)]),
        ("((red:1.2) cat)", [("red", 1.32), (" cat", 1.1)]),
        ("(a:2:1.5)", [("a:2", 1.5)]),
        ("(:d:1.2)", [(":d", 1.2)]),
        ("(red:1000)", [("red", 100)]),
        # Neighbours of one weight are one piece
        ("(light)(house)", [("lighthouse", 1.1)]),
        ("(light)[(house)]", [("light", 1.1), ("house", 1)]),
        # Escapes
        (r"hatsune miku \(append\)", [("hatsune miku (append)", 1)]),
        (r"(miku \(append\):1.2)", [("miku (append)", 1.2)]),
        (r"\[a\]", [("[a]", 1)]),
        (r"a\\b", [(r"a\b", 1)]),
        (r"a\b", [("ab", 1)]),
        ("a\\", [("a", 1)]),
        (r"\\(a)", [("\\", 1), ("a", 1.1)]),
        # What does not close weighs all that follows, and what was never opened is text
        ("a (b c", [("a ", 1), ("b c", 1.1)]),
        ("((a) b", [("a", 1.21), (" b", 1.1)]),
        ("a [b", [("a ", 1), ("b", DOWN)]),
        ("a) b]", [("a) b]", 1)]),
        ("a:1.3)", [("a:1.3)", 1)]),
        ("(a:1.3", [("a:1.3", 1.1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("[a:1.3)", [("a:1.3)", DOWN)]),
        # Round and square brackets do not look at each other
        ("(a [b) c]", [("a ", 1.1), ("b", 1), (" c", DOWN)]),
        # The example of the web UI's own documentation of this grammar
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        # BREAK
        ("a BREAK b", [("a", 1), "BREAK", ("b", 1)]),
        ("a\nBREAK\nb", [("a", 1), "BREAK", ("b", 1)]),
        ("aBREAK, BREAKb", [("aBREAK, BREAKb", 1)]),
        ("a, BREAK, b", [("a,", 1), "BREAK", (", b", 1)]),
        ("break", [("break", 1)]),
        ("BREAK BREAK", ["BREAK", "BREAK"]),
        ("(a BREAK b:1.3)", [("a", 1.3), "BREAK", ("b", 1.3)]),
        (r"a BREA\K b", [("a BREAK b", 1)]),
    ],
)
def test_weights(text: str, expected: list[tuple[str, float] | str]) -> None:
    rounded = [piece if isinstance(piece, str) else (piece[0], round(piece[1], 9)) for piece in expected]
    assert weights(text) == rounded


@pytest.mark.parametrize(
    ("text", "at_steps"),
    [
        ("a cat", {0: "a cat", 9: "a cat"}),
        # [from:to:when], when a number of steps
        ("a [cat:dog:3] b", {0: "a cat b", 2: "a cat b", 3: "a dog b", 9: "a dog b"}),
        ("[cat:dog:0]", {0: "dog"}),
        ("[cat:dog:-1]", {0: "dog"}),
        ("[cat:dog:10]", {9: "cat"}),
        ("[cat:dog:99]", {9: "cat"}),
        # when a share of the steps: it has a decimal point
        ("[cat:dog:0.25]", {1: "cat", 2: "dog"}),  # a share of a step counts for none
        ("[cat:dog:.5]", {4: "cat", 5: "dog"}),
        ("[cat:dog:0.0]", {0: "dog"}),
        ("[cat:dog:1.0]", {9: "cat"}),
        ("[cat:dog:1]", {0: "cat", 1: "dog"}),
        # [to:when], [from::when]
        ("a [red :4]cat", {3: "a cat", 4: "a red cat"}),
        ("a [red ::4]cat", {3: "a red cat", 4: "a cat"}),
        ("[:4]", {0: "", 9: ""}),
        # Blanks stay, but for those around the number
        ("a [b : c : 1 ] d", {0: "a b  d", 1: "a  c  d"}),
        # [a|b]
        ("[cow|horse] in a field", {0: "cow in a field", 1: "horse in a field", 2: "cow in a field"}),
        ("[a|b|c]", {0: "a", 1: "b", 2: "c", 3: "a"}),
        ("[fe|]male", {0: "female", 1: "male", 2: "female"}),
        ("[|a]", {0: "", 1: "a"}),
        # In one another
        ("a[b:[c:d:2]:1]e", {0: "abe", 1: "ace", 2: "ade"}),
        ("[[a|b]:c:2]", {0: "a", 1: "b", 2: "c"}),
        ("[a|[b:c:5]]", {1: "b", 5: "c", 6: "a"}),
        ("[(a:1.2):[b]:3]", {2: "(a:1.2)", 3: "[b]"}),
        ("([a:b:3]:1.2)", {0: "(a:1.2)", 3: "(b:1.2)"}),
        ("a [[[b]]:2]", {0: "a ", 2: "a [[b]]"}),
        # Escapes
        (r"[a\:b:c\]:3]", {0: r"a\:b", 3: r"c\]"}),
        (r"[a\|b|c]", {0: r"a\|b", 1: "c"}),
        (r"\[a:b:3]", {0: r"\[a:b:3]"}),
        # What is no schedule is text
        ("[a]", {0: "[a]"}),
        ("[a:b]", {0: "[a:b]"}),
        ("[a:b:c]", {0: "[a:b:c]"}),
        ("[a:b:c:3]", {0: "[a:b:c:3]"}),
        ("[a:b:]", {0: "[a:b:]"}),
        ("[a|b:3]", {0: "[a|b:3]"}),
        ("[a:b:0.5", {0: "[a:b:0.5"}),
        ("a:b:0.5]", {0: "a:b:0.5]"}),
        ("(a|b)", {0: "(a|b)"}),
        ("a | b, c: d", {0: "a | b, c: d"}),
        ("a [unbalanced", {0: "a [unbalanced"}),
        # A malformed bracket takes those around it with it, not those beside or in it
        ("[a (b:c] d:0.5) [x:y:3]", {0: "[a (b:c] d:0.5) x", 3: "[a (b:c] d:0.5) y"}),
        ("((a][:b:c [d:3]", {2: "((a][:b:c ", 3: "((a][:b:c d"}),
        ("[[x:y:3] a:b]", {0: "[x a:b]", 3: "[y a:b]"}),
    ],
)
def test_what_changes_from_step_to_step(text: str, at_steps: dict[int, str]) -> None:
    prompt = parse(text)
    assert {step: prompt.at(step, 10) for step in at_steps} == at_steps


def test_a_prompt_of_several_schedules_reads_as_documented() -> None:
    prompt = parse(
        "fantasy landscape with a [mountain:lake:0.25] and [an oak:a christmas tree:0.75][ in foreground::0.6]"
        "[: in background:0.25] [shoddy:masterful:0.5]"
    )
    expected = {
        24: "fantasy landscape with a mountain and an oak in foreground shoddy",
        49: "fantasy landscape with a lake and an oak in foreground in background shoddy",
        59: "fantasy landscape with a lake and an oak in foreground in background masterful",
        74: "fantasy landscape with a lake and an oak in background masterful",
        99: "fantasy landscape with a lake and a christmas tree in background masterful",
    }
    assert {step: prompt.at(step, 100) for step in expected} == expected


@pytest.mark.parametrize(
    ("when", "first_of_dog"),
    [("3", 0), ("10", 0), ("13", 3), ("0.5", 0), ("1.0", 0), ("1.5", 4), ("2.0", 8), ("99", 8)],
)
def test_a_second_pass_counts_on_from_the_first(when: str, first_of_dog: int) -> None:
    prompt = parse(f"[cat:dog:{when}]")
    texts = [prompt.at(step, 8, first_steps=10) for step in range(8)]
    assert texts == ["cat"] * first_of_dog + ["dog"] * (8 - first_of_dog)


def test_the_number_of_steps_may_be_anything_written_as_a_number() -> None:
    huge = parse("[cat:dog:1e999]")
    assert huge.at(149, 150) == "cat"
    assert parse("[cat:dog:2e0]").at(1, 10) == "cat"
    assert parse("[cat:dog:2e0]").at(2, 10) == "dog"


@given(PLAIN)
def test_plain_text_is_read_as_it_stands(text: str) -> None:
    assert parse(text).at(0, 20) == text
    assert weigh(text) == ((Words(text, 1.0),) if text else ())


@given(TEXTS)
def test_what_is_constant_is_unchanged(text: str) -> None:
    prompt = parse(text)
    if prompt.is_constant:
        assert prompt.at(0, 20) == prompt.at(19, 20) == text


@given(TEXTS, st.integers(0, 149), st.integers(1, 150))
def test_any_text_is_read_without_error(text: str, step: int, steps: int) -> None:
    pieces = weigh(parse(text).at(min(step, steps - 1), steps))
    assert all(isinstance(piece, Break) or piece.text for piece in pieces)


@given(st.text(max_size=60))
def test_escaped_text_stands_for_itself(text: str) -> None:
    assert weigh(escape(text)) == ((Words(text, 1.0),) if text else ())


@given(TEXTS)
def test_rendered_pieces_are_read_as_the_same_pieces(text: str) -> None:
    pieces = weigh(text)
    assert weigh(render(pieces)) == pieces
    assert render(weigh(render(pieces))) == render(pieces)


def test_pieces_read_as_they_were_meant() -> None:
    pieces: tuple[Piece, ...] = (Words("a (b) ", 1.0), Words("c:1.3", 1e-05), Break(), Words("BREAK", -2.5))
    assert render(pieces) == r"a \(b\) (c:1.3:0.00001) BREAK (BREA\K:-2.5)"
    assert weigh(render(pieces)) == pieces


@pytest.mark.parametrize(
    "text", ["(" * 20_000, "(a" * 20_000, "[a:" * 20_000 + ":1]" * 20_000, "([" * 20_000 + "a)]" * 20_000]
)
def test_brackets_by_the_ten_thousand_are_read_at_once(text: str) -> None:
    weigh(parse(text).at(0, 10))


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("<lora:style>", Lora(name="style")),
        ("<lora:style:0.8>", Lora(name="style", weight=0.8)),
        ("<lora:style:0.8:0.4>", Lora(name="style", weight=0.8, text_weight=0.4)),
        ("<lora:style:-1>", Lora(name="style", weight=-1)),
        ("<lora:style:te=0.4:unet=0.8>", Lora(name="style", weight=0.8, text_weight=0.4)),
        ("<lora:style:0.8:te=0>", Lora(name="style", weight=0.8, text_weight=0)),
        ("<lyco:style:.5>", Lora(name="style", weight=0.5)),
        ("<LORA:my style/v1.2 : 1>", Lora(name="my style/v1.2", weight=1)),
    ],
)
def test_a_lora_is_taken_out_of_the_text(tag: str, expected: Lora) -> None:
    assert extract(f"a {tag}cat") == ("a cat", (expected,), ())


@pytest.mark.parametrize(
    "tag", ["<lora:style:strong>", "<lora: :1>", "<lora:a:1:2:3>", "<lora:a:dyn=4>", "<hypernet:a:1>"]
)
def test_a_tag_that_names_no_lora_is_left_out_with_a_warning(tag: str) -> None:
    text, loras, (warning,) = extract(f"a {tag}cat")
    assert (text, loras) == ("a cat", ())
    assert tag in warning


@pytest.mark.parametrize("text", ["1 < 2 > 0", "<3", "a <b> c", "<lora:>", "<lora:a"])
def test_what_is_no_tag_is_text(text: str) -> None:
    assert extract(text) == (text, (), ())


@pytest.mark.parametrize("tag", ["<lora:a:11>", "<lora:a:1:-11>", f"<lora:{'a' * 501}:1>"])
def test_a_lora_out_of_range_is_refused(tag: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        extract(tag)
    assert refused.value.field == "prompt"


def test_quality_words_go_before_the_prompt() -> None:
    assert prefixed("masterpiece, best quality, ", "a cat") == "masterpiece, best quality, a cat"
    assert prefixed("masterpiece", "") == "masterpiece"
    assert prefixed(None, "a cat") == prefixed("", "a cat") == "a cat"


def test_the_documented_weights_hold() -> None:
    document = (Path(__file__).parents[3] / "docs" / "prompts.md").read_text("utf-8")
    rows = re.findall(r"^\| `(.+)` \| ([\d.]+) \|$", document, re.MULTILINE)
    assert len(rows) == 6
    for written, weight in rows:
        (piece,) = weigh(written)
        assert isinstance(piece, Words)
        assert piece.weight == pytest.approx(float(weight), abs=5e-4)
