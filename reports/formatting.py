"""Labels and sentences that tables and figures share; numbers are written by :mod:`mibench.results.formatting`."""

from __future__ import annotations

from collections.abc import Sequence

from mibench.results import StoredRun

FLOOR = "floor"  # name of the attack that draws from the prior and optimises nothing
FLOOR_LABEL = "floor (no attack)"
SYNTHETIC = frozenset({"synthfaces"})  # data sets whose faces belong to nobody
CONTROLS = {
    "nearest_public": "control: nearest public images",
    "private_test": "control: private test images",
    "private_portraits": "control: private portraits",
    "no_information": "control: no information",
}


CURVES = {
    "L_ce": "identity loss",
    "L_id": "identity loss",
    "L_imr": "loss within the class (IMR)",
    "L_idr": "loss across classes (IDR)",
    "L_prior": "prior loss",
    "L_reg": "distance of features to their mean (regulariser)",
    "L_tuning": "loss of tuning the generator",
    "generator_drift": "drift of the generator (pixels)",
    "pool_confidence": "confidence in the starting points",
    "kl": "divergence from the prior (nats)",
    "z_rms": "root mean square of z",
    "drift": "drift of w (standard deviations)",
    "spread": "spread of candidates (standard deviations)",
    "prototype_displacement": "displacement of the prototypes",
}  # what attacks log -> what it is


def curve_title(name: str) -> str:
    """A curve in words; an attack's own name for it where it is not known here."""
    return CURVES.get(name) or (f"loss {name[2:]}" if name.startswith("L_") else name).replace("_", " ")


def run_labels(runs: Sequence[StoredRun]) -> list[str]:
    """Short names that tell the runs apart: attack, then target, seed and folder only where they differ."""
    names = [run.attack_title if run.sees_private else run.attack for run in runs]
    for part in ([run.target for run in runs], [f"seed {run.seed}" for run in runs], [run.path.name for run in runs]):
        if len(set(names)) == len(names):
            break
        if len(set(part)) > 1:
            names = [f"{name} · {more}" for name, more in zip(names, part, strict=True)]
    return names


def context(run: StoredRun) -> str:
    """What must be equal for two numbers to be comparable: target, data set, protocol, seed."""
    seed = "" if run.seed is None else f", seed {run.seed}"
    return f"target {run.target}, data set {run.dataset}, protocol {run.protocol}{seed}"


def query_budget(run: StoredRun) -> int | None:
    """Images per identity that the run's protocol allows an attack to show its victim; None: as many as it likes."""
    protocol = run.specification.get("protocol")
    budget = protocol.get("query_budget") if isinstance(protocol, dict) else None
    return budget if isinstance(budget, int) else None


def hides_faces(run: StoredRun, hide: bool | None) -> bool:
    """Whether faces are shown as mosaics: as the caller says, else unless the data set is synthetic."""
    return run.dataset not in SYNTHETIC if hide is None else hide


def sentence(text: str) -> str:
    """A clause as a sentence: with a capital and a full stop."""
    return f"{text[:1].upper()}{text[1:]}."
