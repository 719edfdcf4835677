"""Checkpoints written once for all tests of the engine, and the few lines that make it draw."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from illustrious.images import Admit, Command, Done, EngineOptions, Event, Stop
from illustrious.images.diffusion import SDXLEngine
from illustrious.types import ImageRequest, ImageResult
from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def single_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_single_file(tmp_path_factory.mktemp("single") / "tiny.safetensors")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("folder") / "tiny")


class Script:
    """An inbox that has these commands already, and then ``Stop`` for whoever waits."""

    def __init__(self, *commands: Command) -> None:
        self.commands = list(commands)

    def get(self, wait: bool) -> Command | None:
        if self.commands:
            return self.commands.pop(0)
        return Stop() if wait else None


Run = Callable[..., list[Event]]
Draw = Callable[..., ImageResult]


@pytest.fixture
def run() -> Run:
    """Everything the engine says about these requests, with the model at ``model``."""

    def run(model: Path | None, *requests: ImageRequest, **options: object) -> list[Event]:
        path = None if model is None else str(model)
        jobs = [Admit(job_id=str(number), request=request) for number, request in enumerate(requests)]
        engine = SDXLEngine(EngineOptions.model_validate({"model": path, "device": "cpu", **options}))
        return list(engine.run(Script(*jobs)))

    return run


@pytest.fixture
def draw(run: Run) -> Draw:
    """The result of one request."""

    def draw(model: Path | None, request: ImageRequest, **options: object) -> ImageResult:
        done = run(model, request, **options)[-1]
        assert isinstance(done, Done), done
        return done.results[0]

    return draw


def pixels(result: ImageResult) -> np.ndarray:
    """Height × width × 3, 0 … 255."""
    return np.asarray(Image.open(io.BytesIO(result.image)).convert("RGB"), dtype=np.int64)
