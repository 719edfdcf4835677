from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from training.checkpoint import State

from training import checkpoint


def test_the_newest_state_is_found_and_older_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, State(step, {"x": torch.full((2,), float(step))}))
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.step == 3
    assert found.tensors["x"].tolist() == [3, 3]
    assert len(list(tmp_path.iterdir())) == checkpoint.KEPT


def test_a_half_written_state_is_not_a_state(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path) is None
    (tmp_path / "step-00000009.partial").write_bytes(b"half")
    assert checkpoint.newest(tmp_path) is None


def test_where_the_newest_cannot_be_read_the_one_before_is_gone_on_from(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, State(step, {"x": torch.zeros(1)}, {"seed": 3}))
    (tmp_path / "step-00000002.safetensors").write_bytes(b"a disk that lies")
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert (found.step, found.recipe) == (1, {"seed": 3})
    (tmp_path / "step-00000001.safetensors").write_bytes(b"about all of it")
    with pytest.raises(SafetensorError):
        checkpoint.newest(tmp_path)
