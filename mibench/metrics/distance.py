"""Distances in feature space from a reconstruction to the private images of its identity."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mibench.api import Estimate, MetricInfo, MibenchError, metric

from .groups import rows_by_label, rows_of
from .inputs import ScoringInputs


class Nearest(NamedTuple):
    """Squared L2 distance ``(N,)`` to the nearest reference, float64, and its position ``(N,)``."""

    distance: Tensor
    position: Tensor


def nearest(queries: Tensor, references: Tensor, *, candidates: int = 8, block: int = 4096) -> Nearest:
    """The nearest reference of each query: found by a matrix product, then recomputed exactly.

    The product ``|q|² - 2qr + |r|²`` cancels for near neighbours (it returned 0 for vectors 0.02 apart), so it only
    proposes ``candidates``; their distances are recomputed from differences in float64. Ties go to the lower index.

    Args:
        queries: ``(N, D)``.
        references: ``(M, D)``, ``M`` at least 1.
        candidates: references whose distance is recomputed.
        block: queries per matrix product.
    """
    if references.shape[0] == 0:
        raise MibenchError("no reference image to measure a distance to", cure="check the labels of the private images")
    references = references.double()
    centre = references.mean(dim=0)  # centring keeps the product accurate when features share a large offset
    moved = references - centre
    squares = moved.square().sum(dim=1)
    k = min(candidates, references.shape[0])
    distances, indices = [], []
    for part in queries.double().split(block):
        rough = squares - 2 * (part - centre) @ moved.T
        proposed = rough.topk(k, dim=1, largest=False).indices.sort(dim=1).values
        exact = (part[:, None, :] - references[proposed]).square().sum(dim=2)
        best = exact.min(dim=1)
        distances.append(best.values)
        indices.append(proposed.gather(1, best.indices[:, None]).squeeze(1))
    if not distances:
        return Nearest(torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64))
    return Nearest(torch.cat(distances), torch.cat(indices))


def nearest_in_class(queries: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Nearest:
    """:func:`nearest` among the references of the query's own class; the position counts within that class.

    This is the field's "KNN distance": squared L2 to the one nearest private image, features not normalised.
    """
    distance = torch.empty(queries.shape[0], dtype=torch.float64)
    position = torch.empty(queries.shape[0], dtype=torch.int64)
    rows_of_label = rows_by_label(reference_labels)
    for label, rows in rows_by_label(labels).items():
        class_features = references[rows_of(rows_of_label, label)]
        if class_features.shape[0] == 0:
            raise MibenchError(
                f"class {label} has reconstructions but no private image",
                cure="give the private images of every attacked identity",
            )
        neighbours = nearest(queries[rows], class_features)
        distance[rows], position[rows] = neighbours.distance, neighbours.position
    return Nearest(distance, position)


def centre_distance(queries: Tensor, labels: Tensor, references: Tensor, reference_labels: Tensor) -> Tensor:
    """Squared L2 distance ``(N,)``, float64, to the mean feature of the query's class (KEDMI's ``calc_center``)."""
    distance = torch.empty(queries.shape[0], dtype=torch.float64)
    rows_of_label = rows_by_label(reference_labels)
    for label, rows in rows_by_label(labels).items():
        centre = references[rows_of(rows_of_label, label)].double().mean(dim=0)
        distance[rows] = (queries[rows].double() - centre).square().sum(dim=1)
    return distance


def unit_features(features: Tensor) -> Tensor:
    """Features scaled to length one, float64; zero vectors stay zero."""
    return torch.nn.functional.normalize(features.double(), dim=1, eps=1e-12)


@metric(MetricInfo("knn_distance", "KNN distance", higher_is_better=False, column="knn_distance", topic="distance"))
def measure_knn(inputs: ScoringInputs) -> list[Estimate]:
    """knn_distance: mean squared L2 in judge features to the nearest private training image of the class."""
    params = {"reference": "private train", "squared": True, "normalised": False}
    return [inputs.mean("knn_distance", "knn_distance", params=params)]


@metric(
    MetricInfo(
        "feature_distance",
        "feature distance",
        higher_is_better=False,
        column="feature_distance",
        topic="distance",
        views=("summary", "comparison"),
    )
)
def measure_feature(inputs: ScoringInputs) -> list[Estimate]:
    """feature_distance, PPA's delta: the same formula in another extractor or, without one, on the unit sphere.

    Unit-length judge features stand in for the unit-length FaceNet features of PPA's delta_face; the squared distance
    then lies in [0, 4] and can be compared between judges, which ``knn_distance`` cannot.
    """
    params = {"reference": "private train", "squared": True}
    return [
        inputs.mean("feature_distance", "feature_distance", extractor=inputs.feature_extractor, params=params),
    ]


@metric(MetricInfo("centre_distance", "distance to class centre", higher_is_better=False, topic="distance", views=()))
def measure_centre(inputs: ScoringInputs) -> list[Estimate]:
    """centre_distance: mean squared L2 in judge features to the mean private training feature of the class."""
    import numpy as np

    from . import estimates

    chosen = torch.from_numpy(inputs.selected.copy())
    identities = inputs.samples["identity"].to_numpy(dtype=np.int64)
    distance = centre_distance(
        inputs.features[chosen],
        torch.from_numpy(identities.copy())[chosen],
        inputs.private_features,
        inputs.private_labels,
    )
    return [
        estimates.mean(
            "centre_distance",
            distance.numpy(),
            identities[inputs.selected],
            extractor=inputs.extractor,
            params={"reference": "private train mean", "squared": True},
            **inputs.intervals,
        )
    ]
