"""Which pictures, in which order, a page at a time.

A page begins where the one before ended (keyset), so a deep page costs what the first does. The key is
``images.position``. The full-text index has it as its rowid and ``image_tags`` as its second column, so both are read
in the order of the answer and only as far as the page goes, however many pictures have the word or the tag.
"""

import base64
import binascii
import json
import re
import unicodedata
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import Field
from sqlalchemy import ColumnElement, FromClause, Select, column, exists, func, select, table, tuple_
from sqlalchemy.sql.elements import literal_column

from illustrious.errors import InvalidRequest
from illustrious.gallery.table import Picture, image_tags, images
from illustrious.types import SEED_LIMIT, Noun, Text

Sort = Literal["newest", "oldest", "rating"]

LARGEST_PAGE = 200

image_search = table("image_search", column("rowid"))

WORD = re.compile(r"[^\W_]+")

MARKS = range(0x300, 0x370)
"""Unicode's combining diacritical marks: accents, once they are apart from their letters."""

FULL_TEXT = (
    "to_tsvector('simple', "
    r"regexp_replace(normalize(images.prompt || ' ' || images.tags, NFD), '[\u0300-\u036f]', '', 'g'))"
)
"""What PostgreSQL's index holds, to the letter: words of prompt and tags without their accents."""


class Filters(Noun):
    """Which pictures. Every field given must hold; none given: all of them."""

    q: Annotated[
        str | None,
        Field(max_length=1000, description="Words of the prompt or the tags, all of them; the last may be unfinished."),
    ] = None
    model: Text | None = None
    seed: Annotated[int, Field(ge=0, le=SEED_LIMIT)] | None = None
    rating: Annotated[int, Field(ge=0, le=5, description="At least so many stars.")] | None = None
    favourite: bool | None = None
    tag: Annotated[Text | None, Field(description="Has exactly this tag.")] = None
    since: Annotated[datetime | None, Field(description="Made at this time or later (UTC unless it says).")] = None
    until: Annotated[datetime | None, Field(description="Made before this time.")] = None
    width: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    height: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    source: Text | None = None
    job: Text | None = None
    trash: Annotated[bool, Field(description="What is in the trash, instead of the gallery.")] = False


class Query(Filters):
    """A page of them. ``cursor`` is the ``next`` of the page before."""

    sort: Sort = "newest"
    limit: Annotated[int, Field(ge=1, le=LARGEST_PAGE)] = 50
    cursor: Annotated[str, Field(max_length=200)] | None = None


class Page(Noun):
    """``next`` is the cursor of the next page, ``None`` on the last."""

    items: tuple[Picture, ...]
    next: str | None = None


def statement(query: Query, dialect: str) -> Select[Any]:
    """The rows of the page and one more, which tells whether there is a next. Raises ``InvalidRequest``."""
    position, source, conditions = _driver(query, dialect)
    conditions.append(_state(query) == ("trashed" if query.trash else "shown"))
    conditions += _filters(query, position)
    if query.cursor is not None:
        conditions.append(_after(query, position))
    order = [position.asc() if query.sort == "oldest" else position.desc()]
    if query.sort == "rating":
        order.insert(0, images.c.rating.desc())
    return select(images).select_from(source).where(*conditions).order_by(*order).limit(query.limit + 1)


def _driver(query: Query, dialect: str) -> tuple[ColumnElement[int], FromClause, list[ColumnElement[bool]]]:
    """What to read in the order of the answer: (its position, the tables, what must hold of them)."""
    if query.q is not None and query.q.strip():

        def tagged(position: ColumnElement[int]) -> list[ColumnElement[bool]]:
            one = exists().where(image_tags.c.position == position, image_tags.c.tag == query.tag)
            return [] if query.tag is None else [one]

        if dialect != "sqlite":
            return images.c.position, images, [_matches_postgresql(query.q), *tagged(images.c.position)]
        matches = literal_column("image_search").op("MATCH", is_comparison=True)(fts5(query.q))
        if query.sort == "rating":  # there the order is that of an index, and the words only filter
            hits = select(image_search.c.rowid).where(matches)
            return images.c.position, images, [images.c.position.in_(hits), *tagged(images.c.position)]
        place = image_search.c.rowid  # tags are looked up by it, before the row of the picture is
        return place, image_search.join(images, images.c.position == place), [matches, *tagged(place)]
    if query.tag is not None:
        place = image_tags.c.position
        return place, image_tags.join(images, images.c.position == place), [image_tags.c.tag == query.tag]
    return images.c.position, images, []


