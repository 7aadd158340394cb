"""Defences side by side: utility, leakage, and the difference to the undefended twin, paired over identities.

A row is an attacked classifier, a column a row of :func:`mibench.reports.compare.compare_attacks`: an attack with its
settings, seeds pooled. Held fixed by every interval and test: the weights of the classifiers, judge and prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mibench.api import Estimate, MetricInfo, MibenchError
from mibench.results import StoredRun, merged_infos

from . import matrix_tables
from .adaptive import AdaptiveAttack, adaptive_attacks, without_variants
from .defended import Classifier, Role, classifier_of, defence_labels, recipe_seconds, twin_of
from .formats import as_plain, out_of_reach
from .judges import judges_of
from .masking import Masking, look_for_masking
from .matrix import DefenceDifference, Defended, Matrix
from .pooled_rows import row_of
from .published import reported_beside
from .rows import Pool, circumstances, differing, open_runs, pool_runs, refuse_mixture
from .significance import adjust, difference, suggest, testable

USUAL = ("acc1",)  # tested unless metrics are requested: one metric keeps the family of tests small


class PrintedMatrix(Matrix):
    """A matrix that prints and writes itself, as ``mibench compare`` asks of a comparison."""

    def render(self, kind: str = "text", *, width: int = 110) -> str:
        """``text`` (tables cut at ``width`` letters), ``markdown``, ``csv`` (a line per cell) or ``latex``."""
        return matrix_tables.render(self, kind, width=width)

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""
        return as_plain(self)

    def write(self, folder: Path | str, *, paper: bool = False) -> list[Path]:
        """Write ``defences`` as CSV, Markdown and LaTeX, and the figure ``frontier`` as PNG and SVG.

        With ``paper`` the figures for papers as well, PDF and SVG.
        """
        files = matrix_tables.write_all(self, Path(folder))
        if paper:
            from .figures.paper_defences import write_paper

            files += write_paper(self, Path(folder) / "paper")
        return files


def compare_defences(
    runs: StoredRun | Path | str | Sequence[StoredRun | Path | str],
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    mix: bool = False,
) -> PrintedMatrix:
    """Compare defences by what attacks get out of them.

    Args:
        runs: runs, their folders, or folders of runs; floors that lie beside them come along.
        reference: label or card of the row that every row of its group is tested against, in place of each one's
            undefended twin.
        metrics: which to show and to test; ``USUAL`` by default.
        mix: show runs made under different circumstances, without tests between them, instead of refusing.

    Raises:
        MibenchError: runs that are unfinished or must not be compared, an unknown reference or metric.
    """
    opened, left_out = open_runs([runs] if isinstance(runs, StoredRun | Path | str) else list(runs))
    if controls := [run for run in opened if run.sees_private]:
        opened = tuple(run for run in opened if not run.sees_private)
        left_out += tuple(f"{run.path} is a control that sees private images, no attack" for run in controls)
    known = merged_infos(run.infos for run in opened)
    tested = testable(known, metrics or USUAL)
    infos = {name: info for name, info in known.items() if name in tested}
    facts = [circumstances(run) for run in opened]
    if not mix:
        refuse_mixture(opened, facts)
    pools = pool_runs(opened, facts)
    by_target: dict[str, list[Pool]] = {}
    for pool in pools:
        by_target.setdefault(pool.target, []).append(pool)
    classifiers = {
        target: classifier_of([run for pool in members for run in pool.runs]) for target, members in by_target.items()
    }
    labels = defence_labels(list(classifiers.values()))
    references = _references(classifiers, labels, reference)
    columns = without_variants(by_target)
    shown = [pool for members in columns.values() for pool in members]
    floors = tuple(dict.fromkeys(pool.label for pool in shown if pool.floor))
    attacks = tuple(dict.fromkeys(pool.label for pool in shown if not pool.floor)) + floors
    target_of = {classifier.key: target for target, classifier in classifiers.items()}
    tests = []
    for target, other in references.items():
        others = {pool.label: pool for pool in columns[target_of[other.key]] if not pool.floor}
        for pool in columns[target]:
            tests += [
                (target, other, pool.label, difference(pool, others[pool.label], metric))
                for metric in tested
                if pool.label in others
            ]
    adjusted, family = adjust([each for *_, each in tests])
    differences = tuple(
        DefenceDifference(
            group=classifiers[target].group,
            defence=labels[classifiers[target].key],
            reference=labels[other.key],
            attack=attack,
            metric=each.metric,
            estimate=each.estimate,
            p_value=each.p_value,
            p_holm=each.p_holm,
            detectable=each.detectable,
            verdict=None if each.stronger is None else f"leaks {_compared(each.estimate)}",
        )
        for (target, other, attack, _), each in zip(tests, adjusted, strict=True)
    )
    recipe_times = {target: recipe_seconds(other, list(classifiers.values())) for target, other in references.items()}
    checked = [
        target for target, classifier in classifiers.items() if classifier.role != "undefended" or target in references
    ]
    directed = next((info for info in infos.values() if info.higher_is_better is not None), None)
    twins = {target: target_of[other.key] for target, other in references.items()}
    masking, masking_family = look_for_masking(by_target, twins, checked, directed)
    adaptive, adaptive_family = adaptive_attacks(by_target, twins, infos)
    rows = [
        _defended(
            classifiers[target],
            labels,
            references.get(target),
            members,
            infos,
            recipe_times.get(target),
            masking.get(target),
            adaptive[target],
        )
        for target, members in columns.items()
    ]
    groups = list(dict.fromkeys(row.group for row in rows))
    roles: tuple[Role, ...] = ("undefended", "defence", "control")
    rows.sort(
        key=lambda row: (
            (groups.index(row.group), roles.index(row.role), not row.twin, row.defence),
            [_sortable(value) for _, value in sorted(row.settings.items())],
        )
    )
    return PrintedMatrix(
        infos=infos,
        rows=tuple(rows),
        attacks=attacks,
        floors=floors,
        differences=differences,
        family=family,
        mixed=tuple(differing(facts)),
        notes=(
            *_remarks(classifiers, labels, references, columns, attacks, family, reference),
            *_unknown_costs(classifiers, labels, references, recipe_times),
        ),
        left_out=left_out,
        judges=judges_of(opened),
        masking_family=masking_family,
        adaptive_family=adaptive_family,
    )


def _references(
    classifiers: Mapping[str, Classifier], labels: Mapping[str, str], reference: str | None
) -> dict[str, Classifier]:
    """Target -> the classifier that it is tested against."""
    all_classifiers = list(classifiers.values())
    if reference is None:
        twins = {target: twin_of(classifier, all_classifiers) for target, classifier in classifiers.items()}
        return {target: twin for target, twin in twins.items() if twin is not None}
    named = [each for each in all_classifiers if reference in (labels[each.key], each.card)]
    if not named:
        known = list(dict.fromkeys(name for each in all_classifiers for name in (labels[each.key], each.card)))
        raise MibenchError(
            f"no row is called {reference!r}{suggest(reference, known)}",
            cure=f"name one of {', '.join(dict.fromkeys(labels.values()))}",
        )
    by_group = {each.group: each for each in named}
    return {
        target: by_group[each.group]
        for target, each in classifiers.items()
        if each.group in by_group and each.key != by_group[each.group].key
    }


def _defended(
    classifier: Classifier,
    labels: Mapping[str, str],
    reference: Classifier | None,
    pools: Sequence[Pool],
    infos: Mapping[str, MetricInfo],
    recipe_time: float | None,
    masking: Masking | None,
    adaptive: tuple[AdaptiveAttack, ...],
) -> Defended:
    attacks = {pool.label: row_of(pool, infos) for pool in pools}
    seconds = classifier.seconds
    strongest = {}
    for name in infos:
        ranked = {
            label: estimate
            for label, row in attacks.items()
            if not row.floor and (estimate := row.estimates.get(name)) is not None and estimate.value is not None
        }
        if ranked and (better := next(iter(ranked.values())).higher_is_better) is not None:
            strongest[name] = max(ranked, key=lambda label: (1 if better else -1) * float(ranked[label].value or 0))
    return Defended(
        group=classifier.group,
        label=labels[classifier.key],
        card=classifier.card,
        defence=classifier.defence,
        settings=classifier.settings,
        role=classifier.role,
        reference=None if reference is None else labels[reference.key],
        differs_from_twin=classifier.differs,
        utility=classifier.utility,
        seconds=seconds,
        relative_seconds=seconds / recipe_time if seconds is not None and recipe_time else None,
        attacks=attacks,
        strongest=strongest,
        reported=reported_beside(classifier, pools[0].runs[0]) if pools else (),
        masking=masking,
        adaptive=adaptive,
    )


def _sortable(value: object) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by what it reads."""
    number = isinstance(value, int | float)
    return not number, float(value) if isinstance(value, int | float) else 0.0, "" if number else str(value)


