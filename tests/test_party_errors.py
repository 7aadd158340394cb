"""Mistakes in the code of parties: one line that names party, file and line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from party_plugin import TOY, run_it

import mibench
from mibench import registry
from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.party_errors import party_fault
from mibench.system.progress import Reporter
from mibench.system.tensor_files import read_tensors

RAISING = "\ndef deed(result, context):\n    raise LookupError('too\\nsteep')\n"
ENDING = "import sys\ndef deed(result, context):\n    sys.exit(0)\n"
STAGES = [
    ("settings", "attack 'climb'"),
    ("plan", "attack 'climb'"),
    ("prepare", "attack 'climb'"),
    ("reconstruct", "attack 'climb'"),
    ("metric", "metric 'height'"),
    ("report", "report 'view'"),
    ("set up", "dataset 'hills'"),
    ("digest", "dataset 'hills'"),
    ("private", "dataset 'hills'"),
]


@pytest.mark.parametrize(("stage", "party"), STAGES)
@pytest.mark.parametrize(
    ("source", "deed"), [(RAISING, "raises LookupError: steep"), (ENDING, "ends the program (sys.exit(0))")]
)
def test_a_mistake_is_a_line_that_names_party_file_and_line(
    climbing: Callable[[str, str], None], tmp_path: Path, stage: str, party: str, source: str, deed: str
) -> None:
    climbing(stage, source)
    with pytest.raises(MibenchError) as refused:
        run_it(tmp_path / "runs", stage)
    assert refused.value.cause == f"{party} {deed} (climbing/mischief.py, line 3)"
    assert "traceback" in str(refused.value.cure)
    assert isinstance(refused.value.__cause__, LookupError | SystemExit)
    for record in tmp_path.glob("runs/climb-*/run.json"):
        assert str(tmp_path) not in record.with_name("log.jsonl").read_text()
        assert json.loads(record.read_text())["status"] == "failed"


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_command_line_says_it_in_one_line_and_in_json(
    climbing: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    climbing("reconstruct", RAISING)
    words = ["run", "--attack", "climb", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"]
    words += ["--device", "cpu", "--output", str(tmp_path / "runs")]
    done = call(*words, "--json")
    assert done.exit_code == 2
    error = json.loads(done.stdout)["error"]
    assert error["cause"] == "attack 'climb' raises LookupError: steep (climbing/mischief.py, line 3)"
    (folder,) = tmp_path.glob("runs/climb-*")
    assert error["cure"] == f"its traceback is in {folder / 'log.jsonl'}"
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        f"error: {error['cause']}; {error['cure']}"
    ]
    assert "Traceback" not in done.stderr
    (failure,) = [one for one in mibench.open_run(folder).log if one.get("event") == "failed"]
    assert failure["traceback"][-1] == "climbing/mischief.py, line 3, in deed"
    assert any("climbing/attack.py" in line for line in failure["traceback"])
    monkeypatch.setenv("MIBENCH_TRACEBACK", "1")
    assert "mischief.py" in call(*words).stderr.partition("Traceback")[2]


def test_a_mistake_in_a_training_is_a_line(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing("train", RAISING)
    with pytest.raises(MibenchError, match=r"recipe 'target:toynet' raises LookupError: steep \(climbing/mischief.py"):
        mibench.train("target", "toynet", dataset="toyfaces", tag="new", out=tmp_path / "mine", device="cpu")
    climbing("train", "import torch\ndef deed(result, context):\n    torch.set_default_dtype(torch.float64)\n")
    with pytest.raises(MibenchError, match="changes torch's default dtype while it trains"):
        mibench.train("target", "toynet", dataset="toyfaces", tag="new", out=tmp_path / "mine", device="cpu")
    assert torch.get_default_dtype() == torch.float32


def test_all_parties_are_named_that_had_a_hand_in_it(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    """An attack hands the prior latents of another width: either may be wrong."""
    climbing("reconstruct", "def deed(result, context):\n    context.prior.decode(result.images[:, 0, 0, :3])\n")
    with pytest.raises(MibenchError) as refused:
        run_it(tmp_path, "reconstruct", "slope")
    cause = refused.value.cause
    assert cause.startswith("dataset 'toyfaces' raises RuntimeError: ")  # draws for the toy world's prior
    assert "(toyworld/data.py, line " in cause
    assert ", called by prior 'toygan' (toyworld/networks.py, line " in cause
    assert cause.endswith("), called by attack 'slope' (climbing/mischief.py, line 2)")


def test_what_mibench_ships_is_treated_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mibench.api import Victim

    name = str(registry.role("baseline"))
    monkeypatch.setattr(Victim, "scores", None)  # to call it fails in the line that does
    with pytest.raises(MibenchError, match=rf"attack '{name}' raises TypeError: 'NoneType' object is not callable \("):
        mibench.run(name, protocol="smoke", out=tmp_path, device="cpu")


@pytest.mark.parametrize(
    ("stage", "returned", "told"),
    [
        ("prepare", "[1]", "the preparation of attack 'climb' returned list; return a dict of tensors"),
        ("prepare", "{'a': 1}", "the preparation of attack 'climb' returned int as 'a'"),
        ("reconstruct", "(1, 2)", "attack 'climb' returned tuple for a unit; return a Reconstruction"),
        ("reconstruct", "put(result, images=None)", "returned NoneType as 'images'"),
        ("reconstruct", "put(result, images=result.images.to_sparse())", "returned a sparse tensor as 'images'"),
        ("reconstruct", "put(result, labels=result.labels.float())", "returned labels that are torch.float32"),
        ("reconstruct", "put(result, curves=[1])", "returned curves as list"),
        ("reconstruct", "put(result, curves={'loss': 1.0})", "returned float as 'curve loss'"),
        ("metric", "0.5", "metric 'height' returns float; return a list of Estimate"),
        ("metric", "[0.5]", "metric 'height' returns float among its estimates"),
        ("metric", "[put(result[0], value='high')]", "the value of 'height' is of type str"),
        ("metric", "[put(result[0], n='3')]", "the n of 'height' is of type str; make it a whole number"),
        ("metric", "[put(result[0], reason=5)]", "the reason of 'height' is of type int"),
        ("metric", "[put(result[0], params={'x': float('nan')})]", "the params of 'height' cannot be written as JSON"),
        ("metric", "[put(result[0], params={'x': object()})]", "the params of 'height' cannot be written as JSON"),
        ("metric", "[put(result[0], params=5)]", "the params of 'height' cannot be written as JSON"),
        ("metric", "[result[0], result[0]]", "metric 'height' returns 'height' twice"),
        ("metric", "[put(result[0], name='acc1')]", "returns 'acc1', which another metric has measured already"),
        ("metric", "__import__('mibench.api').api.Measured(result, None)", "metric 'height' returns columns that have"),
        ("prepare", "{'a': result['centre'].cdouble()}", "returned torch.complex128 as 'a', which cannot be stored"),
        ("prepare", "{'a': result['centre'].to('meta')}", "returned a tensor without contents as 'a'"),
        ("prepare", "{'__metadata__': result['centre']}", "returned a tensor called '__metadata__'"),
        ("reconstruct", "put(result, curves={'loss': result.images.to('meta')})", "without contents as 'curve loss'"),
    ],
)
def test_what_is_returned_is_looked_at(
    climbing: Callable[[str, str], None], tmp_path: Path, stage: str, returned: str, told: str
) -> None:
    climbing(stage, f"from dataclasses import replace as put\ndef deed(result, context):\n    return {returned}\n")
    with pytest.raises(MibenchError) as refused:
        run_it(tmp_path, stage)
    assert told in str(refused.value)


def test_the_mistake_of_whoever_is_told_of_progress_is_theirs(
    climbing: Callable[[str, str], None], tmp_path: Path
) -> None:
    class Impatient(Reporter):
        def update(self, done: float, total: float, text: str = "") -> None:
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        mibench.run("climb", **TOY, out=tmp_path, device="cpu", reporter=Impatient())


def test_what_is_no_exception_is_recorded_too(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing("reconstruct", "def deed(result, context):\n    raise BaseException('odd')\n")
    with pytest.raises(
        MibenchError, match=r"attack 'climb' raises BaseException: odd \(climbing/mischief.py, line 2\)"
    ):
        run_it(tmp_path, "reconstruct")
    (record,) = tmp_path.glob("climb-*/run.json")
    assert json.loads(record.read_text())["status"] == "failed"


def test_ctrl_c_stays_one(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing("reconstruct", "def deed(result, context):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        run_it(tmp_path, "reconstruct")


def test_a_full_disk_is_no_mistake_of_a_party(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing("reconstruct", "def deed(result, context):\n    raise OSError(28, 'No space left on device')\n")
    with pytest.raises(OSError, match="No space left"):
        run_it(tmp_path, "reconstruct")


def test_an_exception_whose_text_raises_is_a_line(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing(
        "reconstruct",
        "class Silent(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
        "def deed(result, context):\n    raise Silent\n",
    )
    with pytest.raises(MibenchError, match=r"attack 'climb' raises Silent \(climbing/mischief.py, line 5\)"):
        run_it(tmp_path, "reconstruct")
    (record,) = tmp_path.glob("climb-*/run.json")
    assert json.loads(record.read_text())["error"] == "Silent: "


def test_an_endless_recursion_is_a_line_and_a_short_record(
    climbing: Callable[[str, str], None], tmp_path: Path
) -> None:
    climbing("reconstruct", "def deed(result, context):\n    return deed(result, context)\n")
    with pytest.raises(
        MibenchError, match=r"attack 'climb' raises RecursionError: .* \(climbing/mischief.py, line 2\)"
    ):
        run_it(tmp_path, "reconstruct")
    (record,) = tmp_path.glob("climb-*/run.json")
    (failure,) = [one for one in mibench.open_run(record.parent).log if one.get("event") == "failed"]
    assert len(failure["traceback"]) == 101


def test_an_attack_in_a_file_and_what_lies_beside_it(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    Path("beside.py").write_text("def fall():\n    raise ValueError('down')\n")
    head = "import beside\nfrom dataclasses import dataclass\nfrom toyworld.attacks import ToyAttack\n"
    own = "@dataclass(frozen=True, kw_only=True)\nclass Fall(ToyAttack):\n    name = 'fall'\n"
    Path("falling.py").write_text(f"{head}{own}    def reconstruct(self, *given):\n        beside.fall()\n")
    with pytest.raises(MibenchError) as refused:
        mibench.run("falling.py:Fall", **TOY, out="runs", device="cpu")
    assert refused.value.cause == "attack 'fall' raises ValueError: down (beside.py, line 2)"


def test_parties_that_fail_on_import_are_a_line(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    package = tmp_path / "plugin" / "climbing"
    for text, told in {
        "x = 1 / 0\n": "ZeroDivisionError: division by zero",
        "import sys; sys.exit(0)\n": "it ends the program (sys.exit(0))",
        "def f(:\n": "SyntaxError: invalid syntax, line 1",
    }.items():
        (package / "attack.py").write_text(text)
        sys.modules.pop("climbing.attack", None)
        with pytest.raises(MibenchError) as refused:
            run_it(tmp_path / "runs", "nothing")
        assert str(refused.value).startswith(f"attack 'climb' of plugin climbing fails on import: {told}; repair")
    (package / "attack.py").write_text("import torch\ntorch.set_default_dtype(torch.float64)\n")
    with pytest.raises(MibenchError, match="attack 'climb' changes torch's default dtype on import"):
        run_it(tmp_path / "runs", "nothing")
    assert torch.get_default_dtype() == torch.float32


def test_the_referee_keeps_its_traceback() -> None:
    with pytest.raises(TypeError) as raised:
        os.fspath(3)  # type: ignore[call-overload]
    assert party_fault(raised.value) is None


def test_an_attack_may_return_one_tensor_under_two_names(climbing: Callable[[str, str], None], tmp_path: Path) -> None:
    climbing("prepare", "def deed(result, context):\n    return {**result, 'again': result['centre']}\n")
    run_it(tmp_path, "prepare")
    (file,) = tmp_path.glob("climb-*/state.safetensors")
    state, _ = read_tensors(file)
    assert torch.equal(state["again"], state["centre"])