def _state(query: Query) -> ColumnElement[str]:
    """The column; or, where something names few pictures, an expression of the same value that no index knows. SQLite's
    planner cannot tell that nearly all pictures are in one state, and would read them all in the order of an index."""
    few = query.seed is not None or query.job is not None or (query.tag is not None and query.sort != "rating")
    return images.c.state + literal_column("''") if few else images.c.state


def _filters(query: Query, position: ColumnElement[int]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    for name in ("model", "seed", "favourite", "width", "height", "source", "job"):
        wanted = getattr(query, name)
        if wanted is not None:
            conditions.append(images.c[name] == wanted)
    if query.rating:
        stars = images.c.rating  # "+ 0" for the same reason as in _state: all that have the stars would be sorted
        conditions.append((stars if query.sort == "rating" else stars + 0) >= query.rating)
    if query.since is not None:
        conditions.append(position >= _microseconds(query.since))
    if query.until is not None:
        conditions.append(position < _microseconds(query.until))
    return conditions


def _microseconds(time: datetime) -> int:
    since_1970 = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
    return round(since_1970.total_seconds() * 1_000_000)


def _terms(text: str) -> list[list[str]]:
    """The words between spaces, each as what it is made of: ``blue_eyes`` is ``blue`` followed by ``eyes``."""
    return [words for part in text.split() if (words := WORD.findall(part))]


def fts5(text: str) -> str:
    """A query in FTS5's language that can mean nothing but these words: each term a quoted phrase, the last open."""
    terms = _terms(text)
    return " ".join(f'"{" ".join(words)}"' for words in terms) + "*" if terms else '""'


def _matches_postgresql(text: str) -> ColumnElement[bool]:
    plain = unicodedata.normalize("NFD", text).translate(dict.fromkeys(MARKS))
    query = func.to_tsquery(literal_column("'simple'"), tsquery(plain))
    return literal_column(FULL_TEXT).op("@@", is_comparison=True)(query)


def tsquery(text: str) -> str:
    """The same for PostgreSQL's ``to_tsquery``."""
    terms = _terms(text)
    return " & ".join("(" + " <-> ".join(words) + ")" for words in terms)[:-1] + ":*)" if terms else ""


def cursor_after(sort: Sort, position: int, rating: int) -> str:
    """What ``Query.cursor`` must be to begin after the picture at this position, with so many stars."""
    key = [sort, position, *([rating] if sort == "rating" else [])]
    return base64.urlsafe_b64encode(json.dumps(key, separators=(",", ":")).encode()).decode().rstrip("=")


def _after(query: Query, position: ColumnElement[int]) -> ColumnElement[bool]:
    match _read_cursor(query.cursor or ""):
        case ["newest", int(place)] if query.sort == "newest":
            return position < place
        case ["oldest", int(place)] if query.sort == "oldest":
            return position > place
        case ["rating", int(place), int(rating)] if query.sort == "rating":
            return tuple_(images.c.rating, position) < tuple_(rating, place)
    raise InvalidRequest(
        "This cursor does not belong to this list. Begin again without one, and take the next from each answer.",
        field="cursor",
    )


def _read_cursor(cursor: str) -> object:
    """``None`` when it is none of ours; numbers a database cannot hold are none either."""
    try:
        key = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    if isinstance(key, list) and all(abs(part) < 2**62 for part in key if isinstance(part, int)):
        return key
    return None
