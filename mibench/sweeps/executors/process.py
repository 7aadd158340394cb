"""A worker process from outside: started, given jobs, listened to, buried."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from mibench.system.memory_kills import memory_kills

from .contract import Death, Event, Job
from .worker import Surroundings, log_name, work

PATIENCE = 10.0  # seconds that a worker has to end by itself


class WorkerProcess:
    """A process that does one job at a time.

    Attributes:
        job: what it does now; None: nothing.
        death: how it ended, once it has ended while it had a job.
    """

    def __init__(self, surroundings: Surroundings, timeout: float | None = None) -> None:
        self.surroundings = surroundings
        self.job: Job | None = None
        self.death: Death | None = None
        self._timeout = timeout
        self._started = 0.0
        self._micro_batch: int | None = None
        self._memory_kills: int | None = None
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, surroundings), name="mibench worker")
        with _ignoring_ctrl_c(), _no_main_module():
            self._process.start()
        theirs.close()

    @property
    def pid(self) -> int | None:
        """Its number for the system."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """Since it was given its job."""
        return time.monotonic() - self._started

    @property
    def seconds_left(self) -> float | None:
        """Until its job has taken too long; None: it may take any time."""
        return None if self._timeout is None or self.job is None else max(0.0, self._timeout - self.seconds)

    def give(self, job: Job) -> None:
        """Give it a job; it must have none."""
        self.job, self._started = job, time.monotonic()
        self._micro_batch, self._memory_kills = None, memory_kills()
        with contextlib.suppress(OSError):  # it has died meanwhile, which `news` will say
            self._connection.send(job.as_json())

    def ends(self) -> list[int | Connection]:
        """What becomes ready when there are news, for :func:`multiprocessing.connection.wait`."""
        return [self._process.sentinel, self._connection]

    def news(self) -> Iterator[Event]:
        """What has arrived. With a job's last event, or with :attr:`death`, the worker has no job any more."""
        alive = self._process.is_alive()  # asked first: what a dead process has sent has all arrived
        try:
            while self.job is not None and self._connection.poll():
                kind, content = self._connection.recv()
                yield from self._event(self.job, kind, content)
        except (EOFError, OSError):
            alive = False
        if self.job is None:
            return
        if not alive:
            self._process.join(PATIENCE)
            self._bury(died(self._process.exitcode, log_name(self.job)))
        elif self.seconds_left == 0.0:
            self._process.kill()
            self._process.join()
            self._bury(f"it took longer than {self._timeout:g} s (--timeout); what it finished is kept", retry=False)

    def _event(self, job: Job, kind: str, content: object) -> Iterator[Event]:
        if kind == "micro_batch" and isinstance(content, int):
            self._micro_batch = content
        elif kind == "share" and isinstance(content, float):
            yield Event(index=job.index, kind="share", share=content, seconds=self.seconds)
        elif kind == "message":
            yield Event(index=job.index, kind="message", text=str(content), seconds=self.seconds)
        elif kind in ("complete", "failed"):
            last: Event = Event(
                index=job.index,
                kind="complete" if kind == "complete" else "failed",
                text=str(content),
                seconds=self.seconds,
            )
            self.job = None
            remove_empty(self.surroundings.out / log_name(job))
            yield last

    def _bury(self, reason: str, *, retry: bool = True) -> None:
        before, after = self._memory_kills, memory_kills()
        full = before is not None and after is not None and after > before
        self.death = Death(
            reason=f"{reason} (memory was full)" if full and retry else reason,
            out_of_memory=full,
            micro_batch=self._micro_batch,
            retry=retry,
        )

    def dismiss(self) -> None:
        """End it, after its last job: it ends by itself once nobody speaks to it."""
        self._connection.close()
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def stop(workers: Sequence[WorkerProcess]) -> None:
    """End workers at once. A run survives that at any moment: what is stored is whole, the rest is done again."""
    for worker in workers:
        worker._process.terminate()
    for worker in workers:
        worker.dismiss()


def remove_empty(log: Path) -> None:
    """Remove the log of a worker that had nothing to print."""
    with contextlib.suppress(OSError):
        if log.stat().st_size == 0:
            log.unlink()
            log.parent.rmdir()  # fails while there are others


def died(exit_code: int | None, log: str) -> str:
    """Why a worker ended without a word."""
    if exit_code is not None and exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        hint = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
        return f"the worker process was killed by {name}{hint}"
    return f"the worker process ended with exit code {exit_code}; its last words are in {log}"


@contextlib.contextmanager
def _ignoring_ctrl_c() -> Iterator[None]:
    """Start processes that never hear Ctrl-C, which goes to everything on the terminal: their parent decides."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Start processes that do not run the main script again: a worker needs nothing of it."""
    main = sys.modules["__main__"]
    names = ("__file__", "__spec__")
    kept = {name: vars(main)[name] for name in names if name in vars(main)}
    try:
        for name in kept:
            setattr(main, name, None)
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)
