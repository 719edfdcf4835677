"""What was measured, row by row, as a JSON file and a Markdown table; and trials that may fail or find no time left."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from torch._dynamo.exc import FailOnRecompileLimitHit

from illustrious.errors import StudioError

try:
    from triton.errors import TritonError
except ImportError:  # not every torch brings it
    _OF_TRITON: tuple[type[Exception], ...] = ()
else:
    _OF_TRITON = (TritonError,)

FAILURES = (
    *_OF_TRITON,  # a kernel that cannot be compiled, or finds no room on the card
    FailOnRecompileLimitHit,
    RuntimeError,  # torch's own, its compilers' and memory that ran out among them
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    StudioError,
    subprocess.SubprocessError,
    TypeError,
    ValueError,
)
"""What a trial may end with: what is not supported here says so in many ways."""


@dataclass(frozen=True)
class Row:
    """A figure with its ``unit``; of a spread the median, with ``low`` and ``high``.

    ``predicted`` and ``gain`` are of a lever: how many times as fast, before it was measured and after.
    """

    what: str
    figure: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    gain: float | None = None
    note: str = ""


Trial = Callable[[], Iterator[Row]]


class Report:
    """``about`` is told once: the card, the versions. ``only``: trials whose names have one of these words, or with
    which one of these begins: some hold further ones. ``skipped`` are those for which there was no time.

    Every row is written down at once, so that a run that is cut off leaves what it had."""

    def __init__(self, folder: Path, about: Mapping[str, object], budget: float, only: Sequence[str] = ("",)) -> None:
        self.rows: list[Row] = []
        self.skipped: list[str] = []
        self._about = dict(about)
        self._folder = folder
        self._begin = time.monotonic()
        self._budget = budget
        self._only = only
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._begin

    def attempt(self, what: str, trial: Trial, seconds: float = 0.0, predicted: float | None = None) -> None:
        """The rows of a trial that takes some ``seconds``. It is left out when there are not so many left, and without
        a word when it is not among those asked for."""
        if not any(word in what or word.startswith(what) for word in self._only):
            return
        left = self._budget - self.seconds
        if left < seconds:
            note = f"skipped: takes some {seconds:.0f} s, and {left:.0f} of {self._budget:.0f} s are left"
            self.add(Row(what, predicted=predicted, note=note))
            self.skipped.append(what)
            return
        try:
            for row in trial():
                self.add(row)
        except FAILURES as error:
            first = str(error).strip().split("\n")[0][:200]
            self.add(Row(what, predicted=predicted, note=f"failed: {type(error).__name__}: {first}"))

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(f"{self.seconds:6.1f} s  {row.what}: {_figure(row)} {_gains(row)} {row.note}".rstrip(), flush=True)
        self._write("gpu.json", json.dumps({**self._about, "rows": [asdict(row) for row in self.rows]}, indent=1))
        self._write("gpu.md", self.table)

    @property
    def table(self) -> str:
        head = "| card | what | median | range | gain predicted | measured | |\n|---|---|---|---|---|---|---|\n"
        return head + "".join(f"| {self._about['card']} | {' | '.join(_cells(row))} |\n" for row in self.rows)

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text, encoding="utf-8")


def _cells(row: Row) -> list[str]:
    spread = "" if row.low is None or row.high is None else f"{row.low:.4g} to {row.high:.4g}"
    gains = ["" if gain is None else f"{gain:.2f}×" for gain in (row.predicted, row.gain)]
    return [cell.replace("|", "¦") for cell in (row.what, _figure(row), spread, *gains, row.note)]


def _figure(row: Row) -> str:
    return "" if row.figure is None else f"{row.figure:.4g} {row.unit}".strip()


def _gains(row: Row) -> str:
    if row.gain is None:
        return ""
    return f"({row.gain:.2f}×)" if row.predicted is None else f"({row.gain:.2f}×, predicted {row.predicted:.2f}×)"
