"""Workers on a Ray cluster: one that runs already, or a local one that ends with the sweep.

Each worker is an actor (:mod:`ray_slot`) with the cores and the GPU that it needs. What the cluster has is compared
with that before anything is submitted. A worker, or the node below it, may die: its job continues on another at the
first unit that is not stored. This process may die: the actors end with it, and the same command continues, by any
executor.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Self

from mibench.errors import MibenchError
from mibench.system.paths import home

from .contract import Death, Event, ExecutorOptions, Job
from .queue import JobQueue
from .ray_resources import Need, refuse_what_cannot_start, room_of
from .ray_slot import Facts, Slot, versions
from .storage import OF_A_HOME, Files, digest_of, packed, unpack
from .worker import Surroundings

if TYPE_CHECKING:
    from ray import ObjectRef, ObjectRefGenerator
    from ray.actor import ActorHandle

TICK = 1.0  # seconds between two looks at nodes, and at floors that cells wait for
START_PATIENCE = 300.0  # seconds without any worker until the jobs that are left fail
FAILED_STARTS = 3  # workers in a row that cannot start until the jobs that are left fail
NEWS_A_SECOND = 100.0  # shares of cells that all workers together tell
STORE_BYTES = 1 << 28  # object store of a local cluster: jobs are text, and its workers see the folder of the sweep
PASSED_ON = (
    *("MIBENCH_HOME", "MIBENCH_DATA", "MIBENCH_CACHE", "MIBENCH_OFFLINE", "MIBENCH_PLUGINS"),
    *("MIBENCH_INCEPTION", "MIBENCH_TRACEBACK"),
)


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Actors of a Ray cluster.

    Attributes:
        out: the folder of run directories, on this machine; workers that do not see it send files.
        need: what each worker takes of its node.
    """

    out: Path
    need: Need
    options: ExecutorOptions = field(default_factory=ExecutorOptions)

    @classmethod
    def create(cls, out: Path, options: ExecutorOptions) -> Self:
        """An executor for the cluster at ``options.address``, else in ``RAY_ADDRESS``, else a local one.

        Raises:
            MibenchError: Ray is not installed; a device that is not ``auto``, ``cpu`` or ``cuda``.
        """
        if find_spec("ray") is None:
            raise MibenchError("the executor ray needs Ray, which is not installed", cure="pip install 'mibench[ray]'")
        if options.device not in ("auto", "cpu", "cuda"):
            raise MibenchError(
                f"unknown device {options.device!r} for a cluster, which chooses the GPU of each worker",
                cure="choose auto, cpu or cuda",
            )
        return cls(out=out.resolve(), need=Need(cpus=options.threads or 1), options=options)

    @property
    def devices(self) -> tuple[str, ...]:
        """The device of each worker that was asked for; how many there are is the cluster's matter otherwise."""
        return (self.options.device,) * (self.options.jobs or 1)

    def run(self, jobs: Iterable[Job]) -> Generator[Event, None, None]:
        """Run jobs on the cluster; see :meth:`~.contract.Executor.run`.

        Raises:
            MibenchError: no such cluster, or no room for the workers that were asked for; a worker has other versions
                of mibench or torch.
        """
        import ray

        waiting = list(jobs)
        with _connected(self.options, self.need), _token(self.out) as token:
            nodes = ray.nodes()
            need = self.need.on(nodes, self.options)
            refuse_what_cannot_start(nodes, need, self.options.jobs)
            count = min(self.options.jobs or room_of(nodes, need), len(waiting))
            pool = _Pool(self, need, count, token)
            try:
                yield from pool.run(JobQueue(waiting, self.out, self.options.retries))
            finally:
                pool.stop()


@dataclass(eq=False)
class _Member:
    """A worker as seen from here.

    Attributes:
        ready: what it has said about itself; None: it is being started.
        stream: its news while it has a job.
    """

    actor: ActorHandle
    telling: ObjectRef
    ready: Facts | None = None
    job: Job | None = None
    stream: ObjectRefGenerator | None = None
    began: float = 0.0

    @property
    def expected(self) -> ObjectRef | ObjectRefGenerator | None:
        """What it will say next; None: it has nothing to do."""
        return self.telling if self.ready is None else self.stream

    @property
    def seconds(self) -> float:
        """Since it was given its job."""
        return time.monotonic() - self.began


