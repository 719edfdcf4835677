"""What each ``speed`` takes, and how far its pictures are from exact ones: the table of ``docs/performance.md``.

    python benchmarks/speed.py [--rounds 7] [--steps 25] [--size 128] [--prompts 12] [--sampler NAME] [--threads 2]

The starter model, in float32 and, where the processor multiplies such numbers by itself, with its copy in bfloat16; and
with its LoRA for four steps, which needs no guidance. Time: in every round one picture by diffusers' pipeline in all
steps, one in each way, and four at once in each way, so that a busy machine is busy for all. Printed are medians of
ratios with the interval that holds the middle half of the rounds. With one thread it is the processor's own time, which
others on the machine disturb least; with several it is the clock's, for a processor adds up what all of them take.

Distance: pixels of four at once against those of the same requests in ``exact``, each alone, by PSNR and SSIM, the
median and the worst. In four steps another picture is drawn, so there it says how far another picture is.
"""

import sys

if not __package__:
    sys.path[0] = sys.path[0].removesuffix("/benchmarks")  # as a file: the folder beside it is a package

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from benchmarks.engine import Bench, starter
from benchmarks.likeness import Pixels, psnr, ssim
from PIL import Image

from illustrious.images import Done, Event
from illustrious.images.diffusion.pace import TRIES
from illustrious.types import ImageRequest, Lora, Speed

PROMPTS = (
    "a red apple on a blue background",
    "a castle",
    "a cat",
    "a panda on a green background",
    "a rocket",
    "a dragon",
    "a sunrise over mountains",
    "a princess",
    "a yellow car",
    "a tree on a white background",
    "a guitar",
    "a fish on a black background",
)
SPEEDS: tuple[Speed, ...] = get_args(Speed)
AT_ONCE = 4
FEW_STEPS = {"steps": 4, "guidance": 1.0, "sampler": "Euler", "loras": (Lora(name="starter-4-steps"),)}

HEAD = """| | as fast as exact, alone | four at once | as fast as diffusers | PSNR | SSIM |
|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Way:
    """How pictures are asked for, and of which model: a row of the table."""

    title: str
    bench: Bench
    asked: dict[str, Any]

    def draw(self, count: int, **changes: Any) -> None:
        self.bench.ours(*(self.bench.request(**{**self.asked, **changes}) for _ in range(count)))


def how(speed: Speed) -> dict[str, Any]:
    return {"speed": speed, "exact": speed == "exact"}


def ways(whole: Bench, rounded: Bench | None) -> list[Way]:
    """Of the model in float32, and of one that has a copy in bfloat16; the first is exact."""
    exact, *others = SPEEDS
    rows = [Way(f"`{exact}`", whole, how(exact))]
    for speed in others:
        rows.append(Way(f"`{speed}` in float32", whole, how(speed)))
        if rounded is not None:
            rows.append(Way(f"`{speed}` in bfloat16", rounded, how(speed)))
    rows.append(Way(f"`{exact}`, four steps with the LoRA", whole, {**how(exact), **FEW_STEPS}))
    if rounded is not None:
        rows.append(Way("`balanced` in bfloat16, four steps with the LoRA", rounded, {**how("balanced"), **FEW_STEPS}))
    return rows


def warm_up(rows: Sequence[Way], diffusers: Bench) -> None:
    """Whatever is found once for a device or a model: how many pictures share a call, the copy, the LoRA."""
    diffusers.theirs(diffusers.request())
    for row in rows:
        row.draw(AT_ONCE, steps=4 * TRIES)


def times(rows: Sequence[Way], diffusers: Bench, rounds: int, clock: Callable[[], float]) -> list[list[str]]:
    """For each row: alone over exact, four at once over as many exact ones one by one, alone over diffusers."""

    def taken(work: Callable[[], object]) -> float:
        begin = clock()
        work()
        return clock() - begin

    ratios: list[list[list[float]]] = [[[], [], []] for _ in rows]
    for _ in range(rounds):
        theirs = taken(lambda: diffusers.theirs(diffusers.request()))
        alone = [taken(lambda row=row: row.draw(1)) for row in rows]
        together = [taken(lambda row=row: row.draw(AT_ONCE)) for row in rows]
        for columns, own, shared in zip(ratios, alone, together, strict=True):
            values = (alone[0] / own, AT_ONCE * alone[0] / shared, theirs / own)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
    return [[cell(column) for column in columns] for columns in ratios]


def cell(ratios: Sequence[float]) -> str:
    if len(ratios) == 1:
        return f"{ratios[0]:.2f}× (one run)"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f}× [{low:.2f} … {high:.2f}]"


def distances(rows: Sequence[Way], requests: Sequence[ImageRequest]) -> list[list[str]]:
    """For each row: PSNR and SSIM, the median and the worst. Nothing for the first, which the others are compared
    with."""
    exact = [pixels for request in requests for pixels in drawn(rows[0].bench, [request])]
    cells = [["", ""]]
    for row in rows[1:]:
        asked = [request.model_copy(update=row.asked) for request in requests]
        groups = [asked[first : first + AT_ONCE] for first in range(0, len(asked), AT_ONCE)]
        near = [pixels for group in groups for pixels in drawn(row.bench, group)]
        signals = [psnr(*pair) for pair in zip(exact, near, strict=True)]
        likenesses = [ssim(*pair) for pair in zip(exact, near, strict=True)]
        cells.append(
            [
                f"{statistics.median(signals):.1f}, {min(signals):.1f} dB".replace("inf", "∞"),
                f"{statistics.median(likenesses):.4f}, {min(likenesses):.4f}",
            ]
        )
    return cells


def drawn(bench: Bench, requests: Sequence[ImageRequest]) -> list[Pixels]:
    """All at once, in their order; with what the studio has to say about them."""
    events: Sequence[Event] = bench.ours(*requests)
    done = sorted((event for event in events if isinstance(event, Done)), key=lambda event: int(event.job_id))
    for warning in {warning for event in done for warning in event.results[0].warnings}:
        print(f"  warning: {warning}")
    return [np.asarray(Image.open(io.BytesIO(event.results[0].image)).convert("RGB")) for event in done]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--size", type=int, help="width and height; otherwise the model's own")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="of so many the distance is measured")
    parser.add_argument("--sampler", help="of the distances; otherwise the model's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        def bench() -> Bench:
            model = starter()
            return Bench(model, given.size or model.size[0], given.steps, given.rounds, Path(folder))

        # Diffusers has a model of its own: ours goes on wearing a LoRA until the next picture of ours.
        diffusers, whole, rounded = bench(), bench(), bench()
        whole.model.rounded = None
        rows = ways(whole, rounded if rounded.model.rounded is not None else None)
        size = whole.size
        requests = [
            ImageRequest(
                prompt=prompt,
                steps=given.steps,
                width=size,
                height=size,
                guidance=5.0,
                seed=number,
                sampler=given.sampler,
            )
            for number, prompt in enumerate(PROMPTS[: given.prompts])
        ]
        print(
            f"{whole.model.name}, {size}×{size}, {given.steps} steps, {given.threads} threads, torch "
            f"{torch.__version__}; {given.rounds} rounds, {len(requests)} prompts"
        )
        warm_up(rows, diffusers)
        taken = times(rows, diffusers, given.rounds, time.process_time if given.threads == 1 else time.perf_counter)
        away = distances(rows, requests)
        print(HEAD)
        for row, speeds, likenesses in zip(rows, taken, away, strict=True):
            print(f"| {' | '.join([row.title, *speeds, *likenesses])} |")
        for each in (diffusers, whole, rounded):
            each.loop.close()
    print(f"in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
