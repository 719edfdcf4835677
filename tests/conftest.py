"""What tests of several parts share: a running studio with fake models, and databases of both kinds."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import text

from tests.postgresql import MISSING, binaries, running_postgresql
from tests.server import RunningStudio, running_studio


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the long runs too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--soak"):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="a long run: python main.py test --soak"))


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """``illustrious serve --fake`` on a free port. Shared: leave it as you find it."""
    with running_studio(tmp_path_factory.mktemp("fake-studio"), "--fake") as studio:
        yield studio


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install illustrious-ai-studio[postgres]")
    bin_folder = binaries()
    if bin_folder is None:
        pytest.skip(MISSING)
    with running_postgresql(bin_folder) as url:
        yield url


@pytest.fixture
def postgresql(postgresql_server: str) -> str:
    """The URL of an empty database."""
    engine = sqlalchemy.create_engine(postgresql_server)
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return postgresql_server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'studio.db'}"
    found: str = request.getfixturevalue("postgresql")
    return found
