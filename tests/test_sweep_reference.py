"""The row that the comparison of a suite tests against must be one of its rows: said before a cell runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.sweeps.compared import check_compared
from mibench.sweeps.suite import parse_suite

TOY = "protocol: toy\ndataset: toyfaces\nattacks: [{attack: toyattack, label: short}, floor]\ntargets: [toynet]\n"


def check(**content: Any) -> None:
    names = {"attacks": [{"attack": "toyattack", "label": "short"}], "targets": ["toynet"], "dataset": "toyfaces"}
    check_compared(parse_suite({**names, **content}, "mine.yaml", "mine"))


@pytest.mark.parametrize("reference", ["toyattack", "floor", "toyattack (steps=3)", "toyattack (steps=3) · runs"])
def test_attacks_of_the_suite_and_their_floor(toy: Path, reference: str) -> None:
    check(compare={"reference": reference})


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("toyatack", "no row will be called 'toyatack'; did you mean 'toyattack'?"),
        ("badattack", "no row will be called 'badattack'"),  # an attack, and none of this suite
        ("short", "'short' is what the suite calls it: name the attack, 'toyattack'"),
        ("toynet", "no row will be called 'toynet'"),
    ],
)
def test_another_reference_is_refused(toy: Path, reference: str, told: str) -> None:
    with pytest.raises(MibenchError) as refused:
        check(compare={"reference": reference})
    assert told in str(refused.value)


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_before_anything_is_computed(toy: Path, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "mine.yaml").write_text(TOY + "compare: {reference: toyatack}\n")
    command = ["sweep", str(tmp_path / "mine.yaml"), "--output", str(tmp_path / "out"), "--device", "cpu", *words]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 2
    assert done.stderr.count("error: ") == 1
    assert "compare.reference: no row will be called 'toyatack'" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reference", ["none", "none (short)", "toynet@toyfaces", "absent", "control: absent"])
def test_defences_of_the_suite(toy: Path, reference: str) -> None:
    check(defences=["none", "absent"], compare={"reference": reference, "by": "defence"})


@pytest.mark.parametrize("reference", ["nonne", "toynet", "toyjudge@toyfaces", "toyattack"])
def test_another_defence_is_refused(toy: Path, reference: str) -> None:
    with pytest.raises(
        MibenchError, match=f"no row will be called '{reference}'.*known: absent, none, toynet@toyfaces"
    ):
        check(defences=["none", "absent"], compare={"reference": reference, "by": "defence"})


def test_shipped_suites_name_rows_of_theirs() -> None:
    from mibench.sweeps.suite import load_suite

    for name in ("smoke", "claims", "defences"):
        check_compared(load_suite(name))
