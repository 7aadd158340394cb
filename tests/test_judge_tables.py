"""Errors of the judge and controls stand in every table: of a run, of comparisons; old runs are read without them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from reported_runs import make_run

from mibench.reports.compare import compare_attacks
from mibench.reports.compare_defences import compare_defences
from mibench.reports.figures.comparison import MOST_BELOW, _below
from mibench.reports.figures.verdict import verdict_plot
from mibench.reports.formatting import CONTROLS
from mibench.reports.judges import judges_of
from mibench.reports.tables import judge, write_tables
from mibench.results import StoredRun, open_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    return make_run(tmp_path_factory.mktemp("runs") / "dmmia-1", "dmmia", 0.12)


@pytest.fixture
def old(run: StoredRun, tmp_path: Path) -> StoredRun:
    """The run as it was scored before errors of the judge were counted."""
    import shutil

    folder = tmp_path / "old"
    shutil.copytree(run.path, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    known = ("control_nearest_public_acc1", "control_private_test_acc1")
    added = [name for name in metrics if name.startswith(("judge_", "control_")) and name not in known]
    kept = {name: each for name, each in metrics.items() if name not in added}
    (folder / "metrics.json").write_text(json.dumps(kept))
    return open_run(folder)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_table_of_a_run_has_each_error_with_its_interval(run: StoredRun, tmp_path: Path) -> None:
    write_tables(run, tmp_path)
    rows = {row["error"]: row for row in rows_of(tmp_path / "judge.csv")}
    assert set(rows) == {name for name in run.metrics if name.startswith("judge_")}
    for name, row in rows.items():
        assert float(row["rate"]) == run.metrics[name].value
        assert float(row["rate_low"]) == run.metrics[name].low
        assert int(row["pairs"]) == run.metrics[name].params["pairs"]
    text = (tmp_path / "judge.md").read_text(encoding="utf-8")
    assert "false rejection: private test images" in text
    assert "False acceptance: an image is taken for a person" in text
    controls = [row["row"] for row in rows_of(tmp_path / "summary.csv")]
    assert "control: no information" in controls


def test_comparisons_show_the_judge_and_the_controls(run: StoredRun, tmp_path: Path) -> None:
    comparison = compare_attacks(run)
    text = comparison.render()
    assert "## Errors of the judge" in text
    assert "## Controls, judge" in text
    assert "| private test images" in text
    plain = comparison.as_plain()
    assert "judge_false_rejection" in json.dumps(plain["judges"])
    comparison.write(tmp_path)
    assert rows_of(tmp_path / "judge.csv")
    only = compare_attacks(run, metrics=["acc1"]).render()
    assert "## Errors of the judge" in only, "who asks for one metric still has to know how far to believe it"
    assert "true identity rank" not in only
    assert "## Errors of the judge" in compare_defences(run).render()


def test_a_run_scored_before_is_read_and_has_its_controls(run: StoredRun, old: StoredRun, tmp_path: Path) -> None:
    assert not judge([old]).rows
    names = [file.name for file in write_tables(old, tmp_path)]
    assert "judge.csv" not in names
    text = compare_attacks(old).render()
    assert "Errors of the judge" not in text
    assert "| private test images" in text
    assert len(judges_of([run, old])) == 1, "the same judge of the same people"


def test_the_verdict_figure_shows_controls_beside_the_attacks(run: StoredRun) -> None:
    comparison = compare_attacks(run)
    axes = verdict_plot(comparison).axes
    labels = [label.get_text().replace("\n", " ") for label in axes[0].get_yticklabels()]
    assert {row.label for row in comparison.rows} < set(labels)
    (judge_of_run,) = comparison.judges
    for control, title in CONTROLS.items():
        assert (title.removeprefix("control: ") in labels) == bool(judge_of_run.of_control(control))
    drawn = [x for dots in axes[0].collections if hasattr(dots, "get_offsets") for x, _ in dots.get_offsets()]
    assert run.metrics["control_private_test_acc1"].value in drawn
    below = [each.get_xlabel() for each in axes]
    assert any("ranked first" in label for label in below)
    assert max(len(line) for label in below for line in label.split("\n")) <= MOST_BELOW, "no label runs into another"


def test_a_label_below_a_panel_is_broken_where_it_would_run_into_the_next() -> None:
    assert _below("acc@1", better=True) == "acc@1 (stronger →)"
    assert _below("KNN distance", better=False) == "KNN distance (← stronger)"
    long = "identity recovered (0 none, 1 portraits)"
    assert _below(long, better=True) == f"{long}\n(stronger →)"
    assert max(map(len, _below(f"{long}, by another judge", better=None).split("\n"))) <= MOST_BELOW
