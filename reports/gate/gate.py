"""``mibench gate`` from finished runs: read both sides, decide, print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from mibench.api import MibenchError
from mibench.results import StoredRun

from . import baseline as baselines
from . import output
from .baseline import Baseline
from .decision import Gate, decide

Source = StoredRun | Path | str


class PrintedGate(Gate):
    """A gate that prints itself."""

    def render(self, kind: str = "text") -> str:
        """``text``, ``json``, ``junit`` or ``markdown``."""
        return output.render(self, kind)

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""
        return output.as_plain(self)


def gate(
    runs: Source | Sequence[Source],
    baseline: Source | Sequence[Source],
    *,
    margins: Mapping[str, float] | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    confidence: float = 0.95,
    attacks: Sequence[str] = (),
) -> PrintedGate:
    """Test finished runs against a baseline; see :func:`mibench.reports.gate.decision.decide`.

    Args:
        runs: runs, their folders, or folders of runs, against one target.
        baseline: the same, or the file that :func:`write_baseline` wrote; several of them, or runs against several
            targets, are several accepted classifiers.
    """
    decided = decide(
        of(runs),
        accepted(baseline),
        margins=margins,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        confidence=confidence,
        attacks=attacks,
    )
    return PrintedGate(**{field.name: getattr(decided, field.name) for field in fields(decided)})


def of(source: Source | Sequence[Source]) -> Baseline:
    """One side of a gate, from runs or from a file.

    Raises:
        MibenchError: there is nothing there, or it is neither.
    """
    if isinstance(source, str | Path) and not Path(source).is_dir():
        if not Path(source).exists():
            raise MibenchError(
                f"there is no baseline at {source}", cure="make one: mibench gate --update-baseline --baseline FILE"
            )
        return baselines.read(source)
    return baselines.of_runs([source] if isinstance(source, StoredRun | Path | str) else list(source))


def accepted(source: Source | Sequence[Source]) -> tuple[Baseline, ...]:
    """The classifiers that a gate compares with: one for each file, and one for each target of the runs.

    A folder of runs is about one target: who names a folder that also holds the new classifier's runs would otherwise
    compare it with itself.

    Raises:
        MibenchError: as :func:`of`.
    """
    sources = [source] if isinstance(source, StoredRun | Path | str) else list(source)
    read, by_target = [], dict[str, list[Source]]()
    for each in sources:
        one = of(each)
        if isinstance(each, str | Path) and Path(each).is_file():
            read.append(one)
        else:
            by_target.setdefault(one.target, []).append(each)
    return (*read, *(of(runs) for runs in by_target.values()))


def requests(baseline: Path | str) -> list[tuple[str, str, Mapping[str, object], tuple[int, ...]]]:
    """What has to be run to compare with a baseline: label, attack, configuration of a run, and seeds."""
    return [(row.label, row.attack, baselines.without_places(row.request), row.seeds) for row in of(baseline).attacks]


def write_baseline(runs: Source | Sequence[Source], path: Path | str) -> Path:
    """Write the baseline of finished runs."""
    made = of(runs)
    if not made.attacks:
        raise MibenchError("the runs hold no attack, only floors", cure="run an attack against the target")
    return baselines.write(made, path)
