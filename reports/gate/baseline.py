"""What a gate compares with: values of each identity under each attack, as a small file that can be committed.

The file is JSON with sorted keys. It has no paths and no times, so that the same runs give the same bytes. Its last
entry is the SHA-256 of the others: an edited file is refused. That guards against accidents and careless edits; who may
change the file at all is decided by reviewing its changes, like those of any test.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from mibench.api import MetricInfo, MibenchError
from mibench.reports.rows import Pool, circumstances, open_runs, pool_runs, refuse_mixture
from mibench.results import StoredRun, atomic_write, is_proportion, read_object, utility

SCHEMA = 1
KIND = "mibench gate baseline"
DIGITS = 12  # significant digits of stored values
PATH_SETTINGS = ("root", "public_root")  # of data sets: places on a machine
JUDGE_CONTROL = "control_private_test_acc1"  # how often the judge knows real private images

Json = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Values:
    """One metric over identities.

    Attributes:
        title, unit, percent, higher_is_better: what the metric says about itself.
        proportion: whether it is a share of samples.
        by_identity: label -> mean over samples and seeds.
    """

    title: str
    unit: str
    percent: bool
    higher_is_better: bool
    proportion: bool
    by_identity: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """One attack with its settings, seeds pooled.

    Attributes:
        label: what tables call it. floor: whether it is the prior alone.
        attack: registered name.
        made_with: what makes it the same attack: settings, code, prior, precision and surrogate.
        circumstances: what else must agree: data, protocol, judge, identities, definitions of metrics.
        request: names and settings that ``mibench run`` needs to do it again; nothing of the target.
        seeds, samples: of all runs together.
        metrics: name -> values; without_value: name -> why there are none.
        judge: share of real private test images that the judge recognises; None: not measured.
    """

    label: str
    floor: bool
    attack: str
    made_with: Mapping[str, object]
    circumstances: Mapping[str, str]
    request: Mapping[str, object]
    seeds: tuple[int, ...]
    samples: int
    metrics: Mapping[str, Values]
    without_value: Mapping[str, str]
    judge: float | None


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A classifier under attack.

    Attributes:
        target, sha256: card and weights.
        test_accuracy, test_images: its utility; None where it is not known.
        rows: attacks first, floors last.
    """

    target: str
    sha256: str | None
    test_accuracy: float | None
    test_images: int | None
    rows: tuple[GateRow, ...]

    @property
    def attacks(self) -> tuple[GateRow, ...]:
        """Rows that are no floors."""
        return tuple(row for row in self.rows if not row.floor)

    def floor_of(self, row: GateRow) -> GateRow | None:
        """The prior alone, of a row."""
        alike = [other for other in self.rows if other.floor and other.circumstances == row.circumstances]
        same = [other for other in alike if other.made_with.get("prior") == row.made_with.get("prior")]
        return next(iter(same or alike), None)


def of_runs(runs: Sequence[StoredRun | Path | str]) -> Baseline:
    """Finished runs against one target, with the floors that lie beside them; controls in a folder are left out.

    Raises:
        MibenchError: unfinished or damaged runs, several targets, runs of several protocols, data sets or judges; a
            control that was named, or nothing but controls.
    """
    opened, _ = open_runs(runs)
    named = {(run.path if isinstance(run, StoredRun) else Path(run)).resolve() for run in runs}
    kept = tuple(run for run in opened if not run.sees_private)
    for run in opened:
        if run.sees_private and (run.path.resolve() in named or not kept):
            raise MibenchError(
                f"{run.path} is a control that sees images of the private people: an increase of it is no leak",
                cure="name runs of attacks",
            )
    opened = kept
    facts = [circumstances(run) for run in opened]
    refuse_mixture(opened, facts)
    pools = pool_runs(opened, facts)
    targets = list(dict.fromkeys(pool.target for pool in pools))
    if len(targets) > 1:
        raise MibenchError(
            f"the runs attack {len(targets)} targets ({', '.join(targets[:3])}), and a gate is about one",
            cure="name the runs of one target",
        )
    run = opened[0]
    accuracy = utility(run)
    weights = run.specification.get("target")
    return Baseline(
        target=run.target,
        sha256=str(weights["sha256"]) if isinstance(weights, dict) and weights.get("sha256") else None,
        test_accuracy=None if accuracy.value is None else float(accuracy.value),
        test_images=accuracy.n or None,
        rows=tuple(_row(pool) for pool in pools),
    )


