"""What every executor of a sweep takes and gives: cells to run as JSON, and events as they run."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from mibench.runs.request import RunRequest


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell to run: the unit of work.

    Attributes:
        index: of the cell in its suite.
        makes: names of the run directories that it writes; two jobs never write one at the same time.
    """

    index: int
    request: RunRequest
    makes: frozenset[str] = frozenset()

    def as_json(self) -> str:
        """The job as text, for a worker elsewhere."""
        return json.dumps({"index": self.index, "request": self.request.as_plain(), "makes": sorted(self.makes)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that :meth:`as_json` wrote."""
        content = json.loads(text)
        return cls(
            index=content["index"],
            request=RunRequest.from_plain(content["request"]),
            makes=frozenset(content["makes"]),
        )


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened to a job.

    Attributes:
        kind: ``started``; ``share`` of the cell that is done; ``message``, a sentence; ``complete``; ``failed``.
        text: the sentence, or the reason of a failure.
        seconds: since the job started.
    """

    index: int
    kind: Literal["started", "share", "message", "complete", "failed"]
    text: str = ""
    share: float = 0.0
    seconds: float = 0.0


class Executor(Protocol):
    """Runs jobs, each as ``mibench run`` would, into one folder of run directories."""

    @property
    def out(self) -> Path:
        """The folder of run directories."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each worker; as many jobs run at a time."""

    def run(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        """Run jobs, in their order as far as they do not have to wait for each other's floors.

        Every job ends with one ``complete`` or ``failed``, also where its worker dies; a failure stops no other job.
        Closing the iterator, or an error in it, stops every worker; a run survives that at any moment.
        """
