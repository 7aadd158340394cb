"""Attacks side by side: rows with intervals, paired tests over identities, the smallest difference that shows.

Seeds are pooled first: an identity's value is its mean over the seeds, and identities are what is resampled and tested.
Held fixed by every interval and test: the weights of target, judge and prior. See ``docs/comparing.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from mibench.api import MibenchError
from mibench.results import COMPARED_BY, ComparedBy, ComparisonFunction, StoredRun, merged_infos

from . import comparison_tables
from .compare_defences import PrintedMatrix, compare_defences
from .comparison import Comparison
from .formats import as_plain, out_of_reach
from .judges import judges_of
from .pooled_rows import row_of
from .rows import Pool, circumstances, differing, open_runs, pool_runs, refuse_mixture
from .significance import PAIRED_ROWS, Difference, adjust, check_reference, difference, pairs, testable, untested

Runs = StoredRun | Path | str | Sequence[StoredRun | Path | str]


class PrintedComparison(Comparison):
    """A comparison that prints and writes itself: what ``mibench compare`` asks of a comparison."""

    def render(self, kind: str = "text", *, width: int = 110) -> str:
        """The comparison as ``text`` (tables cut at ``width`` letters), ``markdown``, ``csv`` (rows) or ``latex``."""
        return comparison_tables.render(self, kind, width=width)

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""
        return as_plain(self)

    def write(self, folder: Path | str, *, paper: bool = False) -> list[Path]:
        """Write ``comparison`` and ``differences`` as CSV, Markdown and LaTeX, and the figure as PNG and SVG.

        With ``paper`` the figures for papers as well, PDF and SVG.
        """
        files = comparison_tables.write_all(self, Path(folder))
        if paper:
            from .figures.paper import write_paper

            files += write_paper(self, Path(folder) / "paper")
        return files


def compare_attacks(
    runs: Runs,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    mix: bool = False,
) -> PrintedComparison:
    """Compare finished runs by attack.

    Args:
        runs: runs, their folders, or folders of runs; floors that lie beside them come along.
        reference: label or attack that every row is tested against; ``floor`` is each row's own floor. By default
            every pair is tested on targets with at most ``PAIRED_ROWS`` rows, else every row against the first one.
        metrics: which to show and to test, out of those that have a value for each identity; by default those that say
            they are tested, and every metric that stands in comparisons is shown.
        mix: show runs of different protocols, data sets, judges or identities beside each other, without tests
            between them, instead of refusing.

    Raises:
        MibenchError: runs that are unfinished or must not be compared, an unknown reference or metric.
    """
    opened, left_out = open_runs([runs] if isinstance(runs, StoredRun | Path | str) else list(runs))
    infos = merged_infos(run.infos for run in opened)
    tested = testable(infos, metrics)
    shown = {name: info for name, info in infos.items() if "comparison" in info.views or name in tested}
    facts = [circumstances(run) for run in opened]
    if not mix:
        refuse_mixture(opened, facts)
    pools = pool_runs(opened, facts)
    differences: list[Difference] = []
    notes: list[str] = []
    for target in dict.fromkeys(pool.target for pool in pools):
        block = [pool for pool in pools if pool.target == target and not pool.sees_private]
        tests = pairs(block, reference)
        notes += untested(target, block, reference, tests)
        differences += [difference(*pair, metric) for metric in tested for pair in tests]
    check_reference(reference, pools)
    differences, family = adjust(differences)
    return PrintedComparison(
        infos=shown,
        rows=tuple(row_of(pool, shown) for pool in pools),
        differences=tuple(differences),
        tested=tested,
        family=family,
        reference=reference,
        mixed=tuple(differing(facts)),
        notes=tuple(notes + _remarks(pools, family, reference)),
        left_out=left_out,
        judges=judges_of(opened),
        requested=tuple(dict.fromkeys(metrics)),
    )


@overload
def compare(
    runs: Runs,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    mix: bool = False,
    by: Literal["attack"] = "attack",
) -> PrintedComparison: ...


@overload
def compare(
    runs: Runs, *, reference: str | None = None, metrics: Sequence[str] = (), mix: bool = False, by: ComparedBy = ...
) -> PrintedComparison | PrintedMatrix: ...


def compare(
    runs: Runs,
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    mix: bool = False,
    by: ComparedBy = "attack",
) -> PrintedComparison | PrintedMatrix:
    """Compare finished runs: attacks on each target, or (``by="defence"``) defences under each attack.

    The other arguments, and what is raised: :func:`compare_attacks` and
    :func:`~mibench.reports.compare_defences.compare_defences`.
    """
    if by not in COMPARED_BY:
        raise MibenchError(f"runs are not compared by {by!r}", cure=f"choose one of {', '.join(COMPARED_BY)}")
    if by == "defence":
        return compare_defences(runs, reference=reference, metrics=metrics, mix=mix)
    return compare_attacks(runs, reference=reference, metrics=metrics, mix=mix)


def _remarks(pools: Sequence[Pool], family: int, reference: str | None) -> list[str]:
    """What a reader would otherwise have to find out."""
    fewest = min(len(pool.identities) for pool in pools)
    notes = out_of_reach(fewest, family, "attack more identities, or test fewer pairs or metrics")
    if controls := list(dict.fromkeys(pool.label for pool in pools if pool.sees_private)):
        notes.append(f"{', '.join(controls)}: a control, no attack, which no test counts")
    seeds = {len(pool.runs) for pool in pools}
    if len(seeds) > 1:
        notes.append(f"rows have different numbers of seeds ({min(seeds)} to {max(seeds)})")
    elif len({tuple(sorted(str(run.seed) for run in pool.runs)) for pool in pools}) > 1:
        notes.append("rows have different seeds")
    devices = {str((run.record.get("environment") or {}).get("device_name", "")) for pool in pools for run in pool.runs}
    if len(devices) > 1:
        notes.append(f"seconds and memory come from different machines: {', '.join(sorted(map(str, devices)))}")
    crowded = [target for target in dict.fromkeys(p.target for p in pools) if _size(pools, target) > PAIRED_ROWS]
    if crowded and reference is None:
        notes.append(
            f"more than {PAIRED_ROWS} rows: on {', '.join(crowded)} each is tested against the first one only; "
            "choose another with --reference"
        )
    return notes


def _size(pools: Iterable[Pool], target: str) -> int:
    return sum(pool.target == target and not pool.sees_private for pool in pools)


if TYPE_CHECKING:
    _: ComparisonFunction = compare  # held to the contract
