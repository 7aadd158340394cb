"""What every executor of a sweep takes and gives: cells to run as JSON, and events as they run."""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from mibench.errors import MibenchError
from mibench.runs.request import RunRequest
from mibench.system.canonical import JsonObject


@dataclass(frozen=True, kw_only=True)
class Job:
    """A cell to run, or some units of a run: the unit of work.

    Attributes:
        index: of the cell in its suite.
        name: of its run directory, and so of its log.
        makes: names of the run directories that it writes; two jobs never write one at the same time.
        units: indices of the units to attack, for a process that already holds the run directory; None: the whole
            run.
        micro_batch: the most images at a time; None: as many as a run of its own would take.
    """

    index: int
    request: RunRequest
    name: str = "cell"
    makes: frozenset[str] = frozenset()
    units: tuple[int, ...] | None = None
    micro_batch: int | None = None

    def as_json(self) -> str:
        """The job as text, for a worker elsewhere."""
        content: JsonObject = {
            "index": self.index,
            "request": self.request.as_plain(),
            "name": self.name,
            "makes": sorted(self.makes),
            "units": self.units,
            "micro_batch": self.micro_batch,
        }
        return json.dumps(content)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that :meth:`as_json` wrote."""
        content = json.loads(text)
        return cls(
            index=content["index"],
            request=RunRequest.from_plain(content["request"]),
            name=content["name"],
            makes=frozenset(content["makes"]),
            units=None if content["units"] is None else tuple(content["units"]),
            micro_batch=content["micro_batch"],
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


@dataclass(frozen=True, kw_only=True)
class Death:
    """A worker that ended without a word.

    Attributes:
        reason: how, in words.
        out_of_memory: whether the system killed a process for memory meanwhile.
        micro_batch: images at a time when it died; None: it had not come so far.
        retry: whether another worker may do better.
    """

    reason: str
    out_of_memory: bool = False
    micro_batch: int | None = None
    retry: bool = True


@dataclass(frozen=True, kw_only=True)
class ExecutorOptions:
    """What a person says about where and how jobs run. None of it changes a result, but for the number of threads,
    by which sums may round differently.

    Attributes:
        jobs: workers side by side, at least 1; None: as many as the executor thinks right.
        device: as for ``mibench run``; each executor spreads its workers over the devices that it has.
        threads: of PyTorch in each worker, at least 1; None: the executor's choice.
        timeout: seconds that a job may take before its worker is ended; None: any number.
        retries: how often a job is given to another worker when its worker died, at least 0.
        warm: keep worker processes for further jobs, instead of a fresh one for each.
        address: of a cluster that is already running; None: the executor starts what it needs.
        allow_changed_code: continue runs although the code that began them has changed.
    """

    jobs: int | None = None
    device: str = "auto"
    threads: int | None = None
    timeout: float | None = None
    retries: int = 2
    warm: bool = False
    address: str | None = None
    allow_changed_code: bool = False

    def __post_init__(self) -> None:
        for name in ("jobs", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MibenchError(f"{name} must be at least 1, got {value}")
        if self.timeout is not None and not (math.isfinite(self.timeout) and self.timeout > 0):
            raise MibenchError(f"timeout must be a number of seconds above 0, got {self.timeout}")
        if self.retries < 0:
            raise MibenchError(f"retries must be at least 0, got {self.retries}")


class Executor(Protocol):
    """Runs jobs, each as ``mibench run`` would, into one folder of run directories."""

    @classmethod
    def create(cls, out: Path, options: ExecutorOptions) -> Self:
        """An executor that writes below ``out``. It starts nothing before :meth:`run`.

        Raises:
            MibenchError: an option that this executor does not have, a device that is not there.
        """

    @property
    def out(self) -> Path:
        """The folder of run directories."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each worker, as far as it is known before :meth:`run`; as many jobs run at a time."""

    def run(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        """Run jobs, in their order as far as they do not have to wait for each other's floors.

        Every job ends with one ``complete`` or ``failed``, also where its worker dies; a failure stops no other job.
        Closing the iterator, or an error in it, stops every worker; a run survives that at any moment.

        Raises:
            MibenchError: no worker can ever run a job.
        """
