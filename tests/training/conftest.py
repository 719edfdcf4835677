from pathlib import Path

import pytest
from accelerate import Accelerator
from training.export import export
from training.image import ImageTrainer

from tests.training import tiny


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished model, untrained."""
    folder = tmp_path_factory.mktemp("base")
    export(ImageTrainer(tiny.config(folder), tiny.icons(), Accelerator(cpu=True)).model, folder / "model")
    return folder / "model"
