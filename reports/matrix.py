"""A matrix of defences and attacks as data. Tables and figures are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mibench.api import Estimate, MetricInfo

from .adaptive import AdaptiveAttack
from .comparison import Row
from .defended import Role
from .judges import Judge
from .masking import Masking
from .published import Reported


@dataclass(frozen=True, kw_only=True)
class Defended:
    """An attacked classifier.

    Attributes:
        group: classifiers of one table, called by the undefended one: ``architecture@dataset``.
        label, card: what its row and its weights are called.
        defence, settings, role: see :class:`~mibench.reports.defended.Classifier`.
        reference: label of the row that it is compared with, its undefended twin by default; None where there is none.
        differs_from_twin: setting of its training -> the value in the twin's recipe and its own.
        utility: test accuracy in [0, 1].
        seconds, relative_seconds: of its training, and as a multiple of its reference's.
        attacks: column -> the attack's results, seeds pooled.
        strongest: metric -> the column that does best, floors left out.
        reported: values that others published for the same thing.
        masking: signs that it hides gradients; None of what others are compared with.
        adaptive: attacks that know of a defence, which are no columns.
    """

    group: str
    label: str
    card: str
    defence: str
    settings: Mapping[str, object]
    role: Role
    reference: str | None
    differs_from_twin: Mapping[str, tuple[object, object]]
    utility: Estimate
    seconds: float | None
    relative_seconds: float | None
    attacks: Mapping[str, Row]
    strongest: Mapping[str, str]
    reported: tuple[Reported, ...]
    masking: Masking | None = None
    adaptive: tuple[AdaptiveAttack, ...] = ()

    @property
    def twin(self) -> bool:
        """Whether it is what others are compared with: undefended, and compared with nothing itself."""
        return self.role == "undefended" and self.reference is None


@dataclass(frozen=True, kw_only=True)
class DefenceDifference:
    """``defence - reference`` under one attack, paired over identities.

    Attributes:
        estimate: mean difference with a 95 % interval; null with the reason when it was not tested.
        p_value, p_holm: two-sided, of the sign-flip test; adjusted for every test of the matrix.
        detectable: the smallest true difference that one such test at 5 % finds in 80 % of cases.
        verdict: ``leaks less`` or ``leaks more`` where ``p_holm`` is at most 0.05; else None.
    """

    group: str
    defence: str
    reference: str
    attack: str
    metric: str
    estimate: Estimate
    p_value: float | None
    p_holm: float | None
    detectable: float | None
    verdict: str | None


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Defences by group (undefended ones first), attacks in order (floors last), and the differences.

    Attributes:
        infos: metrics that are shown and tested.
        rows, attacks, floors: ``floors`` are those of ``attacks`` that are the prior alone; they are not tested.
        family, masking_family, adaptive_family: how many tests Holm's adjustment covers: of the differences, of those
            that look for masking, and of adaptive attacks.
        mixed: names of circumstances that differ between runs (only after ``mix=True``).
        judges: who judged, with their error rates.
        notes: sentences that a reader needs. left_out: sentences on runs that were not used.
    """

    infos: Mapping[str, MetricInfo]
    rows: tuple[Defended, ...]
    attacks: tuple[str, ...]
    floors: tuple[str, ...]
    differences: tuple[DefenceDifference, ...]
    family: int
    mixed: tuple[str, ...]
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    judges: tuple[Judge, ...] = ()
    masking_family: int = 0
    adaptive_family: int = 0

    @property
    def groups(self) -> tuple[str, ...]:
        """Tables in order."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def difference(self, row: Defended, attack: str, metric: str) -> DefenceDifference | None:
        """The difference of a row to its reference; None where none was asked for."""
        key = (row.group, row.label, attack, metric)
        return next((d for d in self.differences if (d.group, d.defence, d.attack, d.metric) == key), None)
