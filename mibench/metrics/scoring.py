"""Judges reconstructions with networks that the attack never saw: a table per sample first, then estimates.

Nothing here needs a run directory, so stored reconstructions can be scored again without attacking again.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mibench.api import Estimate, MetricInfo, MibenchError
from mibench.data.split import Images
from mibench.metrics.accuracy import always_hit
from mibench.metrics.controls import ControlImages, TableColumn, control_tables, frame, judged_columns
from mibench.metrics.declared import built_in, infos_of
from mibench.metrics.distance import nearest_in_class, unit_features
from mibench.metrics.estimates import RESAMPLES
from mibench.metrics.extractors import InceptionExtractor, JudgeExtractor
from mibench.metrics.identity import IdentityTruth, true_identity
from mibench.metrics.inputs import MetricFunction, ScoringInputs
from mibench.metrics.judge_errors import control_pairs
from mibench.metrics.loss_gradients import LossGradients
from mibench.metrics.returned import measure, own_columns
from mibench.metrics.second_judge import ask_second_judge

from . import DEFAULT_METRICS, METRICS

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "identity", "sample", "selected", "confidence", "predicted", "hit1", "hit5", "judge_confidence", "knn_distance",
    "nearest_private", "feature_distance", "true_identity_error", "true_identity_rank",
    "true_identity_rank_private", "unit", "index", "image_sha256", "target_hit1", "target_confidence",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Stored reconstructions of all units, in any order.

    Attributes:
        images: uint8 ``(N, 3, H, W)`` at the size of the attacked model.
        labels: identity each one is meant to show, int64 ``(N,)``.
        confidence: the adversary's own ranking ``(N,)``, higher is better; NaN ranks last.
        units: number of the unit each came from, int64 ``(N,)``.
        index: its row inside the unit, int64 ``(N,)``.
    """

    images: Tensor
    labels: Tensor
    confidence: Tensor
    units: Tensor
    index: Tensor

    @classmethod
    def of(cls, units: Iterable[tuple[int, Tensor, Tensor, Tensor]]) -> Reconstructions:
        """Join ``(unit number, images, labels, confidence)`` of several units."""
        parts = list(units)
        if not parts:
            raise MibenchError("there is no unit to score", cure="run the attack first")
        return cls(
            images=torch.cat([images for _, images, _, _ in parts]),
            labels=torch.cat([labels for _, _, labels, _ in parts]),
            confidence=torch.cat([confidence for _, _, _, confidence in parts]),
            units=torch.cat([torch.full_like(labels, number) for number, _, labels, _ in parts]),
            index=torch.cat([torch.arange(len(labels)) for _, _, labels, _ in parts]),
        )

    def check(self) -> None:
        """Raise when shapes or types do not fit together."""
        n = self.images.shape[0]
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise MibenchError(
                f"reconstructions are uint8 (N, 3, H, W), got {self.images.dtype} {tuple(self.images.shape)}"
            )
        for name in ("labels", "confidence", "units", "index"):
            if tuple(getattr(self, name).shape) != (n,):
                raise MibenchError(f"{n} reconstructions but {name} of shape {tuple(getattr(self, name).shape)}")
        if n == 0:
            raise MibenchError("there is no reconstruction to score", cure="run the attack first")


