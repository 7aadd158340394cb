"""Six hundred spoilt settings, suites, cards and records: each is understood, or one line of :class:`MibenchError`;
nothing in one is executed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import toyworld
from click.testing import CliRunner
from mutations import WATCHED

import mibench
from mibench import plugins, registry
from mibench import settings as config
from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.results import open_run
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.runs.run import completed
from mibench.runs.store import RunDir
from mibench.sweeps.status import cell_statuses
from mibench.sweeps.suite import load_suite
from mibench.sweeps.sweep import _remembered
from mibench.system.devices import peak_memory, reset_peak_memory
from mibench.weights import cards

CPU = torch.device("cpu")
ROUNDS = 600
SECONDS = 20
MOST_MEMORY = 1_000_000_000  # bytes that reading may add to what the process holds
SUITE = """name: mine
protocol: toy
dataset: toyfaces
attacks: [floor, {attack: toyattack, label: short, settings: {attack: {steps: 3}}}]
targets: [toynet]
seeds: [0, 1]
settings: {protocol: {identities: 4}}
exclude: [{attack: floor, seed: 1}]
compare: {reference: floor, metrics: [acc1]}
"""
SNIPPETS = (
    *("null", "true", ".nan", "-.inf", "1e999", "-1", "0", "9" * 400, "010", "1:30", "2026-99-99", '"\\UFFFFFFFF"'),
    *("!!int x", "!!python/object:os.system {}", "&a [*a]", "*a", "[" * 200, "{" * 200, "<<: ", "? ", "- ", ": ", "\t"),
    *("!!python/object/apply:os.system [touch executed]", "!!python/name:os.system", "!!python/module:os "),
    *("!!python/object/new:subprocess.Popen [touch executed]", "cos\nsystem\n(S'touch executed'\ntR."),
    *("%YAML 9.9\n--- ", "\0", "\x1b[31m", "\u2028", "'", '"', "#", "|", ">", "NaN", "Infinity", "[]", "{}", '""'),
)
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        2**62,
        2**80,
        1e300,
        "",
        "x" * 5000,
        "\0",
        "nan",
        "inf",
        "../..",
        "/",
        [],
        {},
        [[]],
        [1, None],
    ),
    *({"a": {"b": [1]}}, [{"key": 1}], {"value": "x"}, "2026-01-01"),
)


def scribbled(content: bytes, dice: random.Random) -> bytes:
    """Bytes cut out, doubled, turned over, or something put between them."""
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(content) + 1)
        to = min(len(content), at + dice.choice((1, 3, 20, 200)))
        kind = dice.randrange(5)
        if kind == 0:
            content = content[:at] + content[to:]
        elif kind == 1:
            content = content[:to] + content[at:to] * dice.choice((1, 2, 50)) + content[to:]
        elif kind == 2:
            content = content[:at] + dice.randbytes(to - at) + content[to:]
        else:
            content = content[:at] + dice.choice(SNIPPETS).encode("utf-8", "surrogatepass") + content[to:]
    return content


def reshaped(value: Any, dice: random.Random) -> Any:
    """The same JSON with one value somewhere in it replaced, renamed or left out."""
    if not isinstance(value, dict | list) or not value or dice.random() < 0.25:
        return dice.choice(ODD)
    if isinstance(value, list):
        at = dice.randrange(len(value))
        return [*value[:at], reshaped(value[at], dice), *value[at + 1 :]]
    name = dice.choice(list(value))
    if dice.random() < 0.15:
        return {key: item for key, item in value.items() if key != name}
    return {**value, name: reshaped(value[name], dice)}


def spoil(file: Path, dice: random.Random) -> None:
    content = file.read_bytes()
    if file.suffix == ".json" and dice.random() < 0.7:
        file.write_text(json.dumps(reshaped(json.loads(content), dice)), encoding="utf-8")
    elif file.suffix == ".safetensors":
        head = 8 + int.from_bytes(content[:8], "little")
        file.write_bytes(scribbled(content[:head], dice) + content[head:])
    else:
        file.write_bytes(scribbled(content, dice))


@contextmanager
def bounded() -> Iterator[None]:
    """Fails what hangs."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Watch:
    """Notes what a file that is read must never bring about: processes, connections, objects out of pickles."""

    def __init__(self) -> None:
        self.deeds: list[str] = []
        self.armed = False
        sys.addaudithook(self)  # for the rest of the process: there is no way back

    def __call__(self, event: str, arguments: Any) -> None:
        if self.armed and event in WATCHED:
            self.deeds.append(f"{event} {str(arguments)[:200]}")

    @contextmanager
    def armed_for(self, reading: str) -> Iterator[None]:
        self.deeds.clear()
        self.armed = True
        try:
            yield
        finally:
            self.armed = False
            assert not self.deeds, f"{reading}: {self.deeds[:3]}"


