"""Private and public identities must not overlap: checked once per data set and remembered by its digest."""

from __future__ import annotations

import hashlib

from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.home import home
from mibench.progress import Reporter
from mibench.store import read_json, write_json

SMALL = 16  # pixels: the check reads names, not faces


def check_identities(dataset: IdentitySplit, reporter: Reporter | None = None) -> None:
    """Raise when a person is on both sides of a split.

    A passed check is remembered under ``$MIBENCH_HOME/cache`` (a folder that cannot be written costs time only).

    Raises:
        MibenchError: an identity is both private and public.
    """
    key = hashlib.sha256(f"{dataset.name} {dataset.digest}".encode()).hexdigest()[:16]
    passed = home() / "cache" / "disjoint" / f"{key}.json"
    if passed.is_file():
        try:
            if read_json(passed).get("shared") == 0:
                return
        except (MibenchError, AttributeError):
            passed.unlink(missing_ok=True)
    if reporter is not None:
        reporter.say(f"checking that private and public people of {dataset.name} are different ones (once)")
    private, public = dataset.private("train", SMALL), dataset.public(SMALL)
    dataset.check_disjoint(private, public)
    dataset.check_disjoint(dataset.private("test", SMALL), public)
    try:
        write_json(passed, {"dataset": dataset.name, "digest": dataset.digest, "shared": 0})
    except MibenchError:
        return  # nowhere to remember it; the next run checks again
