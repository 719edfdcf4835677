"""Tokens in chunks. Here a chunk has room for 75, a comma is 0, and other tokens are numbers from 1 on."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from illustrious.images.diffusion.chunks import Chunk, Names, Unit, Vector, chunks
from illustrious.images.diffusion.prompt import Break

ROOM = 75
COMMA = 0


def cut(tokens: Iterable[int | None]) -> list[list[int]]:
    """The chunks of these tokens; ``None`` is a break."""
    units = [Break() if token is None else Unit((token,)) for token in tokens]
    return [[token for token in chunk.tokens if isinstance(token, int)] for chunk in chunks(units, ROOM, COMMA)]


def words(count: int) -> list[int]:
    return list(range(1, count + 1))


def test_nothing_is_one_empty_chunk() -> None:
    assert chunks([], ROOM, COMMA) == (Chunk(),)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (75, [75]), (76, [75, 1]), (150, [75, 75]), (151, [75, 75, 1])])
def test_a_chunk_is_filled_before_the_next_begins(count: int, sizes: list[int]) -> None:
    assert [len(chunk) for chunk in cut(words(count))] == sizes


def test_a_full_chunk_ends_after_a_comma_near_its_end() -> None:
    tokens = [*words(60), COMMA, *words(20)]
    assert cut(tokens) == [[*words(60), COMMA], words(20)]


@pytest.mark.parametrize(("before", "moves"), [(54, False), (55, True), (74, True)])
def test_near_is_among_the_last_twenty_tokens(before: int, moves: bool) -> None:
    tokens = [*words(before), COMMA, *words(74 - before), 99]
    assert len(cut(tokens)[0]) == (before + 1 if moves else 75)


def test_a_chunk_that_is_full_but_followed_by_nothing_stays_whole() -> None:
    tokens = [*words(60), COMMA, *words(14)]
    assert cut(tokens) == [tokens]


def test_a_comma_that_comes_to_a_full_chunk_begins_the_next() -> None:
    tokens = [*words(60), COMMA, *words(14), COMMA, 1]
    assert cut(tokens) == [[*words(60), COMMA, *words(14)], [COMMA, 1]]


def test_a_comma_counts_in_its_own_chunk_only() -> None:
    tokens = [*words(70), COMMA, *words(5), *words(70), 98, 99]
    first, second, third = cut(tokens)
    assert first == [*words(70), COMMA]
    assert len(second) == 75
    assert third == [98, 99]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([1, None, 2], [[1], [2]]),
        ([None, 1], [[], [1]]),
        ([1, None], [[1]]),
        ([1, None, None, 2], [[1], [], [2]]),
        ([None], [[]]),
        ([*words(75), None, 1], [words(75), [1]]),
    ],
)
def test_a_break_ends_the_chunk(tokens: list[int | None], expected: list[list[int]]) -> None:
    assert cut(tokens) == expected


def test_weights_go_with_their_tokens() -> None:
    units = [*(Unit((token,)) for token in [*words(60), COMMA]), *(Unit((token,), 1.3) for token in words(20))]
    first, second = chunks(units, ROOM, COMMA)
    assert first.weights == (1.0,) * 61
    assert second.weights == (1.3,) * 20


def test_vectors_of_one_embedding_stay_in_one_chunk() -> None:
    embedding = Unit(tuple(Vector("style", index) for index in range(4)), 0.5)
    first, second = chunks([*(Unit((token,)) for token in words(72)), embedding, Unit((1,))], ROOM, COMMA)
    assert len(first.tokens) == 72
    assert second.tokens == (*embedding.tokens, 1)
    assert second.weights == (0.5, 0.5, 0.5, 0.5, 1.0)


def test_vectors_move_with_the_words_after_a_comma() -> None:
    embedding = Unit((Vector("style", 0), Vector("style", 1)))
    units = [*(Unit((token,)) for token in [*words(60), COMMA]), embedding, *(Unit((token,)) for token in words(14))]
    first, second = chunks(units, ROOM, COMMA)
    assert first.tokens == (*words(60), COMMA)
    assert second.tokens == (*embedding.tokens, *words(14))


@given(st.lists(st.integers(0, 5), max_size=400), st.integers(1, 75))
def test_no_token_is_lost_and_no_chunk_too_long(tokens: list[int], room: int) -> None:
    done = chunks([Unit((token,)) for token in tokens], room, COMMA)
    assert [token for chunk in done for token in chunk.tokens] == tokens
    assert all(len(chunk.tokens) == len(chunk.weights) <= room for chunk in done)
    assert len(done) == 1 or all(chunk.tokens for chunk in done)


def test_of_names_that_begin_alike_the_longest_is_meant() -> None:
    names = Names({"bad": [1], "bad hands": [1, 2], "hands": [2], "": []})
    assert names.at([1, 2, 3], 0) == ("bad hands", 2)
    assert names.at([1, 3], 0) == ("bad", 1)
    assert names.at([1, 2], 1) == ("hands", 1)
    assert names.at([3], 0) == (None, 0)
