"""Worker processes: one cell, one process, started afresh.

So a crash is one failed cell, memory is given back, and the peak memory that a run records is its own. A worker does
what ``mibench run`` does and tells its parent how far it is; it ends when the parent does.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from mibench import registry
from mibench.errors import MibenchError
from mibench.party_errors import PartyError
from mibench.runs.store import RunDir
from mibench.sweeps.status import demands, one_line
from mibench.system.progress import Reporter

from .contract import Event, Job

TICK = 1.0  # seconds between two looks at floors that cells wait for
QUIET = 0.2  # seconds between two messages about progress
PATIENCE = 10.0  # seconds that a worker has to end by itself
WORKERS_LOG = "workers.log"
ATTACK_SHARE = 0.95  # share of a cell that its attack takes; judging and drawing are the rest


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
    allow_changed_code: bool = False

    def run(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        """Run jobs, in their order as far as they do not have to wait for each other's floors.

        Closing the iterator, or an error in it, stops every worker.
        """
        waiting, free = list(jobs), list(self.devices)
        running: list[_Worker] = []
        try:
            while waiting or running:
                while free and (job := _next(waiting, running, self.out)) is not None:
                    waiting.remove(job)
                    running.append(self._start(job, free.pop(0)))
                    yield Event(index=job.index, kind="started")
                wait([end for worker in running for end in worker.ends()], timeout=TICK if waiting else None)
                for worker in list(running):
                    yield from worker.news()
                    if worker.over:
                        running.remove(worker)
                        free.append(worker.device)
                        yield worker.outcome()
        finally:
            _stop(running)

    def _start(self, job: Job, device: str) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe(duplex=False)
        log = self.out / WORKERS_LOG
        arguments = (theirs, job.as_json(), self.out, device, self.threads, self.allow_changed_code, log)
        process = context.Process(target=work, args=arguments, name=f"mibench cell {job.index}")
        with _ignoring_ctrl_c():
            process.start()
        theirs.close()
        return _Worker(job, device, process, ours)


def _next(waiting: Sequence[Job], running: Sequence[_Worker], out: Path) -> Job | None:
    """The first job that would not wait for a run directory that another one is making."""
    made = {name for worker in running for name in worker.job.makes}
    busy = {name for name in made if not _complete(RunDir(out / name))}
    return next((job for job in waiting if not job.makes & busy), None)


def _complete(folder: RunDir) -> bool:
    try:
        return folder.record().get("status") == "complete"
    except MibenchError:  # spoilt meanwhile: the worker that makes it will say so
        return False


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


def _stop(running: Sequence[_Worker]) -> None:
    """End workers at once. A run survives that at any moment: what is stored is whole, the rest is done again."""
    for worker in running:
        worker.process.terminate()
    for worker in running:
        worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


@dataclass
class _Worker:
    """The parent's side of a worker."""

    job: Job
    device: str
    process: multiprocessing.process.BaseProcess
    connection: Connection
    started: float = field(default_factory=time.monotonic)
    over: bool = False
    last: tuple[str, str] | None = None  # "complete" or "failed", once it is known
    title: str = ""
    listening: bool = True

    def ends(self) -> list[int | Connection]:
        """What becomes ready when there are news."""
        return [self.process.sentinel, *([self.connection] if self.listening else [])]

    def news(self) -> Iterator[Event]:
        """Messages that have arrived; notices the end of the process."""
        self.over = not self.process.is_alive()  # asked first: what a dead process has sent has all arrived
        while self.listening and self.connection.poll():
            try:
                kind, content = self.connection.recv()
            except (EOFError, OSError):
                self.listening = False
                break
            if kind in ("complete", "failed"):
                self.last = kind, content
            elif kind == "share":
                yield Event(index=self.job.index, kind="share", share=content)
            else:
                yield Event(index=self.job.index, kind="message", text=content)

    def outcome(self) -> Event:
        """How it ended."""
        self.process.join()
        self.connection.close()
        seconds = time.monotonic() - self.started
        if self.last is None:
            reason = died(self.process.exitcode)
            return Event(index=self.job.index, kind="failed", text=reason, seconds=seconds)
        kind, text = self.last
        if kind == "complete":
            return Event(index=self.job.index, kind="complete", seconds=seconds)
        return Event(index=self.job.index, kind="failed", text=text, seconds=seconds)


def died(exit_code: int | None) -> str:
    """Why a worker ended without a word."""
    if exit_code is not None and exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        hint = ", which the system sends when memory runs out" if name == "SIGKILL" else ""
        return f"the worker process was killed by {name}{hint}"
    return f"the worker process ended with exit code {exit_code}; its last words are in {WORKERS_LOG}"


class PipeReporter(Reporter):
    """Tells the parent. The share of a cell is that of its own attack: what comes before and after counts little."""

    def __init__(self, connection: Connection, attack: str) -> None:
        self._connection = connection
        self._attack = attack
        self._counts = False
        self._last = 0.0

    def say(self, text: str) -> None:
        """Pass the sentence on."""
        self._send("message", text)

    def start(self, text: str, *, attack: str | None = None) -> None:
        """Note whether the stretch is the cell's own attack."""
        self._counts = attack == self._attack

    def update(self, done: float, total: float, text: str = "") -> None:
        """Pass the share on, a few times a second."""
        now = time.monotonic()
        if self._counts and total > 0 and now - self._last >= QUIET:
            self._last = now
            self._send("share", ATTACK_SHARE * min(done / total, 1.0))

    def _send(self, kind: str, content: object) -> None:
        with contextlib.suppress(OSError):  # the parent is gone; the watch ends this process
            self._connection.send((kind, content))


def work(
    connection: Connection,
    job: str,
    out: Path,
    device: str,
    threads: int,
    allow_changed_code: bool,
    log: Path,
) -> None:
    """A worker's whole life: run one cell, a :class:`Job` as JSON, and say how it went."""
    request = Job.from_json(job).request
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_parent()
    _write_to(log)
    try:
        import torch

        from mibench.runs.attack import Execution
        from mibench.runs.run import run_request
        from mibench.system.devices import choose_device

        torch.set_num_threads(threads)
        attack = registry.attack_entry(str(request.attack))[0].name
        machine = Execution(choose_device(device), reporter=PipeReporter(connection, attack))
        run = run_request(request, out, machine, allow_changed_code=allow_changed_code, unused=False)
    except PartyError as error:
        connection.send(("failed", one_line(f"{error.cause} (traceback in {WORKERS_LOG})")))
        traceback.print_exception(error.__cause__)
        return
    except MibenchError as error:
        connection.send(("failed", one_line(str(error))))
        return
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}")[:500]
        connection.send(("failed", f"{reason} (traceback in {WORKERS_LOG})"))
        sys.stderr.write(f"{request.attack} against {request.target}, seed {request.seed}\n")
        raise
    if run.missing:
        connection.send(("failed", demands(run.missing)))
    else:
        connection.send(("complete", None))


def _watch_parent() -> None:
    """End this process when its parent ends, however that happens."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write_to(log: Path) -> None:
    """Send everything that is printed here, by libraries too, to the end of a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