def _compared(estimate: Estimate) -> str:
    value = float(estimate.value or 0)
    return "more" if (value > 0) == bool(estimate.higher_is_better) else "less"


def _unknown_costs(
    classifiers: Mapping[str, Classifier],
    labels: Mapping[str, str],
    references: Mapping[str, Classifier],
    recipe_times: Mapping[str, float | None],
) -> list[str]:
    """Why a training's cost is not known, and how it could be."""
    notes = []
    for twin in {other.key: other for other in references.values()}.values():
        rows = [target for target, other in references.items() if other.key == twin.key]
        if any(recipe_times[target] is None for target in rows):
            given = f" --twin {twin.card}" if twin.tag else ""
            architecture, _, dataset = twin.group.partition("@")
            notes.append(
                f"no training × beside {labels[twin.key]}, as the card of {twin.card} has no seconds: train its recipe "
                f"once more where the others were trained, `mibench train target {architecture} --dataset {dataset} "
                f"--defence none{given}`, and attack that as well"
            )
        elif silent := [labels[classifiers[target].key] for target in rows if classifiers[target].seconds is None]:
            notes.append(f"no training × of {', '.join(silent)}: the card has no seconds, train it again")
    return notes


def _remarks(
    classifiers: Mapping[str, Classifier],
    labels: Mapping[str, str],
    references: Mapping[str, Classifier],
    by_target: Mapping[str, Sequence[Pool]],
    attacks: Sequence[str],
    family: int,
    reference: str | None,
) -> list[str]:
    """What a reader would otherwise have to find out."""
    notes = []
    for target, classifier in classifiers.items():
        if not classifier.recorded:
            notes.append(f"the runs against {target} do not record its defence and utility: run them again")
        elif classifier.role != "undefended" and target not in references and reference is None:
            twin = classifier.twin
            why = f"{twin} is not among the runs: attack it as well" if twin else "its card names none"
            notes.append(f"no undefended twin to compare {labels[classifier.key]} with ({why})")
    lacking: dict[tuple[str, ...], list[str]] = {}
    several = len({each.group for each in classifiers.values()}) > 1
    for target, pools in by_target.items():
        if absent := tuple(attack for attack in attacks if attack not in {pool.label for pool in pools}):
            label = labels[classifiers[target].key]
            lacking.setdefault(absent, []).append(f"{label} ({target})" if several else label)
    notes += [f"no finished run of {', '.join(absent)} on {', '.join(rows)}" for absent, rows in lacking.items()]
    all_pools = [pool for pools in by_target.values() for pool in pools]
    fewest = min(len(pool.identities) for pool in all_pools)
    notes += out_of_reach(fewest, family, "attack more identities, or test fewer metrics")
    if len({tuple(sorted(str(run.seed) for run in pool.runs)) for pool in all_pools}) > 1:
        counts = [len(pool.runs) for pool in all_pools]
        notes.append(f"cells have different seeds ({min(counts)} to {max(counts)} of them)")
    return notes
