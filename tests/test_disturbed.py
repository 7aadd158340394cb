"""Commands that are killed, interrupted or stopped at named places: the same command again ends with the same bytes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

HERE = Path(__file__).parent
TOY = (
    "run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy",
    "--set", "attack.steps=2",
)  # fmt: skip
UNSTABLE = {"run.json", "log.jsonl", "state.json", "contents.sqlite"}  # times, machines, process numbers

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.platform == "darwin", reason="forking after importing torch is not safe there"
)


@dataclass
class Workshop:
    """A warm process that carries out orders; see ``disturbing.py``."""

    process: subprocess.Popen[str]
    folder: Path
    wholes: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)

    def order(self, where: Path, command: tuple[str, ...], **disturbance: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        where.mkdir(parents=True, exist_ok=True)
        (where.parent / "streams").mkdir(exist_ok=True)
        words = [word.replace("PLACE", str(where)) for word in command]
        order = {"home": str(where / "home"), "folder": str(self.folder), "streams": str(where.parent / "streams")}
        self.process.stdin.write(json.dumps(order | {"command": words} | disturbance) + "\n")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))


def workshop(world: str, folder: Path) -> Iterator[Workshop]:
    command = [sys.executable, str(HERE / "disturbing.py"), world]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield Workshop(process, folder)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture(scope="module")
def toy_workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    yield from workshop("toy", tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def shipped_workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """The real world, in a folder with a few pictures and a checkpoint."""
    from checkpoints import save, state

    folder = tmp_path_factory.mktemp("shipped")
    save(folder / "one.tar", state("vgg16", seed=1))
    save(folder / "two.tar", state("vgg16", seed=2))
    network = "nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))"
    seeded = f"import torch\nfrom torch import nn\ndef build():\n    torch.manual_seed(0)\n    return {network}\n"
    (folder / "own.py").write_text(seeded)
    generator = np.random.default_rng(0)
    for person in ("people/ann", "people/bob", "people/cy", "strangers/x", "strangers/y"):
        (folder / person).mkdir(parents=True)
        for take in range(6):
            pixels = generator.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / person / f"{take}.png")
    yield from workshop("shipped", folder)


def files(place: Path) -> dict[str, bytes]:
    """Everything below a place but what records times, machines and processes, and locks (which stay)."""
    return {
        path.relative_to(place).as_posix(): timeless(path)
        for path in sorted(place.rglob("*"))
        if path.is_file()
        and path.name not in UNSTABLE
        and not path.name.endswith(".lock")
        and not (path.parent.name == "units" and path.suffix == ".json")
    }


def timeless(path: Path) -> bytes:
    """Its content; of a card without the seconds that its training took."""
    content = path.read_bytes()
    return re.sub(rb"\n  seconds: [0-9.]+(?=\n)", b"", content) if path.parent.name == "cards" else content


def finished(place: Path) -> dict[str, int]:
    """Finished units of work, and when each was written."""
    return {
        path.relative_to(place).as_posix(): path.stat().st_mtime_ns
        for path in place.rglob("units/*.json")
        if path.with_suffix(".safetensors").exists()
    }


def disturb(shop: Workshop, before: Path | None, work: Path, name: str, command: tuple[str, ...], **how: Any) -> None:
    """Disturb a command, give it again, and compare what it leaves with what an undisturbed one leaves."""
    if name not in shop.wholes:
        whole = work / "whole"
        if before is not None:
            shutil.copytree(before, whole)
        answer = shop.order(whole, command)["first"]
        assert answer["code"] == 0, answer
        shop.wholes[name] = files(whole)
    place = work / "place"
    if before is not None:
        shutil.copytree(before, place)
    answer = shop.order(place, command, **how)
    first, second = answer["first"], answer.get("second")
    assert "Traceback" not in first["err"], first
    kept = finished(place)
    if how["how"] == "STOP":
        assert second is not None, first
        assert first["code"] == 0, first
        assert "Traceback" not in second["err"], second
        if second["code"] == 2:
            (line,) = [line for line in second["err"].splitlines() if line.startswith("error: ")]
        else:
            assert second["code"] == 0, second
            line = next((line for line in second["err"].splitlines() if "waiting for" in line), "")
            assert bool(line) == bool(second.get("waited")), second
        assert not line or f"pid {first['pid']}" in line, line
    else:
        code = {"KILL": -9, "HUP": -1, "TERM": -15}.get(how["how"], 130)
        assert first["code"] == code, first
        if code == 130:
            assert "repeat the command to continue" in first["err"], first
    again = shop.order(place, command)["first"]
    assert again["code"] == 0, again
    found, whole = files(place), shop.wholes[name]
    assert sorted(found) == sorted(whole), first
    assert [name for name in whole if found[name] != whole[name]] == [], first
    after = finished(place)
    assert {name: after[name] for name in kept} == kept


QUICK = ("KILL", "INT INT", "STOP")
HOWS = (*QUICK, "HUP", "TERM", "INT")


def cells(*places: str, quick: tuple[str, ...] = QUICK) -> pytest.MarkDecorator:
    """Every place with every disturbance; the default suite has each place and each quick disturbance once or more."""
    count = max(len(places), len(quick))
    chosen = {(places[number % len(places)], quick[number % len(quick)]) for number in range(count)}
    found = [
        pytest.param(place, how, id=f"{place}-{how}", marks=[] if (place, how) in chosen else [pytest.mark.slow])
        for place in places
        for how in HOWS
    ]
    return pytest.mark.parametrize(("place", "how"), found)


def run_toy(shop: Workshop, toy_home: Path, work: Path, **how: Any) -> None:
    shutil.copytree(toy_home, work / "before" / "home")
    disturb(shop, work / "before", work, "run", (*TOY, "--device", "cpu", "--output", "PLACE/runs"), **how)


@cells("rename metrics.json #2", quick=("KILL", "STOP"))
def test_scoring(toy_workshop: Workshop, toy_home: Path, tmp_path: Path, place: str, how: str) -> None:
    run_toy(toy_workshop, toy_home, tmp_path, place=place, how=how, later=3)


@pytest.mark.slow
@cells("mibench.metrics.scoring:control_tables #2", "rename ?????????????*.safetensors")  # features of private images
def test_scoring_elsewhere(toy_workshop: Workshop, toy_home: Path, tmp_path: Path, place: str, how: str) -> None:
    run_toy(toy_workshop, toy_home, tmp_path, place=place, how=how, later=30)


@cells("rename *.png #7", quick=("KILL",))
def test_drawing(toy_workshop: Workshop, toy_home: Path, tmp_path: Path, place: str, how: str) -> None:
    run_toy(toy_workshop, toy_home, tmp_path, place=place, how=how, later=3)


@pytest.mark.slow
@cells("mibench.reports.figures.style:save #2", "rename *.csv #3")
def test_drawing_elsewhere(toy_workshop: Workshop, toy_home: Path, tmp_path: Path, place: str, how: str) -> None:
    run_toy(toy_workshop, toy_home, tmp_path, place=place, how=how, later=30)


TRAIN = ("train", "target", "toynet", "--dataset", "toyfaces", "--tag", "mine", "--device", "cpu")


@cells(
    "rename checkpoint.pt #2", "rename toynet*.safetensors", "rename toynet*.yaml",
    "mibench.weights.checkpoint:FileCheckpoint.discard",
)  # fmt: skip
def test_training(toy_workshop: Workshop, tmp_path: Path, place: str, how: str) -> None:
    disturb(toy_workshop, None, tmp_path, "train", TRAIN, place=place, how=how, later=3)


@pytest.mark.parametrize("later", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (10, 40, 160))])
def test_second_ctrl_c_at_any_moment(toy_workshop: Workshop, tmp_path: Path, later: int) -> None:
    disturb(toy_workshop, None, tmp_path, "train", TRAIN, place="rename checkpoint.pt #2", how="INT INT", later=later)


def test_output_that_nobody_reads_is_no_missing_metric() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "mibench", "list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


PREVIEW = (
    "data", "preview", "folder", "--people", "3", "--images", "2", "--size", "16", "--show-faces",
    "--set", "dataset.root=people", "--set", "dataset.public_root=strangers", "--output", "PLACE/preview.png",
)  # fmt: skip


@cells(
    "mibench.data.images:decode #3", "mibench.data.pixel_cache:_RowFile.put #4", "rename done.npy",
    "rename preview.png",
)  # fmt: skip
def test_pixel_cache(shipped_workshop: Workshop, tmp_path: Path, place: str, how: str) -> None:
    disturb(shipped_workshop, None, tmp_path, "cache", PREVIEW, place=place, how=how, later=3)


@pytest.mark.slow
@cells("rename pixels.npy", "mibench.data.pixel_cache:_RowFile.sync", "rename about.json")
def test_pixel_cache_elsewhere(shipped_workshop: Workshop, tmp_path: Path, place: str, how: str) -> None:
    disturb(shipped_workshop, None, tmp_path, "cache", PREVIEW, place=place, how=how, later=30)


@cells("mibench.weights.importing.importer:fitted", "rename vgg16*.safetensors", "rename vgg16*.yaml")
def test_import(shipped_workshop: Workshop, tmp_path: Path, place: str, how: str) -> None:
    command = ("import", "one.tar", "--as", "target:vgg16@celeba+mine", "--device", "cpu")
    disturb(shipped_workshop, None, tmp_path, "import", command, place=place, how=how, later=3)


AUDIT = (
    "audit", "--model", "own:build", "--data", "people", "--public", "strangers", "--size", "16", "--min-accuracy",
    "0", "--attack", "gmi", "--set", "attack.iterations=2", "--set", "attack.restarts=2",
    "--set", "judge_training.width=0.0625", "--set", "judge_training.size=32", "--set", "judge_training.epochs=2",
    "--set", "prior_training.width=0.0625", "--set", "prior_training.steps=2", "--set", "prior_training.batch_size=8",
    "--set", "protocol.samples=2", "--set", "protocol.metrics=[accuracy, knn-distance, feature-distance, controls]",
    "--device", "cpu", "--output", "PLACE/runs",
)  # fmt: skip


@pytest.mark.slow
@cells("rename module*.safetensors", "rename checkpoint.pt", "rename facenet112*.yaml", "rename audit.json")
def test_audit(shipped_workshop: Workshop, tmp_path: Path, place: str, how: str) -> None:
    disturb(shipped_workshop, None, tmp_path, "audit", AUDIT, place=place, how=how, later=30)