class _Pool:
    """The workers of a sweep."""

    def __init__(self, executor: RayExecutor, need: Need, count: int, token: str) -> None:
        import ray

        self._executor = executor
        self._need = need
        self._count = count
        self._token = token
        self._members: list[_Member] = []
        self._failed_starts = 0
        self._last_ready = time.monotonic()
        self._trouble = ""
        self._home: Files = packed(home(), OF_A_HOME)
        self._home_digest = digest_of(self._home)
        self._home_object: ObjectRef | None = None
        self._kind = ray.remote(Slot)

    def run(self, queue: JobQueue) -> Iterator[Event]:
        """Give jobs to workers until none is left."""
        while queue or self._busy():
            if len(queue) < sum(member.job is None for member in self._members):
                self._release(queue)
            self._recruit(queue)
            for member in [one for one in self._members if one.ready is not None and one.job is None]:
                job = queue.take(self._busy())
                if job is None:
                    break
                self._begin(member, job)
                yield Event(index=job.index, kind="started")
            yield from self._hear(queue)
            if queue and (reason := self._hopeless()):
                yield from queue.abandoned(reason)

    def stop(self) -> None:
        """End every worker at once."""
        for member in self._members:
            _end(member)
        self._members.clear()

    def _busy(self) -> list[Job]:
        return [member.job for member in self._members if member.job is not None]

    def _recruit(self, queue: JobQueue) -> None:
        """Start workers where some have died, as far as the nodes that are alive have room."""
        import ray

        wanted = min(self._count, len(self._busy()) + len(queue), room_of(ray.nodes(), self._need))
        for _ in range(wanted - len(self._members)):
            self._members.append(self._recruited())

    def _recruited(self) -> _Member:
        executor, options = self._executor, self._executor.options
        surroundings = Surroundings(
            out=executor.out,
            device=self._need.device,
            threads=executor.need.cpus,
            allow_changed_code=options.allow_changed_code,
        )
        actor = self._kind.options(num_cpus=self._need.cpus, num_gpus=self._need.gpus, max_restarts=0).remote(
            surroundings,
            environment={name: os.environ[name] for name in PASSED_ON if name in os.environ},
            directory=str(Path.cwd()),
            timeout=options.timeout,
            warm=options.warm,
            share_every=self._count / NEWS_A_SECOND,
        )
        return _Member(actor, actor.facts.remote(self._token, self._home_digest))

    def _release(self, queue: JobQueue) -> None:
        """Give idle workers back to the cluster when there are more than jobs that wait."""
        idle = [member for member in self._members if member.job is None]
        for member in idle[len(queue) :]:
            self._lose(member)

    def _begin(self, member: _Member, job: Job) -> None:
        import ray

        stored: Files = {}
        if member.ready is not None and not member.ready.sees:
            stored = packed(self._executor.out, job.makes)
        reference = ray.put(stored)
        member.job, member.began = job, time.monotonic()
        member.stream = member.actor.run.options(num_returns="streaming").remote(job.as_json(), reference)

    def _hear(self, queue: JobQueue) -> Iterator[Event]:
        """What workers say next; waits a little for it."""
        import ray

        expected = {id(member.expected): member for member in self._members if member.expected is not None}
        if not expected:
            time.sleep(TICK)
            return
        references = [member.expected for member in expected.values()]
        ray.wait(references, num_returns=1, timeout=TICK)
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        for reference in ready:
            yield from self._heard(expected[id(reference)], queue)

    def _heard(self, member: _Member, queue: JobQueue) -> Iterator[Event]:
        import ray

        try:
            if member.ready is None:
                self._welcome(member, ray.get(member.telling))
                return
            news = ray.get(next(iter(member.stream or ())))
        except (ray.exceptions.RayError, StopIteration) as error:
            self._lose(member)
            self._trouble = _worded(error)
            self._failed_starts += member.ready is None
            if member.job is not None:
                # by its class alone: the text of every unexpected death names the memory killer as a potential cause
                full = isinstance(error, ray.exceptions.OutOfMemoryError)
                node = "" if member.ready is None else f" on {member.ready.node}"
                death = Death(reason=f"the worker{node} died: {self._trouble}", out_of_memory=full)
                yield queue.buried(member.job, death, member.seconds)
            return
        if member.job is not None:
            yield from self._told(member, member.job, news, queue)

    def _told(self, member: _Member, job: Job, news: object, queue: JobQueue) -> Iterator[Event]:
        if isinstance(news, dict):
            unpack(news, self._executor.out)
        elif isinstance(news, Death):
            member.job = member.stream = None
            yield queue.buried(job, news, member.seconds)
        elif isinstance(news, Event):
            if news.kind in ("complete", "failed"):
                member.job = member.stream = None
            yield news

    def _welcome(self, member: _Member, facts: Facts) -> None:
        """A worker has started: it must be like this process, and have the files that it needs."""
        import ray

        if facts.versions != versions():
            ours, theirs = (" with torch ".join(found) for found in (versions(), facts.versions))
            raise MibenchError(
                f"node {facts.node} has mibench {theirs}, this machine {ours}: numbers may differ",
                cure="install the same on every node",
            )
        if not facts.sees:
            if not facts.home and self._home_object is None:
                self._home_object = ray.put(self._home)
            member.actor.live_apart.remote(self._home_digest, None if facts.home else self._home_object)
        member.ready = facts
        self._failed_starts, self._last_ready = 0, time.monotonic()

    def _lose(self, member: _Member) -> None:
        _end(member)
        self._members.remove(member)

    def _hopeless(self) -> str | None:
        """Why no job that waits will ever start; None: one may."""
        if any(member.ready is not None for member in self._members):
            self._last_ready = time.monotonic()
            return None
        if self._failed_starts >= FAILED_STARTS:
            return f"no worker can start on the Ray cluster: {self._trouble}"
        if time.monotonic() - self._last_ready > START_PATIENCE:
            trouble = f" (the last one died: {self._trouble})" if self._trouble else ""
            return (
                f"no worker with {self._need} was free on the Ray cluster for {START_PATIENCE:g} s{trouble}; nodes "
                "were lost or others use them"
            )
        return None


