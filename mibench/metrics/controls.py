"""Controls: images that no attack made, judged by the same path. Lower and upper reference values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor

from mibench.api import ClassifierOutput, Estimate, MetricInfo, metric
from mibench.data.split import Images

from . import estimates
from .accuracy import Verdicts
from .distance import nearest, nearest_in_class
from .estimates import EstimateFields
from .extractors import JudgeExtractor
from .groups import rows_by_label, rows_of
from .identity import RANKS, RECOVERY, IdentityTruth, no_information, rank_estimates, recovery, true_identity
from .inputs import ScoringInputs, column_mean
from .judge_errors import INFOS as ERROR_INFOS
from .judge_errors import judge_errors

if TYPE_CHECKING:
    import pandas as pd


TableColumn = Tensor | list[str]  # values of a column, one for each row


def judged_columns(
    features: Tensor, verdicts: Verdicts, labels: Tensor, references: Tensor, reference_labels: Tensor
) -> dict[str, Tensor]:
    """The judge's columns ``(N,)`` of the per-sample table.

    Args:
        features: judge features ``(N, D)``.
        verdicts: what the judge's logits say of the labels.
        labels: identity each image is meant to show ``(N,)``.
        references: judge features of private training images ``(P, D)``.
        reference_labels: their classes ``(P,)``.
    """
    neighbours = nearest_in_class(features, labels, references, reference_labels)
    return {
        "predicted": verdicts.predicted,
        "hit1": verdicts.hit1,
        "hit5": verdicts.hit5,
        "judge_confidence": verdicts.confidence,
        "knn_distance": neighbours.distance,
        "nearest_private": neighbours.position,
    }


def frame(columns: Mapping[str, TableColumn]) -> pd.DataFrame:
    """A table from tensors and lists."""
    import pandas as pd

    return pd.DataFrame(
        {name: column.cpu().numpy() if isinstance(column, Tensor) else column for name, column in columns.items()}
    )


class ControlImages(TypedDict):
    """Arguments of :func:`control_tables` that are the same for every judge."""

    reference_labels: Tensor
    per_identity: int
    public: Images | None
    private_test: Images | None


def control_tables(
    identities: Tensor,
    *,
    judge: JudgeExtractor,
    reference: Tensor,
    reference_labels: Tensor,
    per_identity: int,
    public: Images | None,
    public_output: ClassifierOutput | None,
    private_test: Images | None,
    portraits: Images | None,
    truth: IdentityTruth | None,
) -> dict[str, pd.DataFrame]:
    """Tables with the judge's columns for each control that has images.

    ``nearest_public``: for each identity the ``per_identity`` public images nearest to its private training images in
    judge features. It is chosen *with* the private data, so it bounds what any choice of public images could show.
    ``private_test``: private test images of the attacked identities, the most a perfect attack could reach.
    ``private_portraits``: the attacked identities as the data set's portraits show them.
    ``no_information``: no image at all; only the columns of the true identity.

    Args:
        identities: attacked classes, ascending.
        judge: the evaluator.
        reference: judge features of private training images ``(P, D)``.
        reference_labels: their classes ``(P,)``.
        per_identity: public images per identity.
        public: public images at the size of the reconstructions.
        public_output: what the judge gives for them.
        private_test: private test images at the size of the reconstructions.
        portraits: portraits of the attacked identities at that size.
        truth: adds the columns of the true identity.
    """
    tables: dict[str, pd.DataFrame] = {}

    def add(name: str, images: Tensor, labels: Tensor, features: Tensor, verdicts: Verdicts) -> None:
        columns: dict[str, TableColumn] = {
            "identity": labels,
            **judged_columns(features, verdicts, labels, reference, reference_labels),
        }
        if truth is not None:
            columns |= true_identity(images, labels, truth).columns()
        tables[name] = frame(columns)

    if public is not None and public_output is not None:
        seen = public_output
        rows, labels, verdicts = [], [], []
        rows_of_label = rows_by_label(reference_labels)
        for label in identities.tolist():
            distance = nearest(seen.features, reference[rows_of(rows_of_label, label)]).distance
            closest = distance.argsort(stable=True)[:per_identity]
            rows.append(closest)
            labels.append(torch.full_like(closest, label))
            verdicts.append(Verdicts.of(seen.logits[closest], labels[-1]))
        chosen = torch.cat(rows)
        joined = Verdicts.joined(verdicts)
        add("nearest_public", public.pixels[chosen], torch.cat(labels), seen.features[chosen], joined)
    for name, images in (("private_test", private_test), ("private_portraits", portraits)):
        if images is None:
            continue
        chosen = torch.isin(images.labels, identities).nonzero().squeeze(1)
        if len(chosen):
            pixels = images.pixels[chosen]
            labels_of_chosen = images.labels[chosen]
            judged = judge.cached_judged(pixels, labels_of_chosen)
            add(name, pixels, labels_of_chosen, judged.features, judged.verdicts)
    if truth is not None and (guess := no_information(identities, truth)) is not None:
        tables["no_information"] = frame({"identity": identities, **guess.columns()})
    return tables


CONTROLS = {
    "nearest_public": "nearest public images",
    "private_test": "private test images",
    "private_portraits": "private portraits",
    "no_information": "no information",
}
_OF_IMAGES = {"acc1": "acc@1", "knn_distance": "KNN distance"}
_OF_IDENTITY = {
    "true_identity_error": "true identity error",
    "true_identity_rank": "true identity rank (median)",
    "true_identity_top1": "true identity ranked first",
    "true_identity_rank_private": "true identity rank among private people (median)",
    "true_identity_top1_private": "true identity ranked first among private people",
    "true_identity_recovery": RECOVERY,
}
_SHARES = ("acc1", "true_identity_top1", "true_identity_top1_private")
_INFOS = [
    MetricInfo(
        f"control_{control}_{name}",
        f"{title}, {images}",
        percent=name in _SHARES,
        proportion=name in _SHARES,
        higher_is_better=name in _SHARES or name == "true_identity_recovery",
        topic="control",
        views=(),
    )
    for control, images in CONTROLS.items()
    for name, title in ((_OF_IMAGES if control != "no_information" else {}) | _OF_IDENTITY).items()
]


@metric(*_INFOS, *ERROR_INFOS)
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """For each control its accuracy, KNN distance and (where the truth is known) true identity; the judge's errors."""
    measured: list[Estimate] = []
    for control, table in inputs.controls.items():
        prefix = f"control_{control}_"
        for name, column in (("acc1", "hit1"), ("knn_distance", "knn_distance")):
            if column not in table:
                continue
            if reason := inputs.fixed.get(column):
                measured.append(estimates.not_informative(prefix + name, reason, extractor=inputs.extractor))
                continue
            fields: EstimateFields = {"extractor": inputs.extractor}
            share = name == "acc1"
            measured.append(column_mean(prefix + name, table, column, proportion=share, **fields, **inputs.intervals))
        if "true_identity_error" in table:
            name, regressor = f"{prefix}true_identity_error", str(inputs.identity_params["regressor"])
            measured.append(column_mean(name, table, "true_identity_error", extractor=regressor, **inputs.intervals))
            for rank in RANKS:
                measured += rank_estimates(inputs, table, rank, prefix)
            measured.append(recovery(f"{prefix}true_identity_recovery", inputs, table))
    return [*measured, *judge_errors(inputs)]
