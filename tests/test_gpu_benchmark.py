"""benchmarks/gpu: stages that fail, hang or are stopped; what travels; and, slowly, the whole rehearsal."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import venv
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu"


def module(name: str) -> ModuleType:
    """A script's module under a name of its own: `stage` and `figures` are everybody's names."""
    spec = importlib.util.spec_from_file_location(f"gpu_benchmark_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # dataclasses look their module up
    spec.loader.exec_module(made)
    return made


bare, conductor, summary = module("bare"), module("conductor"), module("summary")

PREAMBLE = """
import argparse, json, signal, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("record", "out", "work"):
    parser.add_argument(f"--{name}", type=Path)
parser.add_argument("--seconds", type=float)
options = parser.parse_args()
def found(**values):
    fresh = options.record.with_suffix(".new")
    fresh.write_text(json.dumps(values))
    fresh.replace(options.record)
"""


def stage(folder: Path, name: str, body: str, **settings: Any) -> Any:
    script = folder / f"{name}.py"
    script.write_text(PREAMBLE + textwrap.dedent(body))
    return conductor.Stage(name, script, **{"share": 1.0, "least": 0.0, **settings})


def results_of(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "results.json").read_text())
    return {row["name"]: row for row in found["stages"]} | {"status": found["status"]}


def test_a_stage_that_fails_does_not_stop_the_next(tmp_path: Path) -> None:
    stages = [
        stage(tmp_path, "fails", "found(one=1)\nprint('half way')\nraise RuntimeError('the device fell off')"),
        stage(tmp_path, "dies", "import os\nfound(two=2)\nos.kill(os.getpid(), signal.SIGSEGV)"),
        stage(tmp_path, "works", "found(three=3)\nprint('done')"),
    ]
    said: list[str] = []
    campaign = conductor.Campaign(stages, tmp_path / "out", tmp_path / "work", 600, say=said.append)
    assert not campaign.run()
    rows = results_of(tmp_path / "out")
    assert {name: rows[name]["status"] for name in ("fails", "dies", "works")} == {
        "fails": "failed",
        "dies": "failed",
        "works": "complete",
    }
    assert rows["fails"]["reason"] == "RuntimeError: the device fell off"
    assert [rows[name]["found"] for name in ("fails", "dies", "works")] == [{"one": 1}, {"two": 2}, {"three": 3}]
    assert rows["status"] == "ended"
    assert any("half way" in line for line in said)
    assert "the device fell off" in (tmp_path / "out" / "log.txt").read_text()


def test_a_stage_that_does_not_stop_is_stopped_with_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conductor, "GRACE", 0.5)
    stubborn = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        found(half=True)
        time.sleep(3600)
    """
    stages = [stage(tmp_path, "stubborn", stubborn), stage(tmp_path, "next", "found(fine=True)")]
    # the first gets all but nothing of the time, and has it: a clock that is over ends a stage, not the campaign
    stages[0] = conductor.Stage("stubborn", stages[0].script, share=1.0, least=0.0)
    stages[1] = conductor.Stage("next", stages[1].script, share=100.0, least=0.0)
    campaign = conductor.Campaign(stages, tmp_path / "out", tmp_path / "work", 600)
    assert campaign.run()  # stopped is not failed
    rows = results_of(tmp_path / "out")
    assert rows["stubborn"]["status"] == "stopped"
    assert rows["stubborn"]["found"] == {"half": True}
    assert rows["next"]["found"] == {"fine": True}


def test_a_stage_without_time_is_not_started(tmp_path: Path) -> None:
    late = stage(tmp_path, "late", "found(never=True)", least=1000.0)
    assert conductor.Campaign([late], tmp_path / "out", tmp_path / "work", 60).run()
    row = results_of(tmp_path / "out")["late"]
    assert row["status"] == "not started"
    assert "found" not in row


