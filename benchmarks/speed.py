"""What each ``speed`` takes, and how far its pictures are from exact ones.

    python benchmarks/speed.py [--rounds 5] [--steps 25] [--sampler NAME] [--threads 1]

The starter model, twelve prompts. Time, of the processor: one picture alone in each mode and with diffusers' pipeline,
in turns, so that a busy machine is busy for all; then four at once. Printed are medians of ratios with the interval
that holds the middle half of the runs. Distance: pixels of four at once against those of the same requests in
``exact``, by PSNR and SSIM, the median and the worst of the twelve.
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
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import torch
from benchmarks.engine import Bench, shown, starter
from benchmarks.likeness import Pixels, psnr, ssim
from PIL import Image

from illustrious.images import Done, Event
from illustrious.types import ImageRequest, Speed

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


def drawn(events: Sequence[Event]) -> list[Pixels]:
    """In the order of the requests; with what the studio has to say about them."""
    done = sorted((event for event in events if isinstance(event, Done)), key=lambda event: int(event.job_id))
    for warning in {warning for event in done for warning in event.results[0].warnings}:
        print(f"  warning: {warning}")
    return [np.asarray(Image.open(io.BytesIO(event.results[0].image)).convert("RGB")) for event in done]


def timed(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def times(bench: Bench) -> None:
    over_exact, over_theirs, at_once = defaultdict(list), defaultdict(list), defaultdict(list)
    for _ in range(bench.pairs):
        theirs = timed(lambda: bench.theirs(bench.request()))
        taken = {speed: timed(lambda speed=speed: bench.ours(bench.request(**how(speed)))) for speed in SPEEDS}
        for speed in SPEEDS:
            over_exact[speed].append(taken["exact"] / taken[speed])
            over_theirs[speed].append(theirs / taken[speed])
            several = [bench.request(**how(speed)) for _ in range(AT_ONCE)]
            at_once[speed].append(AT_ONCE * taken["exact"] / timed(lambda several=several: bench.ours(*several)))
    for speed in SPEEDS:
        print(f"{speed:9} alone, times as fast as exact       {shown(over_exact[speed])}")
        print(f"{speed:9} alone, times as fast as diffusers   {shown(over_theirs[speed])}")
        print(f"{speed:9} {AT_ONCE} at once, times as fast as exact   {shown(at_once[speed])}")


def distances(bench: Bench, requests: Sequence[ImageRequest]) -> None:
    groups = [requests[first : first + AT_ONCE] for first in range(0, len(requests), AT_ONCE)]
    exact = [pixels for request in requests for pixels in drawn(bench.ours(request))]
    for speed in SPEEDS[1:]:
        near = [
            pixels
            for group in groups
            for pixels in drawn(bench.ours(*(one.model_copy(update=how(speed)) for one in group)))
        ]
        signals = [psnr(*pair) for pair in zip(exact, near, strict=True)]
        likenesses = [ssim(*pair) for pair in zip(exact, near, strict=True)]
        print(
            f"{speed:9} from exact: PSNR {statistics.median(signals):.1f} dB, worst {min(signals):.1f}; "
            f"SSIM {statistics.median(likenesses):.4f}, worst {min(likenesses):.4f}"
        )


def how(speed: Speed) -> dict[str, object]:
    return {"speed": speed, "exact": speed == "exact"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--sampler", help="otherwise the model's own")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(starter(), 64, given.steps, given.rounds, Path(folder))
        requests = [
            ImageRequest(prompt=prompt, steps=given.steps, guidance=5.0, seed=number, sampler=given.sampler)
            for number, prompt in enumerate(PROMPTS)
        ]
        print(f"{bench.model.name}, {given.steps} steps, {given.threads} threads, torch {torch.__version__}")
        for warm_up in (bench.theirs, bench.ours):
            warm_up(bench.request())
        distances(bench, requests)
        times(bench)
        bench.loop.close()


if __name__ == "__main__":
    main()
