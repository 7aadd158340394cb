"""A sweep on a Ray cluster of several nodes whose processes are killed at random moments: is anything lost or changed?

    python benchmarks/kills.py --kills 50 --seed 0

The sweep is the toy world's of `tests/` (4 cells of 6 units). First `local` runs it undisturbed with one worker. Then
it runs on a local cluster of three raylets, a head without cores and two nodes of one core each, and with every few
units stored something gets SIGKILL: a process that attacks, the Ray worker above it, a raylet with everything on its
node (a new node joins), or the sweep itself (the same command continues, every second time by `local`). When a sweep is
complete and kills are left, another one starts in an empty folder. After each, two things are checked:

- every unit that was stored at the moment of a kill is the file that it was, neither lost nor computed again;
- all result files have the bytes of the undisturbed sweep.

Which kind of kill comes when, counted in stored units, depends on the seed alone. Exits with 1 if a check fails.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

TESTS = Path(__file__).parents[1] / "tests"
KINDS = ("process", "worker", "node", "driver")
SUITE = """
protocol: toy
dataset: toyfaces
targets: [toynet]
attacks: [{attack: toyattack, settings: {attack: {steps: STEPS, unit_size: 1}}}]
seeds: [0, 1, 2, 3]
"""
UNITS = 24
STARTS = 10  # tries to start a raylet, on a busy machine
PATIENCE = 1800.0  # seconds for a sweep to store its next unit, on a busy machine


@click.command(help=__doc__)
@click.option("--kills", default=50, show_default=True, type=click.IntRange(min=1))
@click.option("--seed", default=0, show_default=True)
@click.option("--steps", default=100, show_default=True, help="Steps of the attack: how long a unit takes.")
@click.option("--kinds", default=",".join(KINDS), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
@click.option("--within", type=float, help="Seconds after which no further kill begins.")
def main(kills: int, seed: int, steps: int, kinds: str, out: Path | None, within: float | None) -> None:
    wanted = tuple(kinds.split(","))
    if unknown := set(wanted) - set(KINDS):
        raise click.BadParameter(f"no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    deadline = None if within is None else time.monotonic() + within
    with tempfile.TemporaryDirectory(prefix="mibench-kills-") as folder:
        world = World(Path(folder), steps)
        campaign = Campaign(world, random.Random(seed), wanted, kills, deadline)
        try:
            campaign.run()
        finally:
            world.stop()
    figures = {
        "kills": campaign.count,
        "by_kind": dict(campaign.by_kind),
        "sweeps": campaign.sweeps,
        "seed": seed,
        "seconds": round(time.monotonic() - campaign.began, 1),
        "faults": campaign.faults,
    }
    click.echo(json.dumps(figures, indent=2))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if campaign.faults or not campaign.count else 0)


class World:
    """The toy world in a home of its own, and a cluster of three raylets."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        sys.path.insert(0, str(TESTS))
        from sweeping import PLUG
        from toyworld.build import write_world

        write_world(folder / "home")
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(PLUG)
        self.suite = folder / "kills.yaml"
        self.suite.write_text(SUITE.replace("STEPS", str(steps)))
        os.environ |= {
            "MIBENCH_HOME": str(folder / "home"),
            "PYTHONPATH": str(folder / "site"),
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # else its workers yield to all else on the machine, and starve on a busy one
        }
        from ray.cluster_utils import Cluster

        self.cluster: Any = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **self._small()}
        )
        self.nodes: list[Any] = [self._node(), self._node()]

    def _small(self) -> dict[str, int]:
        return {"object_store_memory": 1 << 27}

    def _node(self) -> Any:
        for _ in range(STARTS):
            try:
                return self.cluster.add_node(num_cpus=1, **self._small())
            except Exception as error:  # noqa: BLE001 (Ray gives a raylet 30 s to start and says so by no class of its own)
                click.echo(f"a node did not start: {error}", err=True)
        raise click.ClickException(f"{STARTS} times in a row no node could be started")

    def replace_node(self, index: int) -> None:
        """Kill a raylet with what runs on its node; another node joins."""
        self.cluster.remove_node(self.nodes[index], allow_graceful=False)
        self.nodes[index] = self._node()

    def sweep(self, out: Path, *, ray: bool) -> subprocess.Popen[str]:
        """A process of its own that sweeps."""
        where = ["--executor", "ray", "--address", self.cluster.address] if ray else ["--jobs", "1", "--warm"]
        words = ["sweep", str(self.suite), "--output", str(out), "--device", "cpu", "--threads", "1", "--warm"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mibench", *words, "--retries", "1000", *where],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def stop(self) -> None:
        """End the sweep and the cluster."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.cluster.shutdown()


@dataclass
class Campaign:
    """Sweeps and kills until there were enough."""

    world: World
    chance: random.Random
    kinds: tuple[str, ...]
    wanted: int
    deadline: float | None
    count: int = 0
    sweeps: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        whole = self.world.folder / "whole"
        process = self.world.sweep(whole, ray=False)
        _, errors = process.communicate()
        if process.returncode:
            raise click.ClickException(f"the undisturbed sweep failed: {errors}")
        reference = results(whole)
        while self.more():
            out = self.world.folder / f"sweep-{self.sweeps}"
            self.sweeps += 1
            stored = self.disturbed(out)
            found = results(out)
            if found != reference:
                other = sorted(name for name in {*found, *reference} if found.get(name) != reference.get(name))
                self.faults.append(f"sweep {self.sweeps}: other bytes in {', '.join(other)[:500]}")
            for path, stamp in stored.items():
                if not path.is_file() or path.stat().st_mtime_ns != stamp:
                    self.faults.append(f"sweep {self.sweeps}: {path.relative_to(out)} was lost or computed again")
            shutil.rmtree(out)
            click.echo(f"{self.count} kills in {self.sweeps} sweeps, {len(self.faults)} faults", err=True)

    def more(self) -> bool:
        """Whether there is to be another kill."""
        return self.count < self.wanted and (self.deadline is None or time.monotonic() < self.deadline)

    def disturbed(self, out: Path) -> dict[Path, int]:
        """One sweep to its end; the units that were stored when something was killed, with their times."""
        process, stored = self.world.sweep(out, ray=True), dict[Path, int]()
        goal = self.chance.randint(0, 4)
        while self.more():
            kind = self.chance.choice(self.kinds)
            if goal >= UNITS or not self.wait_for(process, out, goal):
                break
            stored |= stamps(out)
            if self.kill(kind, process, out):
                self.count += 1
                self.by_kind[kind] += 1
                if kind == "driver":
                    process.communicate()
                    process = self.world.sweep(out, ray=self.by_kind[kind] % 2 == 1)
            goal = len(stamps(out)) + self.chance.randint(1, 5)
        _, errors = process.communicate()
        if process.returncode:
            self.faults.append(f"sweep {self.sweeps}: exit code {process.returncode}: {errors[-500:]}")
        return stored

    def wait_for(self, process: subprocess.Popen[str], out: Path, goal: int) -> bool:
        """Wait until so many units are stored and a process attacks; whether the sweep goes on still."""
        limit = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < limit:
            if len(stamps(out)) >= goal and attackers(out):
                return True
            time.sleep(0.02)
        return False

    def kill(self, kind: str, process: subprocess.Popen[str], out: Path) -> bool:
        """Kill one; whether it was alive."""
        attacking = attackers(out)
        if kind == "driver":
            process.kill()
            return True
        if kind == "node":
            self.world.replace_node(self.chance.randrange(len(self.world.nodes)))
            return True
        if not attacking:
            return False
        victim = self.chance.choice(attacking)
        target = victim if kind == "process" else parent_of(victim)
        if target in (None, 1, process.pid):  # by now `local` sweeps: above its processes there is the sweep alone
            return False
        try:
            os.kill(int(target or 0), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True


def attackers(out: Path) -> list[int]:
    """Processes that are at work on runs."""
    found = []
    for path in sorted(out.glob("*/run.json")):
        record = json.loads(path.read_text())
        if record["status"] == "running" and parent_of(record["pid"]) is not None:
            found.append(int(record["pid"]))
    return found


def parent_of(pid: int) -> int | None:
    """The parent of a process; None where it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[1])


def stamps(out: Path) -> dict[Path, int]:
    """Stored units with the times of their files: the sidecar that makes one count comes last."""
    found = {}
    for path in out.glob("toyattack-*/units/*.json"):
        tensors = path.with_suffix(".safetensors")
        if tensors.is_file():
            found[tensors] = tensors.stat().st_mtime_ns
    return found


def results(out: Path) -> dict[str, bytes]:
    """All result files of all runs."""
    from sweeping import runs

    return {f"{run}/{name}": content for run, files in runs(out).items() for name, content in files.items()}


if __name__ == "__main__":
    main()
