"""Whether the files of a finished run are still what it wrote."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from mibench.errors import Problem

if TYPE_CHECKING:
    from .stored_run import StoredRun

SCORES = ("samples.csv", "metrics.json")


def damaged(run: StoredRun) -> Problem | None:
    """Which files of a finished run are not what it wrote (by hash), and what to do; None when all are.

    The cause is a predicate: :meth:`~mibench.errors.Problem.of` puts the run in front.

    Looked at are the scores, the attack's state and every unit; tables and figures may be edited by their owner. A run
    that recorded no hashes, or is not finished, is not checked.
    """
    outputs = run.record.get("outputs")
    if run.status != "complete" or not isinstance(outputs, dict):
        return None
    wrong: dict[str, str] = {}
    for name, digest in outputs.items():
        if name not in SCORES and not name.endswith(".safetensors"):
            continue
        if not (run.path / name).is_file():  # not a regular file (a pipe would block)
            wrong[name] = "is missing"
            continue
        try:
            with (run.path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    wrong[name] = "has changed"
        except OSError as error:
            wrong[name] = f"cannot be read ({error.strerror})"
    if not wrong:
        return None
    more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
    first = ", ".join(f"{name} {what}" for name, what in list(wrong.items())[:2])
    cure = f"mibench score {run.path}" if set(wrong) <= set(SCORES) else "rerun the original command to regenerate them"
    return Problem(f"is damaged since it was finished: {first}{more}", cure)
