"""Two reporters: a bar with the time left on a terminal, plain lines elsewhere. Both write to stderr."""

from __future__ import annotations

import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import rich_click as click

from mibench.errors import printable
from mibench.system.progress import Reporter, set_current_reporter

from .output import on_terminal

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL = 5.0  # seconds between two plain lines
QUIET = 30.0  # seconds without news after which a line says what is waited for; then twice as long, and again
LONGEST_QUIET = 900.0
LOOK = 1.0  # seconds between two looks at the clock


def reporter() -> Reporter:
    """The reporter that suits stderr; it also hears of work that is handed none."""
    chosen = TerminalReporter() if on_terminal(sys.stderr) else PlainReporter()
    set_current_reporter(chosen)
    return chosen


def duration(seconds: float) -> str:
    """``1:05`` or ``2:03:04``."""
    minutes, rest = divmod(max(int(seconds + 0.5), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def times(passed: float | None, remaining: float | None) -> str:
    """``1:05 elapsed, 0:35 left``."""
    parts = [f"{duration(passed)} elapsed"] if passed is not None else []
    return ", ".join([*parts, *([f"{duration(remaining)} left"] if remaining is not None else [])])


class PlainReporter(Reporter):
    """At most one line every few seconds, with the share done and the time left.

    A stretch that hears nothing (a model that takes minutes for its first image, or for ever) says so by itself.
    """

    def __init__(self) -> None:
        self._heard = 0.0  # when there was news last
        self._quiet = QUIET
        self._state = ""  # what the last news was
        self._inside = 0  # stretches within this one, which speak for themselves
        self._ended: threading.Event | None = None
        self._title = ""
        self._last = 0.0
        self._begun: tuple[float, float] | None = None  # when the first share was heard, and the share

    def say(self, text: str) -> None:
        """Print the sentence."""
        click.echo(printable(text), err=True)

    def start(self, text: str, *, attack: str | None = None) -> None:
        """Begin a stretch; the first line comes only when it takes longer than a few seconds."""
        self.stop()
        self._title = text
        self._last = self._heard = time.monotonic()
        self._begun = None
        self._quiet, self._state = QUIET, ""
        self._ended = threading.Event()
        threading.Thread(target=_watch, args=(weakref.ref(self), self._ended), daemon=True, name="progress").start()

    def stop(self) -> None:
        """End the stretch."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def look(self) -> None:
        """Say what is waited for when there has been no news for long."""
        now = time.monotonic()
        if self._inside or now - self._heard < self._quiet:
            return
        self._quiet = min(2 * self._quiet, self._quiet + LONGEST_QUIET)
        waited = f"no news for {duration(now - self._heard)}, still waiting"
        click.echo(f"{self._title}: {self._state}{waited} (Ctrl-C stops, the same command goes on)", err=True)

    def update(self, done: float, total: float, text: str = "") -> None:
        """Print a line when the last one is old enough."""
        now = self._heard = time.monotonic()
        self._quiet = QUIET
        if total > 0:
            self._state = f"{min(done / total, 1.0):.0%}, " + (f"{text}, " if text else "")
        if total <= 0:
            return
        share = min(done / total, 1.0)
        if self._begun is None:
            self._begun = now, share  # resumed work begins in the middle: what was done before took none of this time
        if now - self._last < PLAIN_INTERVAL or done <= 0:
            return
        self._last = now
        moved, passed = share - self._begun[1], now - self._begun[0]
        remaining = f", {duration(passed * (1 - share) / moved)} left" if moved > 0 else ""
        detail = f", {text}" if text else ""
        click.echo(printable(f"{self._title}: {share:.0%}{detail}{remaining}"), err=True)

    @contextmanager
    def aside(self, text: str) -> Iterator[Reporter]:
        """Lines of its own, as rare as the others."""
        inner = PlainReporter()
        inner.start(text)
        self._inside += 1
        try:
            yield inner
        finally:
            inner.stop()
            self._inside -= 1
            self._heard = time.monotonic()


def _watch(whose: weakref.ref[PlainReporter], ended: threading.Event) -> None:
    """Look now and then until the stretch has ended, or nobody has its reporter any more."""
    while not ended.wait(LOOK):
        reporter = whose()
        if reporter is None:
            return
        with suppress(OSError, ValueError):  # stderr was closed: nobody listens any more
            reporter.look()
        del reporter


class TerminalReporter(Reporter):
    """A rich progress bar."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)
        self._bar = self._make_bar()
        self._task: TaskID | None = None
        self._title = ""

    def _make_bar(self) -> Progress:
        from rich import progress
        from rich.table import Column
        from rich.text import Text

        class Times(progress.ProgressColumn):
            """``1:05 elapsed, 0:35 left``."""

            def render(self, task: progress.Task) -> Text:
                return Text(times(task.elapsed, task.time_remaining), style="progress.elapsed")

        words = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # the numbers stay when the line is short
        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False, table_column=words),
            progress.BarColumn(bar_width=20),
            progress.TaskProgressColumn(table_column=Column(no_wrap=True)),
            Times(table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
            expand=True,
        )

    def say(self, text: str) -> None:
        """Print above the bar."""
        self._console.print(printable(text), markup=False, highlight=False)

    def start(self, text: str, *, attack: str | None = None) -> None:
        """Show a bar without a length."""
        self.stop()
        self._title = text
        self._bar = self._make_bar()
        self._task = self._bar.add_task(printable(text), total=None)
        self._bar.start()

    def update(self, done: float, total: float, text: str = "") -> None:
        """Move the bar."""
        if self._task is not None:
            description = f"{self._title}: {text}" if text else self._title
            self._bar.update(self._task, completed=done, total=total, description=printable(description))

    def stop(self) -> None:
        """Remove the bar."""
        if self._task is not None:
            self._bar.stop()
            self._task = None

    @contextmanager
    def aside(self, text: str) -> Iterator[Reporter]:
        """A bar of its own: below the one of the stretch, or alone."""
        alone = self._task is None
        if alone:
            self._bar = self._make_bar()
            self._bar.start()
        inner = _InnerBar(self._bar, self._bar.add_task(printable(text), total=None))
        try:
            yield inner
        finally:
            inner.stop()
            if alone:
                self._bar.stop()


class _InnerBar(Reporter):
    """One bar among those of a :class:`TerminalReporter`."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar, self._task = bar, task

    def update(self, done: float, total: float, text: str = "") -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total)

    def stop(self) -> None:
        """Remove the bar."""
        self._bar.update(self._task, visible=False)
