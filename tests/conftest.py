"""What tests of several parts share: a running studio with fake models, one for the whole run."""

from collections.abc import Iterator

import pytest

from tests.server import RunningStudio, running_studio


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    """``illustrious serve --fake`` on a free port. Shared: leave it as you find it."""
    with running_studio(tmp_path_factory.mktemp("fake-studio"), "--fake") as studio:
        yield studio