def show(*words: object) -> None:
    """A command that reads and computes nothing: fine, or one ``error:`` line for each cause."""
    done = CliRunner().invoke(cli, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code in (0, 1, 2)
    assert all(line.startswith("error: ") for line in done.stderr.splitlines()), done.stderr


def read_run(folder: Path) -> None:
    """Everything that is read from a run: by a notebook, by `show`, by `run` that finds it."""
    run = open_run(folder)
    for part in (
        *(lambda: run.record, lambda: run.metrics, lambda: run.samples, lambda: run.units, lambda: run.curves),
        *(lambda: run.cost(), lambda: list(run.log), lambda: run.config, lambda: (run.protocol, run.seed, run.attack)),
        lambda: completed(plan_of(folder), RunDir(folder), None),
        lambda: RunDir(folder).load("units/000"),
    ):
        with suppress(MibenchError):
            part()
    show("show", "run", folder)
    show("compare", folder)


def plan_of(folder: Path) -> Any:
    return make_plan(RunRequest(config=folder / "config.yaml"))


def read_suite(file: Path) -> None:
    cell_statuses(load_suite(str(file)).cells, file.parent / "out")


def read_protocol(name: str) -> None:
    show("show", "protocol", name)
    make_plan(RunRequest(attack="toyattack", target="toynet", dataset="toyfaces", protocol=name))


def read_presets() -> None:
    show("show", "attack", "climb")
    for preset in config.attack_presets("climb").presets:
        make_plan(RunRequest(attack="climb", target="toynet", dataset="toyfaces", protocol="toy", preset=preset))


def plug_in(folder: Path) -> tuple[Path, Path]:
    """A package with a protocol and an attack with presets; the files of both."""
    package = folder / "climbing"
    for part in ("presets", "protocols"):
        (package / part).mkdir(parents=True)
        (package / part / "__init__.py").write_text("")
    catalogue = {"attack": {"climb": "climbing.attack:Climb"}, "protocol": {"climbing": "climbing.protocols"}}
    (package / "__init__.py").write_text(f"CATALOGUE = {catalogue!r}\n")
    head = "from dataclasses import dataclass\nfrom toyworld.attacks import ToyAttack\n\n"
    own = "@dataclass(frozen=True, kw_only=True)\nclass Climb(ToyAttack):\n    name = 'climb'\n"
    (package / "attack.py").write_text(head + own)
    world = Path(toyworld.__file__).parent
    protocol, presets = package / "protocols" / "hills.yaml", package / "presets" / "climb.yaml"
    protocol.write_text((world / "protocols" / "toy.yaml").read_text().replace("name: toy", "name: hills"))
    presets.write_text((world / "presets" / "toyattack.yaml").read_text())
    registry.add_plugin(str(package))
    return protocol, presets


def read_cards(home: Path) -> None:
    show("list", "weights")
    make_plan(RunRequest(attack="toyattack", target="toynet", dataset="toyfaces", protocol="toy"))
    for card in cards.all_cards().values():
        card.card()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="POSIX signals")
def test_six_hundred_spoilt_files_are_understood_or_refused_in_one_line(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    protocol, presets = plug_in(tmp_path / "plugin")
    names: dict[str, Any] = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
    whole = mibench.run("toyattack", out=tmp_path / "whole", device="cpu", **names).path
    findings = {"model": "toynet", "accuracy": 1.0, "findings": [{"text": "no leak", "p": 0.5}]}
    (whole / "audit.json").write_text(json.dumps(findings))  # an audit leaves it in the folder of its run
    suite = tmp_path / "mine.yaml"
    suite.write_text(SUITE)
    loaded = load_suite(str(suite))
    key = {"label": "floor", "attack": "floor", "target": "toynet", "seed": 0}
    cell = {"key": key, "status": "complete", "reason": "", "folder": None, "seconds": 1.5}
    state = tmp_path / "sweep.json"
    state.write_text(json.dumps({"schema": 1, "suite": "mine", "updated": "now", "cells": [cell]}))
    work = tmp_path / "work"
    place = work / whole.name
    files = (
        *("run.json", "metrics.json", "units/000.json", "state.json", "samples.csv", "log.jsonl"),
        *("config.yaml", "units/000.safetensors", "audit.json"),
    )
    targets: list[tuple[Path, Path, Callable[[], Any]]] = [
        *((whole / file, place / file, lambda: read_run(place)) for file in files),
        (whole / "config.yaml", tmp_path / "c.yaml", lambda: make_plan(RunRequest(config=tmp_path / "c.yaml"))),
        (suite, tmp_path / "s.yaml", lambda: read_suite(tmp_path / "s.yaml")),
        (state, work / "sweep.json", lambda: _remembered(loaded, work)),
        (protocol, protocol, lambda: read_protocol("hills")),
        (presets, presets, read_presets),
        *((card, card, lambda: read_cards(toy)) for card in sorted((toy / "cards").glob("toy[nj]*.yaml"))),
    ]
    kept = {original: original.read_bytes() for original, _, _ in targets}
    understood, watch = 0, Watch()
    for _, _, read in targets:  # all that is imported on the way is imported before anybody watches
        with suppress(MibenchError):
            read()
    reset_peak_memory(CPU)
    before = peak_memory(CPU)  # of whatever else this process has done
    for number in range(ROUNDS):
        dice = random.Random(f"spoilt {number}")
        original, file, read = targets[number % len(targets)]
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(whole.parent, work)
        file.write_bytes(kept[original])
        spoil(file, dice)
        said = ""
        try:
            with bounded(), watch.armed_for(f"round {number}: {original.name}"):
                read()
            understood += 1
        except MibenchError as error:
            said = str(error)
        except Exception as error:
            raise AssertionError(f"round {number}: {original.name}: {type(error).__name__}: {error}") from error
        finally:
            if original == file:
                file.write_bytes(kept[original])
        assert len(said) < 2000, f"round {number}: a message is no novel"
    assert not list(tmp_path.rglob("executed"))
    assert 0 < understood < ROUNDS, "the changes are neither all harmless nor all fatal"
    assert peak_memory(CPU) - before < MOST_MEMORY


def test_a_deed_would_be_seen(tmp_path: Path) -> None:
    watch = Watch()
    with pytest.raises(AssertionError, match=r"it: .*os\.system"), watch.armed_for("it"):
        os.system("true")
    with watch.armed_for("it"):
        (tmp_path / "a").write_text("b")
