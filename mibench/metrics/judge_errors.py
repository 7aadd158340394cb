"""How often the judge is wrong, by control pairs: an image, and the claim that it shows a certain person.

A positive pair claims the truth and should be accepted; a negative one claims somebody else and should be rejected.
Every pair is judged as a reconstruction is: accepted when the claimed person has the judge's largest logit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from mibench.api import ClassifierOutput, Estimate, MetricInfo

from . import estimates
from .inputs import ScoringInputs

if TYPE_CHECKING:
    import pandas as pd

REJECTION, NEAREST, FOREIGN, PRIVATE = (
    "judge_false_rejection",
    "judge_false_acceptance_nearest",
    "judge_false_acceptance_foreign",
    "judge_false_acceptance_private",
)
PAIRS = {
    REJECTION: "private test images",
    NEAREST: "most similar public images",
    FOREIGN: "public images of anybody",
    PRIVATE: "private test images of others",
}  # estimate -> the pairs behind it
INFOS = tuple(
    MetricInfo(
        name,
        f"{'false rejection' if name == REJECTION else 'false acceptance'}: {pairs}",
        percent=True,
        proportion=True,
        topic="control",
        views=(),
    )
    for name, pairs in PAIRS.items()
)


def pairs_table(identities: Iterable[int], pairs: Iterable[int], accepted: Iterable[int]) -> pd.DataFrame:
    """Control pairs of each claimed identity: ``identity``, ``pairs``, ``accepted``."""
    import pandas as pd

    return pd.DataFrame({"identity": list(identities), "pairs": list(pairs), "accepted": list(accepted)})


def control_pairs(
    identities: Tensor, public: ClassifierOutput | None, controls: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """The pairs behind every error that can be counted, by the name of its estimate.

    Args:
        identities: attacked classes, ascending.
        public: what the judge gives for public images, or None without any.
        controls: as :func:`mibench.metrics.controls.control_tables` returns them.
    """
    people = identities.tolist()
    tables: dict[str, pd.DataFrame] = {}
    for name, control in ((REJECTION, "private_test"), (NEAREST, "nearest_public")):
        if (table := controls.get(control)) is not None:
            hits = table.groupby("identity")["hit1"].agg(["size", "sum"]).loc[lambda rows: rows.index.isin(people)]
            tables[name] = pairs_table(hits.index, hits["size"], hits["sum"].astype(int))
    if public is not None:
        predicted = public.logits.argmax(dim=1)
        tables[FOREIGN] = pairs_table(people, [len(predicted)] * len(people), _counts(predicted, people))
    if (table := controls.get("private_test")) is not None and len(people) > 1:
        predicted = torch.from_numpy(table["predicted"].to_numpy(dtype=np.int64).copy())
        shown = torch.from_numpy(table["identity"].to_numpy(dtype=np.int64).copy())
        everybody, own = _counts(predicted, people), _counts(predicted[predicted == shown], people)
        images = _counts(shown, people)
        others = [len(shown) - number for number in images]
        tables[PRIVATE] = pairs_table(people, others, [a - b for a, b in zip(everybody, own, strict=True)])
    return tables


def judge_errors(inputs: ScoringInputs) -> list[Estimate]:
    """Error rates of the judge with intervals over people; those whose pairs exist."""
    measured = []
    for name, table in inputs.control_pairs.items():
        fields: estimates.EstimateFields = {"extractor": inputs.extractor}
        if reason := inputs.fixed.get("hit1"):
            measured.append(estimates.not_informative(name, reason, **fields))
            continue
        pairs, accepted = (table[column].to_numpy(dtype=np.float64) for column in ("pairs", "accepted"))
        wrong = pairs - accepted if name == REJECTION else accepted
        fields["params"] = {"pairs": int(pairs.sum()), "kind": "positive" if name == REJECTION else "negative"}
        measured.append(estimates.ratio(name, wrong, pairs, proportion=True, **inputs.intervals, **fields))
    return measured


def _counts(labels: Tensor, people: list[int]) -> list[int]:
    """How many of ``labels`` ``(N,)`` are each of ``people``."""
    counted = labels.bincount(minlength=max(people, default=0) + 1)
    return [int(counted[person]) for person in people]
