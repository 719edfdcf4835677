import os
import signal
from pathlib import Path

import pytest
from training.run import Stop, detach, follow, hours


def test_a_detached_run_writes_its_log_and_is_of_a_session_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "log.txt"
    output.write_text("what was said before\n")
    child = detach("this", [], tmp_path)
    assert os.getsid(child.pid) == child.pid
    assert child.wait() == 0
    before, *after = output.read_text().splitlines()
    assert before == "what was said before"
    assert "Namespaces are one honking great idea -- let's do more of those!" in after


def test_what_a_detached_run_will_cost_is_told_before_the_terminal_is_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on then; what it says later is in its log alone."""
    words = "200 steps at 3 samples/s: about 2 days"
    (tmp_path / "training_of_days.py").write_text(f"import signal\nprint({words!r}, flush=True)\nsignal.pause()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = detach("training_of_days", [], tmp_path / "run")
    try:
        assert follow(child, tmp_path / "run" / "log.txt", 0)
        assert child.poll() is None
        assert capsys.readouterr().err == f"{words}\n"
    finally:
        child.kill()
        child.wait()


def test_a_detached_run_that_fails_at_once_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = detach("training.there_is_none", [], tmp_path)
    assert not follow(child, tmp_path / "log.txt", 0)
    assert "No module named training.there_is_none" in capsys.readouterr().err


def test_an_interrupt_asks_for_an_end_and_does_not_break_in() -> None:
    """Nor does a closed terminal, which under nohup asks for nothing."""
    asking = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.getsignal(number) for number in asking]
    try:
        for number in asking:
            signal.signal(number, signal.SIG_DFL)
            stop = Stop().listen()
            assert not stop
            signal.raise_signal(number)
            assert stop
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop = Stop().listen()
        signal.raise_signal(signal.SIGHUP)
        assert not stop
    finally:
        for number, handler in zip(asking, before, strict=True):
            signal.signal(number, handler)


@pytest.mark.parametrize(("seconds", "words"), [(30, "0.5 minutes"), (7200, "2.0 hours")])
def test_spans_are_said_in_a_unit_that_fits(seconds: float, words: str) -> None:
    assert hours(seconds) == words
