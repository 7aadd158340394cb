"""Controls: images that no attack made, judged by the same path. Lower and upper reference values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mibench.api import Estimate, MetricInfo, metric
from mibench.data.split import Images

from . import estimates
from .accuracy import Verdicts
from .distance import nearest, nearest_in_class
from .extractors import JudgeExtractor
from .groups import rows_by_label, rows_of
from .identity import IdentityTruth, true_identity
from .inputs import ScoringInputs, column_mean

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


def control_tables(
    identities: Tensor,
    *,
    judge: JudgeExtractor,
    reference: Tensor,
    reference_labels: Tensor,
    per_identity: int,
    public: Images | None,
    private_test: Images | None,
    truth: IdentityTruth | None,
) -> dict[str, pd.DataFrame]:
    """Tables with the judge's columns for each control that has images.

    ``nearest_public``: for each identity the ``per_identity`` public images nearest to its private training images in
    judge features. It is chosen *with* the private data, so it bounds what any choice of public images could show.
    ``private_test``: private test images of the attacked identities, the most a perfect attack could reach.

    Args:
        identities: attacked classes, ascending.
        judge: the evaluator.
        reference: judge features of private training images ``(P, D)``.
        reference_labels: their classes ``(P,)``.
        per_identity: public images per identity.
        public: public images at the size of the reconstructions.
        private_test: private test images at the size of the reconstructions.
        truth: adds the column ``true_identity_error``.
    """
    tables: dict[str, pd.DataFrame] = {}

    def add(name: str, images: Tensor, labels: Tensor, features: Tensor, verdicts: Verdicts) -> None:
        columns: dict[str, TableColumn] = {
            "identity": labels,
            **judged_columns(features, verdicts, labels, reference, reference_labels),
        }
        if truth is not None:
            columns["true_identity_error"] = true_identity(images, labels, truth).error
        tables[name] = frame(columns)

    if public is not None and len(public):
        seen = judge.cached(public.pixels)
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
    if private_test is not None:
        chosen = torch.isin(private_test.labels, identities).nonzero().squeeze(1)
        if len(chosen):
            pixels = private_test.pixels[chosen]
            labels_of_chosen = private_test.labels[chosen]
            judged = judge.cached_judged(pixels, labels_of_chosen)
            add("private_test", pixels, labels_of_chosen, judged.features, judged.verdicts)
    return tables


CONTROLS = {"nearest_public": "nearest public images", "private_test": "private test images"}
_INFOS = [
    MetricInfo(
        f"control_{control}_{name}",
        f"{title}, {images}",
        percent=name == "acc1",
        proportion=name == "acc1",
        higher_is_better=name == "acc1",
        topic="control",
        views=(),
    )
    for control, images in CONTROLS.items()
    for name, title in (
        ("acc1", "acc@1"),
        ("knn_distance", "KNN distance"),
        ("true_identity_error", "true identity error"),
    )
]


@metric(*_INFOS)
def measure(inputs: ScoringInputs) -> list[Estimate]:
    """For each control its accuracy, KNN distance and (where the truth is known) true identity error."""
    columns = {"acc1": "hit1", "knn_distance": "knn_distance", "true_identity_error": "true_identity_error"}
    measured: list[Estimate] = []
    for control, table in inputs.controls.items():
        for name, column in columns.items():
            if column not in table:
                continue
            label = f"control_{control}_{name}"
            by_regressor = name == "true_identity_error"
            extractor = str(inputs.identity_params["regressor"]) if by_regressor else inputs.extractor
            if reason := inputs.fixed.get(column):
                measured.append(estimates.not_informative(label, reason, extractor=extractor))
                continue
            share = name == "acc1"
            measured.append(
                column_mean(label, table, column, proportion=share, extractor=extractor, **inputs.intervals)
            )
    return measured
