"""Trials that fail or find no time left are rows like others, and every row is on the disk at once."""

import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.report import Report, Row
from torch._dynamo.exc import FailOnRecompileLimitHit


def failing() -> Iterator[Row]:
    yield Row("first half", 1.5, "ms", 1.0, 2.0, predicted=1.2, gain=1.1)
    raise RuntimeError("no kernel\nfor this card")


def test_a_trial_that_fails_keeps_what_it_had(tmp_path: Path) -> None:
    report = Report(tmp_path, {"card": "a card"}, budget=100)
    report.attempt("a lever", failing, predicted=1.2)
    measured, failed = json.loads((tmp_path / "gpu.json").read_text())["rows"]
    assert (measured["what"], measured["figure"], measured["gain"]) == ("first half", 1.5, 1.1)
    assert (failed["what"], failed["figure"], failed["predicted"]) == ("a lever", None, 1.2)
    assert failed["note"] == "failed: RuntimeError: no kernel"
    assert "| a card | first half | 1.5 ms | 1 to 2 | 1.20× | 1.10× |  |\n" in (tmp_path / "gpu.md").read_text()


def test_what_takes_longer_than_is_left_is_skipped_and_said(tmp_path: Path) -> None:
    report = Report(tmp_path, {"card": "a card"}, budget=10)
    report.attempt("a compiler", failing, seconds=60)
    (row,) = report.rows
    assert row.note.startswith("skipped: takes some 60 s, and ")
    assert report.skipped == ["a compiler"]


def test_only_what_is_asked_for(tmp_path: Path) -> None:
    report = Report(tmp_path, {"card": "a card"}, budget=10, only=["fp8", "graphs"])
    for what in ("fp8 matrix product", "channels_last", "CUDA graphs"):
        report.attempt(what, lambda what=what: iter([Row(what, 1.0, "ms")]))
    assert [row.what for row in report.rows] == ["fp8 matrix product", "CUDA graphs"]


def test_what_holds_something_asked_for_is_tried(tmp_path: Path) -> None:
    report = Report(tmp_path, {"card": "a card"}, budget=10, only=["cold start in at most 4.0 GB"])
    for what in ("cold start", "cold start in at most 7.5 GB", "start"):
        report.attempt(what, lambda what=what: iter([Row(what, 1.0, "s")]))
    assert [row.what for row in report.rows] == ["cold start"]


def test_a_graph_for_another_shape_fails_its_trial_alone(tmp_path: Path) -> None:
    def unlike() -> Iterator[Row]:
        yield from ()
        raise FailOnRecompileLimitHit("Hard failure due to fullgraph=True")

    report = Report(tmp_path, {"card": "a card"}, budget=10)
    report.attempt("a lever", unlike)
    assert report.rows[0].note.startswith("failed: FailOnRecompileLimitHit")
