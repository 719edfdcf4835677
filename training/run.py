"""What every training command shares: its options, the loop, an orderly end, a life of its own.

A run lives in a folder: ``log.txt`` (when detached), ``metrics.jsonl``, ``checkpoints/``, ``sheets/`` and the result.
"""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator

from illustrious.system import apart, stop_signals
from training import checkpoint
from training.learner import Learner

log = logging.getLogger("training")


class Trainer(Protocol):
    """``batch``: samples a step. ``loss(step)`` depends on the weights and the step's number alone, and where several
    processes share the work, on which of them this is."""

    learner: Learner
    batch: int

    def loss(self, step: int) -> torch.Tensor: ...

    def show(self, file: Path) -> None:
        """Write a picture of what the averaged weights can do."""


class Stop:
    """True once the process has been asked to end (Ctrl-C, SIGTERM): the loop then saves and returns."""

    def __init__(self) -> None:
        self._asked = False

    def listen(self) -> "Stop":
        for number in stop_signals():
            signal.signal(number, self._ask)
        return self

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def __bool__(self) -> bool:
        return self._asked


def train(
    trainer: Trainer, folder: Path, stop: Stop, checkpoint_minutes: float = 5.0, sheet_every: int = 20_000
) -> Iterator[float]:
    """Every step's loss, until the schedule's end or until an end is asked for. Saves as it goes, and at either end."""
    learner, steps = trainer.learner, trainer.learner.schedule.steps
    is_main = learner.accelerator.is_main_process  # the others only compute
    saved = begun = time.monotonic()
    first, smooth = learner.step, None
    while learner.step < steps and not _anywhere(bool(stop), learner.accelerator):
        found = trainer.loss(learner.step)
        learner.take(found)
        loss = found.item()
        smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
        yield loss
        if not is_main:
            continue
        seen = learner.step * trainer.batch
        if learner.step % 50 == 0:
            rate = (learner.step - first) * trainer.batch / (time.monotonic() - begun)
            left = hours((steps - learner.step) * trainer.batch / rate)
            log.info(
                "%d of %d samples, loss %.4f, %.1f samples/s, %s left", seen, steps * trainer.batch, smooth, rate, left
            )
            _report(folder, samples=seen, loss=smooth, rate=rate, learning_rate=learner.schedule.rate(learner.step))
        if time.monotonic() - saved > checkpoint_minutes * 60:
            checkpoint.save(folder / "checkpoints", learner.state())
            saved = time.monotonic()
        if seen // sheet_every > (seen - trainer.batch) // sheet_every:
            with learner.averaged():
                trainer.show(folder / "sheets" / f"{seen:08d}.png")
    if is_main:
        checkpoint.save(folder / "checkpoints", learner.state())


def _anywhere(asked: bool, accelerator: Accelerator) -> bool:
    """An end was asked for in one of the processes: all of them end after the same step."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum") > 0)


def begin(trainer: Trainer, folder: Path) -> None:
    """Take up the newest checkpoint and say what the rest will cost."""
    state = checkpoint.newest(folder / "checkpoints")
    learner = trainer.learner
    if state:
        learner.resume(state)
        log.info("going on from step %d", state.step)
    if not learner.accelerator.is_main_process:
        return
    seconds = timed(lambda: learner.rehearse(trainer.loss(learner.step)))
    parameters = sum(weight.numel() for weight in learner.weights)
    left = learner.schedule.steps - learner.step
    log.info(
        "%.1f million parameters on %s; %d steps of %d samples left at %.1f samples/s: about %s, and %d MB of disk",
        parameters / 1e6,
        learner.weights[0].device,
        left,
        trainer.batch,
        trainer.batch / seconds,
        hours(left * seconds),
        (checkpoint.KEPT + 1) * 16 * parameters // 1_000_000,
    )


def complete(trainer: Trainer, folder: Path, stop: Stop, checkpoint_minutes: float, sheet_every: int) -> bool:
    """Train to the end; false when an end was asked for before, and where another process writes the result."""
    for _ in train(trainer, folder, stop, checkpoint_minutes, sheet_every):
        pass
    if trainer.learner.step < trainer.learner.schedule.steps:
        log.info("ended after %d steps, saved; the same command goes on from here", trainer.learner.step)
        return False
    return trainer.learner.accelerator.is_main_process


def arguments(description: str, folder: Path) -> argparse.ArgumentParser:
    """The options all commands have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, default=Path("training/starter.toml"), help="default: %(default)s")
    parser.add_argument(
        "--run", type=Path, default=folder, help="folder of checkpoints and result (default: %(default)s)"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path("training/cache"), help="folder of fetched and rendered icons"
    )
    parser.add_argument("--threads", type=int, help="processor threads (default: all)")
    parser.add_argument("--samples", type=int, help="samples in all, instead of the configuration's")
    parser.add_argument("--detach", action="store_true", help="run on after this terminal is closed")
    return parser


def prepare(options: argparse.Namespace, module: str, words: list[str]) -> bool:
    """Logging and threads; false when the work was handed to a process of its own (``--detach``)."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    if options.detach:
        if "WORLD_SIZE" in os.environ:
            raise SystemExit("--detach starts one process; leave it out where accelerate or torchrun starts several.")
        pid = detach(module, [word for word in words if word != "--detach"], options.run)
        log.info("training goes on as process %d; its log is %s", pid, options.run / "log.txt")
        return False
    if options.threads:
        torch.set_num_threads(options.threads)
    return True


def detach(module: str, words: list[str], folder: Path) -> int:
    """Start ``python -m module`` apart from this terminal and return its process id; its words go to ``log.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **apart(),
        )
    return child.pid


def accelerator() -> Accelerator:
    """On the GPU where there is one; one of several processes where it was started as such."""
    # Unless told, it sees no other processes on processors. Arithmetic and batches are the recipe's, whatever a user
    # has configured for other programs.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", gradient_accumulation_steps=1)


def timed(step: Callable[[], object], repeats: int = 3) -> float:
    """Seconds one step takes: the fastest of a few, after one to warm up."""
    step()
    spans = []
    for _ in range(repeats):
        begun = time.perf_counter()
        step()
        spans.append(time.perf_counter() - begun)
    return min(spans)


def hours(seconds: float) -> str:
    """
    >>> hours(5400), hours(75)
    ('1.5 hours', '1.2 minutes')
    """
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"


def _report(folder: Path, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as output:
        output.write(json.dumps(values) + "\n")