def test_unused_time_goes_to_the_stages_that_come_after() -> None:
    stages = [conductor.Stage(str(share), Path(), share=share) for share in (1.0, 2.0, 1.0)]
    assert conductor.allotted(stages, 100) == 25
    assert conductor.allotted(stages[1:], 100) == pytest.approx(200 / 3)
    assert conductor.allotted(stages[2:], 100) == 100


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_interrupted_campaign_keeps_its_results_and_leaves_no_process(tmp_path: Path) -> None:
    waits = stage(tmp_path, "waits", "import os\nfound(pid=os.getpid())\ntime.sleep(3600)")
    program = f"""
import signal, sys
from pathlib import Path
sys.path.insert(0, {str(FOLDER)!r})
from conductor import Campaign, Stage
def interrupted(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupted)
Campaign([Stage("waits", Path({str(waits.script)!r}), 1.0)], Path({str(tmp_path / "out")!r}),
         Path({str(tmp_path / "work")!r}), 3600).run()
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = wait_for(lambda: results_of(tmp_path / "out")["waits"]["found"]["pid"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) != 0
    rows = results_of(tmp_path / "out")
    assert rows["status"] == "interrupted"
    assert rows["waits"]["found"] == {"pid": found}
    with pytest.raises(ProcessLookupError):
        os.kill(found, 0)


def wait_for(read: Any, patience: float = 120.0) -> Any:
    """What ``read`` gives once it gives anything."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            return read()
        except (OSError, KeyError, ValueError):
            time.sleep(0.05)
    raise AssertionError("it never came")


def test_what_travels_and_what_is_there_are_all_that_mibench_needs() -> None:
    """Direct requirements are named; what a packed wheel needs is packed, there, or comes with what is there."""
    there, packed = ({bare.normalised(name) for name in names} for names in (bare.PRESENT, bare.MISSING))
    direct = {bare.normalised(Requirement(text).name) for text in bare.project()["dependencies"]}
    assert direct <= there | packed
    assert not there & packed
    along = closure(there)
    for name in packed:
        assert needs(name) <= packed | along, name
    assert packed <= set(bare.pinned())


