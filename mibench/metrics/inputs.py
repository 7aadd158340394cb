"""What a metric may look at, and the shape every metric has.

A metric is a function from :class:`ScoringInputs` to estimates, described by :func:`mibench.api.metric`. It reads the
per-sample table first; only metrics of *sets* (diversity, Fréchet distance, precision and recall) need the features
besides. One that has a value of its own for each sample returns :class:`mibench.api.Measured`: its values become a
column of ``samples.csv``, and its mean is tested like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mibench.api import Estimate, Measured, MetricInfo

from . import estimates
from .estimates import EstimateFields, MeanOptions, Resampling
from .groups import rows_by_label, rows_of
from .loss_gradients import LossGradients

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class SecondJudge:
    """What a second judge says.

    Attributes:
        predicted: its class for each reconstruction ``(N,)``, int64; rows as in ``ScoringInputs.samples``.
        hit1: whether that is the right one ``(N,)``.
        extractor: its name, for the record.
        controls: as ``ScoringInputs.controls``, judged by it.
        control_pairs: as ``ScoringInputs.control_pairs``, judged by it.
        fixed: why every image is a hit, where it knows one class only.
    """

    predicted: Tensor
    hit1: Tensor
    extractor: str
    controls: Mapping[str, pd.DataFrame]
    control_pairs: Mapping[str, pd.DataFrame]
    fixed: str | None = None


@dataclass(frozen=True, kw_only=True)
class ScoringInputs:
    """The reconstructions of a run as the judge saw them.

    ``N`` rows, ``P`` private training images of the attacked identities, ``D`` judge features.

    Attributes:
        samples: one row per reconstruction, ordered by identity, then by the adversary's ranking.
        features: judge features ``(N, D)``, rows as in ``samples``.
        private_features: judge features of private training images ``(P, D)``.
        private_labels: their classes ``(P,)``.
        extractor: the judge's name, for the record.
        feature_extractor: what ``feature_distance`` was measured with.
        reasons: column or metric name -> why it is missing.
        fixed: column -> why every image has the same value in it, whatever the attack did; there is nothing to measure.
        inception: scaling (``"unit"`` or ``"ppa-legacy"``) -> Inception features of the selected reconstructions, of
            the private images, and the classes of the latter. None without weights (see ``reasons["fid"]``).
        inception_name: for the record.
        controls: name -> table of images scored by the same path as the reconstructions.
        control_pairs: name of an error of the judge -> for each claimed ``identity`` how many ``pairs`` of an image and
            that claim there are, and how many the judge ``accepted``.
        second_judge: what a second judge says; None: there is none.
        gradients: those of the attacked model, computed when a metric asks; None without it (see ``reasons``).
        infos: what the metric that looks at these inputs declares of its estimates, by name.
        identity_params: facts about the ground truth and the regressor, for the record.
        seed: of the intervals.
        resamples: of the intervals.
    """

    samples: pd.DataFrame
    features: Tensor
    private_features: Tensor
    private_labels: Tensor
    extractor: str
    feature_extractor: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, str] = field(default_factory=dict)
    inception: Callable[[str], tuple[Tensor, Tensor, Tensor]] | None = None
    inception_name: str = "inception-2015-12-05 pool3"
    controls: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    control_pairs: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    second_judge: SecondJudge | None = None
    gradients: LossGradients | None = None
    infos: Mapping[str, MetricInfo] = field(default_factory=dict)
    identity_params: Mapping[str, str | int | float] = field(default_factory=dict)
    seed: int = 0
    resamples: int = estimates.RESAMPLES

    @property
    def selected(self) -> NDArray[np.bool_]:
        """Which rows the protocol's selection kept ``(N,)``."""
        return self.samples["selected"].to_numpy(dtype=bool)

    @property
    def intervals(self) -> Resampling:
        """Options of :mod:`mibench.metrics.estimates` that every estimate of a run shares."""
        return {"seed": self.seed, "resamples": self.resamples}

    def per_identity(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Class -> (features of its selected reconstructions, features of its private images), ascending."""
        import torch

        labels = torch.from_numpy(self.samples["identity"].to_numpy(dtype=np.int64).copy())
        chosen = torch.from_numpy(self.selected.nonzero()[0])
        private = rows_by_label(self.private_labels)
        return {
            label: (self.features[chosen[rows]], self.private_features[rows_of(private, label)])
            for label, rows in rows_by_label(labels[chosen]).items()
        }

    def mean(
        self,
        name: str,
        column: str,
        *,
        every: bool = False,
        proportion: bool | None = None,
        **fields: Unpack[EstimateFields],
    ) -> Estimate:
        """Mean of a column over the selected rows (over every row with ``every``), null with the reason if missing.

        ``proportion``: the interval is that of a share; None: if the metric declares itself one.
        """
        fields.setdefault("extractor", self.extractor)
        if reason := self.fixed.get(column):
            return estimates.not_informative(name, reason, **fields)
        if reason := self.reasons.get(column):
            return estimates.null(name, reason, **fields)
        table = self.samples if every else self.samples[self.selected]
        share = self._declared_proportion(name) if proportion is None else proportion
        return column_mean(name, table, column, proportion=share, **self.intervals, **fields)

    def mean_of(self, name: str, values: Sequence[float] | estimates.Array, **options: Unpack[MeanOptions]) -> Estimate:
        """Mean of ``values`` ``(N,)`` (rows as in :attr:`samples`) over the selected rows; null unless they are finite.

        ``options`` are those of :func:`mibench.metrics.estimates.mean`; ``proportion`` is what the metric declares.

        Raises:
            MibenchError: a proportion with values outside [0, 1].
        """
        identities = self.samples["identity"].to_numpy(dtype=np.int64)
        chosen = np.asarray(values, dtype=np.float64)[self.selected]
        options.setdefault("seed", self.seed)
        options.setdefault("resamples", self.resamples)
        options.setdefault("proportion", self._declared_proportion(name))
        return estimates.mean(name, chosen, identities[self.selected], **options)

    def _declared_proportion(self, name: str) -> bool:
        info = self.infos.get(name)
        return info is not None and info.proportion


def column_mean(name: str, table: pd.DataFrame, column: str, **options: Unpack[MeanOptions]) -> Estimate:
    """Mean of a numeric column of a table that has an ``identity`` column."""
    return estimates.mean(
        name, table[column].to_numpy(dtype=np.float64), table["identity"].to_numpy(dtype=np.int64), **options
    )


MetricFunction = Callable[[ScoringInputs], list[Estimate] | Measured]