@dataclass(frozen=True)
class Scores:
    """What scoring measured.

    Attributes:
        samples: columns ``COLUMNS``, and those that metrics add of their own.
        metrics: estimates by name.
        infos: what the metrics say about them.
        notes: sentences worth telling the user.
    """

    samples: pd.DataFrame
    metrics: dict[str, Estimate]
    infos: tuple[MetricInfo, ...] = ()
    notes: tuple[str, ...] = ()

    def missing(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> reason of those estimates (or metrics never computed) that have no value and could have one."""
        reasons = {}
        for name in names:
            estimate = self.metrics.get(name)
            if estimate is None:
                reasons[name] = "it was not computed"
            elif estimate.value is None and not estimate.params.get("cannot_differ"):
                reasons[name] = estimate.reason or "no reason was given"
        return reasons

    def as_json(self) -> dict[str, dict[str, object]]:
        """The content of ``metrics.json``: strict JSON, no NaN."""
        return {name: estimate_as_json(estimate) for name, estimate in self.metrics.items()}


def estimate_as_json(estimate: Estimate) -> dict[str, object]:
    """An estimate without its name; numbers that are not finite become None."""
    record: dict[str, object] = asdict(estimate)
    record.pop("name")
    record["params"] = dict(estimate.params)
    for name, value in (("value", estimate.value), ("low", estimate.low), ("high", estimate.high)):
        if value is not None and not math.isfinite(value):
            record[name] = None
    return record


def score(
    reconstructions: Reconstructions,
    *,
    private: Images,
    judge: JudgeExtractor,
    per_identity: int,
    private_native: Images | None = None,
    target: JudgeExtractor | None = None,
    second: JudgeExtractor | None = None,
    second_judge: JudgeExtractor | None = None,
    truth: IdentityTruth | None = None,
    inception: InceptionExtractor | None = None,
    inception_reason: str | None = None,
    public: Images | None = None,
    private_test: Images | None = None,
    portraits: Images | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    registry: Mapping[str, MetricFunction] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Scores:
    """Score reconstructions. The result does not depend on their order.

    Args:
        reconstructions: what the attack kept.
        private: private *training* images of the attacked identities at the judge's size.
        judge: evaluator; never the attacked model.
        per_identity: the protocol's samples per identity; the adversary's most confident ones are selected.
        private_native: the same images at the size of the reconstructions, for FID; without them FID is null.
        target: the attacked model, wrapped; gives ``target_acc1`` and ``target_confidence``.
        second: another extractor for ``feature_distance`` (PPA's delta); by default unit-length judge features.
        second_judge: another judge, whose verdicts stand beside the first one's.
        truth: ground truth of identities and a regressor, where the data set knows them.
        inception: Inception for FID, or None with ``inception_reason``.
        inception_reason: why there is no ``inception``.
        public: public images at the size of the reconstructions: the control "nearest public".
        private_test: private test images at the size of the reconstructions: the control "private test".
        portraits: portraits of the attacked identities at that size: the control "private portraits".
        metrics: names in ``METRICS`` or ``registry``.
        registry: further metrics by name (third parties).
        seed: of the resampling.
        resamples: of identities.
        progress: called as ``progress(done, total, text)``.

    Raises:
        MibenchError: inputs that do not fit together, an unknown metric.
    """
    reconstructions.check()
    if per_identity < 1:
        raise MibenchError(f"a protocol selects at least one sample per identity, got {per_identity}")
    functions = [_metric(name, registry or {}) for name in metrics]
    steps = 4 + len(functions)

    progress(0, steps, "judging private images")
    reference = judge.cached_features(private.pixels)
    ordered, hashes = _ordered(reconstructions)
    progress(1, steps, "judging reconstructions")
    judge_output = judge.judged(ordered.images, ordered.labels)
    ranks = _ranks(ordered.labels)
    notes = _count_notes(ordered.labels, per_identity)
    reasons: dict[str, str] = {}
    constant_columns = {f"hit{k}": always_hit(k, judge_output.classes, f"judge {judge.name!r}") for k in (1, 5)}
    columns: dict[str, TableColumn] = {
        "identity": ordered.labels,
        "sample": ranks,
        "selected": ranks < per_identity,
        "confidence": ordered.confidence.double(),
        **judged_columns(judge_output.features, judge_output.verdicts, ordered.labels, reference, private.labels),
        "unit": ordered.units,
        "index": ordered.index,
        "image_sha256": hashes,
    }
    if second is None:
        features, references = unit_features(judge_output.features), unit_features(reference)
        feature_extractor = f"{judge.record}, unit length"
    else:
        features, references = second(ordered.images).features, second.cached_features(private.pixels)
        feature_extractor = second.record
    columns["feature_distance"] = nearest_in_class(features, ordered.labels, references, private.labels).distance

    progress(2, steps, "asking the attacked model and the regressor")
    if target is None:
        reasons["target_hit1"] = reasons["target_confidence"] = "the attacked model was not given to the scoring"
    else:
        target_output = target.judged(ordered.images, ordered.labels)
        constant_columns["target_hit1"] = constant_columns["target_confidence"] = always_hit(
            1, target_output.classes, "the attacked model"
        )
        columns["target_hit1"] = target_output.verdicts.hit1
        columns["target_confidence"] = target_output.verdicts.confidence
    identity_params: dict[str, str | int | float] = {}
    if truth is None:
        reasons["true_identity_error"] = "this data set has no ground-truth identities, or no regressor was given"
    else:
        columns |= true_identity(ordered.images, ordered.labels, truth).columns()
        identity_params = {
            "regressor": truth.regressor,
            "ranked_among": int(truth.private.shape[0] + truth.foreign.shape[0]),
            "standardised": truth.error is not None,
        }
        if identity_params["ranked_among"] == 1:
            constant_columns["true_identity_rank"] = "there is nobody else to rank the true person among"
        if len(truth.private) == 1:
            constant_columns["true_identity_rank_private"] = "there is no other private person to rank among"
        if truth.error is not None:
            identity_params["regressor_rmse"] = float(truth.error.double().square().mean().sqrt())

    progress(3, steps, "scoring controls")
    attacked = ordered.labels.unique()
    public_output = judge.cached(public.pixels) if public is not None and len(public) else None
    images_of_controls: ControlImages = {
        "reference_labels": private.labels,
        "per_identity": per_identity,
        "public": public,
        "private_test": private_test,
    }
    controls = control_tables(
        attacked,
        judge=judge,
        reference=reference,
        public_output=public_output,
        portraits=portraits,
        truth=truth,
        **images_of_controls,
    )
    table = _table(columns)
    features_of = _inception_features(ordered, ranks < per_identity, private_native, inception)
    if features_of is None:
        reasons["fid"] = (
            "private images at the size of the reconstructions were not given to the scoring"
            if inception is not None
            else inception_reason or "no Inception weights were given"
        )
    inputs = ScoringInputs(
        samples=table,
        features=judge_output.features,
        private_features=reference,
        private_labels=private.labels,
        extractor=judge.record,
        feature_extractor=feature_extractor,
        reasons=reasons,
        fixed={name: reason for name, reason in constant_columns.items() if reason},
        inception=features_of,
        inception_name=inception.name if inception is not None else ScoringInputs.inception_name,
        controls=controls,
        control_pairs=control_pairs(attacked, public_output, controls),
        second_judge=None
        if second_judge is None
        else ask_second_judge(second_judge, ordered.images, ordered.labels, private, portraits, images_of_controls),
        gradients=None if target is None else LossGradients(target.logits, target.device, ordered.images, public),
        identity_params=identity_params,
        seed=seed,
        resamples=resamples,
    )
    measured: dict[str, Estimate] = {}
    infos: dict[str, MetricInfo] = {}
    columns_of_metrics: dict[str, NDArray[np.generic]] = {}
    for done, (name, function) in enumerate(zip(metrics, functions, strict=True), start=4):
        progress(done, steps, f"measuring {name}")
        declared = {info.name: info for info in infos_of(function)}
        estimates, with_columns = measure(name, function, replace(inputs, infos=declared))
        if with_columns is not None:
            columns_of_metrics |= own_columns(name, with_columns, {*table, *columns_of_metrics}, len(table))
        for estimate in estimates:
            if estimate.name in measured:
                raise MibenchError(
                    f"metric {name!r} returns {estimate.name!r}, which another metric has measured already",
                    cure="give it another name",
                )
            if estimate.higher_is_better is None and estimate.name in declared:
                estimate = replace(estimate, higher_is_better=declared[estimate.name].higher_is_better)
            measured[estimate.name] = estimate
            if estimate.name in declared:
                infos[estimate.name] = declared[estimate.name]
    progress(steps, steps, "scored")
    return Scores(table.assign(**columns_of_metrics), measured, tuple(infos.values()), notes)


def _ordered(unordered: Reconstructions) -> tuple[Reconstructions, list[str]]:
    """Rows by identity, then falling confidence (NaN last), then image hash, and the hashes in that order.

    Sorting before anything is computed makes the result independent of the order of units and of rows.
    """
    hashes = [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() for image in unordered.images.cpu()]
    confidence = unordered.confidence.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).tolist()
    labels, units, index = unordered.labels.tolist(), unordered.units.tolist(), unordered.index.tolist()
    order = sorted(range(len(hashes)), key=lambda i: (labels[i], -confidence[i], hashes[i], units[i], index[i]))
    rows = torch.tensor(order)
    ordered = Reconstructions(
        images=unordered.images.cpu()[rows],
        labels=unordered.labels.cpu()[rows],
        confidence=unordered.confidence.cpu()[rows],
        units=unordered.units.cpu()[rows],
        index=unordered.index.cpu()[rows],
    )
    return ordered, [hashes[i] for i in order]


def _ranks(labels: Tensor) -> Tensor:
    """Rank of each row inside its identity ``(N,)``; rows are ordered by identity."""
    _, counts = labels.unique_consecutive(return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    ranks: Tensor = torch.arange(len(labels)) - starts
    return ranks


def _count_notes(labels: Tensor, per_identity: int) -> tuple[str, ...]:
    identities, counts = labels.unique_consecutive(return_counts=True)
    short = identities[counts < per_identity]
    if not len(short):
        return ()
    return (
        f"{len(short)} of {len(identities)} identities have fewer than the {per_identity} reconstructions that the "
        f"protocol selects (class {int(short[0])}: {int(counts.min())}); all of theirs are scored",
    )


def _inception_features(
    ordered: Reconstructions, selected: Tensor, native: Images | None, inception: InceptionExtractor | None
) -> Callable[[str], tuple[Tensor, Tensor, Tensor]] | None:
    if inception is None or native is None:
        return None
    extractor, reference = inception, native

    @lru_cache(maxsize=4)
    def features(scaling: str) -> tuple[Tensor, Tensor, Tensor]:
        fake = extractor(ordered.images[selected], scaling)
        return fake, extractor.cached(reference.pixels, scaling), reference.labels

    return features


def _table(columns: Mapping[str, TableColumn]) -> pd.DataFrame:
    import pandas as pd

    table = frame(columns)
    for name in COLUMNS:
        if name not in table:
            table[name] = pd.Series(pd.NA, index=table.index, dtype="Int64" if "rank" in name else "Float64")
    return table[list(COLUMNS)]


def _metric(name: str, registry: Mapping[str, MetricFunction]) -> MetricFunction:
    if name in registry:
        return registry[name]
    if name not in METRICS:
        known = ", ".join(sorted({*METRICS, *registry}))
        raise MibenchError(f"unknown metric {name!r}", cure=f"choose from {known}")
    return built_in(name)
