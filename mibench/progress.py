"""How long work tells the person about itself. This one is silent; the command line has two that speak."""

from __future__ import annotations


class Reporter:
    """Receives messages and progress. Every method may be called at any time; none may raise."""

    def say(self, text: str) -> None:
        """A sentence worth reading once."""

    def start(self, text: str) -> None:
        """A new stretch of work begins; its length comes with the first :meth:`update`."""

    def update(self, done: float, total: float, text: str = "") -> None:
        """How far the stretch has come."""

    def stop(self) -> None:
        """The stretch has ended."""
