"""What a worker needs of a node, and what nodes have: compared before anything is submitted, since Ray itself would let
a worker that fits nowhere wait for ever."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from mibench.errors import MibenchError
from mibench.system.canonical import JsonObject

from .contract import ExecutorOptions

ROUNDING = 1e-6  # shares of GPUs are decimal fractions


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one worker takes of its node.

    Attributes:
        cpus: cores, at least 1: PyTorch's threads.
        gpus: GPUs, or a share of one; 0: it computes on the CPU.
    """

    cpus: int
    gpus: float = 0.0

    def __str__(self) -> str:
        """``1 CPU and 0.5 GPU``."""
        return f"{self.cpus} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")

    @property
    def device(self) -> str:
        """As for ``mibench run``: Ray shows a worker its own GPU only."""
        return "cuda" if self.gpus else "cpu"

    def on(self, nodes: Iterable[JsonObject], options: ExecutorOptions) -> Need:
        """With a GPU for each worker where the cluster has GPUs, or a share of one for more workers than GPUs."""
        if options.device == "cpu":
            return self
        gpus = sum(counted(node, "GPU") for node in nodes)
        if gpus < 1:
            if options.device == "cuda":
                raise MibenchError("no node of the Ray cluster has a GPU", cure="use --device cpu")
            return self
        together = math.ceil((options.jobs or 1) / int(gpus))
        return replace(self, gpus=math.floor(1e4 / together) / 1e4)


def counted(node: JsonObject, resource: str) -> float:
    """How much a node of ``ray.nodes()`` has of a resource; 0 where it is dead."""
    resources: Mapping[str, float] = node.get("Resources", {})
    return float(resources.get(resource, 0.0)) if node.get("Alive") else 0.0


def room_of(nodes: Iterable[JsonObject], need: Need) -> int:
    """Workers for which the nodes have room together."""
    return sum(_room(node, need) for node in nodes)


def _room(node: JsonObject, need: Need) -> int:
    room = int(counted(node, "CPU") / need.cpus + ROUNDING)
    return min(room, int(counted(node, "GPU") / need.gpus + ROUNDING)) if need.gpus else room


def refuse_what_cannot_start(nodes: Iterable[JsonObject], need: Need, jobs: int | None) -> None:
    """Raise where not all workers that were asked for could be started.

    Raises:
        MibenchError: no node has room for one worker, or all together not for ``jobs``.
    """
    nodes = list(nodes)
    room = room_of(nodes, need)
    if room == 0:
        most = max((counted(node, "CPU") for node in nodes), default=0.0)
        raise MibenchError(
            f"a worker needs {need}, and no node of the Ray cluster has that (the largest has {most:g} CPU)",
            cure="lower --threads, use --device cpu, or add nodes",
        )
    if jobs is not None and jobs > room:
        raise MibenchError(
            f"{jobs} workers with {need} each were asked for, and the Ray cluster has room for {room}",
            cure=f"choose --jobs {room} or fewer, or add nodes",
        )
