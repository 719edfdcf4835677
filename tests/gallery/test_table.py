"""The rows, and that those of an older studio are kept."""

import asyncio
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, text

from illustrious.database import Database
from illustrious.gallery.search import Query
from illustrious.gallery.store import Gallery
from illustrious.gallery.table import images, metadata


def migrate(file: Path, revision: str, forth: bool = True) -> None:
    config = Config()
    config.set_main_option("script_location", "illustrious:migrations")
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        (command.upgrade if forth else command.downgrade)(config, revision)
    engine.dispose()


def test_the_tables_are_those_the_migrations_make(database: Database) -> None:
    made = inspect(database.engine)
    for table in metadata.sorted_tables:
        columns = {column["name"]: column["nullable"] for column in made.get_columns(table.name)}
        assert columns == {column.name: column.nullable for column in table.columns}


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A database from before the gallery, with three pictures, two of the same moment."""
    file = tmp_path / "studio.db"
    migrate(file, "0002")
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        for name, created in (("a", 100.0), ("b", 100.0), ("c", 50.0)):
            connection.execute(
                text(
                    "INSERT INTO images (id, path, created, seed, prompt, negative_prompt, parameters) "
                    "VALUES (:id, :path, :created, 7, :prompt, '', '{\"model\": \"wai\"}')"
                ),
                {"id": name, "path": f"images/{name}.png", "created": created, "prompt": f"castle {name}"},
            )
    engine.dispose()
    return file


def test_an_older_studios_pictures_are_kept_and_found(older: Path) -> None:
    database = Database.open(older)
    gallery = Gallery(database, older.parent)
    items = asyncio.run(gallery.page(Query(q="castle", model="wai"))).items
    assert [picture.id for picture in items] == ["b", "a", "c"]
    assert {(picture.seed, picture.rating, picture.tags) for picture in items} == {(7, 0, ())}
    database.close()


def test_there_is_a_way_back(older: Path) -> None:
    migrate(older, "0003")
    migrate(older, "0002", forth=False)
    engine = create_engine(f"sqlite:///{older}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM images")).scalar_one() == 3
    assert not {"image_tags", "image_search"} & set(inspect(engine).get_table_names())
    assert set(images.columns.keys()) > {column["name"] for column in inspect(engine).get_columns("images")}
    engine.dispose()
