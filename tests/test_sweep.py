"""Sweeps: a matrix from a file, cells in processes of their own, one table out."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sweeping import TOY, gone, runs, stamps, sweeping, table, wait_for, write
from toyworld.attacks import KILLED_AT

from mibench import registry
from mibench.cli import cli
from mibench.commands import run
from mibench.errors import MibenchError
from mibench.sweeps.suite import Suite, load_suite, parse_suite
from mibench.sweeps.sweep import forecast, sweep

QUICK = TOY + "attacks: [ATTACKS{attack: toyattack, settings: {attack: {steps: 3}}}]\nseeds: [0, 1]\n"
MIXED = (
    TOY
    + "attacks: [{attack: badattack, settings: {attack: {fault: bug}}}, {attack: toyattack, prior: nothing}, floor]\n"
)
LONG = TOY + "attacks: [{attack: toyattack, settings: {attack: {steps: STEPS, unit_size: 1}}}]\n"


posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def suite_of(**content: Any) -> Suite:
    return parse_suite({"attacks": ["a", "b"], "targets": ["x", "y"], "seeds": [0, 1], **content}, "mine.yaml", "mine")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_matrix_is_every_combination_in_the_order_of_the_file() -> None:
    cells = suite_of().cells
    found = [(c.request.attack, c.request.target, c.request.seed) for c in cells]
    assert found == [(a, t, s) for a in "ab" for t in "xy" for s in (0, 1)]


def test_what_an_attack_says_wins_over_what_the_suite_says() -> None:
    detailed = {"attack": "a", "label": "A", "preset": "p", "prior": "g", "settings": {"attack": {"steps": 2}}}
    common = {"attack": {"steps": 1, "rate": 3}, "protocol": {"identities": 4}}
    first, second = suite_of(attacks=[detailed, "b"], targets=["x"], seeds=[0], settings=common, protocol="toy").cells
    assert (first.label, first.request.preset, first.request.prior) == ("A", "p", "g")
    assert first.request.settings == {"attack": {"steps": 2, "rate": 3}, "protocol": {"identities": 4}}
    assert (second.label, second.request.preset, second.request.settings) == ("b", None, common)
    assert first.request.protocol == second.request.protocol == "toy"


def test_excludes_are_partial_and_know_names_labels_and_lists() -> None:
    def left(*exclude: dict[str, Any]) -> list[tuple[Any, ...]]:
        cells = suite_of(attacks=["a", {"attack": "a", "label": "second"}], exclude=list(exclude)).cells
        return [(c.label, c.request.target, c.request.seed) for c in cells]

    assert len(left()) == 8
    assert left({"attack": "a", "target": "x"}, {"seed": 1}) == [("a", "y", 0), ("second", "y", 0)]
    assert left({"label": "a"}, {"attack": "second", "target": ["x", "y"], "seed": 0}) == [
        ("second", "x", 1),
        ("second", "y", 1),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"atacks": []}, "mine.yaml: unknown key 'atacks'; did you mean 'attacks'?"),
        ({"attacks": [{"attack": "a", "presett": "p"}]}, "attacks[0]: unknown key 'presett'; did you mean 'preset'?"),
        ({"attacks": [{"preset": "p"}]}, "attacks[0]: it needs the key 'attack'"),
        ({"attacks": ["a", "a"]}, "attacks: 'a' stands twice; give each a label of its own"),
        ({"attacks": []}, "attacks: expected a list of at least one attack"),
        ({"targets": "x"}, "targets: expected a list of at least one target, got 'x'"),
        ({"seeds": [True]}, "seeds[0]: a seed is a whole number from 0, got True"),
        ({"seeds": [-1]}, "seeds[0]: a seed is a whole number from 0, got -1"),
        ({"settings": {"atack": {}}}, "settings: unknown key 'atack'; did you mean 'attack'?"),
        ({"settings": {"attack": 3}}, "settings.attack: expected a mapping"),
        (
            {"access": "labels", "settings": {"protocol": {"access": "gradients"}}},
            "access labels and settings.protocol.access 'gradients' differ; give one",
        ),
        ({"defences": []}, "defences: expected a list of at least one defence"),
        ({"defences": ["none", "none"]}, "defences: 'none' stands twice"),
        ({"targets": ["x+tag"], "defences": ["none"]}, "targets: 'x+tag' has a tag already"),
        ({"exclude": [{"atack": "a"}]}, "exclude[0]: unknown key 'atack'; did you mean 'attack'?"),
        ({"exclude": [{"attack": "aa"}]}, "exclude[0]: unknown attack 'aa'"),
        ({"exclude": [{"attack": ["a", {}]}]}, "exclude[0]: attack: expected a name or a list of names"),
        ({"exclude": [{}]}, "exclude[0]: an empty entry would exclude everything"),
        ({"exclude": [{"seed": [0, 1]}]}, "nothing is left to run"),
        ({"name": "../up"}, "name: it becomes a folder"),
        ({"compare": {"referenc": "a"}}, "compare: unknown key 'referenc'; did you mean 'reference'?"),
        ({"compare": {"metrics": "acc1"}}, "compare.metrics: expected a list of metrics, got 'acc1'"),
    ],
)
def test_a_mistake_in_a_suite_is_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError) as caught:
        suite_of(**change)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["acc2", "fid"])
def test_metrics_that_no_comparison_can_test_are_refused_before_a_cell_runs(tmp_path: Path, name: str) -> None:
    suite = suite_of(compare={"metrics": [name]})
    for call in (sweep, forecast):
        with pytest.raises(MibenchError, match=f"compare.metrics: '{name}' cannot be tested over identities"):
            call(suite, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_the_comparison_tests_is_said_in_the_suite() -> None:
    assert suite_of().reference is None
    asked = suite_of(compare={"reference": "a", "metrics": ["acc1"]})
    assert (asked.reference, asked.metrics) == ("a", ("acc1",))


def test_shipped_suites_are_known_by_name() -> None:
    smoke, claims = load_suite("smoke"), load_suite("claims")
    assert len(claims.cells) > len(smoke.cells) > 1
    for cell in (*smoke.cells, *claims.cells):
        registry.entry("attack", str(cell.request.attack))
        registry.entry("target", str(cell.request.target))
        assert cell.request.protocol in registry.yaml_files("protocol")
    with pytest.raises(MibenchError, match=r"unknown suite 'smok'; did you mean 'smoke'\?"):
        load_suite("smok")
    listed = call("list", "suites")
    assert "smoke" in listed.stdout
    assert "claims" in listed.stdout


def test_a_dry_run_tells_everything_and_leaves_nothing(toy: Path, tmp_path: Path) -> None:
    suite, out = write(tmp_path, MIXED + "seeds: [0, 1]\n"), tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))
    done = call("sweep", suite, "--dry-run", "--output", out, "--device", "cpu", "--jobs", 2)
    assert done.exit_code == 1, "as the sweep itself would"
    assert done.stderr == "error: 2 of 6 cells cannot start: toyattack against toynet, seed 0, ...\n"
    assert "6 cells: 0 complete, 4 to run, 2 cannot start" in done.stdout
    assert done.stdout.count("unknown prior 'nothing'") == 1, "one reason, stated once for both cells"
    found = json.loads(call("sweep", suite, "--dry-run", "--output", out, "--device", "cpu", "--json").stdout)
    assert [cell["state"] for cell in found["cells"]] == ["to do"] * 2 + ["cannot start"] * 2 + ["to do"] * 2
    floor = found["cells"][4]
    assert (floor["queries_forward"], floor["queries_backward"]) == (6 * 3, 0)  # six identities, three draws each
    assert floor["seconds"] > 0
    assert found["total"]["queries_forward"] is None, "badattack cannot say"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_counts_what_attacks_plan(toy: Path, tmp_path: Path) -> None:
    suite = write(tmp_path, TOY + "attacks: [{attack: toyattack, settings: {attack: {steps: 3}}}]\nseeds: [0, 1]\n")
    arguments = ("sweep", suite, "--dry-run", "--output", tmp_path / "out", "--device", "cpu", "--json")
    found = json.loads(call(*arguments, "--jobs", 2).stdout)
    assert [cell["queries_forward"] for cell in found["cells"]] == [6 * 3 * 4] * 2
    assert [cell["queries_backward"] for cell in found["cells"]] == [6 * 3 * 3] * 2
    assert [floor["queries_forward"] for floor in found["floors"].values()] == [6 * 3] * 2
    assert found["total"]["queries_forward"] == 2 * (6 * 3 * 4 + 6 * 3)
    assert 0 < found["total"]["seconds_side_by_side"] < found["total"]["seconds"]


@pytest.mark.parametrize("attacks", [["toyattack"], pytest.param(["floor", "toyattack"], marks=pytest.mark.slow)])
def test_a_sweep_runs_resumes_and_knows_what_is_complete(workers: Path, tmp_path: Path, attacks: list[str]) -> None:
    suite, out = write(tmp_path, QUICK.replace("ATTACKS", "floor, " if "floor" in attacks else "")), tmp_path / "out"
    count = 2 * len(attacks)
    arguments = ("sweep", suite, "--output", out, "--device", "cpu")
    done = call(*arguments, "--jobs", 2, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [cell["status"] for cell in found["cells"]] == ["complete"] * count
    rows = table(out)
    assert [(row["label"], row["seed"]) for row in rows] == [(a, s) for a in attacks for s in "01"]
    for row in rows:
        metrics = json.loads((out / row["folder"] / "metrics.json").read_text())
        assert float(row["acc1"]) == metrics["acc1"]["value"]
        assert float(row["acc1_low"]) == metrics["acc1"]["low"]
        assert row["prior"] == "toygan@toyfaces"
    assert int(rows[-1]["queries_forward"]) == 6 * 3 * 4
    assert int(rows[-1]["queries_backward"]) == 6 * 3 * 3
    assert "| toyattack" in (out / "sweep.md").read_text()
    state = json.loads((out / "sweep.json").read_text())
    assert [cell["status"] for cell in state["cells"]] == ["complete"] * count
    assert all(cell["seconds"] > 0 for cell in state["cells"])
    events = [json.loads(line)["event"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert events.count("started") == events.count("complete") == count
    assert done.stderr.count("acc@1") == count, "a line per finished cell"

    stamped, text = stamps(out), (out / "sweep.csv").read_bytes()
    again = call(*arguments)
    assert again.exit_code == 0, again.output
    assert f"{count} of {count} cells complete" in again.stdout
    assert stamps(out) == stamped, "complete cells are not touched"
    assert (out / "sweep.csv").read_bytes() == text
    dry = json.loads(call(*arguments, "--dry-run", "--json").stdout)
    assert [cell["state"] for cell in dry["cells"]] == ["complete"] * count
    assert dry["total"]["seconds"] == 0

    alone = tmp_path / "alone"  # the same runs without a sweep
    for seed in (0, 1):
        for attack in attacks:
            settings = {"attack.steps": 3} if attack == "toyattack" else {}
            run(attack, "toynet", "toyfaces", "toy", seed=seed, settings=settings, out=alone, device="cpu")
    assert runs(alone) == runs(out), "workers side by side give the bytes of mibench run"

    unit = next(out.glob("toyattack-*/units/001.safetensors"))
    unit.write_bytes(b"")
    (unit.parent.parent / "metrics.json").unlink()
    dry = json.loads(call(*arguments, "--dry-run", "--json").stdout)
    parts = [cell for cell in dry["cells"] if cell["state"] == "part done"]
    assert [(part["units_stored"], part["units"]) for part in parts] == [(2, 3)]
    assert parts[0]["queries_forward"] == 2 * 3 * 4, "one unit of two identities is left"
    assert parts[0]["basis"] == "finished runs"
    assert call(*arguments).exit_code == 0
    assert runs(out) == runs(alone)


def test_a_failed_cell_does_not_stop_the_others(workers: Path, tmp_path: Path) -> None:
    suite, out = write(tmp_path, MIXED), tmp_path / "out"
    done = call("sweep", suite, "--output", out, "--device", "cpu")
    assert done.exit_code == 1, done.output
    bad, unstartable, floor = table(out)
    assert (bad["status"], unstartable["status"], floor["status"]) == ("failed", "cannot start", "complete")
    fault = "attack 'badattack' raises ValueError: a bug in the attack (toyworld/attacks.py, line "
    assert bad["reason"].startswith(fault)
    assert bad["reason"].endswith(f"(traceback in logs/{bad['folder']}.log)")
    assert "unknown prior 'nothing'" in unstartable["reason"]
    assert "Traceback" in (out / "logs" / f"{bad['folder']}.log").read_text()
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2
    assert f"error: badattack against toynet, seed 0: failed: {fault}" in errors[0]
    assert "1 of 3 cells complete" in done.stdout
    assert "failed: attack 'badattack' raises ValueError" in (out / "sweep.md").read_text()
    dry = json.loads(call("sweep", suite, "--output", out, "--device", "cpu", "--dry-run", "--json").stdout)
    assert dry["cells"][0]["failed_last_time"] == bad["reason"]
    assert dry["cells"][2]["state"] == "complete"


def test_a_folder_belongs_to_one_suite_and_one_sweep(workers: Path, tmp_path: Path) -> None:
    import filelock

    out = tmp_path / "out"
    out.mkdir()
    (out / "sweep.json").write_text('{"suite": "other", "cells": []}')
    done = call("sweep", write(tmp_path, QUICK.replace("ATTACKS", "")), "--output", out, "--device", "cpu")
    assert done.exit_code == 2
    assert "holds the sweep 'other', this one is 'mine'; choose another --output" in done.stderr
    with filelock.FileLock(out / ".sweep.lock"):
        done = call("sweep", write(tmp_path, QUICK.replace("ATTACKS", "")), "--output", out, "--device", "cpu")
    assert done.exit_code == 2
    assert "another sweep is at work" in done.stderr


@posix
@pytest.mark.slow
def test_a_killed_worker_is_one_failed_cell_and_the_next_call_completes_it(
    workers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite, out = write(tmp_path, LONG.replace("STEPS", "20")), tmp_path / "out"
    with monkeypatch.context() as patch:  # the worker's own hand, so that no machine is too fast for the signal
        patch.setenv(KILLED_AT, "3")
        process = sweeping(suite, out, workers)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert "error: toyattack against toynet, seed 0: failed: the worker process was killed by SIGKILL" in errors
    assert table(out)[0]["status"] == "failed"
    assert [path.stem for path in sorted(out.glob("toyattack-*/units/*.json"))] == ["000", "001", "002"]

    done = call("sweep", suite, "--output", out, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert table(out)[0]["status"] == "complete"
    settings = {"attack.steps": 20, "attack.unit_size": 1}
    run("toyattack", "toynet", "toyfaces", "toy", settings=settings, out=tmp_path / "whole", device="cpu")
    assert runs(out) == runs(tmp_path / "whole")


@posix
@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_workers_end_with_ctrl_c_and_with_their_parent(workers: Path, tmp_path: Path, how: signal.Signals) -> None:
    suite, out = write(tmp_path, LONG.replace("STEPS", "100000000")), tmp_path / "out"
    process = sweeping(suite, out, workers)
    try:
        worker = wait_for(process, out, "state.json")
        process.send_signal(how)
        _, errors = process.communicate(timeout=300)
        if how == signal.SIGINT:
            assert process.returncode == 130, errors
            assert "everything finished is kept; repeat the command to continue" in errors
            assert "Traceback" not in errors
        assert gone(worker)
    finally:
        process.kill()
        process.communicate()
