"""Worker processes of this machine: one cell, one process, started afresh, unless workers stay warm.

So a crash is one cell, memory is given back, and the peak memory that a run records is its own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Self

import torch

from mibench.errors import MibenchError
from mibench.system.devices import choose_device

from .contract import Event, ExecutorOptions, Job
from .process import WorkerProcess, stop
from .queue import JobQueue
from .worker import Surroundings

TICK = 1.0  # seconds between two looks at floors that cells wait for


def worker_devices(device: str, jobs: int | None) -> tuple[str, ...]:
    """The device of each worker: one worker on a CPU and one for each GPU, unless ``jobs`` says how many.

    Raises:
        MibenchError: ``jobs`` below 1, no such device.
    """
    if jobs is not None and jobs < 1:
        raise MibenchError(f"jobs must be at least 1, got {jobs}")
    chosen = choose_device(device)
    names = [str(chosen)]
    if chosen.type == "cuda" and chosen.index is None:
        names = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return tuple(names[number % len(names)] for number in range(jobs or len(names)))


def threads_each(jobs: int) -> int:
    """PyTorch's threads in each of ``jobs`` workers: they share what one process would have."""
    return max(1, torch.get_num_threads() // jobs)


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """Worker processes of this machine.

    Attributes:
        out: the folder of run directories.
        devices: one for each worker; as many jobs run at a time.
        threads: of PyTorch in each worker.
    """

    out: Path
    devices: tuple[str, ...]
    threads: int
    options: ExecutorOptions = field(default_factory=ExecutorOptions)

    @classmethod
    def create(cls, out: Path, options: ExecutorOptions) -> Self:
        """Workers for the devices of this machine.

        Raises:
            MibenchError: no such device; an address, which only clusters have.
        """
        if options.address is not None:
            raise MibenchError("an address is of a cluster, and the executor local has none", cure="--executor ray")
        devices = worker_devices(options.device, options.jobs)
        return cls(out=out, devices=devices, threads=options.threads or threads_each(len(devices)), options=options)

    def run(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        """Run jobs, in their order as far as they do not have to wait for each other's floors.

        Closing the iterator, or an error in it, stops every worker.
        """
        queue, free = JobQueue(jobs, self.out, self.options.retries), list(self.devices)
        running: list[WorkerProcess] = []
        idle: list[WorkerProcess] = []
        try:
            while queue or running:
                while (free or idle) and (job := queue.take(_jobs(running))) is not None:
                    worker = idle.pop() if idle else self._worker(free.pop(0))
                    worker.give(job)
                    running.append(worker)
                    yield Event(index=job.index, kind="started")
                wait([end for worker in running for end in worker.ends()], timeout=_patience(queue, running))
                for worker in list(running):
                    job = worker.job
                    yield from worker.news()
                    if job is not None and worker.death is not None:
                        yield queue.buried(job, worker.death, worker.seconds)
                    elif worker.job is not None:
                        continue
                    running.remove(worker)
                    if self.options.warm and worker.death is None:
                        idle.append(worker)
                    else:
                        worker.dismiss()
                        free.append(worker.surroundings.device)
        finally:
            stop([*running, *idle])

    def _worker(self, device: str) -> WorkerProcess:
        surroundings = Surroundings(
            out=self.out,
            device=device,
            threads=self.threads,
            allow_changed_code=self.options.allow_changed_code,
        )
        return WorkerProcess(surroundings, self.options.timeout)


def _jobs(running: Iterable[WorkerProcess]) -> list[Job]:
    return [worker.job for worker in running if worker.job is not None]


def _patience(queue: JobQueue, running: Iterable[WorkerProcess]) -> float | None:
    """Seconds until somebody has to be looked at although nobody has said anything; None: any number."""
    limits = [left for worker in running if (left := worker.seconds_left) is not None]
    return min([*limits, *([TICK] if queue else [])], default=None)
