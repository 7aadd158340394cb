"""From runs on disk to rows of a comparison: which runs there are, what must agree, and which of them are one row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.api import MibenchError, Problem
from mibench.results import StoredRun, damaged, open_run, per_identity, without_value

from .formatting import FLOOR
from .row_labels import block_names, row_labels, short_hash, target_key, weights_of

if TYPE_CHECKING:
    import pandas as pd

_NO_MATTER = frozenset(
    {
        "name",
        "version",
        "description",
        "preset",
        "preset_for",
        "datasets",
        "dataset",
        "prior",
        "metrics",
        "required",
        "diagnostics",
    }
)


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Runs that differ in nothing but their seed: one row.

    Attributes:
        label: what the row is called; unique within its target.
        target: the block it belongs to.
        runs: by seed.
        circumstances: what must agree for a test between rows, see :func:`circumstances`.
    """

    label: str
    target: str
    runs: tuple[StoredRun, ...]
    circumstances: Mapping[str, str]

    @property
    def floor(self) -> bool:
        """Whether it is the prior alone."""
        return self.runs[0].attack == FLOOR

    @property
    def sees_private(self) -> bool:
        """Whether it is a control that was handed private images."""
        return self.runs[0].sees_private

    @cached_property
    def identities(self) -> tuple[int, ...]:
        """Labels of the attacked classes, ascending."""
        return identities_of(self.runs[0])

    @cached_property
    def samples(self) -> int:
        """Selected samples of all runs together."""
        return sum(int(run.samples["selected"].sum()) for run in self.runs)

    def values(self, metric: str) -> pd.Series[float] | None:
        """Value of each identity, mean over seeds; None where a run does not know it."""
        total: pd.Series[float] | None = None
        for run in self.runs:
            values = per_identity_metric(run, metric)
            if values is None:
                return None
            total = values if total is None else total + values
        return None if total is None else total / len(self.runs)


def per_identity_metric(run: StoredRun, metric: str) -> pd.Series[float] | None:
    """Mean of a metric over the selected samples of each identity; None where the run does not know it."""
    info = run.infos.get(metric)
    if info is None or info.column not in run.samples or without_value(run, metric) is not None:
        return None
    values = per_identity(run, metric)
    return None if bool(values.isna().any()) else values


def open_runs(sources: Sequence[StoredRun | Path | str]) -> tuple[tuple[StoredRun, ...], tuple[str, ...]]:
    """Runs, and folders of runs, as finished runs with the floors that lie beside them.

    Returns:
        The runs in the order given, those of a folder by name, floors after them, each once; and a sentence for every
        run that was left out.

    Raises:
        MibenchError: a run that was named is not there or not finished, or there is none at all, or files of one have
            changed since it was finished; a line for each.
    """
    runs: dict[Path, StoredRun] = {}
    notes: list[str] = []
    skipped: list[Problem] = []
    problems: list[Problem] = []
    for source in sources:
        path = source.path if isinstance(source, StoredRun) else Path(source)
        if isinstance(source, StoredRun) or (path / "run.json").is_file():
            run = source if isinstance(source, StoredRun) else open_run(path)
            if reason := unfinished(run):
                problems.append(reason.of(f"{path} "))
            runs.setdefault(path.resolve(), run)
            continue
        folders = sorted(file.parent for file in path.rglob("run.json"))
        if not folders:
            problems.append(
                Problem(f"{path} is neither a run directory nor a folder of them", "start a run with mibench run")
            )
        for folder in folders:
            run = open_run(folder)
            if reason := unfinished(run):
                skipped.append(reason.of(f"{folder} "))
            else:
                runs.setdefault(folder.resolve(), run)
    if problems:
        raise MibenchError.several(problems)
    if not runs:
        none = Problem("there is no finished run to compare", "give at least one run directory")
        raise MibenchError.several([none, *skipped])
    for run in list(runs.values()):
        name = run.record.get("floor")
        if not isinstance(name, str):
            continue
        beside = run.path.resolve().parent / name
        if beside in runs:
            continue
        if not (beside / "run.json").is_file():
            notes.append(f"the floor of {run.path}, {name}, does not lie beside it")
        elif reason := unfinished(floor := open_run(run.path.parent / name)):
            notes.append(f"{floor.path}, the floor of {run.path}, {reason}")
        else:
            runs[beside] = floor
    broken = [reason.of(f"{run.path} ") for run in runs.values() if (reason := damaged(run))]
    if broken:
        raise MibenchError.several(broken)
    return tuple(runs.values()), tuple(dict.fromkeys([*map(str, skipped), *notes]))


def unfinished(run: StoredRun) -> Problem | None:
    """Why a run has no numbers to compare yet, and what to do; None when it has.

    The cause is a predicate: :meth:`~mibench.errors.Problem.of` puts the run in front.
    """
    try:
        status, error = run.status, run.record.get("error")
    except MibenchError as broken:
        return Problem(f"cannot be read: {broken.cause}", broken.cure)
    if status == "failed":
        cause = f" ({str(error).splitlines()[0]})" if error else ""
        return Problem(f"failed{cause}", "remove the cause and give the same command again")
    if status != "complete":
        return Problem(f"is not finished (status {status})", "continue it with the same command")
    for name in ("samples.csv", "metrics.json"):
        if not (run.path / name).is_file():
            return Problem(f"is not scored: it has no {name}", f"score it with mibench score {run.path}")
    return None


