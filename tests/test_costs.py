"""What a run cost: on record, the same after an interruption, in tables, on the command line."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import mibench
from mibench.cli import cli
from mibench.cli.run import cost_line
from mibench.reports.tables import write_tables
from mibench.results import StoredRun, open_run

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
# 6 identities in 3 units of 2, 3 samples each; 12 steps, each forwards and backwards, and one look at the end
FORWARD, BACKWARD = 6 * 3 * 13, 6 * 3 * 12


def toy_run(out: Path, **options: Any) -> StoredRun:
    return mibench.run("toyattack", **TOY, out=out, device="cpu", **options)


def stored(tmp_path: Path, prepare: dict[str, Any] | None, units: list[dict[str, Any]], **record: Any) -> StoredRun:
    """A run directory with nothing but facts: those of the result as metadata, those of the machine beside them."""
    import torch
    from safetensors.torch import save_file

    counted = ("queries_forward", "queries_backward")
    (tmp_path / "units").mkdir()
    parts = [(f"units/{number:03d}", facts) for number, facts in enumerate(units)]
    for stem, facts in [*parts, *([("state", prepare)] if prepare is not None else [])]:
        metadata = {"mibench": json.dumps({name: facts[name] for name in counted if name in facts})}
        save_file({"confidence": torch.zeros(1)}, tmp_path / f"{stem}.safetensors", metadata=metadata)
        rest = {name: value for name, value in facts.items() if name not in counted}
        (tmp_path / f"{stem}.json").write_text(json.dumps(rest))
    spec = {"attack": "mine", "protocol": {"name": "p", "version": 1, "identities": 4}}
    (tmp_path / "run.json").write_text(json.dumps({"status": "complete", "spec": spec, **record}))
    return open_run(tmp_path)


def facts(forward: int, backward: int, seconds: float, memory: int) -> dict[str, Any]:
    return {
        "queries_forward": forward,
        "queries_backward": backward,
        "seconds": seconds,
        "peak_memory_bytes": memory,
    }


def test_queries_and_seconds_are_added_and_the_highest_peak_of_memory_counts(tmp_path: Path) -> None:
    run = stored(tmp_path, facts(10, 0, 1.5, 700), [facts(20, 8, 2.0, 900), facts(5, 4, 0.5, 800)])
    assert run.cost() == {
        "prepare": facts(10, 0, 1.5, 700),
        "attack": facts(25, 12, 2.5, 900),
        "identity": {"queries_forward": 35 / 4, "queries_backward": 3.0, "seconds": 1.0},
        "prior": {"queries_forward": None},
    }
    assert run.preparation["queries_forward"] == 10


def test_what_was_not_recorded_is_none_and_no_zero(tmp_path: Path) -> None:
    part = facts(5, 4, 0.5, 800)
    del part["seconds"]
    cost = stored(tmp_path, None, [facts(20, 8, 2.0, 900), part], prior_queries_forward=77).cost()
    assert cost["prepare"] == dict.fromkeys(("queries_forward", "queries_backward", "seconds", "peak_memory_bytes"))
    assert cost["attack"]["seconds"] is None
    assert cost["attack"]["queries_forward"] == 25
    assert cost["identity"] == dict.fromkeys(("queries_forward", "queries_backward", "seconds"))
    assert cost["prior"] == {"queries_forward": 77}


def test_an_unfinished_run_has_no_cost_yet(tmp_path: Path) -> None:
    cost = stored(tmp_path, None, []).cost()
    assert {value for part in cost.values() for value in part.values()} == {None}


def test_a_run_records_its_queries_and_so_does_its_floor(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path)
    cost = open_run(found.path).cost()
    assert (cost["attack"]["queries_forward"], cost["attack"]["queries_backward"]) == (FORWARD, BACKWARD)
    assert (cost["prepare"]["queries_forward"], cost["prepare"]["queries_backward"]) == (0, 0)
    assert cost["identity"]["queries_forward"] == FORWARD / 6
    assert cost["prior"] == {"queries_forward": 0}
    for stage in ("prepare", "attack"):
        assert cost[stage]["seconds"] > 0  # type: ignore[operator]
        assert cost[stage]["peak_memory_bytes"] > 1e6  # type: ignore[operator]
    assert found.floor is not None
    assert open_run(found.floor.path).cost()["attack"]["queries_forward"] == 6 * 3


def test_what_a_prior_s_training_showed_the_victim_is_on_record_and_not_in_the_digest(
    toy: Path, tmp_path: Path
) -> None:
    before = toy_run(tmp_path / "a")
    file = toy / "cards" / "toygan_toyfaces.yaml"
    card = yaml.safe_load(file.read_text(encoding="utf-8"))
    card["measured"] = {"queries_forward": 12345}
    file.write_text(yaml.safe_dump(card))
    after = toy_run(tmp_path / "b")
    assert after.path.name == before.path.name
    assert open_run(after.path).cost()["prior"] == {"queries_forward": 12345}
    assert "12,345 for the training of the prior" in cost_line(open_run(after.path))


def test_a_prior_of_one_target_without_a_count_is_unknown_and_not_free(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toyworld.build import write_network
    from toyworld.data import ToyFaces
    from toyworld.networks import ToyPrior, prior_weights

    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    request = RunRequest(attack="toyattack", **TOY)
    assert make_plan(request).prior_queries == 0
    write_network(toy, "toygan@toyfaces+toynet", "prior", prior_weights(), ToyFaces())
    monkeypatch.setattr(ToyPrior, "per_target", True, raising=False)
    assert make_plan(request).prior_queries is None


def test_the_table_of_costs_has_a_row_for_the_run_and_its_floor(toy: Path, tmp_path: Path) -> None:
    found = toy_run(tmp_path, settings={"protocol.query_budget": 80})
    assert found.floor is not None
    written = write_tables(open_run(found.path), tmp_path / "t", floor=open_run(found.floor.path))
    assert {tmp_path / "t" / "costs.csv", tmp_path / "t" / "costs.md"} <= set(written)
    with (tmp_path / "t" / "costs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == ["toyattack", "floor (no attack)"]
    assert {name: value for name, value in rows[0].items() if name not in ("run", "context")} == {
        "query_budget": "80",
        "prepare_queries_forward": "0",
        "prepare_queries_backward": "0",
        "attack_queries_forward": str(FORWARD),
        "attack_queries_backward": str(BACKWARD),
        "identity_queries_forward": "39.0",
        "identity_queries_backward": "36.0",
        "prior_queries_forward": "0",
    }
    assert rows[1]["attack_queries_forward"] == "18"
    text = (tmp_path / "t" / "costs.md").read_text(encoding="utf-8")
    assert "| toyattack " in text
    assert "The protocol allows 80 images per identity, forward plus backward." in text


def test_a_table_of_costs_is_drawn_from_runs_that_recorded_little(tmp_path: Path) -> None:
    from mibench.reports.table_model import markdown_text
    from mibench.reports.tables import costs

    run = stored(tmp_path, None, [facts(20, 8, 2.0, 900), facts(5, 4, 0.5, 800)])
    table = costs([("mine", run)])
    assert [cell.value for cell in table.rows[0][2:]] == [None, None, None, 25, 12, None, None, None]
    text = markdown_text([table], table.notes or ())
    assert "–" in text
    assert "The protocol allows" not in text


def test_an_interrupted_run_draws_the_same_costs(toy: Path, tmp_path: Path) -> None:
    whole = toy_run(tmp_path / "whole")
    again = toy_run(tmp_path / "again")
    (again.path / "units" / "001.safetensors").unlink()
    (again.path / "metrics.json").unlink()
    again = toy_run(tmp_path / "again")
    tables = [
        write_tables(open_run(run.path), tmp_path / name, floor=None)
        for name, run in (("first", whole), ("second", again))
    ]
    assert [file.read_bytes() for file in tables[0]] == [file.read_bytes() for file in tables[1]]


def test_the_command_line_says_what_a_run_cost(toy: Path, tmp_path: Path) -> None:
    names = ["--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"]
    command = ["run", *names, "--device", "cpu", "--output", str(tmp_path)]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("queries per identity")]
    start, _, machine = line.partition("; ")
    assert start == "queries per identity: 39 forward, 36 backward (prepare 0+0, attack 234+216)"
    seconds, memory = machine.split(", ")
    assert re.fullmatch(r"\d+(\.\d+)? s", seconds)
    assert re.fullmatch(r"\d+\.\d+ GB", memory)
    assert float(memory.removesuffix(" GB")) > 0

    cost = json.loads(CliRunner().invoke(cli, [*command, "--json"]).stdout)["cost"]
    (folder,) = tmp_path.glob("toyattack-*")
    shown = json.loads(CliRunner().invoke(cli, ["show", "run", str(folder), "--json"]).stdout)["cost"]
    assert cost == shown == open_run(folder).cost()


SILENT = 77  # the exit code of a process that cannot begin its peak anew
BLOCK = 256 << 20  # bytes; what else a process of one thread maps meanwhile is a hundredth of it
STAGES = f"""
import json, mmap, sys
from pathlib import Path
import torch
from mibench.system.devices import peak_memory, reset_peak_memory
try:
    Path("/proc/self/clear_refs").write_text("5")
    assert "VmHWM:" in Path("/proc/self/status").read_text(encoding="utf-8")
except (OSError, AssertionError):
    sys.exit({SILENT})
peaks = []
for stage in ("before", "during", "after"):
    reset_peak_memory(torch.device("cpu"))
    if stage == "during":
        with mmap.mmap(-1, {BLOCK}, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
            for place in range(0, {BLOCK}, mmap.PAGESIZE):
                block[place] = 1
    peaks.append(peak_memory(torch.device("cpu")))
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process begin its peak anew")
def test_a_peak_of_memory_belongs_to_its_stage() -> None:
    """In a process of its own, with memory straight from the system: a heap may hand out what it has long had."""
    done = subprocess.run([sys.executable, "-c", STAGES], capture_output=True, text=True, timeout=600, check=False)
    if done.returncode == SILENT:
        pytest.skip("this system does not let a process begin its peak anew")
    assert done.returncode == 0, done.stderr
    before, during, after = json.loads(done.stdout)
    # the peak outlives the block, which was freed before it was read, and the next stage begins without it
    assert during - before > BLOCK / 2
    assert during - after > BLOCK / 2
