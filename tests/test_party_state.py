"""What attacks and metrics change of the process: refused where numbers depend on it, and always put back."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from party_plugin import run_it

from mibench.errors import MibenchError
from mibench.system.process_state import SETTINGS

CHANGES = {
    "torch's default dtype": "torch.set_default_dtype(torch.float64)",
    "torch's default device": "torch.set_default_device('meta')",
    "torch's number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch's gradient mode": "torch.set_grad_enabled(False)",
    "torch's deterministic algorithms": "torch.use_deterministic_algorithms(False)",
    "torch's seed": "torch.manual_seed(1)",
}


@pytest.mark.parametrize(("name", "change"), CHANGES.items())
@pytest.mark.parametrize("stage", ["prepare", "reconstruct", "metric"])
def test_an_attack_or_metric_that_changes_what_numbers_depend_on_is_refused(
    climbing: Callable[[str, str], None], tmp_path: Path, stage: str, name: str, change: str
) -> None:
    before, numbers = [setting.value() for setting in SETTINGS], torch.get_rng_state()
    climbing(stage, f"import torch\ndef deed(result, context):\n    {change}\n")
    with pytest.raises(MibenchError, match=f"changes {name}.* put it back before returning"):
        run_it(tmp_path, stage)
    assert [setting.value() for setting in SETTINGS] == before
    assert torch.equal(torch.get_rng_state(), numbers)


def test_what_an_attack_puts_back_or_only_draws_is_its_own_affair(
    climbing: Callable[[str, str], None], tmp_path: Path
) -> None:
    climbing(
        "reconstruct",
        "import os, random, sys, warnings\nimport numpy as np\nimport torch\ndef deed(result, context):\n"
        "    with torch.no_grad(), torch.random.fork_rng():\n        torch.manual_seed(3)\n"
        "    torch.rand(3), np.random.rand(3), random.random()\n    np.random.seed(1), random.seed(1)\n"
        "    warnings.simplefilter('ignore')\n    os.chdir('/')\n    print('to be seen')\n",
    )
    before = Path.cwd(), random.getstate(), np.random.get_bit_generator().state["state"]["pos"]  # type: ignore[attr-defined]
    run_it(tmp_path, "reconstruct")
    after = Path.cwd(), random.getstate(), np.random.get_bit_generator().state["state"]["pos"]  # type: ignore[attr-defined]
    assert before == after


def test_an_attack_does_not_read_our_command_line(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing(
        "reconstruct",
        "import argparse\ndef deed(result, context):\n    argparse.ArgumentParser().parse_args()\n"
        "    argparse.ArgumentParser().parse_args()\n",
    )
    with pytest.raises(MibenchError, match="attack 'climb' reads the command line in unit 0"):
        run_it(tmp_path, "reconstruct")


def test_prints_of_an_attack_go_to_stderr(climbing: Callable[[str, str], None], tmp_path: Path, capfd: object) -> None:
    climbing("reconstruct", "import os\ndef deed(result, context):\n    print('a')\n    os.write(1, b'b')\n")
    run_it(tmp_path, "reconstruct")
    assert capfd.readouterr().out == ""  # type: ignore[attr-defined]