def identities_of(run: StoredRun) -> tuple[int, ...]:
    """Labels of the attacked classes, ascending."""
    return tuple(sorted(int(identity) for identity in run.samples["identity"].unique()))


def circumstances(run: StoredRun) -> dict[str, str]:
    """What must agree for numbers of two runs to be compared: name -> value in words, most important first."""
    spec = run.specification
    labels = identities_of(run)
    facts = {"data set": _with_hash(run.dataset, spec.get("dataset_digest")), "protocol": run.protocol}
    protocol = spec.get("protocol")
    for name, value in sorted(protocol.items() if isinstance(protocol, dict) else ()):
        if name not in _NO_MATTER:
            facts[f"protocol.{name}"] = json.dumps(value)
    for kind in ("judge", "regressor"):
        weights = spec.get(kind)
        facts[kind] = _with_hash(weights.get("card"), weights.get("sha256")) if isinstance(weights, dict) else "none"
    facts["identities"] = f"{len(labels)} from {labels[0]} to {labels[-1]} ({short_hash(list(labels))})"
    for name, info in run.infos.items():
        estimate = run.metrics.get(name) if info.column is not None and "comparison" in info.views else None
        if estimate is not None and estimate.value is not None:
            facts[f"definition of {name}"] = f"version {estimate.version}, {estimate.extractor or 'no network'}"
    return facts


def differing(facts_of_runs: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of circumstances whose values are not the same everywhere.

    A setting that a protocol does not have is null there. A metric that only some runs have differs in nothing.
    """
    names = []
    for name in dict.fromkeys(name for facts in facts_of_runs for name in facts):
        optional = name.startswith("definition of")
        if len({value_of(facts, name) for facts in facts_of_runs if name in facts or not optional}) > 1:
            names.append(name)
    return names


def value_of(facts: Mapping[str, str], name: str) -> str:
    """A circumstance in words."""
    return facts.get(name, "null")


def refuse_mixture(runs: Sequence[StoredRun], facts: Sequence[Mapping[str, str]]) -> None:
    """Raise in one line when the runs were not made under the same circumstances."""
    names = differing(facts)
    if not names:
        return
    paths_by_value: dict[str, list[str]] = {}
    for run, each in zip(runs, facts, strict=True):
        paths_by_value.setdefault(value_of(each, names[0]), []).append(str(run.path))

    def listed(paths: list[str]) -> str:
        return ", ".join(paths[:2]) + (f" and {len(paths) - 2} more" if len(paths) > 2 else "")

    sides = "; ".join(f"{value}: {listed(paths)}" for value, paths in paths_by_value.items())
    also = f" (also: {', '.join(names[1:4])}{', ...' if len(names) > 4 else ''})" if len(names) > 1 else ""
    raise MibenchError(
        f"the runs differ in {names[0]}: {sides}{also}",
        cure=(
            "compare runs made under the same protocol, or show them side by side without tests between them with --mix"
        ),
    )


def pool_runs(runs: Sequence[StoredRun], facts: Sequence[Mapping[str, str]]) -> list[Pool]:
    """Runs pooled over seeds; targets in order of appearance, within each the attacks, then the floors.

    Raises:
        MibenchError: the same attack with the same seed twice in one folder.
    """
    indices_by_setup: dict[str, list[int]] = {}
    varying = differing(facts)
    for index, run in enumerate(runs):
        spec = run.specification
        made_with = [run.attack, spec.get("attack_settings"), weights_of(run, "prior"), spec.get("precision")]
        under = [value_of(facts[index], name) for name in varying]
        key = json.dumps([weights_of(run, "target"), made_with, under], sort_keys=True)
        indices_by_setup.setdefault(key, []).append(index)
    groups = [part for group in indices_by_setup.values() for part in _one_seed_each(group, runs)]
    mixed = varying[:1] if varying and varying[0] not in ("protocol", "data set") else []
    labels = row_labels(
        [[runs[index] for index in group] for group in groups],
        [" ".join(f"{name}={value_of(facts[group[0]], name)}" for name in mixed) for group in groups],
    )
    blocks = block_names(runs)
    pools = []
    for group, label in zip(groups, labels, strict=True):
        members = sorted((runs[index] for index in group), key=lambda run: (run.seed is None, run.seed))
        block = blocks[target_key(members[0])]
        pools.append(Pool(label=label, target=block, runs=tuple(members), circumstances=facts[group[0]]))
    order = list(dict.fromkeys(blocks.values()))
    return sorted(pools, key=lambda pool: (order.index(pool.target), pool.sees_private, pool.floor))


def _one_seed_each(group: Sequence[int], runs: Sequence[StoredRun]) -> list[list[int]]:
    """A group of indices as it is when its seeds differ, else split by the folder that the runs lie in."""

    def repeated(indices: Sequence[int]) -> list[int]:
        seeds = [runs[index].seed for index in indices]
        return [index for index, seed in zip(indices, seeds, strict=True) if seeds.count(seed) > 1]

    if not repeated(group):
        return [list(group)]
    indices_by_folder: dict[Path, list[int]] = {}
    for index in group:
        indices_by_folder.setdefault(runs[index].path.resolve().parent, []).append(index)
    for indices in indices_by_folder.values():
        if same := repeated(indices):
            first, second = (runs[index].path for index in same[:2])
            raise MibenchError(
                f"{first} and {second} are the same attack with the same seed", cure="leave one of them out"
            )
    return list(indices_by_folder.values())


def _with_hash(name: object, digest: object) -> str:
    return f"{name} ({str(digest)[:8]})" if digest else str(name)
