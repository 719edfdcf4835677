"""Models kept warm: device, then main memory, then disk; and what is in nobody's way stays."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from illustrious.errors import Unavailable
from illustrious.images.diffusion import model as model_module
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Memory, Placement, place
from illustrious.images.diffusion.shelf import SPARE, Shelf
from illustrious.types import ImageRequest, Lora
from tests import tiny, tiny_lora
from tests.images.diffusion.drawing import latents, loaded

REQUEST = ImageRequest(prompt="a cat", steps=2, seed=1)


class Card(Placement):
    """A device beside a main memory, as a GPU is. What is computed is the processor's."""

    @property
    def can_offload(self) -> bool:
        return True


SLACK = 0.1
"""Of a model: a file has a little more in it than its weights."""


@dataclass
class Machine(Memory):
    """Room for so many models ``on_device``, and for so many more ``aside`` in main memory."""

    on_device: int
    aside: int
    size: int

    def __post_init__(self) -> None:
        super().__init__(CARD)
        self.shelf = Shelf(CARD, self)

    @property
    def free(self) -> int:
        return self._room(self.on_device, beside=sum(self.shelf.warm.values()))

    @property
    def free_aside(self) -> int:
        return self._room(self.aside, beside=list(self.shelf.warm.values()).count(False))

    def _room(self, models: int, beside: int) -> int:
        return int((models - beside - 1 + SPARE + SLACK) * self.size)


CARD = Card(torch.device("cpu"), "cpu", torch.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return [tiny.write_single_file(folder / f"{seed}.safetensors", tiny.Tiny(seed=seed)) for seed in range(4)]


@pytest.fixture(scope="module")
def size(files: list[Path]) -> int:
    return loaded(files[0]).bytes


@pytest.fixture
def machine(size: int, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(on_device=2, aside=1, size=size)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=machine.free_aside))
    return machine


def take(shelf: Shelf, path: Path | None, *busy: Model) -> Model:
    model = shelf.take(path, busy)
    assert model is not None
    return model


def test_the_least_recently_used_goes_first_to_main_memory_and_then_to_disk(
    machine: Machine, files: list[Path]
) -> None:
    shelf = machine.shelf
    first, second = (take(shelf, file) for file in files[:2])
    assert shelf.warm == {files[0]: True, files[1]: True}
    assert take(shelf, files[0]) is first  # now the other is the one unused for longer
    take(shelf, files[2])
    assert shelf.warm == {files[1]: False, files[0]: True, files[2]: True}
    take(shelf, files[3])
    assert shelf.warm == {files[0]: False, files[2]: True, files[3]: True}
    assert take(shelf, files[0]) is first
    assert shelf.warm == {files[2]: False, files[3]: True, files[0]: True}
    assert take(shelf, files[1]) is not second


def test_a_model_that_was_in_main_memory_draws_what_it_drew_before(
    machine: Machine, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "loras").mkdir()
    tiny_lora.write_kohya(tmp_path / "loras" / "style.safetensors")
    dressed = REQUEST.model_copy(update={"loras": (Lora(name="style"),)})
    model = take(machine.shelf, files[0])
    before = [latents(model, request, tmp_path) for request in (REQUEST, dressed)]
    for file in files[1:3]:
        take(machine.shelf, file)
    assert not machine.shelf.warm[files[0]]
    assert take(machine.shelf, files[0]) is model
    after = [latents(model, request, tmp_path) for request in (REQUEST, dressed)]
    assert all(map(torch.equal, before, after))
    assert not torch.equal(*before)


def test_what_was_offloaded_part_by_part_is_not_moved_but_read_again(machine: Machine, files: list[Path]) -> None:
    model = take(machine.shelf, files[0])
    model._on_device.pop()  # as after a picture that found no room
    for file in files[1:3]:
        take(machine.shelf, file)
    assert files[0] not in machine.shelf.warm


def test_without_a_main_memory_beside_the_device_the_next_place_is_the_disk(
    machine: Machine, files: list[Path]
) -> None:
    shelf = machine.shelf = Shelf(place("cpu"), machine)
    first = take(shelf, files[0])
    take(shelf, files[1])
    take(shelf, files[2])
    assert shelf.warm == {files[1]: True, files[2]: True}
    assert take(shelf, files[0]) is not first


def test_models_that_are_drawn_with_stay_and_who_finds_no_room_waits(machine: Machine, files: list[Path]) -> None:
    shelf = machine.shelf
    first, second = (take(shelf, file) for file in files[:2])
    assert shelf.take(files[2], [first, second]) is None
    assert shelf.warm == {files[0]: True, files[1]: True}
    take(shelf, files[2], first)
    assert shelf.warm == {files[0]: True, files[1]: False, files[2]: True}
    assert take(shelf, files[0], first) is first


def test_a_model_larger_than_what_there_is_is_tried_once_nothing_else_is_at_work(
    machine: Machine, files: list[Path]
) -> None:
    machine.on_device = 0
    first = take(machine.shelf, files[0])
    assert machine.shelf.take(files[1], [first]) is None
    take(machine.shelf, files[1])
    assert machine.shelf.warm == {files[0]: False, files[1]: True}


def test_a_checkpoint_that_was_replaced_is_read_again(machine: Machine, tmp_path: Path) -> None:
    path = tiny.write_single_file(tmp_path / "model.safetensors", tiny.Tiny(seed=1))
    before = take(machine.shelf, path)
    assert take(machine.shelf, path) is before
    tiny.write_single_file(path, tiny.Tiny(seed=2))
    after = take(machine.shelf, path)
    assert not torch.equal(latents(before, REQUEST), latents(after, REQUEST))
    assert torch.equal(latents(after, REQUEST), latents(loaded(path), REQUEST))
    assert machine.shelf.warm == {path: True}


def test_a_folder_is_another_one_when_its_index_was_written_again(
    machine: Machine, folder: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "model"))
    before = take(machine.shelf, path)
    assert take(machine.shelf, path) is before
    os.utime(path / "model_index.json", (1, 1))
    assert take(machine.shelf, path) is not before


def test_a_checkpoint_that_is_gone_is_drawn_with_while_it_is_in_memory(machine: Machine, tmp_path: Path) -> None:
    path = tiny.write_single_file(tmp_path / "model.safetensors")
    model = take(machine.shelf, path)
    path.unlink()
    assert take(machine.shelf, path) is model


def test_what_cannot_be_loaded_is_told_and_what_is_warm_stays_so(
    machine: Machine, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = machine.shelf
    model = take(shelf, files[0])
    with pytest.raises(Unavailable, match=r"gone\.safetensors cannot be read"):
        shelf.take(tmp_path / "gone.safetensors", ())
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(files[1].read_bytes()[:5000])
    with pytest.raises(Unavailable, match=r"damaged\.safetensors.*Download it again"):
        shelf.take(damaged, ())

    def full(*_: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model_module, "assemble", full)
    with pytest.raises(Unavailable, match="does not fit into the memory of cpu"):
        shelf.take(files[2], ())
    assert shelf.warm == {files[0]: True}
    assert take(shelf, files[0]) is model