def needs(name: str) -> set[str]:
    """What a distribution that is installed here requires, extras left out."""
    found = (Requirement(text) for text in importlib.metadata.requires(name) or [])
    return {bare.normalised(r.name) for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def closure(names: set[str]) -> set[str]:
    """Distributions and all that they require, as far as they are installed here."""
    waiting, found = set(names), set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        try:
            waiting |= needs(name) - found
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def test_the_checkout_s_metadata_gives_the_entry_points_of_the_installed_package(tmp_path: Path) -> None:
    text = bare.entry_points(bare.project())
    (tmp_path / "x-1.dist-info").mkdir()
    (tmp_path / "x-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: x\nVersion: 1\n")
    (tmp_path / "x-1.dist-info" / "entry_points.txt").write_text(text)
    (made,) = importlib.metadata.distributions(path=[str(tmp_path)])

    def triples(points: Any) -> set[tuple[str, str, str]]:
        return {(point.group, point.name, point.value) for point in points}

    assert triples(made.entry_points) == triples(importlib.metadata.distribution("mibench").entry_points)


def test_the_summary_of_a_campaign_that_was_stopped_early(tmp_path: Path) -> None:
    head = {"schema": 1, "commit": None, "sources": "abc", "device": "cuda", "tiny": False, "python": "3.12"}
    head |= {"started": "2030-01-02T03:04:05", "command": ["benchmarks/gpu/run", "OUT"], "status": "interrupted"}
    accuracy = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 10}
    run = {"target": "vgg16", "protocol": "demo", "seconds": 12.0, "attack_seconds": 3.0, "acc1": accuracy}
    stages = [
        {"name": "environment", "status": "failed", "reason": "RuntimeError: no device"},
        {"name": "main_job", "status": "running", "found": {"runs": [run, {**run, "reason": "a | b"}]}},
        {"name": "speed", "status": "not started"},
    ]
    (tmp_path / "results.json").write_text(json.dumps({**head, "stages": stages}))
    summary.write_summary(tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert "| environment | failed |  |  | RuntimeError: no device |" in text
    assert "| vgg16 | demo | 12 | 3 |  | 50.0 [25.0, 75.0] |  |  |" in text
    assert r"a \| b" in text
    assert "## Speed" not in text


def test_a_machine_without_wheels_is_told_where_they_come_from(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "run"), str(tmp_path / "out"), "--minutes", "1", "--device", "cpu"]
    done = subprocess.run([*command, "--wheels", str(tmp_path / "none")], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "benchmarks/gpu/pack" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_rehearsal_passes_from_a_clean_clone_with_only_the_packed_wheels(tmp_path: Path) -> None:
    """The interpreter has what the bare machine has and nothing else; no index can be reached."""
    clone = tmp_path / "clone"
    if subprocess.run(["git", "clone", "--quiet", str(FOLDER.parents[1]), str(clone)], check=False).returncode:
        pytest.skip("these files are not a git repository")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    pack = [sys.executable, str(clone / "benchmarks" / "gpu" / "pack"), "--python", version]
    packed = subprocess.run(pack, capture_output=True, text=True, check=False)
    if packed.returncode and re.search(r"could not fetch", packed.stderr):
        pytest.skip(f"no package index can be reached: {packed.stderr.strip()[-200:]}")
    assert packed.returncode == 0, packed.stderr
    python = bare_interpreter(tmp_path / "bare")
    without = [name for name in bare.MISSING if not importable(python, name)]
    assert without == list(bare.MISSING)

    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "PIP_INDEX_URL", "ALL_PROXY"), "http://127.0.0.1:9")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON", "MIBENCH_"))}
    out = tmp_path / "out"
    command = [str(python), str(clone / "benchmarks" / "gpu" / "run"), str(out), "--minutes", "15"]
    done = subprocess.run(
        [*command, "--device", "cpu", "--tiny"],
        env=kept | nowhere,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    check_rehearsal(out)


def importable(python: Path, name: str) -> bool:
    """Whether the interpreter has a distribution."""
    program = f"import importlib.metadata as m; m.version({name!r})"
    return subprocess.run([str(python), "-c", program], capture_output=True, check=False).returncode == 0


def bare_interpreter(folder: Path) -> Path:
    """An environment with links to what the bare machine has, as it is installed here."""
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in sorted(closure({bare.normalised(name) for name in bare.PRESENT}) - {"pip", "setuptools"}):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in files if file.parts[0] not in ("..", "__pycache__")}:
            link, source = site / top, Path(str(importlib.metadata.distribution(name).locate_file(top)))
            if not link.exists() and source.exists():
                link.symlink_to(source)
    return folder / "bin" / "python"


def check_rehearsal(out: Path) -> None:
    """Every stage ended by itself and found what it is for."""
    rows = results_of(out)
    names = ("environment", "tests", "main_job", "speed", "published_budget", "training")
    assert [rows[name]["status"] for name in names] == ["complete"] * len(names)
    found = {name: rows[name]["found"] for name in names}
    assert all(row["tflops"] > 0 for row in found["environment"]["matmul"])
    assert found["tests"]["counts"]["passed"] > 0
    assert "failed" not in found["tests"]["counts"]
    assert found["main_job"]["runs"][0]["acc1"]["value"] is not None
    cells = found["speed"]["cells"]
    assert {cell["attack"] for cell in cells} == {"dmmia", "ppa", "gmi", "kedmi"}
    assert {cell["mode"] for cell in cells} == {"eager", "varying", "graphs", "compiled"}
    assert {cell["width"] for cell in cells} == {"shipped", "full"}
    assert not [cell for cell in cells if "reason" in cell]
    assert all(cell["apart_from_eager"] < 1e-3 for cell in cells if cell["mode"] != "eager")
    assert not [row for row in found["speed"]["naive"] if "reason" in row]
    assert [row["name"] for row in found["published_budget"]["runs"]] == ["PPA", "DMMIA", "DMMIA without prototypes"]
    assert not [row for row in found["published_budget"]["runs"] + found["training"]["trainings"] if "reason" in row]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) <= 8
    assert all(path.stat().st_size < 16 * 2**20 for path in files)
    assert "these numbers mean nothing" in (out / "summary.md").read_text()
