"""The rows: one for each picture, and what of it is told to others."""

import random
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from illustrious.types import Noun

metadata = MetaData()

images = Table(
    "images",
    metadata,
    Column("id", Text, primary_key=True),
    # The place in the order of time: ``created`` in microseconds, moved a little where another is there already.
    # Unique, so it alone is the key of a page; also the rowid of the full-text index, which is read in its order.
    Column("position", BigInteger, unique=True, nullable=False),
    Column("created", Float, nullable=False),  # seconds since 1970, UTC
    Column("path", Text, unique=True, nullable=False),  # relative to the data folder, with forward slashes
    Column("state", Text, nullable=False),  # shown, trashed or missing
    Column("origin", Text),  # path before it went to the trash
    Column("trashed", Float),  # when
    Column("format", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),  # this and mtime (nanoseconds) tell a scan whether the file changed
    Column("mtime", BigInteger, nullable=False),
    Column("pixels", Text),  # formats.digest
    Column("width", Integer),
    Column("height", Integer),
    Column("prompt", Text, nullable=False),
    Column("negative_prompt", Text, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("seed", BigInteger),
    Column("model", Text),
    Column("model_hash", Text),
    Column("lora_hashes", JSON),  # name → hash
    Column("source", Text),  # who asked for it; ``scan``: found in the folder
    Column("job", Text),
    Column("parent", Text),  # id of the picture or the job that it repeats
    Column("owner", Text),
    Column("environment", JSON),  # what drew it: library versions, device, dtype
    Column("rating", Integer, nullable=False),
    Column("favourite", Boolean, nullable=False),
    Column("tags", Text, nullable=False),  # one on each line
)

image_tags = Table(
    "image_tags",
    metadata,
    Column("tag", Text, primary_key=True),
    Column("position", BigInteger, primary_key=True),  # of the image
)


class Picture(Noun):
    """What is known of a picture. ``width``/``height`` in pixels, ``bytes`` of its file, ``rating`` 0 to 5 stars.

    ``path`` is relative to the data folder. ``parameters`` are those of ``ImageRequest`` as finally used, with
    ``model`` and ``sampler``; of a file from elsewhere, what could be read. ``pixels`` is ``formats.digest``.
    """

    id: str
    path: str
    created: datetime
    format: str
    bytes: int
    width: int | None
    height: int | None
    pixels: str | None
    prompt: str
    negative_prompt: str
    seed: int | None
    model: str | None
    model_hash: str | None
    lora_hashes: dict[str, str] | None
    parameters: dict[str, Any]
    source: str | None
    job: str | None
    parent: str | None
    environment: dict[str, Any] | None
    rating: int
    favourite: bool
    tags: tuple[str, ...]
    trashed: datetime | None
    state: Literal["shown", "trashed", "missing"]


def picture_of(row: Row[Any]) -> Picture:
    values = {name: value for name, value in row._mapping.items() if name in Picture.model_fields}
    values["created"] = datetime.fromtimestamp(row.created, UTC)
    values["trashed"] = None if row.trashed is None else datetime.fromtimestamp(row.trashed, UTC)
    values["tags"] = tuple(row.tags.split("\n")) if row.tags else ()
    return Picture.model_validate(values)


def find(connection: Connection, image_id: str) -> Row[Any] | None:
    if "\0" in image_id:  # which PostgreSQL cannot even look for
        return None
    return connection.execute(select(images).where(images.c.id == image_id)).one_or_none()


def put(connection: Connection, image_id: str, values: Mapping[str, Any]) -> None:
    """Make the row, or change it; ``values`` of a new one hold every column that has no default here.

    On a database where writers do not take turns two at once may collide: ``IntegrityError``, try again.
    """
    earlier = find(connection, image_id)
    if earlier is None:
        defaults = {"state": "shown", "rating": 0, "favourite": False, "tags": ""}
        position = _free_position(connection, values["created"])
        connection.execute(insert(images).values({**defaults, **values, "id": image_id, "position": position}))
        return
    changes = dict(values)
    if changes.get("created", earlier.created) != earlier.created:
        changes["position"] = _free_position(connection, changes["created"])
        connection.execute(
            update(image_tags).where(image_tags.c.position == earlier.position).values(position=changes["position"])
        )
    connection.execute(update(images).where(images.c.id == image_id).values(changes))


def put_tags(connection: Connection, row: Row[Any], tags: Iterable[str]) -> None:
    connection.execute(delete(image_tags).where(image_tags.c.position == row.position))
    chosen = list(dict.fromkeys(tags))
    if chosen:
        connection.execute(insert(image_tags), [{"tag": tag, "position": row.position} for tag in chosen])
    connection.execute(update(images).where(images.c.id == row.id).values(tags="\n".join(chosen)))


def remove(connection: Connection, row: Row[Any]) -> None:
    connection.execute(delete(image_tags).where(image_tags.c.position == row.position))
    connection.execute(delete(images).where(images.c.id == row.id))


def _free_position(connection: Connection, created: float) -> int:
    """Exact where that is free; else somewhere within the second after, as files unpacked together share one time."""
    exact = position = int(created * 1_000_000)
    while connection.execute(select(images.c.id).where(images.c.position == position)).first() is not None:
        position = exact + random.randrange(1_000_000)
    return position
