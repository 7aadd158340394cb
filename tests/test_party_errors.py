"""Mistakes in the code of parties: one line that names party, file and line, and the process is left as it was."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import mibench
from mibench import plugins, registry
from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.party_errors import party_fault
from mibench.system.process_state import SETTINGS
from mibench.system.progress import Reporter

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
CATALOGUE = {
    "attack": {"climb": "climbing.attack:Climb", "slope": "climbing.attack:Slope"},
    "metric": {"height": "climbing.metric:height"},
    "dataset": {"hills": "climbing.data:Hills"},
    "report": {"view": "climbing.report:write_report"},
    "recipe": {"target:toynet": "climbing.recipe:Recipe"},
}
PARTS = {
    "attack": """
from dataclasses import dataclass
from toyworld.attacks import ToyAttack
from climbing import deeds

@dataclass(frozen=True, kw_only=True)
class Climb(ToyAttack):
    name = "climb"
    def __post_init__(self):
        deeds.do("settings")
    def planned_queries(self, identities):
        deeds.do("plan")
        return super().planned_queries(identities)
    def prepare(self, context, streams):
        return deeds.do("prepare", super().prepare(context, streams))
    def reconstruct(self, context, state, labels, streams):
        return deeds.do("reconstruct", super().reconstruct(context, state, labels, streams), context)

@dataclass(frozen=True, kw_only=True)
class Slope(Climb):
    name = "slope"
""",
    "metric": """
from mibench.api import Estimate
from climbing import deeds

def height(inputs):
    return deeds.do("metric", [Estimate("height", 1.0)])
""",
    "data": """
from dataclasses import dataclass
from toyworld.data import ToyFaces
from climbing import deeds

@dataclass(frozen=True, kw_only=True)
class Hills(ToyFaces):
    name = "hills"
    def __post_init__(self):
        deeds.do("set up")
    @property
    def digest(self):
        deeds.do("digest")
        return super().digest
    def private(self, part, size, labels=None):
        return deeds.do("private", super().private(part, size, labels))
""",
    "report": """
from climbing import deeds

def write_report(run, *, floor=None, private=None):
    deeds.do("report")
    return []
""",
    "recipe": """
from dataclasses import dataclass
from toyworld.training import TrainToy
from climbing import deeds

@dataclass(frozen=True, kw_only=True)
class Recipe(TrainToy):
    def run(self, data, context):
        return deeds.do("train", super().run(data, context))
""",
    "deeds": """
when, deed = "", None

def do(stage, result=None, context=None):
    if stage == when:
        changed = deed(result, context)
        return result if changed is None else changed
    return result
""",
}
Deed = Callable[..., object]


@pytest.fixture
def climbing(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Deed], None]]:
    """A plug-in with a party of each kind; yields what says which of them does what when."""
    package = tmp_path / "plugin" / "climbing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"CATALOGUE = {CATALOGUE!r}\n")
    for name, text in PARTS.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    registry.add_plugin(str(package))
    import climbing.deeds as deeds  # type: ignore[import-not-found]

    def arrange(when: str, source: str) -> None:
        """The deed is code of the plug-in: it lies in a file of it."""
        (package / "mischief.py").write_text(source)
        sys.modules.pop("climbing.mischief", None)
        import importlib

        importlib.invalidate_caches()
        deeds.when = when
        deeds.deed = importlib.import_module("climbing.mischief").deed

    yield arrange  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "climbing"]:
        del sys.modules[name]
    registry.catalogue.cache_clear()


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


def run_it(out: Path, stage: str, attack: str = "climb") -> object:
    """Run the attack; for stages of the data set, a training on it (there are no weights for it)."""
    if stage in ("set up", "digest", "private"):
        return mibench.train("target", "toynet", dataset="hills", tag="new", out=out, device="cpu")
    metrics = {"protocol.metrics": ["accuracy", "height"], "protocol.required": ["acc1"]}
    settings = metrics if stage == "metric" else {}
    return mibench.run(attack, **TOY, settings=settings, out=out, device="cpu")  # type: ignore[arg-type]


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
    ],
)
def test_what_is_returned_is_looked_at(
    climbing: Callable[[str, str], None], tmp_path: Path, stage: str, returned: str, told: str
) -> None:
    climbing(stage, f"from dataclasses import replace as put\ndef deed(result, context):\n    return {returned}\n")
    with pytest.raises(MibenchError) as refused:
        run_it(tmp_path, stage)
    assert told in str(refused.value)


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
