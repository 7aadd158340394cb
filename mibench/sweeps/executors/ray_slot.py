"""A worker on a node of a Ray cluster: an actor that has a process of :mod:`process` do its jobs.

The actor itself loads no torch. So what kills a job, its memory or its code, is told by somebody who survives it, and
a process on a node is the same as one of ``local``.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path

from mibench.version import __version__

from .contract import Death, Event, Job
from .process import WorkerProcess
from .storage import OF_A_HOME, Changes, Files, unpack
from .worker import Surroundings, log_name

FILES_EVERY = 2.0  # seconds between two looks for files to send home
News = Event | Death | dict[str, bytes]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a worker says about itself before it is given a job.

    Attributes:
        node: the name of the machine.
        versions: of mibench and torch.
        sees: whether the folder of the sweep is here as well.
        home: whether the person's own cards and weights, by their hash, lie here already.
    """

    node: str
    versions: tuple[str, str]
    sees: bool
    home: bool


def versions() -> tuple[str, str]:
    """Of mibench and torch, in this environment."""
    return __version__, importlib.metadata.version("torch")


class Slot:
    """The actor: one job at a time."""

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        environment: Mapping[str, str],
        directory: str,
        timeout: float | None,
        warm: bool,
        share_every: float,
    ) -> None:
        os.environ.update(environment)
        if Path(directory).is_dir():  # files that a request names by relative paths
            os.chdir(directory)
        self._surroundings = surroundings
        self._timeout = timeout
        self._warm = warm
        self._share_every = share_every
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._worker: WorkerProcess | None = None

    def facts(self, token: str, home: str | None) -> Facts:
        """See :class:`Facts`.

        Args:
            token: name of a file that the sweep has put into its folder.
            home: hash of the person's own cards and weights.
        """
        sees = (self._surroundings.out / token).is_file()
        here = home is not None and (_home_of(home) / ".complete").is_file()
        return Facts(node=platform.node(), versions=versions(), sees=sees, home=here)

    def live_apart(self, digest: str, home: Files | None) -> None:
        """Work in a folder of this machine's own, with the person's own cards and weights.

        Args:
            digest: hash of ``home``.
            home: the files; None: they are here already.
        """
        folder = _home_of(digest)
        if home is not None:
            unpack(home, folder)
            for name in OF_A_HOME:
                (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / ".complete").touch()
        os.environ["MIBENCH_HOME"] = str(folder)
        self._scratch = tempfile.TemporaryDirectory(prefix="mibench-")
        self._surroundings = replace(self._surroundings, out=Path(self._scratch.name))

    def run(self, text: str, stored: Files) -> Generator[News, None, None]:
        """Do a job, told as JSON, and tell how it goes; its last news is an event that ends it, or a death.

        Args:
            text: the job.
            stored: what its run directories hold already, where this worker does not see them.
        """
        job = Job.from_json(text)
        changes = None
        if self._scratch is not None:
            unpack(stored, self._surroundings.out)
            changes = Changes(self._surroundings.out, (*sorted(job.makes), log_name(job)))
            changes.taken()  # those are there already
        worker, self._worker = self._worker or WorkerProcess(self._surroundings, self._timeout), None
        worker.give(job)
        told, looked = 0.0, time.monotonic()
        while worker.job is not None and worker.death is None:
            wait(worker.ends(), timeout=_shorter(worker.seconds_left, None if changes is None else FILES_EVERY))
            for event in worker.news():
                if event.kind in ("complete", "failed"):
                    yield from _sent(changes)
                elif event.kind == "share" and event.seconds - told < self._share_every:
                    continue
                told = event.seconds
                yield event
            if changes is not None and time.monotonic() - looked >= FILES_EVERY:
                yield from _sent(changes)
                looked = time.monotonic()
        if worker.death is not None:
            yield from _sent(changes)
            yield worker.death
        if self._warm and worker.death is None:
            self._worker = worker
        else:
            worker.dismiss()
        if changes is not None:  # they are at home now; what the next job needs of them comes with it
            for name in job.makes:
                shutil.rmtree(self._surroundings.out / name, ignore_errors=True)


def _sent(changes: Changes | None) -> Generator[News, None, None]:
    if changes is not None and (files := changes.taken()):
        yield files


def _home_of(digest: str) -> Path:
    return Path(tempfile.gettempdir()) / f"mibench-home-{digest[:32]}"


def _shorter(*seconds: float | None) -> float | None:
    return min((one for one in seconds if one is not None), default=None)


__all__ = ["Facts", "News", "Slot", "versions"]
