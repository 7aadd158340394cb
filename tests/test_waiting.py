"""Threads wait briefly: what the program asks OpenMP for, and whether OpenMP heard it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mibench.system.openmp import SAID_BY_THE_USER, SPINS

PROGRAM = """
import os, sys
from mibench import cli
sys.argv = ["mibench", "--version"]
try:
    cli.main()
except SystemExit:
    pass
assert "torch" not in sys.modules
{then}
print("spins", os.environ.get("GOMP_SPINCOUNT"), file=sys.stderr)
"""


def run(then: str = "", **said: str) -> str:
    """What a fresh process prints on stderr after a command; ``said`` is what its user's environment holds."""
    surroundings = {name: value for name, value in os.environ.items() if name not in SAID_BY_THE_USER} | said
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(then=then)], env=surroundings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_a_command_asks_for_short_spins_before_torch_is_loaded() -> None:
    assert f"spins {SPINS}" in run()


@pytest.mark.parametrize("said", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_user_says_stays(said: dict[str, str]) -> None:
    assert f"spins {said.get('GOMP_SPINCOUNT')}" in run(**said)


def test_openmp_hears_it() -> None:
    shown = run("import torch", OMP_DISPLAY_ENV="VERBOSE")
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("this torch does not run on GNU's OpenMP")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in shown


def test_nothing_is_asked_of_a_process_that_has_torch_already() -> None:
    from mibench.system.openmp import wait_briefly

    before = dict(os.environ)
    assert not wait_briefly()  # torch is loaded here: OpenMP has read its environment
    assert dict(os.environ) == before
