import os
import signal
import time
from pathlib import Path

import pytest
from training.run import Stop, detach, hours


def test_a_detached_run_writes_its_log_and_is_of_a_session_of_its_own(tmp_path: Path) -> None:
    pid = detach("this", [], tmp_path)
    deadline = time.monotonic() + 30
    while "Namespaces" not in (tmp_path / "log.txt").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "Namespaces are one honking great idea" in (tmp_path / "log.txt").read_text()
    assert os.waitpid(pid, 0) == (pid, 0)


def test_an_interrupt_asks_for_an_end_and_does_not_break_in() -> None:
    before = signal.getsignal(signal.SIGTERM)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        stop = Stop().listen()
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        assert stop
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, interrupt)


@pytest.mark.parametrize(("seconds", "words"), [(30, "0.5 minutes"), (7200, "2.0 hours")])
def test_spans_are_said_in_a_unit_that_fits(seconds: float, words: str) -> None:
    assert hours(seconds) == words
