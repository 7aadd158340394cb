"""Jobs that wait: which may start now, and what becomes of one whose worker died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mibench.errors import MibenchError
from mibench.runs.store import RunDir

from .contract import Death, Event, Job


class JobQueue:
    """The jobs of an executor that no worker has yet."""

    def __init__(self, jobs: Iterable[Job], out: Path, retries: int) -> None:
        self._waiting = list(jobs)
        self._out = out
        self._retries = retries
        self._deaths = Counter[int]()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, running: Iterable[Job]) -> Job | None:
        """The first job that would not wait for a run directory that another one is making; it is then a worker's."""
        made = {name for job in running for name in job.makes}
        busy = {name for name in made if not _complete(RunDir(self._out / name))}
        job = next((job for job in self._waiting if not job.makes & busy), None)
        if job is not None:
            self._waiting.remove(job)
        return job

    def buried(self, job: Job, death: Death, seconds: float) -> Event:
        """The worker of a job died: the job waits again, before all others, or has failed.

        It continues at the first unit that is not stored. Where memory was full, it takes half the images at a time.
        """
        self._deaths[job.index] += 1
        count = self._deaths[job.index]
        if not death.retry or count > self._retries:
            times = f" (worker {count} of {count} that died)" if count > 1 and death.retry else ""
            return Event(index=job.index, kind="failed", text=f"{death.reason}{times}", seconds=seconds)
        text = f"{death.reason}; another worker continues (retry {count} of {self._retries})"
        if death.out_of_memory and death.micro_batch is not None and death.micro_batch > 1:
            job = replace(job, micro_batch=death.micro_batch // 2)
            text += f" with {job.micro_batch} images at a time"
        self._waiting.insert(0, job)
        return Event(index=job.index, kind="message", text=text, seconds=seconds)

    def abandoned(self, reason: str) -> list[Event]:
        """Fail every job that waits."""
        events = [Event(index=job.index, kind="failed", text=reason) for job in self._waiting]
        self._waiting.clear()
        return events


def _complete(folder: RunDir) -> bool:
    try:
        return folder.record().get("status") == "complete"
    except MibenchError:  # spoilt meanwhile: the worker that makes it will say so
        return False
