"""Words, filters, orders and pages; and nothing a person may type is an error."""

import asyncio
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from illustrious.database import Database
from illustrious.errors import InvalidRequest
from illustrious.gallery.search import FULL_TEXT, Query, cursor_after
from illustrious.gallery.store import Gallery
from tests.gallery.conftest import Save


def found(gallery: Gallery, **query: object) -> list[str]:
    return [picture.id for picture in asyncio.run(gallery.page(Query.model_validate(query))).items]


@pytest.fixture
def pictures(gallery: Gallery, save: Save) -> Gallery:
    save("a red apple on a table", image_id="apple", created=100.0, seed=11, source="chat")
    save("blue_eyes, castle by the sea", image_id="castle", created=200.0, seed=12, job="j1")
    save("Café at night, neon", image_id="cafe", created=300.0, seed=13, job="j1")
    asyncio.run(gallery.change("apple", rating=5, tags=["fruit", "for printing"]))
    asyncio.run(gallery.change("castle", rating=2, favourite=True))
    return gallery


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("apple", ["apple"]),
        ("APPLE table", ["apple"]),
        ("table red", ["apple"]),
        ("cas", ["castle"]),  # the last word may be unfinished
        ("cas sea", []),  # an earlier one not
        ("blue_eyes", ["castle"]),
        ("blue eyes", ["castle"]),
        ("cafe", ["cafe"]),  # accents or not
        ("printing", ["apple"]),  # a tag
        ("a", ["cafe", "apple"]),
        ("apple zebra", []),
        ("", ["cafe", "castle", "apple"]),
        ("!!!", []),
        ('"', []),
        ("apple OR castle", []),  # words, not operators
        ("prompt:apple", []),
        ('app* NOT "x', []),
    ],
)
def test_words_are_found_in_prompt_and_tags(pictures: Gallery, words: str, ids: list[str]) -> None:
    assert found(pictures, q=words) == ids


SYNTAX = st.lists(st.sampled_from([*'"*^:()-+{}', "AND", "OR", "NOT", "NEAR(", "apple"])).map(" ".join)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30) | SYNTAX)
def test_nothing_typed_is_an_error(pictures: Gallery, words: str) -> None:
    found(pictures, q=words)
    found(pictures, q=words, sort="rating", tag=words.replace("\0", ""))


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ({"seed": 12}, ["castle"]),
        ({"model": "fake"}, ["cafe", "castle", "apple"]),
        ({"model": "other"}, []),
        ({"rating": 2}, ["castle", "apple"]),
        ({"rating": 3}, ["apple"]),
        ({"favourite": True}, ["castle"]),
        ({"favourite": False}, ["cafe", "apple"]),
        ({"tag": "fruit"}, ["apple"]),
        ({"tag": "fru"}, []),
        ({"tag": "fruit", "q": "apple"}, ["apple"]),
        ({"tag": "fruit", "q": "castle"}, []),
        ({"since": "1970-01-01T00:03:20Z"}, ["cafe", "castle"]),
        ({"until": datetime(1970, 1, 1, 0, 3, 20)}, ["apple"]),
        ({"q": "a", "since": "1970-01-01T00:03:20Z"}, ["cafe"]),
        ({"width": 64, "height": 64}, ["cafe", "castle", "apple"]),
        ({"width": 65}, []),
        ({"source": "chat"}, ["apple"]),
        ({"job": "j1"}, ["cafe", "castle"]),
        ({"sort": "oldest"}, ["apple", "castle", "cafe"]),
        ({"sort": "rating"}, ["apple", "castle", "cafe"]),
        ({"sort": "rating", "rating": 3, "q": "a"}, ["apple"]),
        ({"sort": "rating", "tag": "fruit"}, ["apple"]),
    ],
)
def test_filters_and_orders(pictures: Gallery, query: dict[str, object], ids: list[str]) -> None:
    assert found(pictures, **query) == ids


@pytest.mark.parametrize("sort", ["newest", "oldest", "rating"])
@pytest.mark.parametrize("more", [{}, {"q": "cat"}, {"tag": "t"}])
def test_pages_join_without_gap_or_double(gallery: Gallery, save: Save, sort: str, more: dict[str, str]) -> None:
    for number in range(7):
        save("a cat", image_id=f"p{number}", created=float(number))
        asyncio.run(gallery.change(f"p{number}", rating=number % 3, tags=["t"]))
    whole = found(gallery, sort=sort, **more)
    assert len(whole) == 7
    joined: list[str] = []
    cursor: str | None = None
    while True:
        page = asyncio.run(gallery.page(Query.model_validate({"sort": sort, "limit": 2, "cursor": cursor, **more})))
        joined += [picture.id for picture in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert joined == whole


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=50) | st.sampled_from([cursor_after("rating", 1, 1), cursor_after("newest", 2**70, 0)]))
def test_a_cursor_from_elsewhere_is_refused(gallery: Gallery, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="Begin again"):
        found(gallery, cursor=cursor)


def test_a_changed_prompt_is_found_by_its_new_words_alone(gallery: Gallery, save: Save) -> None:
    save("an apple", image_id="one", created=1.0)
    save("a pear", image_id="one", created=2.0)
    assert found(gallery, q="apple") == []
    assert found(gallery, q="pear") == ["one"]


def test_postgresql_asks_its_own_full_text_index(postgresql: str) -> None:
    database = Database.open(postgresql)
    with database.read() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")  # else a table without rows is read through
        asked = f"EXPLAIN SELECT id FROM images WHERE {FULL_TEXT} @@ to_tsquery('simple', 'blue')"
        plan = "\n".join(connection.exec_driver_sql(asked).scalars())
    database.close()
    assert "Index Scan on image_search" in plan