def _end(member: _Member) -> None:
    import ray

    with suppress(ray.exceptions.RayError, ValueError):
        ray.kill(member.actor, no_restart=True)


def _worded(error: BaseException) -> str:
    """The first line that says something: Ray's messages are long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


@contextmanager
def _token(out: Path) -> Iterator[str]:
    """A file by whose name workers see whether they share the folder of the sweep."""
    for left in out.glob(".ray-*"):  # by a sweep that was killed: this one holds the folder
        left.unlink(missing_ok=True)
    name = f".ray-{uuid.uuid4().hex}"
    (out / name).touch()
    try:
        yield name
    finally:
        (out / name).unlink(missing_ok=True)


def _connect(address: str, settings: Mapping[str, object]) -> None:
    import ray

    try:
        ray.init(address=address, **settings)
    except Exception as error:  # its own mistakes, and processes that start too slowly, are bare ones
        cure = "start it with `ray start --head`, or leave out --address for a local one"
        if address == "local":
            cure = "a busy machine may be too slow for it: try again, or take --executor local"
        raise MibenchError(f"cannot reach the Ray cluster {address}: {_worded(error)}", cure=cure) from error


@contextmanager
def _connected(options: ExecutorOptions, need: Need) -> Iterator[None]:
    """Be connected to the cluster; one that was started here ends here. No dashboard, no usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        yield
        return
    address = options.address or os.environ.get("RAY_ADDRESS") or "local"
    settings: Mapping[str, object] = {"log_to_driver": False, "logging_level": "error", "namespace": "mibench"}
    if address == "local":
        cores = (options.jobs or os.cpu_count() or 1) * (need.cpus if options.jobs else 1)
        settings = {**settings, "num_cpus": cores, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    _connect(address, settings)
    try:
        yield
    except ray.exceptions.RayError as error:
        raise MibenchError(
            f"the Ray cluster {address} is gone: {_worded(error)}",
            cure="everything finished is kept, the same command continues",
        ) from error
    finally:
        ray.shutdown()
