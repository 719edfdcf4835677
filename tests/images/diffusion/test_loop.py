"""The running batch: many pictures at once, each as it would be alone."""

import io
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from illustrious.catalog.library import Library
from illustrious.images import Admit, Done, Event, Failed, Step
from illustrious.images.diffusion import draw as draw_module
from illustrious.images.diffusion import loop as loop_module
from illustrious.images.diffusion.checkpoint import starter_folder
from illustrious.images.diffusion.conditioner import Conditioner
from illustrious.images.diffusion.loop import Loop, Picture
from illustrious.images.diffusion.model import Model
from illustrious.images.diffusion.placement import Memory
from illustrious.images.diffusion.stock import Stock
from illustrious.types import Control, Hires, ImageRequest, Lora
from tests import tiny_controlnet, tiny_lora
from tests.images.diffusion.drawing import MAX_PIXELS, loaded
from tests.images.diffusion.editing import photo, png
from tests.images.diffusion.test_decode import overflowing

RED = ImageRequest(prompt="a red apple", steps=4, guidance=5, seed=1)

MIXTURE = {
    "euler": RED,
    "another prompt and seed": RED.model_copy(update={"prompt": "a blue car", "seed": 2, "steps": 6}),
    "euler a": RED.model_copy(update={"sampler": "Euler a", "seed": 3}),
    "second order": RED.model_copy(update={"sampler": "Heun", "schedule": "Karras", "seed": 4, "steps": 3}),
    "sde": RED.model_copy(update={"sampler": "DPM++ SDE", "seed": 5, "guidance": 7.5}),
    "no guidance": RED.model_copy(update={"guidance": 1.0, "seed": 6}),
    "two chunks": RED.model_copy(update={"prompt": "apple " * 40, "seed": 7}),
    "over a picture": RED.model_copy(update={"init_image": png(photo(64, 64)), "strength": 0.6, "seed": 8}),
}
"""Eight requests of one size that differ in all that may differ within a group, and in what makes other groups."""


@pytest.fixture(scope="module")
def model() -> Model:
    return loaded(starter_folder())


