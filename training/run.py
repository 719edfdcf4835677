"""What every training command shares: its options, the loop, an orderly end, a life of its own.

A run lives in a folder: ``log.txt`` (when detached), ``metrics.jsonl``, ``checkpoints/``, ``sheets/`` and the result.
"""

import argparse
import json
import logging
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from illustrious.system import apart, hangup_signals, stop_signals
from training import checkpoint
from training.learner import Learner

log = logging.getLogger("training")


class Trainer(Protocol):
    """``batch``: samples a step. ``recipe``: what it was configured with. ``loss(step)`` depends on the weights and the
    step's number alone, and where several processes share the work, on which of them this is."""

    learner: Learner
    batch: int
    recipe: dict[str, Any]

    def loss(self, step: int) -> torch.Tensor: ...

    def show(self, file: Path) -> None:
        """Write a picture of what the averaged weights can do."""


class Stop:
    """True once the process has been asked to end (Ctrl-C, SIGTERM, its terminal closed): the loop then saves and
    returns."""

    def __init__(self) -> None:
        self._asked = False

    def listen(self) -> "Stop":
        for number in (*stop_signals(), *hangup_signals()):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, which wants it to go on
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
    with _held(folder) if trainer.learner.accelerator.is_main_process else nullcontext():
        yield from _train(trainer, folder, stop, checkpoint_minutes, sheet_every)


def _train(trainer: Trainer, folder: Path, stop: Stop, checkpoint_minutes: float, sheet_every: int) -> Iterator[float]:
    learner, steps = trainer.learner, trainer.learner.schedule.steps
    is_main = learner.accelerator.is_main_process  # the others only compute
    saved = begun = time.monotonic()
    first, smooth = learner.step, None
    while learner.step < steps and not _anywhere(bool(stop), learner.accelerator):
        found = trainer.loss(learner.step)
        learner.take(found)
        loss = found.item()
        if not math.isfinite(loss):
            raise SystemExit(
                f"The loss of step {learner.step} is {loss}. What was saved last is whole: start again with a lower "
                "learning_rate."
            )
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
            _save(trainer, folder)
            saved = time.monotonic()
        if seen // sheet_every > (seen - trainer.batch) // sheet_every:
            with learner.averaged():
                trainer.show(folder / "sheets" / f"{seen:08d}.png")
    if is_main:
        _save(trainer, folder)


def _save(trainer: Trainer, folder: Path) -> None:
    checkpoint.save(folder / "checkpoints", replace(trainer.learner.state(), recipe=trainer.recipe))


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Two runs in one folder would remove each other's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "run.lock", timeout=0):
            yield
    except Timeout:
        raise SystemExit(f"Another run is going on in {folder}: let it end, or choose another --run folder.") from None


def _anywhere(asked: bool, accelerator: Accelerator) -> bool:
    """An end was asked for in one of the processes: all of them end after the same step."""
    if accelerator.num_processes == 1:
        return asked
    return bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device), "sum") > 0)


COST = ": about"
"""In the line that says what a run will cost, and in no other."""


def begin(trainer: Trainer, folder: Path) -> None:
    """Take up the newest checkpoint and say what the rest will cost."""
    state = checkpoint.newest(folder / "checkpoints")
    learner = trainer.learner
    if state:
        _same(state.recipe, trainer.recipe, folder)
        learner.resume(state)
        log.info("going on from step %d", state.step)
    _agree(learner)
    if not learner.accelerator.is_main_process:
        return
    if learner.step >= learner.schedule.steps:
        log.info("nothing is left to learn: more --samples, or another --run folder to begin anew")
        return
    seconds = timed(lambda turn: learner.rehearse(trainer.loss(learner.step + turn)))
    parameters = sum(weight.numel() for weight in learner.weights)
    left = learner.schedule.steps - learner.step
    log.info(
        f"%.1f million parameters on %s; %d steps of %d samples left at %.1f samples/s{COST} %s, and %d MB of disk",
        parameters / 1e6,
        learner.weights[0].device,
        left,
        trainer.batch,
        trainer.batch / seconds,
        hours(left * seconds),
        (checkpoint.KEPT + 1) * 16 * parameters // 1_000_000,
    )


FREE = frozenset({"samples", "workers", "checkpoint_minutes", "sheet_every"})
"""What may change while a run is under way."""


def _same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """A run goes on with the recipe it began with."""
    changed = [name for name in sorted({*before, *now}) if _kept(before.get(name)) != _kept(now.get(name))]
    changed = [name for name in changed if name not in FREE]
    if before and changed:
        raise SystemExit(
            f"The run in {folder} began with another recipe ({', '.join(changed)}): take that again, or choose another "
            "--run folder."
        )


def _kept(value: Any) -> Any:
    return {name: part for name, part in value.items() if name not in FREE} if isinstance(value, dict) else value


def _agree(learner: Learner) -> None:
    """Several processes have the same checkpoint before them, or none."""
    if learner.accelerator.num_processes == 1:
        return
    here = torch.tensor([learner.step], device=learner.accelerator.device)
    steps = learner.accelerator.gather(here).tolist()
    if len(set(steps)) > 1:
        raise SystemExit(
            f"The processes would begin at different steps ({', '.join(map(str, steps))}): give them one --run folder "
            "that all of them see."
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


def prepare(options: argparse.Namespace, module: str, words: list[str], alone: bool = False) -> bool:
    """Logging and threads; false when the work was handed to a process of its own (``--detach``), whose words are told
    until it has said what it will cost. ``alone``: several processes would each do all of the work."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    if alone and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise SystemExit("This takes one process: start it without accelerate launch or torchrun.")
    if options.detach:
        if "WORLD_SIZE" in os.environ:
            raise SystemExit("--detach starts one process; leave it out where accelerate or torchrun starts several.")
        output = options.run / "log.txt"
        said = output.stat().st_size if output.exists() else 0
        child = detach(module, [word for word in words if word != "--detach"], options.run)
        log.info("training goes on as process %d; its log is %s", child.pid, output)
        if not follow(child, output, said):
            raise SystemExit(child.returncode)
        return False
    if options.threads:
        torch.set_num_threads(options.threads)
    return True


def detach(module: str, words: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start ``python -m module`` apart from this terminal; its words go to ``log.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **apart(),
        )


def follow(child: subprocess.Popen[bytes], output: Path, begin: int) -> bool:
    """Repeat what ``child`` writes to ``output`` from byte ``begin`` on, until it has said what it will cost, or ends,
    or Ctrl-C, which does not end the child. False: it ended in a failure."""
    ended = False
    with suppress(KeyboardInterrupt), output.open("rb") as written:
        written.seek(begin)
        while True:
            line = written.readline().decode(errors="replace")
            sys.stderr.write(line)
            if COST in line or (ended and not line):
                break
            ended = child.poll() is not None
            if not line and not ended:
                time.sleep(0.1)
    return not child.returncode


def accelerator() -> Accelerator:
    """On the GPU where there is one; one of several processes where it was started as such."""
    # Unless told, it sees no other processes on processors. Arithmetic and batches are the recipe's, whatever a user
    # has configured for other programs.
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", gradient_accumulation_steps=1)


def timed(step: Callable[[int], object], repeats: int = 3) -> float:
    """Seconds one step takes, each another: the median of a few, after one to warm up."""
    spans = []
    for turn in range(repeats + 1):
        begun = time.perf_counter()
        step(turn)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spans.append(time.perf_counter() - begun)
    return statistics.median(spans[1:])


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