def _row(pool: Pool) -> GateRow:
    run = pool.runs[0]
    control = run.metrics.get(JUDGE_CONTROL)
    metrics, without = {}, {}
    for info in run.infos.values():
        if info.column is None or info.higher_is_better is None:
            continue
        if (values := pool.values(info.name)) is not None:
            metrics[info.name] = _values(info, run, {int(str(k)): _rounded(v) for k, v in values.items()})
        elif info.name in run.metrics:
            without[info.name] = run.metrics[info.name].reason or "a run has no value for each identity"
    return GateRow(
        label=pool.label,
        floor=pool.floor,
        attack=run.attack,
        made_with=_made_with(run),
        circumstances=dict(pool.circumstances),
        request=_request(run),
        seeds=tuple(run.seed for run in pool.runs if run.seed is not None),
        samples=pool.samples,
        metrics=metrics,
        without_value=without,
        judge=None if control is None or control.value is None else _rounded(control.value),
    )


def _values(info: MetricInfo, run: StoredRun, by_identity: Mapping[int, float]) -> Values:
    return Values(
        title=info.title,
        unit=info.unit,
        percent=info.percent,
        higher_is_better=bool(info.higher_is_better),
        proportion=is_proportion(run, info.name),
        by_identity=by_identity,
    )


def _made_with(run: StoredRun) -> Json:
    """What the attack is made of. A prior that was trained against the victim is another one for each victim."""
    spec, code = run.specification, run.record.get("code")
    prior = spec.get("prior")
    described: Json | None = None
    if isinstance(prior, dict):
        own = bool(run.record.get("prior_queries_forward"))
        described = {"architecture": prior.get("architecture"), "arguments": prior.get("arguments")}
        described |= {} if own else {"sha256": prior.get("sha256")}
    return {
        "settings": spec.get("attack_settings"),
        "code": code.get(f"attack {run.attack}") if isinstance(code, dict) else None,
        "prior": described,
        "precision": spec.get("precision"),
        "surrogate": surrogate.get("sha256") if isinstance(surrogate := spec.get("surrogate"), dict) else None,
    }


def _request(run: StoredRun) -> Json:
    """The configuration of a run without its target, its seed and the places of a machine."""
    return without_places({key: value for key, value in run.config.items() if key not in ("target", "seed")})


def without_places(request: Mapping[str, object]) -> Json:
    """A configuration without folders of a machine: none is written, and none of somebody else's file is gone to."""
    config: Json = dict(request)
    settings = config.get("settings")
    if isinstance(settings, dict):
        kept = {
            scope: {name: value for name, value in values.items() if scope != "dataset" or name not in PATH_SETTINGS}
            for scope, values in settings.items()
            if isinstance(values, dict)
        }
        config["settings"] = {scope: values for scope, values in kept.items() if values}
    return config


def _rounded(value: object) -> float:
    return float(f"{float(str(value)):.{DIGITS}g}")


def text_of(baseline: Baseline) -> str:
    """The file: JSON, sorted, with its checksum."""
    content: Json = {
        "kind": KIND,
        "schema": SCHEMA,
        "target": {
            "card": baseline.target,
            "sha256": baseline.sha256,
            "test_accuracy": baseline.test_accuracy,
            "test_images": baseline.test_images,
        },
        "rows": [_plain(row) for row in baseline.rows],
    }
    return json.dumps(content | {"checksum": _checksum(content)}, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def write(baseline: Baseline, path: Path | str) -> Path:
    """Write the file, whole or not at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, text_of(baseline).encode(), sweep=True)
    return file


def read(path: Path | str) -> Baseline:
    """A baseline from its file.

    Raises:
        MibenchError: no such file, another kind of file, a later schema, or an edited one.
    """
    file = Path(path)
    again = "make it again with mibench gate --update-baseline"
    content = read_object(file, cure=again)
    if content.get("kind") != KIND:
        raise MibenchError(f"{file} is no baseline of a gate", cure=again)
    if content.get("schema") != SCHEMA:
        raise MibenchError(
            f"{file} has schema {content.get('schema')!r}, and this version reads schema {SCHEMA}",
            cure=f"use the version of mibench that wrote it, or {again}",
        )
    checksum = content.pop("checksum", None)
    if checksum != _checksum(content):
        raise MibenchError(f"{file} was edited: its content does not have its checksum", cure=f"restore it, or {again}")
    target = content.get("target")
    flat = {"rows": content.get("rows"), **(target if isinstance(target, dict) else {})}
    flat["target"] = flat.pop("card", None)
    try:
        baseline = TypeAdapter(Baseline).validate_python(flat)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise MibenchError(f"{file} is incomplete ({where}: {first['msg']})", cure=again) from error
    for row in baseline.rows:
        for name, values in row.metrics.items():
            if not all(map(math.isfinite, values.by_identity.values())):
                raise MibenchError(f"{file} is incomplete ({name} has a value that is not finite)", cure=again)
    return baseline


def _plain(row: GateRow) -> Json:
    plain: Json = asdict(row)
    plain["metrics"] = {
        name: asdict(values) | {"by_identity": {str(k): v for k, v in values.by_identity.items()}}
        for name, values in row.metrics.items()
    }
    return plain


def _checksum(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
