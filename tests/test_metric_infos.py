"""A metric says about itself how it is shown and tested: one of a third party needs no other line anywhere."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import comparable_runs
import pytest
from click.testing import CliRunner

from mibench import registry
from mibench.api import TOPICS, VIEWS, MetricInfo, MibenchError
from mibench.cli import cli
from mibench.metrics import judge_errors
from mibench.metrics.declared import built_in_infos
from mibench.metrics.gradients import measure as gradients
from mibench.reports.compare import compare
from mibench.reports.tables import write_tables
from mibench.results import difference, merged_infos, open_run, per_identity
from mibench.results.formatting import number_text
from mibench.sweeps.status import Outcome, cell_statuses
from mibench.sweeps.suite import load_suite
from mibench.sweeps.tables import headline, sweep_table

METRICS = "protocol.metrics=[accuracy, knn-distance, true-identity, brightness]"
NAMES = ("--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy", "--device", "cpu", "--set", METRICS)


@pytest.fixture
def runs(toy: Path, tmp_path: Path) -> tuple[str, list[Path]]:
    """What ``mibench run`` printed, and the folders of the run and of its floor."""
    done = CliRunner().invoke(cli, ["run", "--attack", "toyattack", *NAMES, "--output", str(tmp_path / "runs")])
    assert done.exit_code == 0, done.output
    return done.stdout, sorted((tmp_path / "runs").iterdir(), reverse=True)


def test_a_metric_of_somebody_else_is_printed_compared_and_tested(
    runs: tuple[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed, folders = runs
    run, floor = (open_run(folder) for folder in folders)
    assert any(line.startswith("brightness (nits) ↑  ") for line in printed.splitlines())
    assert "brightness" in run.samples
    assert per_identity(run, "brightness").mean() == pytest.approx(run.metrics["brightness"].value)
    assert "p_value" in difference(run, floor, "brightness").params

    # whoever reads the runs need not have installed the metric
    monkeypatch.setattr(registry, "load", None)
    tables = {file.name: file.read_text(encoding="utf-8") for file in write_tables(run, tmp_path / "t", floor=floor)}
    for name in ("summary.csv", "summary.md", "metrics.md", "identities.csv", "against_floor.csv"):
        assert "brightness" in tables[name], name
    found = compare(folders)
    assert "brightness" in found.tested
    assert [each.metric for each in found.differences if each.p_value is not None].count("brightness") == 1
    text = found.render("text", width=400)
    assert "brightness (nits) ↑" in text
    assert compare(folders, metrics=["brightness"]).family == 1
    assert "brightness_low" in next(csv.reader(found.render("csv").splitlines()))
    assert "brightness (nits)" in (found.write(tmp_path)[1]).read_text(encoding="utf-8")


def test_a_sweep_has_its_columns(runs: tuple[str, list[Path]], tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        "name: suite\ndataset: toyfaces\nprotocol: toy\nattacks: [toyattack, floor]\ntargets: [toynet, nobody]\n"
        "settings:\n  protocol:\n    metrics: [accuracy, knn-distance, true-identity, brightness]\n"
    )
    suite = load_suite(str(tmp_path / "suite.yaml"))
    outcomes = [
        Outcome(standing=each, status=each.state, reason=each.reason, run=each.run)
        for each in cell_statuses(suite.cells, tmp_path / "runs")
    ]
    table = sweep_table(outcomes, tmp_path / "runs")
    rows = list(csv.DictReader(table.csv().splitlines()))
    brightness = open_run(runs[1][0]).metrics["brightness"]
    first = rows[0]
    assert (first["attack"], first["target"], first["status"]) == ("toyattack", "toynet", "complete")
    assert (float(first["brightness"]), float(first["brightness_low"])) == (brightness.value, brightness.low)
    assert [row["status"] for row in rows].count("cannot start") == 2
    assert {row["acc1"] for row in rows if row["status"] == "cannot start"} == {""}
    assert "brightness (nits)" in table.markdown()
    assert "brightness (nits)" in table.brief(400)[0]
    assert len(table.brief(80)[0]) <= 80
    assert headline(open_run(runs[1][0])).startswith("acc@1 100.0 % [")


def test_a_protocol_may_demand_it_and_scoring_again_changes_no_byte(runs: tuple[str, list[Path]]) -> None:
    _, (folder, _) = runs
    before = {name: (folder / name).read_bytes() for name in ("samples.csv", "metrics.json")}
    infos = open_run(folder).infos
    done = CliRunner().invoke(cli, ["score", str(folder), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert open_run(folder).infos == infos
    for demanded, code in (("brightness", 0), ("darkness", 2)):
        command = ["run", "--attack", "floor", *NAMES, "--set", f"protocol.required=[{demanded}]"]
        done = CliRunner().invoke(cli, [*command, "--output", str(folder.parent)])
        assert done.exit_code == code, done.output
    assert "unknown estimate 'darkness'" in done.stderr


def test_a_run_without_descriptions_is_read_by_those_of_mibench(tmp_path: Path) -> None:
    run = open_run(comparable_runs.make(tmp_path / "run", "dmmia", 0.5))
    assert run.infos == merged_infos([built_in_infos()])
    metrics = json.loads((run.path / "metrics.json").read_text())
    metrics["odd"] = metrics["acc1"]
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    odd = open_run(run.path).infos["odd"]
    assert (odd.title, odd.higher_is_better, odd.column, odd.views) == ("odd", True, None, ())
    files = write_tables(open_run(run.path), tmp_path / "tables")
    assert "odd" in next(file for file in files if file.name == "metrics.md").read_text(encoding="utf-8")


def test_descriptions_of_another_version_are_read(tmp_path: Path) -> None:
    folder = comparable_runs.make(tmp_path / "run", "dmmia", 0.5)
    record = json.loads((folder / "run.json").read_text())
    stored = {"name": "acc1", "title": "hits", "topic": "unheard of", "views": ["run", "cinema"], "colour": "red"}
    (folder / "run.json").write_text(json.dumps(record | {"metrics": [stored]}))
    assert open_run(folder).infos["acc1"] == MetricInfo("acc1", "hits", proportion=True, views=("run",))


@pytest.mark.parametrize("stored", [[{"name": "acc1"}], [{"name": "acc1", "title": 1}], {"acc1": "acc@1"}, [None]])
def test_spoilt_descriptions_are_refused_in_one_line(tmp_path: Path, stored: object) -> None:
    folder = comparable_runs.make(tmp_path / "run", "dmmia", 0.5)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"metrics": stored}))
    with pytest.raises(MibenchError, match="metrics should be a list of objects with a name and a title"):
        _ = open_run(folder).infos


def test_built_in_metrics_describe_themselves_whole() -> None:
    for name, info in built_in_infos().items():
        assert info.name == name
        assert info.title
        assert info.topic in TOPICS
        assert set(info.views) <= set(VIEWS)
        undirected = info.topic == "draws" or info in (*gradients.infos, *judge_errors.INFOS) or "false " in info.title
        assert info.higher_is_better is not None or undirected, name
        assert info.column is not None or info.equals is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.5e-39, "0.000"), (0.0, "0.000"), (2e-6, "2.0e-06"), (0.0042, "0.004"), (123.4, "123")],
)
def test_numbers_are_written_as_people_read_them(value: float, text: str) -> None:
    assert number_text(value) == text


@pytest.mark.parametrize("proportion", [True, False, None])
def test_a_metric_of_a_third_party_says_whether_it_is_a_share(tmp_path: Path, proportion: bool | None) -> None:
    """Differences between runs have the interval that belongs to it; a run that does not say so has no share."""
    folders = [
        comparable_runs.make(tmp_path / attack, attack, share) for attack, share in (("dmmia", 0.5), ("gmi", 0.2))
    ]
    for folder in folders:
        samples = (folder / "samples.csv").read_text().splitlines()
        hit = samples[0].split(",").index("hit1")
        lines = [f"{line},{'smiles' if number == 0 else line.split(',')[hit]}" for number, line in enumerate(samples)]
        (folder / "samples.csv").write_text("\n".join(lines) + "\n")
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps(metrics | {"smiles": metrics["acc1"]}))
        record = json.loads((folder / "run.json").read_text())
        said = {} if proportion is None else {"proportion": proportion}
        info = {"name": "smiles", "title": "smiling", "column": "smiles", **said}
        (folder / "run.json").write_text(json.dumps(record | {"metrics": [info]}))
    run, other = (open_run(folder) for folder in folders)
    smiles, hits = difference(run, other, "smiles"), difference(run, other, "acc1")
    assert hits.params["interval"] == "paired shares"
    assert smiles.value == hits.value
    assert smiles.params["interval"] == ("paired shares" if proportion else "paired t")
    assert ((smiles.low, smiles.high) == (hits.low, hits.high)) is bool(proportion)
    (compared,) = compare(folders, metrics=["smiles"]).differences
    assert compared.estimate.params["interval"] == smiles.params["interval"]


def test_a_metric_that_counts_a_value_is_a_share() -> None:
    assert MetricInfo("first", "ranked first", column="rank", equals=1).proportion
    assert not MetricInfo("rank", "rank", column="rank").proportion


def test_built_in_shares_say_so() -> None:
    said = {name for name, info in built_in_infos().items() if info.proportion}
    assert {name for name, info in built_in_infos().items() if info.percent} <= said
    assert {"target_confidence", "true_identity_top1", "precision", "recall", "coverage"} <= said
    assert not {"density", "density_ppa_legacy", "knn_distance", "fid"} & said
