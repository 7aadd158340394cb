"""How long work tells the person about itself. This one is silent; the command line has two that speak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Reporter:
    """Receives messages and progress. Every method may be called at any time; none may raise."""

    def say(self, text: str) -> None:
        """A sentence worth reading once."""

    def start(self, text: str, *, attack: str | None = None) -> None:
        """A new stretch of work begins; its length comes with the first :meth:`update`.

        Args:
            text: what is done.
            attack: the attack that runs, where the stretch is one.
        """

    def update(self, done: float, total: float, text: str = "") -> None:
        """How far the stretch has come."""

    def stop(self) -> None:
        """The stretch has ended."""

    @contextmanager
    def aside(self, text: str) -> Iterator[Reporter]:
        """Work inside a stretch, such as decoding images during a training: the stretch goes on afterwards.

        Yields:
            A reporter whose :meth:`update` is about that work.
        """
        yield Reporter()


@contextmanager
def stretch(reporter: Reporter, text: str) -> Iterator[None]:
    """A stretch of work from :meth:`Reporter.start` to :meth:`Reporter.stop`."""
    reporter.start(text)
    try:
        yield
    finally:
        reporter.stop()


_CURRENT: ContextVar[Reporter | None] = ContextVar("mibench_reporter", default=None)


def current_reporter() -> Reporter:
    """The reporter of the command that runs, for work too deep for anyone to hand it one; silent when there is none."""
    return _CURRENT.get() or Reporter()


def set_current_reporter(reporter: Reporter) -> None:
    """Make ``reporter`` hear of work that was handed none."""
    _CURRENT.set(reporter)