class Ticks:
    """A clock by which every call of the UNet takes equally long, whatever this machine is busy with."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def looped(
    model: Model,
    *roots: Path,
    memory: Memory | None = None,
    preview_every: int = 0,
    clock: Callable[[], float] | None = None,
) -> Loop:
    memory = memory or Memory(model.placement)
    stock = Stock(Library(roots), model, None, memory)
    around = stock.surroundings(MAX_PIXELS)
    return Loop(stock.model_of, around, memory, stock.preview, preview_every, clock or Ticks())


def events(loop: Loop) -> Iterator[Event]:
    while not loop.is_idle:
        yield from loop.turn()


def pictures(happened: Sequence[Event]) -> dict[str, bytes]:
    """Job → the file of its (first) picture."""
    return {event.job_id: event.results[0].image for event in happened if isinstance(event, Done)}


def drawn(loop: Loop, requests: dict[str, ImageRequest]) -> list[Event]:
    for name, request in requests.items():
        loop.admit(Admit(job_id=name, request=request, caller=name))
    try:
        return list(events(loop))
    finally:
        loop.close()


@pytest.fixture(scope="module")
def alone(model: Model) -> dict[str, bytes]:
    """Each of the mixture on a loop of its own."""
    return {name: pictures(drawn(looped(model), {name: request}))[name] for name, request in MIXTURE.items()}


def test_eight_different_requests_together_are_each_as_alone(model: Model, alone: dict[str, bytes]) -> None:
    assert len(set(alone.values())) == len(MIXTURE)
    assert pictures(drawn(looped(model), MIXTURE)) == alone


LONGEST = max(MIXTURE, key=lambda name: MIXTURE[name].steps)


@pytest.mark.parametrize("step", range(MIXTURE[LONGEST].steps + 1))
def test_who_comes_or_goes_at_any_step_changes_no_other(model: Model, alone: dict[str, bytes], step: int) -> None:
    """Exact ones and such as share every call."""
    loop = looped(model)
    coming = ("euler a", "second order", "over a picture")
    long = RED.model_copy(update={"steps": 50})
    going = {"exact": long, "sharing": long.model_copy(update={"exact": False})}
    for name, request in {LONGEST: MIXTURE[LONGEST], "beside": going["sharing"], **going}.items():
        loop.admit(Admit(job_id=name, request=request, caller=name))

    def change() -> Iterator[Event]:
        for name in going:
            yield from loop.cancel(name)
        for name in coming:
            loop.admit(Admit(job_id=name, request=MIXTURE[name], caller=name))
        sharing = MIXTURE["no guidance"].model_copy(update={"exact": False})
        loop.admit(Admit(job_id="a newcomer", request=sharing, caller="a newcomer"))

    happened = list(change()) if step == 0 else []
    for event in events(loop):
        happened.append(event)
        if isinstance(event, Step) and (event.job_id, event.step) == (LONGEST, step):
            happened += change()
        if isinstance(event, Done) and {LONGEST, *coming} <= set(pictures(happened)):
            break
    loop.close()
    drawn = pictures(happened)
    assert {name: drawn[name] for name in (LONGEST, *coming)} == {name: alone[name] for name in (LONGEST, *coming)}
    for name in going:
        last = [event for event in happened if event.job_id == name][-1]  # type: ignore[union-attr]
        assert isinstance(last, Failed)


def test_a_cancelled_job_takes_no_step_after_the_one_under_way(model: Model) -> None:
    loop = looped(model)
    loop.admit(Admit(job_id="one", request=RED))
    happened = list(itertools.takewhile(lambda event: not isinstance(event, Step), events(loop)))
    (failed,) = loop.cancel("one")
    assert (failed.error, loop.is_idle, happened) == ("cancelled", True, [])
    assert list(loop.cancel("one")) == []
    assert list(loop.turn()) == []
    loop.close()


Answer = Callable[[Any, Sequence[Picture]], list[torch.Tensor]]


def calls(monkeypatch: pytest.MonkeyPatch, change: Callable[[Answer], Answer] = lambda honest: honest) -> list[int]:
    """How many pictures each call of the UNet was for, from now on."""
    counts: list[int] = []
    honest = change(loop_module.predict)

    def counted(unet: Any, pictures: Sequence[Picture]) -> list[torch.Tensor]:
        counts.append(len(pictures))
        return honest(unet, pictures)

    monkeypatch.setattr(loop_module, "predict", counted)
    return counts


LIKE = {str(seed): RED.model_copy(update={"seed": seed, "steps": 16 + seed}) for seed in range(4)}


def test_inexact_pictures_share_every_call_where_that_is_faster_and_memory_allows(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = calls(monkeypatch)
    happened = drawn(looped(model), {name: one.model_copy(update={"exact": False}) for name, one in LIKE.items()})
    assert len(pictures(happened)) == 4
    assert max(counts) == 4
    assert len(counts) < sum(one.steps for one in LIKE.values()) * 2 / 3


def test_exact_pictures_share_a_call_once_it_is_found_to_change_no_bit(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_by_one(honest: Answer) -> Answer:  # a device on which any number together is bit-equal to alone
        return lambda unet, pictures: [honest(unet, [picture])[0] for picture in pictures]

    counts = calls(monkeypatch, one_by_one)
    loop = looped(model)
    together = pictures(drawn(loop, LIKE))
    assert set(loop.sharing.verdicts.values()) == {True}
    assert max(counts) == 4
    assert together == {name: pictures(drawn(looped(model), {name: one}))[name] for name, one in LIKE.items()}


def test_exact_pictures_take_turns_where_a_bit_would_change(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def sloppy(honest: Answer) -> Answer:
        def predict(unet: Any, pictures: Sequence[Picture]) -> list[torch.Tensor]:
            change = 1e-6 * (len(pictures) - 1)
            return [answer + change for answer in honest(unet, pictures)]

        return predict

    counts = calls(monkeypatch, sloppy)
    loop = looped(model)
    together = pictures(drawn(loop, LIKE))
    assert [key[2] for key in loop.sharing.verdicts] == [2]  # where two differ, more are not tried
    assert counts.count(2) == 1
    assert max(counts) == 2
    assert together == {name: pictures(drawn(looped(model), {name: one}))[name] for name, one in LIKE.items()}


def assert_near(one: bytes, other: bytes) -> None:
    """99.9 % of the values within 2 of 255, and a signal 40 dB above the difference."""
    first, second = (np.asarray(Image.open(io.BytesIO(file)), np.float64) for file in (one, other))
    difference = np.abs(first - second)
    assert np.quantile(difference, 0.999) <= 2
    assert (difference**2).mean() <= 255**2 / 10**4


def test_pictures_that_share_every_call_are_nearly_those_that_do_not(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("euler", "another prompt and seed", "euler a", "sde")
    exact = {name: MIXTURE[name].model_copy(update={"steps": 12}) for name in kinds}
    sharing = {name: request.model_copy(update={"exact": False}) for name, request in exact.items()}
    expected = pictures(drawn(looped(model), exact))
    monkeypatch.setattr(model, "rounded", None)  # what rounding changes has bounds of its own
    counts = calls(monkeypatch)
    near = pictures(drawn(looped(model), sharing))
    assert max(counts) == 4
    for name in kinds:
        assert_near(near[name], expected[name])


def order_of_ends(happened: Sequence[Event]) -> list[str]:
    return [event.job_id for event in happened if isinstance(event, Done)]


def test_a_short_picture_does_not_wait_behind_long_ones(model: Model) -> None:
    loop = looped(model)
    for seed in range(4):
        loop.admit(Admit(job_id=f"long {seed}", request=RED.model_copy(update={"steps": 50, "seed": seed})))
    happened = list(itertools.islice(events(loop), 5))
    loop.admit(Admit(job_id="short", request=RED.model_copy(update={"steps": 8})))
    between = 0
    for event in events(loop):
        happened.append(event)
        if isinstance(event, Step) and event.job_id != "short":
            between += 1
        if isinstance(event, Step) and (event.job_id, event.step) == ("short", 8):
            break
    loop.close()
    # The UNet was never called for it together with others, so calls are steps: at most twice those it takes alone.
    assert between <= 8 + len(loop.sharing.verdicts)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "not exact"])
def test_a_short_picture_waits_no_longer_where_long_ones_share_its_calls(
    model: Model, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    """On a device that keeps every bit, so that exact pictures share, too; and that saves a little by sharing."""
    now = 0.0

    def slow(honest: Answer) -> Answer:
        def predict(unet: Any, pictures: Sequence[Picture]) -> list[torch.Tensor]:
            nonlocal now
            now += 0.3 + 0.7 * len(pictures)
            return [honest(unet, [picture])[0] for picture in pictures]

        return predict

    def seconds(of: str, so_far: Iterator[Event]) -> float:
        """Until its last step: by this clock decoding, which is done aside, takes as long as it happens to."""
        begun = ended = now
        while not (isinstance(event := next(so_far), Done) and event.job_id == of):
            if isinstance(event, Step) and event.job_id == of:
                ended = now
        return ended - begun

    counts = calls(monkeypatch, slow)
    loop = looped(model, clock=lambda: now)
    asked = RED.model_copy(update={"exact": exact})
    loop.admit(Admit(job_id="alone", request=asked.model_copy(update={"steps": 8})))
    unloaded = seconds("alone", events(loop))
    for seed in range(4):
        request = asked.model_copy(update={"steps": 50, "seed": seed})
        loop.admit(Admit(job_id=f"long {seed}", request=request, caller="many"))
    so_far = events(loop)
    list(itertools.islice((event for event in so_far if isinstance(event, Step)), 80))
    assert max(counts) == 4
    loop.admit(Admit(job_id="short", request=asked.model_copy(update={"steps": 8})))
    loaded = seconds("short", so_far)
    loop.close()
    assert loaded <= 2 * unloaded


def test_the_pictures_of_all_callers_get_on_however_many_short_ones_one_of_them_sends(model: Model) -> None:
    loop = looped(model)
    loop.admit(Admit(job_id="long", request=RED.model_copy(update={"steps": 8}), caller="patient"))
    for number in range(2):
        loop.admit(Admit(job_id=f"short {number}", request=RED.model_copy(update={"steps": 1}), caller="busy"))
    happened = []
    number = 2
    for event in events(loop):
        happened.append(event)
        if isinstance(event, Done) and event.job_id.startswith("short") and number < 40:
            loop.admit(Admit(job_id=f"short {number}", request=RED.model_copy(update={"steps": 1}), caller="busy"))
            number += 1
    loop.close()
    assert order_of_ends(happened).index("long") < 35


def test_pictures_take_their_steps_while_another_is_decoded_and_written(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    stepped = threading.Event()
    threads: list[str] = []

    def beside(work: Callable[..., Any]) -> Callable[..., Any]:
        def waiting(*arguments: Any, **named: Any) -> Any:
            threads.append(threading.current_thread().name)
            assert stepped.wait(60)
            return work(*arguments, **named)

        return waiting

    for name in ("decode", "png"):
        monkeypatch.setattr(draw_module, name, beside(getattr(draw_module, name)))
    loop = looped(model)
    for name, steps in (("short", 1), ("long", 6)):
        loop.admit(Admit(job_id=name, request=RED.model_copy(update={"steps": steps}), caller=name))
    happened = []
    for event in events(loop):
        happened.append(event)
        if isinstance(event, Step) and event.job_id == "long":
            stepped.set()
    loop.close()
    assert order_of_ends(happened) == ["short", "long"]
    assert threads == ["aside_0"] * 4


# When memory runs out


def limited(most: int) -> Callable[[Answer], Answer]:
    """A device that holds so many pictures in one call, and says so in torch's own words."""

    def limit(honest: Answer) -> Answer:
        def predict(unet: Any, pictures: Sequence[Picture]) -> list[torch.Tensor]:
            if len(pictures) > most:
                torch.empty(2**60)
            return honest(unet, pictures)

        return predict

    return limit


