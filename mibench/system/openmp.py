"""How the threads of one operation wait for each other: briefly awake, then asleep.

GNU's OpenMP, which runs PyTorch's threads on Linux, lets a thread that is done early spin for milliseconds. On a
machine that does something else besides, its partner is not running at all then, and the spinning takes the very
processor that the partner waits for. A short spin still meets a partner that is only a little later. Nothing of
this changes a number.
"""

from __future__ import annotations

import os
import sys

SPINS = "500"  # looks before a thread sleeps; chosen by what benchmarks/waiting.py measures
SAID_BY_THE_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly() -> bool:
    """Ask for short spins, unless the environment says how to wait. Returns whether it was asked for.

    OpenMP reads the environment once, when torch is loaded: afterwards it is too late. Child processes inherit it.
    """
    if "torch" in sys.modules or any(name in os.environ for name in SAID_BY_THE_USER):
        return False
    os.environ["GOMP_SPINCOUNT"] = SPINS
    return True
