"""What a metric yields: numbers that a reader can trust, and what the metric says about them for tables and figures.

A metric is a function that reads the scored reconstructions and returns :class:`Estimate` objects. The decorator
:func:`metric` adds what tables, figures and tests over identities need to know, so that nothing else lists metrics by
name. A run stores these descriptions (``metrics`` in ``run.json``): reports can then show a metric that is not
installed where they are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Topic = Literal[
    "accuracy", "distance", "identity", "fidelity", "diversity", "distribution", "draws", "victim", "other", "control"
]
View = Literal["run", "sweep", "summary", "comparison"]
TOPICS: tuple[Topic, ...] = get_args(Topic)
VIEWS: tuple[View, ...] = get_args(View)


@dataclass(frozen=True)
class Estimate:
    """A number with what a reader needs to trust it.

    ``value`` is None when it could not be computed; ``reason`` says why.
    ``low`` and ``high`` bound the 95 % interval that resamples ``unit`` (identities, not images).
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    unit: str = "identity"
    higher_is_better: bool | None = None
    version: str = "1"
    extractor: str | None = None
    reason: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricInfo:
    """What a metric says about one of its estimates.

    Attributes:
        name: of the estimate.
        title: what headings call it.
        unit: of the value, such as ``dB``; empty for a number without one. Not needed where ``percent`` is set.
        percent: the value is a fraction that is shown in percent.
        proportion: every sample's value lies in [0, 1], or is True or False: the metric is a share, or a mean of such
            values. It has the interval of a share, and differences between runs have that of shares. Implied by
            ``equals``.
        higher_is_better: for the attack, that is, worse for privacy; None where neither direction is.
        column: column of ``samples.csv`` whose mean over the selected samples the metric is. It gives the metric a
            value for each identity, and with it paired tests between runs. None for metrics of whole sets.
        equals: the metric is the share of samples whose ``column`` has this value, not the mean of the column.
        topic: tables keep metrics of one topic together, in the order of ``TOPICS``.
        views: tables that show it besides the table of every metric: what ``mibench run`` prints, the table of a
            sweep, the summary of a run, comparisons.
        tested: comparisons test it unless told which metrics to test; only with a ``column``.
    """

    name: str
    title: str
    unit: str = ""
    percent: bool = False
    proportion: bool = False
    higher_is_better: bool | None = None
    column: str | None = None
    equals: float | None = None
    topic: Topic = "other"
    views: tuple[View, ...] = VIEWS
    tested: bool = True

    def __post_init__(self) -> None:
        if self.equals is not None:
            object.__setattr__(self, "proportion", True)

    @property
    def heading(self) -> str:
        """The title with its unit in brackets, where it has one."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


@dataclass(frozen=True)
class Measured:
    """What a metric returns that has values of its own for each sample.

    Attributes:
        estimates: as other metrics return them.
        columns: name -> values ``(N,)``, rows as in ``ScoringInputs.samples``: new columns of ``samples.csv``.
    """

    estimates: Sequence[Estimate]
    columns: Mapping[str, Sequence[float] | NDArray[np.floating | np.integer | np.bool_]]


Inputs = TypeVar("Inputs")
Outputs = TypeVar("Outputs", bound="list[Estimate] | Measured")


@dataclass(frozen=True)
class Metric(Generic[Inputs, Outputs]):
    """A metric function together with what it says about its estimates; called as the function is."""

    function: Callable[[Inputs], Outputs]
    infos: tuple[MetricInfo, ...]

    def __call__(self, inputs: Inputs) -> Outputs:
        """Measure."""
        return self.function(inputs)


def metric(*infos: MetricInfo) -> Callable[[Callable[[Inputs], Outputs]], Metric[Inputs, Outputs]]:
    """Describe the estimates that a metric function yields.

    Estimates that do not say which direction is better get it from here.
    """

    def described(function: Callable[[Inputs], Outputs]) -> Metric[Inputs, Outputs]:
        return Metric(function, infos)

    return described
