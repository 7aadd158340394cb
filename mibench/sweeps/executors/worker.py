"""A worker process from within: it does what ``mibench run`` does, one job after another, and tells how far it is.

It ends when nobody has a job for it any more, and when its parent ends, however that happens.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from mibench import registry
from mibench.errors import MibenchError
from mibench.system.progress import Reporter

from .contract import Job

if TYPE_CHECKING:
    from mibench.runs.attack import Execution

QUIET = 0.2  # seconds between two messages about progress
HANDOVER = (
    600.0  # seconds that a run waits for the end of a worker that had it before: on a lost node it may take a while
)
LOGS = "logs"  # folder of what workers print, a file for each run
ATTACK_SHARE = 0.95  # share of a cell that its attack takes; judging and drawing are the rest


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a worker needs besides jobs.

    Attributes:
        out: the folder of run directories.
        threads: of PyTorch.
    """

    out: Path
    device: str
    threads: int
    allow_changed_code: bool = False


def log_name(job: Job) -> str:
    """What a worker prints while it does a job, relative to the folder of run directories."""
    return f"{LOGS}/{job.name}.log"


class PipeReporter(Reporter):
    """Tells the parent. The share of a cell is that of its own attack: what comes before and after counts little."""

    def __init__(self, connection: Connection, attack: str) -> None:
        self.machine: Execution | None = None  # what runs, once it is known
        self._connection = connection
        self._attack = attack
        self._counts = False
        self._last = 0.0

    def say(self, text: str) -> None:
        """Pass the sentence on."""
        self._send("message", text)
        self._tell_micro_batch()

    def start(self, text: str, *, attack: str | None = None) -> None:
        """Note whether the stretch is the cell's own attack."""
        self._counts = attack == self._attack
        if attack is not None:
            self._tell_micro_batch()

    def update(self, done: float, total: float, text: str = "") -> None:
        """Pass the share on, a few times a second."""
        now = time.monotonic()
        if self._counts and total > 0 and now - self._last >= QUIET:
            self._last = now
            self._send("share", ATTACK_SHARE * min(done / total, 1.0))

    def _tell_micro_batch(self) -> None:
        """So that the parent knows it if this process is killed for its memory."""
        if self.machine is not None:
            self._send("micro_batch", self.machine.micro_batch)

    def _send(self, kind: str, content: object) -> None:
        with contextlib.suppress(OSError):  # the parent is gone; the watch ends this process
            self._connection.send((kind, content))


def work(connection: Connection, surroundings: Surroundings) -> None:
    """A worker's whole life: jobs as JSON come in, what becomes of them goes out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _watch_parent()
    while True:
        try:
            text = connection.recv()
        except (EOFError, OSError):
            return
        job = Job.from_json(text)
        _write_to(surroundings.out / log_name(job))
        answer = _answer(job, surroundings, connection)
        sys.stdout.flush()
        sys.stderr.flush()
        gc.collect()  # networks of one cell must not lie beside those of the next
        connection.send(answer)


def _answer(job: Job, surroundings: Surroundings, connection: Connection) -> tuple[str, str]:
    """Do a job: ``complete`` or ``failed``, and why."""
    from mibench.party_errors import PartyError  # torch is loaded here: whoever starts workers need not have it
    from mibench.sweeps.status import demands, one_line

    request = job.request
    log = log_name(job)
    try:
        import torch

        from mibench.runs.attack import MICRO_BATCH, Execution
        from mibench.runs.parts import attack_part
        from mibench.runs.run import run_request
        from mibench.system.devices import choose_device

        torch.set_num_threads(surroundings.threads)
        attack = registry.attack_entry(str(request.attack))[0].name
        reporter = PipeReporter(connection, attack)
        device = choose_device(surroundings.device)
        machine = Execution(device, micro_batch=job.micro_batch or MICRO_BATCH, reporter=reporter)
        reporter.machine = machine
        if job.units is not None:
            attack_part(request, surroundings.out, job.units, machine)
            return "complete", ""
        run = run_request(
            request,
            surroundings.out,
            machine,
            allow_changed_code=surroundings.allow_changed_code,
            unused=False,
            patience=HANDOVER,
        )
    except PartyError as error:
        traceback.print_exception(error.__cause__)
        return "failed", one_line(f"{error.cause} (traceback in {log})")
    except MibenchError as error:
        return "failed", one_line(str(error))
    except Exception as error:  # noqa: BLE001 (whatever it is, it ends this cell and no other)
        sys.stderr.write(f"{request.attack} against {request.target}, seed {request.seed}\n")
        traceback.print_exception(error)
        return "failed", f"{one_line(f'{type(error).__name__}: {error}')[:500]} (traceback in {log})"
    return ("failed", demands(run.missing)) if run.missing else ("complete", "")


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
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