def test_a_call_that_memory_cannot_hold_is_made_with_fewer_pictures(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = calls(monkeypatch, limited(2))
    happened = drawn(looped(model), {name: one.model_copy(update={"exact": False}) for name, one in LIKE.items()})
    assert len(pictures(happened)) == 4
    assert counts.count(2) > 2
    assert sum(count > 2 for count in counts) == 1  # tried once, and remembered


def test_a_picture_that_fits_in_no_way_fails_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(honest: Answer) -> Answer:
        def predict(unet: Any, pictures: Sequence[Picture]) -> list[torch.Tensor]:
            if any(picture.latents.shape[-1] > 32 for picture in pictures):
                torch.empty(2**60)
            return honest(unet, pictures)

        return predict

    calls(monkeypatch, greedy)
    happened = drawn(looped(model), {"large": RED.model_copy(update={"width": 320}), "small": RED})
    (failed,) = [event for event in happened if isinstance(event, Failed)]
    assert (failed.job_id, failed.error) == ("large", "failed")
    assert "smaller picture" in failed.message
    assert order_of_ends(happened) == ["small"]


def room_for(monkeypatch: pytest.MonkeyPatch, parts: int) -> tuple[list[str], list[bool]]:
    """A device that is full until so many parts have left it: the threads in which they did, and what is left to do."""
    made: list[str] = []
    full = [True] * parts

    def room(self: Model) -> bool:
        made.append(threading.current_thread().name)
        full.pop()
        return True

    monkeypatch.setattr(Model, "make_room", room)
    return made, full


def test_when_the_device_is_full_parts_leave_it_one_after_the_other_and_the_picture_is_drawn(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, full = room_for(monkeypatch, parts=2)

    def shrinking(honest: Answer) -> Answer:
        def predict(unet: Any, pictures: Sequence[Picture]) -> list[torch.Tensor]:
            if full:
                torch.empty(2**60)
            return honest(unet, pictures)

        return predict

    calls(monkeypatch, shrinking)
    assert order_of_ends(drawn(looped(model), {"one": RED})) == ["one"]
    assert made == ["aside_0"] * 2  # where the VAE works, so that it does not leave the device under a picture


def test_text_encoders_that_find_no_room_are_asked_again_when_there_is_some(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, full = room_for(monkeypatch, parts=1)
    honest = Conditioner.condition

    def shrinking(self: Conditioner, *arguments: Any, **named: Any) -> Any:
        if full:
            torch.empty(2**60)
        return honest(self, *arguments, **named)

    monkeypatch.setattr(Conditioner, "condition", shrinking)
    assert order_of_ends(drawn(looped(model), {"one": RED})) == ["one"]
    assert made == ["aside_0"]


def test_an_autoencoder_that_memory_cannot_hold_decodes_in_tiles_and_says_so(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = draw_module.decode

    def greedy(vae: Any, latents: torch.Tensor, in_tiles: bool = False) -> Any:
        if not in_tiles:
            torch.empty(2**60)
        return honest(vae, latents, in_tiles)

    monkeypatch.setattr(draw_module, "decode", greedy)
    (done,) = [
        event
        for event in drawn(looped(model), {"one": RED.model_copy(update={"width": 576, "height": 32, "steps": 1})})
        if isinstance(event, Done)
    ]
    assert "tiles" in done.results[0].warnings[0]


def test_pictures_of_an_autoencoder_that_overflows_in_float16_are_whole_and_say_so(single_file: Path) -> None:
    model = loaded(single_file)
    model = replace(model, vae=overflowing(model.vae))
    requests = {"one": RED, "another": RED.model_copy(update={"seed": 2})}
    happened = drawn(looped(model), requests)
    ends = {event.job_id: event.results[0] for event in happened if isinstance(event, Done)}
    assert ["float32" in result.warnings[0] for result in ends.values()] == [True, True]
    model.vae.to(torch.float32)
    assert pictures(drawn(looped(model), requests)) == pictures(happened)


def test_memory_bounds_how_many_share_a_call(model: Model) -> None:
    memory = Memory(model.placement, limit=1)  # a byte: nothing more than one picture at a time
    kind = "any"
    assert memory.room(kind) == 1
    with memory.measuring(kind, 1):
        block = torch.ones(64 * 2**20, dtype=torch.uint8)  # 64 MB that were not there before
    assert memory.room(kind) == 1
    assert len(block) == 64 * 2**20
    roomy = Memory(model.placement)
    for count in (1, 2, 4, 8):
        assert roomy.room(kind) == count
        with roomy.measuring(kind, count):
            pass
    roomy.ran_out(kind, 8)
    assert roomy.room(kind) == 4


# Everything at once


def test_everything_a_request_may_ask_for_is_drawn_in_one_mixture(single_file: Path, tmp_path: Path) -> None:
    model = loaded(single_file)
    (tmp_path / "loras").mkdir()
    tiny_lora.write_kohya(tmp_path / "loras" / "style.safetensors")
    tiny_controlnet.write_folder(tmp_path / "controlnet" / "edges", tiny_controlnet.controlnet(model.unet))
    guide = png(photo(64, 64, seed=3))
    requests = {
        "lora": RED.model_copy(update={"loras": (Lora(name="style", weight=0.8),)}),
        "lora in the prompt": RED.model_copy(update={"prompt": "a red apple <lora:style:0.8>"}),
        "control": RED.model_copy(update={"control": (Control(model="edges", image=guide),)}),
        "tiling": RED.model_copy(update={"tiling": "both"}),
        "hires": RED.model_copy(update={"hires": Hires(scale=1.5, steps=2)}),
        "plain": RED,
    }
    loop = looped(model, tmp_path)
    together = pictures(drawn(loop, requests))
    assert together["lora"] == together["lora in the prompt"]
    assert len(set(together.values())) == len(requests) - 1
    for name, request in requests.items():
        assert pictures(drawn(looped(model, tmp_path), {name: request}))[name] == together[name]
    model.rounded = None  # what rounding changes has bounds of its own
    sharing = {name: request.model_copy(update={"exact": False}) for name, request in requests.items()}
    for name, picture in pictures(drawn(looped(model, tmp_path), sharing)).items():
        assert_near(picture, together[name])
