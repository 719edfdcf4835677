"""A studio of fakes behind the real HTTP edge, in this process; its image child starts with the first picture."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from illustrious.app import create_app, open_studio
from illustrious.service import Studio
from illustrious.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, fake=True, max_image_mb=1, max_pixels=512 * 512)


@pytest.fixture
async def studio(settings: Settings) -> AsyncIterator[Studio]:
    with open_studio(settings) as studio:
        await studio.start(draw=False)
        yield studio
        await studio.close()


@pytest.fixture
async def http(settings: Settings, studio: Studio) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(settings, studio), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=60) as client:
        yield client
