"""A run directory, read: everything when it is asked for, and nothing is ever written.

The layout is described in ``mibench/runs/store.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mibench.api import Estimate, MetricInfo, MibenchError
from mibench.results.metric_infos import built_in_infos, merged_infos, read_infos
from mibench.results.run_record import check_record, read_estimates
from mibench.system.canonical import JsonObject
from mibench.system.strict_yaml import read_yaml
from mibench.system.text_files import parse_json, read_object, read_text

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

_COUNTED = ("queries_forward", "queries_backward", "seconds")
_BOOLEAN_COLUMNS = ("selected", "hit1", "hit5")


class LabelledImages(Protocol):
    """Images with class labels, such as :class:`mibench.data.split.Images`: uint8 ``(N, 3, H, W)`` and ``(N,)``."""

    @property
    def pixels(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...


@dataclass(frozen=True)
class Unit:
    """What one unit stored.

    Attributes:
        number: of the unit.
        images: uint8 ``(N, 3, H, W)``.
        labels: int64 ``(N,)``.
        confidence: float32 ``(N,)``.
        latents: ``(N, ...)``, empty when the attack has none.
        curves: name -> ``(U, steps)`` or ``(steps,)`` float32.
        facts: queries_forward, queries_backward, seconds, peak_memory_bytes, device, notes ...
    """

    number: int
    images: Tensor
    labels: Tensor
    confidence: Tensor
    latents: Tensor
    curves: dict[str, Tensor] = field(default_factory=dict)
    facts: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class StoredRun:
    """A run on disk: what ``mibench.run`` gives back, and ``mibench.open_run`` of any run directory.

    Attributes:
        path: its folder.
        reused: whether ``mibench.run`` found it complete; no part of what is stored.
    """

    path: Path
    reused: bool = field(default=False, compare=False)

    @cached_property
    def record(self) -> JsonObject:
        """``run.json``: status, resolved specification, environment, hashes, times."""
        return check_record(_read_object(self.path / "run.json"), self.path / "run.json")

    @cached_property
    def config(self) -> JsonObject:
        """``config.yaml`` as a mapping; empty when there is none."""
        file = self.path / "config.yaml"
        return read_yaml(file) if file.exists() else {}

    @property
    def status(self) -> str:
        """running, complete or failed."""
        return str(self.record.get("status", "unknown"))

    @property
    def specification(self) -> JsonObject:
        """The resolved specification of the run."""
        spec = self.record.get("spec", {})
        return dict(spec) if isinstance(spec, dict) else {}

    @property
    def attack(self) -> str:
        """Registered name of the attack."""
        return _name(self.specification.get("attack"))

    @property
    def attack_title(self) -> str:
        """What tables call the attack: its name, ``NAME:VARIANT`` of a variant, and whether it is none."""
        variant = self.specification.get("variant")
        title = f"{self.attack}:{variant}" if isinstance(variant, str) else self.attack
        return f"{title} (sees private images)" if self.sees_private else title

    @property
    def sees_private(self) -> bool:
        """Whether it was handed images of the private people: a control, no attack."""
        return self.record.get("sees_private") is True

    @property
    def target(self) -> str:
        """Card of the attacked model."""
        return _name(self.specification.get("target"))

    @property
    def dataset(self) -> str:
        """Registered name of the data set."""
        return _name(self.specification.get("dataset"))

    @property
    def protocol(self) -> str:
        """Name and version of the protocol: numbers compare inside one protocol only."""
        protocol = self.specification.get("protocol")
        if isinstance(protocol, dict) and "version" in protocol:
            return f"{_name(protocol)} v{protocol['version']}"
        return _name(protocol)

    @property
    def seed(self) -> int | None:
        """Seed of the run."""
        seed = self.specification.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def missing(self) -> dict[str, str]:
        """Estimates that the protocol demands but that have no value, with the reason."""
        return dict(self.record.get("missing", {}))

    @cached_property
    def floor(self) -> StoredRun | None:
        """The run that this one is compared with; None where it is one itself, or it is not in the same folder."""
        name = self.record.get("floor")
        folder = self.path.parent / str(name)
        return StoredRun(folder) if name and (folder / "run.json").exists() else None

    def _spoilt(self, cause: str) -> MibenchError:
        return MibenchError(cause, cure=f"score the run again: mibench score {self.path}")

    @cached_property
    def samples(self) -> pd.DataFrame:
        """``samples.csv``: one row per reconstruction, ordered by identity, then by the adversary's ranking."""
        import pandas as pd

        file = self.path / "samples.csv"
        _require(file)
        try:
            table = pd.read_csv(file)
        except (ValueError, OSError) as error:
            raise self._spoilt(f"{file} cannot be read as a table") from error
        for column in (*_BOOLEAN_COLUMNS, "identity", "sample"):
            if column not in table:
                raise self._spoilt(f"{file} has no column {column!r}")
        for column, fits, kind in (
            *((truth, pd.api.types.is_bool_dtype, "True and False") for truth in _BOOLEAN_COLUMNS),
            *((count, pd.api.types.is_integer_dtype, "whole numbers") for count in ("identity", "sample")),
        ):
            if not fits(table[column]):
                raise self._spoilt(f"{file}: the column {column!r} should hold {kind}")
        return table

    @cached_property
    def metrics(self) -> dict[str, Estimate]:
        """``metrics.json``: estimates by name, in their order of measurement or by name."""
        _require(self.path / "metrics.json")
        stored = read_estimates(self.path / "metrics.json")
        return {name: Estimate(name=name, **content) for name, content in stored.items()}

    @cached_property
    def infos(self) -> dict[str, MetricInfo]:
        """What the metrics say about themselves, by name and in the order of tables: title, unit, direction, column.

        As the run stored it, so that a metric need not be installed where a run is read. Built-in metrics that the run
        did not measure are among them; a metric that nobody described has its name as title.
        """
        known = {**built_in_infos(), **read_infos(self.record.get("metrics", []))}
        measured = self.metrics if (self.path / "metrics.json").is_file() else {}
        unknown = {
            name: MetricInfo(name, name, higher_is_better=estimate.higher_is_better, views=())
            for name, estimate in sorted(measured.items())
            if name not in known
        }
        return merged_infos([known, unknown])

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Every stored unit, by number."""
        return tuple(_read_unit(file) for file in sorted((self.path / "units").glob("*.safetensors")))

    @property
    def curves(self) -> dict[str, Tensor]:
        """Name -> curves of all units stacked, float32 ``(rows, steps)``; shorter ones are padded with NaN."""
        from torch.nn.utils.rnn import pad_sequence

        rows: dict[str, list[Tensor]] = {}
        for unit in self.units:
            for name, curve in unit.curves.items():
                rows.setdefault(name, []).extend(curve.float().reshape(-1, curve.shape[-1]).unbind(0))
        nan = float("nan")
        return {name: pad_sequence(parts, batch_first=True, padding_value=nan) for name, parts in rows.items()}

    @property
    def log(self) -> Iterator[JsonObject]:
        """Records of ``log.jsonl``; a last line cut off by a crash is left out."""
        file = self.path / "log.jsonl"
        if not file.is_file():
            return
        for line in _read_text(file).splitlines():
            try:
                record = parse_json(line)
            except ValueError:
                continue
            if isinstance(record, dict):
                yield record

    def total(self, fact: str) -> float | None:
        """Sum of a numeric fact (``seconds``, ``queries_forward``) over units; None when any unit lacks it."""
        values = [unit.facts.get(fact) for unit in self.units]
        if not values or not all(isinstance(value, int | float) for value in values):
            return None
        return float(sum(value for value in values if value is not None))

    @cached_property
    def preparation(self) -> JsonObject:
        """Facts of ``state.safetensors``, as :attr:`Unit.facts` are of a unit; empty when it is not there."""
        file = self.path / "state.safetensors"
        return _read_facts(file) if file.is_file() else {}

    @property
    def attacked(self) -> JsonObject:
        """The attacked classifier: ``test_accuracy``, ``test_images``, ``seconds`` of its training, ``defence``.

        A fact that is not known is None or absent; see :class:`~mibench.records.CardDefence` for the defence.
        """
        return dict(self.record.get("attacked") or {})

    def cost(self) -> dict[str, dict[str, float | None]]:
        """What the run cost, in the same units for every attack.

        Returns:
            ``prepare`` (once, shared by all units) and ``attack`` (all units): ``queries_forward`` and
            ``queries_backward`` (images shown to the victim, whole numbers), ``seconds`` (sum over units) and
            ``peak_memory_bytes`` (highest of all units). ``identity``: the first three of both together, divided by
            the identities under attack. ``prior``: ``queries_forward`` that the training of the prior took, 0 for one
            that no victim had a part in. ``surrogate``, where the attack followed another network's gradients:
            ``queries_forward`` and ``queries_backward``, images shown to it. A number that was not recorded is None.
        """
        units = [_read_facts(file) for file in sorted((self.path / "units").glob("*.safetensors"))]
        prepare, attack = _cost([self.preparation]), _cost(units)
        protocol = self.specification.get("protocol")
        identities = protocol.get("identities") if isinstance(protocol, dict) else None
        per_identity: dict[str, float | None] = {}
        for fact in _COUNTED:
            first, second = prepare[fact], attack[fact]
            per_identity[fact] = (
                None if first is None or second is None or not identities else (first + second) / identities
            )
        return {
            "prepare": prepare,
            "attack": attack,
            "identity": per_identity,
            "prior": {"queries_forward": self.record.get("prior_queries_forward")},
            **_surrogate_cost(units),
        }

    def image(self, unit: int, index: int) -> Tensor:
        """A stored reconstruction, uint8 ``(3, H, W)``, by the columns ``unit`` and ``index`` of ``samples``."""
        for stored in self.units:
            if stored.number == unit:
                return stored.images[index]
        raise MibenchError(f"{self.path} has no unit {unit}", cure="continue the run with the same command")


def open_run(path: Path | str) -> StoredRun:
    """A run directory for reading.

    Raises:
        MibenchError: there is no run there.
    """
    folder = Path(path)
    if not (folder / "run.json").exists():
        raise MibenchError(f"{folder} is not a run directory: it has no run.json", cure="start one with mibench run")
    return StoredRun(folder)


def as_runs(runs: StoredRun | Sequence[StoredRun]) -> tuple[StoredRun, ...]:
    """One run or several as a tuple of at least one."""
    several = (runs,) if isinstance(runs, StoredRun) else tuple(runs)
    if not several:
        raise MibenchError("there is no run to report", cure="give at least one run directory")
    return several


def _read_unit(file: Path) -> Unit:
    with opened(file) as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a mapping)
    facts = _read_facts(file)
    try:
        return Unit(
            number=int(file.stem),
            images=tensors["images"],
            labels=tensors["labels"],
            confidence=tensors["confidence"],
            latents=tensors.get("latents", tensors["confidence"][:0]),
            curves={name.removeprefix("curve."): t for name, t in tensors.items() if name.startswith("curve.")},
            facts=facts,
        )
    except (KeyError, ValueError) as error:
        raise MibenchError(
            f"{file} is no unit of a run ({error})", cure="delete it and run the same command again"
        ) from error


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """Tensors of a unit or a state, read one by one as they are asked for.

    Raises:
        MibenchError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            yield stored
    except (SafetensorError, OSError) as error:
        raise MibenchError(
            f"{file} cannot be read ({error})", cure="delete it and run the same command again"
        ) from error


