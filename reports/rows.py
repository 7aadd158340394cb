"""From runs on disk to rows of a comparison: what may be compared, what is one row, what the rows are called."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mibench.api import MibenchError
from mibench.results import StoredRun, open_run, per_identity, without_value

from .tables import FLOOR_LABEL

if TYPE_CHECKING:
    import pandas as pd

FLOOR = "floor"
MOST_SETTINGS = 3  # settings that differ are named in a label up to this many
_NO_MATTER = frozenset({"name", "version", "description", "attack_presets", "dataset", "prior", "metrics", "required"})


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


def open_runs(given: Sequence[StoredRun | Path | str]) -> tuple[tuple[StoredRun, ...], tuple[str, ...]]:
    """Runs, and folders of runs, as finished runs with the floors that lie beside them.

    Returns:
        The runs in the order given, those of a folder by name, floors after them, each once; and a sentence for every
        run that was left out.

    Raises:
        MibenchError: a run that was named is not there or not finished, or there is none at all; a line for each.
    """
    found: dict[Path, StoredRun] = {}
    notes: list[str] = []
    problems: list[str] = []
    for each in given:
        path = each.path if isinstance(each, StoredRun) else Path(each)
        if isinstance(each, StoredRun) or (path / "run.json").is_file():
            run = each if isinstance(each, StoredRun) else open_run(path)
            if reason := unfinished(run):
                problems.append(f"{path} {reason}")
            found.setdefault(path.resolve(), run)
            continue
        inside = sorted(file.parent for file in path.rglob("run.json"))
        if not inside:
            problems.append(f"{path} is neither a run directory nor a folder of them; start a run with mibench run")
        for folder in inside:
            run = open_run(folder)
            if reason := unfinished(run):
                notes.append(f"{folder} {reason}")
            else:
                found.setdefault(folder.resolve(), run)
    if problems:
        raise MibenchError(*problems)
    if not found:
        raise MibenchError("there is no finished run to compare; give at least one run directory", *notes)
    for run in list(found.values()):
        name = run.record.get("floor")
        if not isinstance(name, str):
            continue
        beside = run.path.resolve().parent / name
        if beside in found:
            continue
        if not (beside / "run.json").is_file():
            notes.append(f"the floor of {run.path}, {name}, does not lie beside it")
        elif reason := unfinished(floor := open_run(run.path.parent / name)):
            notes.append(f"{floor.path}, the floor of {run.path}, {reason}")
        else:
            found[beside] = floor
    return tuple(found.values()), tuple(dict.fromkeys(notes))


def unfinished(run: StoredRun) -> str | None:
    """Why a run has no numbers to compare yet, and what to do; None when it has."""
    try:
        status, error = run.status, run.record.get("error")
    except MibenchError as broken:
        return f"cannot be read: {broken}"
    if status == "failed":
        cause = f" ({str(error).splitlines()[0]})" if error else ""
        return f"failed{cause}; remove the cause and give the same command again"
    if status != "complete":
        return f"is not finished (status {status}); continue it with the same command"
    for name in ("samples.csv", "metrics.json"):
        if not (run.path / name).is_file():
            return f"is not scored: it has no {name}; score it with mibench score {run.path}"
    return None


def identities_of(run: StoredRun) -> tuple[int, ...]:
    """Labels of the attacked classes, ascending."""
    return tuple(sorted(int(identity) for identity in run.samples["identity"].unique()))


def circumstances(run: StoredRun) -> dict[str, str]:
    """What must agree for numbers of two runs to be compared: name -> value in words, most important first."""
    spec = run.specification
    labels = identities_of(run)
    found = {"data set": _with_hash(run.dataset, spec.get("dataset_digest")), "protocol": run.protocol}
    protocol = spec.get("protocol")
    for name, value in sorted(protocol.items() if isinstance(protocol, dict) else ()):
        if name not in _NO_MATTER:
            found[f"protocol.{name}"] = json.dumps(value)
    for kind in ("judge", "regressor"):
        weights = spec.get(kind)
        found[kind] = _with_hash(weights.get("card"), weights.get("sha256")) if isinstance(weights, dict) else "none"
    found["identities"] = f"{len(labels)} from {labels[0]} to {labels[-1]} ({_short(list(labels))})"
    for name, info in run.infos.items():
        estimate = run.metrics.get(name) if info.column is not None and "comparison" in info.views else None
        if estimate is not None and estimate.value is not None:
            found[f"definition of {name}"] = f"version {estimate.version}, {estimate.extractor or 'no network'}"
    return found


def differing(all_of_them: Sequence[Mapping[str, str]]) -> list[str]:
    """Names whose values are not the same everywhere.

    A setting that a protocol does not have is null there. A metric that only some runs have differs in nothing.
    """
    found = []
    for name in dict.fromkeys(name for each in all_of_them for name in each):
        values = {value_of(each, name) for each in all_of_them if name in each or not name.startswith("definition of")}
        if len(values) > 1:
            found.append(name)
    return found


def value_of(found: Mapping[str, str], name: str) -> str:
    """A circumstance in words."""
    return found.get(name, "null")


def refuse_mixture(runs: Sequence[StoredRun], facts: Sequence[Mapping[str, str]]) -> None:
    """Raise in one line when the runs were not made under the same circumstances."""
    names = differing(facts)
    if not names:
        return
    holders: dict[str, list[str]] = {}
    for run, each in zip(runs, facts, strict=True):
        holders.setdefault(value_of(each, names[0]), []).append(str(run.path))

    def listed(paths: list[str]) -> str:
        return ", ".join(paths[:2]) + (f" and {len(paths) - 2} more" if len(paths) > 2 else "")

    sides = "; ".join(f"{value}: {listed(paths)}" for value, paths in holders.items())
    also = f" (also: {', '.join(names[1:4])}{', ...' if len(names) > 4 else ''})" if len(names) > 1 else ""
    raise MibenchError(
        f"the runs differ in {names[0]}: {sides}{also}; compare runs made under the same protocol, or show them side "
        "by side without tests between them with --mix"
    )


def pool_runs(runs: Sequence[StoredRun], facts: Sequence[Mapping[str, str]]) -> list[Pool]:
    """Runs pooled over seeds; targets in order of appearance, within each the attacks, then the floors.

    Raises:
        MibenchError: the same attack with the same seed twice in one folder.
    """
    groups: dict[str, list[int]] = {}
    apart = differing(facts)
    for place, run in enumerate(runs):
        spec = run.specification
        made_with = [run.attack, spec.get("attack_settings"), _weights(run, "prior"), spec.get("precision")]
        under = [value_of(facts[place], name) for name in apart]
        groups.setdefault(json.dumps([_target(run), made_with, under], sort_keys=True), []).append(place)
    parts = [part for group in groups.values() for part in _one_seed_each(group, runs)]
    mixed = apart[:1] if apart and apart[0] not in ("protocol", "data set") else []
    labels = _labels(
        [[runs[place] for place in part] for part in parts],
        [" ".join(f"{name}={value_of(facts[part[0]], name)}" for name in mixed) for part in parts],
    )
    blocks = _block_names(runs)
    pools = []
    for part, label in zip(parts, labels, strict=True):
        members = sorted((runs[place] for place in part), key=lambda run: (run.seed is None, run.seed))
        block = blocks[json.dumps(_target(members[0]))]
        pools.append(Pool(label=label, target=block, runs=tuple(members), circumstances=facts[part[0]]))
    order = list(dict.fromkeys(blocks.values()))
    return sorted(pools, key=lambda pool: (order.index(pool.target), pool.floor))


def prior_of(run: StoredRun) -> str:
    """The prior as people call it: architecture, and tag unless the tag is only the target it was made against."""
    weights = run.specification.get("prior")
    if not isinstance(weights, dict):
        return "none"
    name, _, tag = str(weights.get("card", weights.get("architecture", "unknown"))).partition("+")
    architecture, target = name.partition("@")[0], run.target
    own = target.partition("@")[0] + (f"-{target.partition('+')[2]}" if "+" in target else "")
    return architecture + (f"+{tag}" if tag and tag != own else "")


def _one_seed_each(group: Sequence[int], runs: Sequence[StoredRun]) -> list[list[int]]:
    """A group as it is when its seeds differ, else split by the folder that the runs lie in."""

    def twice(places: Sequence[int]) -> list[int]:
        seeds = [runs[place].seed for place in places]
        return [place for place, seed in zip(places, seeds, strict=True) if seeds.count(seed) > 1]

    if not twice(group):
        return [list(group)]
    folders: dict[Path, list[int]] = {}
    for place in group:
        folders.setdefault(runs[place].path.resolve().parent, []).append(place)
    for places in folders.values():
        if same := twice(places):
            first, second = (runs[place].path for place in same[:2])
            raise MibenchError(f"{first} and {second} are the same attack with the same seed; leave one of them out")
    return list(folders.values())


def _labels(parts: Sequence[Sequence[StoredRun]], mixed: Sequence[str]) -> list[str]:
    """Names of rows: the attack, and only what tells it from other rows of that attack; ``mixed`` is the circumstance
    that differs where neither protocol nor data set names it."""
    labels = [run[0].attack for run in parts]
    for attack in dict.fromkeys(labels):
        places = [place for place, part in enumerate(parts) if part[0].attack == attack]
        heads = [parts[place][0] for place in places]
        said: list[list[str]] = [[] for _ in places]
        for texts in (
            [f"prior {prior_of(run)}" for run in heads],
            _prior_settings(heads),
            _settings(heads),
            [str(run.specification.get("precision", "")) for run in heads],
            [run.protocol for run in heads],
            [run.dataset for run in heads],
            [mixed[place] for place in places],
        ):
            if len(set(texts)) > 1:
                for each, text in zip(said, texts, strict=True):
                    each.append(text)
        bare = FLOOR_LABEL if attack == FLOOR else attack
        for place, each in zip(places, said, strict=True):
            labels[place] = f"{attack} ({', '.join(text for text in each if text)})" if any(each) else bare
    return _made_unique(labels, parts)


def _made_unique(labels: list[str], parts: Sequence[Sequence[StoredRun]]) -> list[str]:
    """Labels that are still shared by two rows of one target get the name of a folder."""
    by: tuple[Callable[[StoredRun], str], ...] = (
        lambda run: run.path.resolve().parent.name,
        lambda run: run.path.resolve().name,
        lambda run: str(run.path.resolve()),
    )
    for name in by:
        keys = [(label, json.dumps(_target(part[0]))) for label, part in zip(labels, parts, strict=True)]
        shared = {place for place, key in enumerate(keys) if keys.count(key) > 1}
        candidates = [
            f"{label} · {name(part[0])}" if place in shared else label
            for place, (label, part) in enumerate(zip(labels, parts, strict=True))
        ]
        told_apart = len({(candidates[place], keys[place][1]) for place in shared}) == len(shared)
        if told_apart:
            return candidates
    return labels


def _settings(heads: Sequence[StoredRun]) -> list[str]:
    """What tells the settings of rows apart: the ones that differ, where they are few; else the preset, where it is
    another one each time; else what is unlike most rows; else a hash."""
    settings = [dict(run.specification.get("attack_settings") or {}) for run in heads]
    names = sorted({name for each in settings for name in each})
    apart = [name for name in names if len({json.dumps(each.get(name)) for each in settings}) > 1]
    if len(apart) <= MOST_SETTINGS:
        return [_said(each, apart) for each in settings]
    presets = [str(run.specification.get("preset")) for run in heads]
    hashes = [_short(each) for each in settings]
    if len(set(presets)) == len(set(zip(presets, hashes, strict=True))):
        return [f"preset {preset}" for preset in presets]
    usual = {name: Counter(json.dumps(each.get(name)) for each in settings).most_common(1)[0][0] for name in apart}
    unusual = [[name for name in apart if json.dumps(each.get(name)) != usual[name]] for each in settings]
    return [
        f"settings {digest}" if len(names) > MOST_SETTINGS else _said(each, names)
        for each, names, digest in zip(settings, unusual, hashes, strict=True)
    ]


def _prior_settings(heads: Sequence[StoredRun]) -> list[str]:
    """What tells rows with the same prior apart: its settings that are not alike, where a row has one."""

    def arguments(run: StoredRun) -> dict[str, Any]:
        weights = run.specification.get("prior")
        return dict(weights.get("arguments") or {}) if isinstance(weights, dict) else {}

    found = []
    for run in heads:
        alike = [arguments(other) for other in heads if prior_of(other) == prior_of(run)]
        apart = [name for name in sorted(arguments(run)) if len({json.dumps(each.get(name)) for each in alike}) > 1]
        found.append(_said(arguments(run), apart))
    return found


def _said(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name}={settings[name]}" if name in settings else f"without {name}" for name in names)


def _block_names(runs: Sequence[StoredRun]) -> dict[str, str]:
    """Key of a target -> its card's name, with the hash of the weights where two targets share a name."""
    keys = {json.dumps(_target(run)): run for run in runs}
    names = [run.target for run in keys.values()]
    return {
        key: run.target if names.count(run.target) == 1 else f"{run.target} ({_short(_target(run))})"
        for key, run in keys.items()
    }


def _target(run: StoredRun) -> Any:
    return _weights(run, "target")


def _weights(run: StoredRun, kind: str) -> Any:
    """What a set of weights is: by hash where there is one, else by name."""
    found = run.specification.get(kind)
    if isinstance(found, dict):
        return [found.get("sha256") or found.get("card"), found.get("card"), found.get("arguments")]
    return found


def _with_hash(name: Any, digest: Any) -> str:
    return f"{name} ({str(digest)[:8]})" if digest else str(name)


def _short(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]
