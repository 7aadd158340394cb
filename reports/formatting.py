"""Names, directions and number formats that tables and figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mibench.api import Estimate
from mibench.results import StoredRun

SYNTHETIC = frozenset({"synthfaces"})  # data sets whose faces belong to nobody
ABSENT = "–"


@dataclass(frozen=True)
class Measure:
    """How a metric is shown: short title, whether as a percentage, whether among the headline numbers."""

    title: str
    percent: bool = False
    headline: bool = False


MEASURES: dict[str, Measure] = {
    "acc1": Measure("acc@1", percent=True, headline=True),
    "acc5": Measure("acc@5", percent=True, headline=True),
    "acc1_all": Measure("acc@1, before selection", percent=True),
    "knn_distance": Measure("KNN distance", headline=True),
    "feature_distance": Measure("feature distance", headline=True),
    "centre_distance": Measure("distance to class centre"),
    "true_identity_error": Measure("true identity error", headline=True),
    "true_identity_rank": Measure("true identity rank (median)"),
    "true_identity_top1": Measure("true identity ranked first", percent=True),
    "precision": Measure("precision"),
    "recall": Measure("recall"),
    "density": Measure("density"),
    "coverage": Measure("coverage", headline=True),
    "div_feat": Measure("diversity"),
    "div_feat_ratio": Measure("diversity ÷ private", headline=True),
    "frechet_judge": Measure("Fréchet distance (judge)", headline=True),
    "fid": Measure("FID", headline=True),
    "acc1_std_draws": Measure("acc@1, std over ranks"),
    "acc1_std_legacy": Measure("acc@1, std over ranks (legacy)"),
    "target_acc1": Measure("attacked model agrees", percent=True),
    "target_confidence": Measure("attacked model's confidence"),
}
CONTROLS = {"nearest_public": "control: nearest public images", "private_test": "control: private test images"}


CURVES = {
    "L_ce": "identity loss",
    "L_id": "identity loss",
    "L_imr": "loss within the class (IMR)",
    "L_idr": "loss across classes (IDR)",
    "L_prior": "prior loss",
    "drift": "drift of w (standard deviations)",
    "prototype_displacement": "displacement of the prototypes",
}  # what attacks log -> what it is


def curve_title(name: str) -> str:
    """A curve in words; an attack's own name for it where it is not known here."""
    return CURVES.get(name) or (f"loss {name[2:]}" if name.startswith("L_") else name).replace("_", " ")


def measure(name: str) -> Measure:
    """How to show a metric, known or not."""
    if name in MEASURES:
        return MEASURES[name]
    for control, title in CONTROLS.items():
        prefix = f"control_{control}_"
        if name.startswith(prefix):
            shown = measure(name.removeprefix(prefix))
            return Measure(f"{shown.title}, {title.removeprefix('control: ')}", shown.percent)
    return Measure(name, percent="acc1" in name and "std" not in name)


def run_labels(runs: Sequence[StoredRun]) -> list[str]:
    """Short names that tell the runs apart: attack, then target, seed and folder only where they differ."""
    names = [run.attack for run in runs]
    for part in ([run.target for run in runs], [f"seed {run.seed}" for run in runs], [run.path.name for run in runs]):
        if len(set(names)) == len(names):
            break
        if len(set(part)) > 1:
            names = [f"{name} · {more}" for name, more in zip(names, part, strict=True)]
    return names


def context(run: StoredRun) -> str:
    """What a number must be compared within: target, data set, protocol, seed."""
    seed = "" if run.seed is None else f", seed {run.seed}"
    return f"target {run.target}, data set {run.dataset}, protocol {run.protocol}{seed}"


def query_budget(run: StoredRun) -> int | None:
    """Images per identity that the run's protocol allows an attack to show its victim; None: as many as it likes."""
    protocol = run.specification.get("protocol")
    found = protocol.get("query_budget") if isinstance(protocol, dict) else None
    return found if isinstance(found, int) else None


def hides_faces(run: StoredRun, asked: bool | None) -> bool:
    """Whether faces are shown as mosaics: as asked, else unless the data set is synthetic."""
    return run.dataset not in SYNTHETIC if asked is None else asked


def number(value: float | None, *, percent: bool = False) -> str:
    """A number with about three significant digits."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if percent:
        return f"{100 * value:.1f}"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    if size >= 0.001 or size == 0:
        return f"{value:.3f}"
    return f"{value:.1e}"


def count(value: float | None) -> str:
    """A count with commas; one digit after the point where it is a mean and no whole number."""
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def interval(estimate: Estimate | None, *, percent: bool = False, sign: str = " %") -> str:
    """``value [low, high]``, or a dash when there is no value; ``sign`` follows a percentage."""
    if estimate is None or estimate.value is None:
        return ABSENT
    unit = sign if percent else ""
    shown = number(estimate.value, percent=percent) + unit
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} [{number(estimate.low, percent=percent)}, {number(estimate.high, percent=percent)}]"


def arrow(estimate: Estimate | None) -> str:
    """Which way is better for the adversary, that is, worse for privacy: ↑, ↓ or nothing."""
    if estimate is None or estimate.higher_is_better is None:
        return ""
    return " ↑" if estimate.higher_is_better else " ↓"