def _read_facts(file: Path) -> JsonObject:
    """What stands beside stored tensors: their metadata (part of the result) and the sidecar (what they cost)."""
    facts: JsonObject = {}
    with opened(file) as stored:
        for text in (stored.metadata() or {}).values():
            try:
                content = parse_json(text)
            except ValueError as error:
                raise MibenchError(
                    f"{file} has metadata that is not JSON ({error})", cure="delete it and run the same command again"
                ) from error
            facts.update(content if isinstance(content, dict) else {})
    sidecar = file.with_suffix(".json")
    return facts | (_read_object(sidecar) if sidecar.is_file() else {})


def _cost(parts: Sequence[JsonObject]) -> dict[str, float | None]:
    """Sums of what is counted and the highest peak of memory; None where a part lacks the number."""
    totals: dict[str, float | None] = {}
    for fact in (*_COUNTED, "peak_memory_bytes"):
        values = [part[fact] for part in parts if isinstance(part.get(fact), int | float)]
        complete = bool(parts) and len(values) == len(parts)
        totals[fact] = (max(values) if fact == "peak_memory_bytes" else sum(values)) if complete else None
    return totals


def _surrogate_cost(units: Sequence[JsonObject]) -> dict[str, dict[str, float | None]]:
    """Images shown to a surrogate by all units; empty where there was none."""
    sums = {way: [unit.get(f"surrogate_{way}") for unit in units] for way in ("forward", "backward")}
    if not units or not all(isinstance(value, int) for values in sums.values() for value in values):
        return {}
    return {"surrogate": {f"queries_{way}": sum(map(int, filter(None, values))) for way, values in sums.items()}}


def _require(file: Path) -> None:
    if not file.is_file():
        raise MibenchError(f"{file} is missing: the run is not finished", cure="continue it with the same command")


def _read_text(file: Path) -> str:
    _require(file)
    return read_text(file)


def _read_object(file: Path) -> JsonObject:
    _require(file)
    return read_object(file, cure="restore it or make it again")


def _name(value: object) -> str:
    """A name that is stored as text or inside a mapping."""
    if isinstance(value, dict):
        for key in ("card", "name", "architecture"):
            if key in value:
                return str(value[key])
    return str(value) if value is not None else "unknown"
