"""What people read at 80 columns: whole words, commands that run when copied, numbers that say what they are."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import comparable_runs
import numpy as np
import pytest
import reported_runs
import rich_click as click
import torch
from click.testing import CliRunner

from mibench.cli import cli, progress
from mibench.cli.examples import CommandWithExamples, fitted
from mibench.cli.prose import wrapped
from mibench.reports.compare import compare
from mibench.reports.figures.curves import curves_plot
from mibench.reports.figures.spread import spread_plot
from mibench.reports.formatting import curve_title
from mibench.results import open_run
from mibench.sweeps.tables import SweepTable, shown_infos

SENTENCE = "the judge is weak (71.2% on held-out images, 80% is the least to rely on): it misses people, so " * 2


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        elif isinstance(command, CommandWithExamples):
            found.append((*path, name))
    return found


def examples_of(text: str) -> list[str]:
    """The commands among the lines of a help, without comments; lines that end in a backslash are joined."""
    joined = re.sub(r" \\\n +", " ", text).splitlines()
    return [line.strip().partition("  ")[0] for line in joined if line.strip().startswith("mibench ")]


@pytest.mark.parametrize("path", commands(cli), ids=" ".join)
def test_examples_survive_80_columns(path: tuple[str, ...]) -> None:
    wide, narrow = (
        CliRunner().invoke(cli, [*path, "--help"], env={"COLUMNS": str(width)}).output.partition("Examples:")[2]
        for width in (300, 80)
    )
    assert all(len(line) <= 80 for line in narrow.splitlines())
    assert examples_of(narrow)
    assert examples_of(narrow) == examples_of(wide)


def test_a_command_is_broken_before_its_options_and_a_comment_goes_above() -> None:
    lines = ["Examples:", "", "  mibench audit --model a:b --data people  what it leaks", "  mibench list  all"]
    assert fitted(lines, 80) == lines
    assert fitted(lines, 40) == [
        "Examples:",
        "",
        "  # what it leaks",
        "  mibench audit --model a:b \\",
        "    --data people",
        "  # all",
        "  mibench list",
    ]


def test_prose_is_broken_between_words_and_nothing_is_lost() -> None:
    for indent in ("", "  - ", "    "):
        lines = wrapped(indent + SENTENCE.strip(), 60)
        assert all(len(line) <= 60 for line in lines)
        assert " ".join(" ".join(lines).split()) == " ".join((indent + SENTENCE).split())
    long_path = "tables: /" + "x" * 120
    assert long_path.split() == " ".join(wrapped(long_path, 60)).split()
    assert wrapped("| " + "cell | " * 30, 60) == ["| " + "cell | " * 30]


def test_a_list_on_a_terminal_hangs_below_its_names() -> None:
    lines = wrapped("  demo      ten people, a few steps each, to see what a run is before it is quoted", 50, hang=10)
    assert lines[0].startswith("  demo      ten people")  # the column stays
    assert all(line.startswith(" " * 12) for line in lines[1:])
    assert all(len(line) <= 50 for line in lines)


def test_output_in_a_pipe_is_not_wrapped() -> None:
    done = CliRunner().invoke(cli, ["run", "--attack", "x" * 90], env={"COLUMNS": "80"})
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", [["run", "--attack", "nope"], ["show", "card", "nope"], ["list", "nope"]])
def test_a_mistake_is_json_where_json_is_asked_for(words: list[str]) -> None:
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["exit_code"] == 2
    assert "unknown" in found["error"]["cause"]
    assert done.stderr.startswith("error: ")
    assert CliRunner().invoke(cli, words).stdout == ""


def test_the_json_of_a_mistake_has_cause_and_cure_apart(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["compare", str(tmp_path), str(tmp_path), "--json"], env={"COLUMNS": "1000"})
    found = json.loads(done.stdout)["error"]
    assert found["cause"].startswith(str(tmp_path))
    assert found["cure"] == "start a run with mibench run"
    assert done.stderr == f"error: {found['cause']}; {found['cure']}\n"


def test_the_json_of_several_mistakes_has_each_alone(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("one", "two")]
    done = CliRunner().invoke(cli, ["compare", *folders, "--json"], env={"COLUMNS": "1000"})
    found = json.loads(done.stdout)
    lines = [f"error: {problem['cause']}; {problem['cure']}" for problem in found["problems"]]
    assert done.stderr.splitlines() == lines
    assert len(lines) == 2
    assert found["error"]["cause"].splitlines() == [problem["cause"] for problem in found["problems"]]


@pytest.mark.parametrize("words", [["run", "--nonsense"], ["nonsense"], ["run", "--seed", "-1"]])
def test_words_that_cannot_be_parsed_are_answered_in_json_too(words: list[str]) -> None:
    done = CliRunner().invoke(cli, [*words, "--json"])
    assert done.exit_code == 2
    assert json.loads(done.stdout)["exit_code"] == 2


def test_listed_weights_show_what_was_measured() -> None:
    done = CliRunner().invoke(cli, ["list", "weights", "--json"])
    found = {row["name"]: row for row in json.loads(done.stdout)["weights"]}
    assert 0.9 < found["vgg16@synthfaces"]["test_accuracy"] < 1
    assert found["stylegan2@synthfaces"]["test_accuracy"] is None
    line = next(each for each in CliRunner().invoke(cli, ["list", "weights"]).output.splitlines() if "vgg16@" in each)
    assert f"test accuracy {found['vgg16@synthfaces']['test_accuracy']:.1%} (3,000 held-out images)" in line


def test_times_say_which_is_which() -> None:
    assert progress.times(65, 3723) == "1:05 elapsed, 1:02:03 left"
    assert progress.times(65, None) == "1:05 elapsed"
    assert progress.times(None, None) == ""


def test_the_bar_keeps_its_numbers_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", screen := Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    reporter = progress.TerminalReporter()
    reporter.start("dmmia against a target with a long name, unit 3 of 7, which goes on and on")
    reporter.update(3, 4, "epoch 17/60 of something")
    reporter.stop()
    shown = screen.getvalue()
    assert "75%" in shown
    assert "elapsed" in shown


def test_a_sweep_of_six_cells_is_a_screen() -> None:
    columns = SweepTable(shown_infos(), ()).columns
    row = dict.fromkeys(columns) | {"attack": "dmmia", "label": "dmmia", "seed": 0, "status": "complete"}
    row |= {"acc1": 0.123, "acc1_low": 0.1, "acc1_high": 0.2, "knn_distance": 123.4, "queries_forward": 1e5}
    failed = {**row, "status": "failed", "reason": "a long | reason that is printed below the table", "acc1": None}
    found = [{**(failed if n == 5 else row), "target": f"target{n}"} for n in range(6)]
    table = SweepTable(shown_infos(), tuple(found))
    lines = table.brief(80)
    assert len(lines) == 8
    assert all(len(line) <= 80 for line in lines)
    assert "acc@1" in lines[0]
    assert lines[0].split("|")[-2].strip() == "status"
    assert lines[-1].split("|")[-2].strip() == "failed"
    assert "queries" in table.brief(200)[0]


def test_a_comparison_in_one_metric_prints_that_one(tmp_path: Path) -> None:
    runs = [comparable_runs.make(tmp_path / name, name, level) for name, level in (("a", 0.9), ("b", 0.1))]
    text = compare(runs, metrics=["acc1"]).render("text")
    assert "acc@1" in text
    for other in ("acc@5", "KNN", "feature distance", "coverage", "Fréchet", "Cost", "images shown"):
        assert other not in text
    everything = compare(runs).render("text")
    assert all(word in everything for word in ("acc@5", "KNN distance", "Cost per identity"))
    files = compare(runs, metrics=["acc1"]).write(tmp_path / "out")
    assert "KNN distance" in next(file for file in files if file.name == "comparison.md").read_text()


def test_a_spread_without_data_has_no_axes(tmp_path: Path) -> None:
    run = reported_runs.make_run(tmp_path / "run", "dmmia", 0.2)
    metrics = json.loads((run.path / "metrics.json").read_text())
    for name in ("precision", "recall", "density", "coverage"):
        metrics[name] |= {"value": None, "low": None, "high": None, "reason": "k=3 needs more"}
    (run.path / "metrics.json").write_text(json.dumps(metrics))
    made = spread_plot([open_run(run.path)], ["dmmia"], None)
    assert [axes.axison for axes in made.axes] == [False, False]
    assert all(axes.texts[0].get_text().endswith("k=3 needs more") for axes in made.axes)
    assert all(len(axes.texts) == 1 for axes in made.axes)


@pytest.mark.parametrize("steps", [1, 2, 3, 40])
def test_steps_of_a_curve_are_whole(tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run = reported_runs.make_run(tmp_path / "run", "dmmia", 0.2)
    curves = {"L_idr": torch.rand(3, steps), "my_own_curve": torch.rand(3, steps)}
    monkeypatch.setattr(type(run), "curves", property(lambda self: curves))
    made = curves_plot([run], ["dmmia"])
    made.canvas.draw()
    for axes in made.axes:
        ticks = axes.get_xticks()
        assert len(ticks)
        assert np.array_equal(ticks, ticks.round())
    titles = [axes.get_title() for axes in made.axes if axes.axison]
    assert titles == ["loss across classes (IDR) (n = 3)", "my own curve (n = 3)"]


def test_a_curve_is_called_what_it_is() -> None:
    assert curve_title("drift") == "drift of w (standard deviations)"
    assert curve_title("L_odd_one") == "loss odd one"
    assert curve_title("realism") == "realism"
