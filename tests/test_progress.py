"""Progress off a terminal: few plain lines, with the time left; on one: a bar."""

from __future__ import annotations

import io

import pytest

from mibench.cli import progress


def test_duration() -> None:
    assert [progress.duration(s) for s in (0, 4.6, 65, 3723)] == ["0:00", "0:05", "1:05", "1:02:03"]


def test_plain_lines_come_every_few_seconds_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    reporter = progress.PlainReporter()
    reporter.start("attacking")
    for second in range(31):
        now = 100.0 + second
        reporter.update(second, 40, "step")
    reporter.stop()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "attacking: 12%, step, 0:35 left"
    assert len(lines) == 6


def test_resumed_work_counts_its_own_time_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    reporter = progress.PlainReporter()
    reporter.start("training")
    reporter.update(40, 100)
    now = 10.0
    reporter.update(50, 100)
    assert capsys.readouterr().err == "training: 50%, 0:50 left\n"


def test_work_that_is_quickly_done_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress.time, "monotonic", lambda: 100.0)  # a real clock may pass seconds on a busy machine
    reporter = progress.PlainReporter()
    reporter.start("drawing")
    reporter.update(1, 2)
    reporter.stop()
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_with_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setenv("COLUMNS", "100")  # bars are cut to a terminal's width,
    monkeypatch.setenv("TERM", "xterm")  # and a dumb one gets none
    monkeypatch.setattr("sys.stderr", screen)
    reporter = progress.reporter()
    assert isinstance(reporter, progress.TerminalReporter)
    reporter.start("attacking")
    reporter.say("a [bracketed] note")
    reporter.update(3, 4, "unit [0]")  # brackets are text, not markup
    reporter.stop()
    reporter.stop()
    shown = screen.getvalue()
    assert "attacking" in shown
    assert "unit [0]" in shown
    assert "75%" in shown
    assert "a [bracketed] note" in shown
