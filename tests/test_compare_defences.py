"""Defences side by side: names, twins, tests, and every format of the matrix."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from comparable_runs import call, edit, read
from defended_runs import ATTACKS, LEAKS, attack_on

from mibench import registry
from mibench.api import CardName, MibenchError
from mibench.metrics.share_interval import clopper_pearson
from mibench.reports.compare import compare
from mibench.reports.compare_defences import PrintedMatrix, compare_defences
from mibench.reports.defended import classifier_of
from mibench.reports.published import Published, published, reported_beside
from mibench.results import open_run
from mibench.sweeps.suite import load_suite, parse_suite
from mibench.weights import cards

WEAK, STRONG = "shield (strength=0.1)", "shield (strength=0.9)"


@pytest.fixture(scope="module")
def matrix(defended: Path) -> PrintedMatrix:
    return compare_defences(defended)


def row(matrix: PrintedMatrix, label: str):
    return next(each for each in matrix.rows if each.label == label)


def test_rows_are_named_by_what_tells_them_apart(matrix):
    assert [each.label for each in matrix.rows][:2] == ["none", "none (short)"]
    assert {each.label for each in matrix.rows} == {"none", "none (short)", WEAK, STRONG, "veil", "control: open"}
    assert matrix.rows[-1].role == "control"
    assert matrix.attacks[-1:] == matrix.floors == ("floor (no attack)",)
    assert [each.label for each in matrix.rows if each.twin] == ["none"]


def made_otherwise(runs: Path, tag: str, name: str, differs: dict, *, twin: str | None = "vgg16@synthfaces") -> None:
    """Have every run in ``runs`` against ``tag`` record that its training left the twin's recipe."""
    record = {"name": name, "settings": {name: {}}, "control": False, "twin": twin, "twin_sha256": "sha of "}
    for run in runs.glob(f"*-{tag}-0"):
        edit(run, "run.json", lambda whole: whole["attacked"].update(defence={**record, "differs_from_twin": differs}))


@pytest.fixture
def trained_otherwise(tmp_path: Path) -> Path:
    """The twin, three undefended trainings, one of them by the twin's recipe, and two of one defence."""
    for tag in ("", "short", "weak", "strong", "veil", "open"):
        attack_on(tmp_path / f"ppa-{tag}-0", tag, "ppa", 0.6)
    made_otherwise(tmp_path, "short", "none", {"epochs": [10, 3]})
    made_otherwise(tmp_path, "weak", "none", {"seed": [0, 1]})
    made_otherwise(tmp_path, "open", "none", {})
    edit(tmp_path / "ppa-open-0", "run.json", lambda run: run["spec"]["target"].update(card="vgg16@synthfaces+none"))
    made_otherwise(tmp_path, "strong", "veil", {"epochs": [10, 50], "batch_size": [64, 1024]})
    made_otherwise(tmp_path, "veil", "veil", {"epochs": [10, 50]})
    return tmp_path


def test_other_trainings_are_named_by_what_their_recipe_has_of_its_own(trained_otherwise):
    labels = {each.label: each.card.partition("+")[2] for each in compare_defences(trained_otherwise).rows}
    assert labels == {
        "none": "",
        "none (epochs=3)": "short",
        "none (seed=1)": "weak",
        "none (same recipe)": "none",
        "veil": "veil",
        "veil (batch_size=1024)": "strong",
    }


def test_a_row_that_left_its_twins_recipe_is_marked_everywhere(trained_otherwise):
    made = compare_defences(trained_otherwise)
    for kind in ("text", "markdown"):
        text = " ".join(made.render(kind).split())
        assert "| veil (batch_size=1024) † |" in text
        assert "† veil was not trained by its twin's recipe: epochs 50 (twin: 10)." in text
        assert "none †" not in text
        assert "none (same recipe) †" not in text
    assert r"veil $\dagger$" in made.render("latex")
    lines = {line["defence"]: line["differs_from_twin"] for line in read(made.render("csv"))}
    assert lines["veil (batch_size=1024)"] == "epochs 50 (twin: 10); batch_size 1024 (twin: 64)"
    assert lines["none"] == ""
    plain = {row["label"]: row["differs_from_twin"] for row in made.as_plain()["rows"]}
    assert plain["none (seed=1)"] == {"seed": [0, 1]}
    assert plain["none"] == {}


def test_every_row_is_tested_against_its_twin_under_every_attack(matrix):
    tested = {(each.defence, each.attack) for each in matrix.differences}
    assert tested == {(each.label, attack) for each in matrix.rows if not each.twin for attack in ATTACKS}
    assert {each.metric for each in matrix.differences} == {"acc1"}
    assert matrix.family == len(tested) == 10
    for each in matrix.differences:
        assert each.reference == "none"
        first, second = row(matrix, each.defence), row(matrix, "none")
        gap = first.attacks[each.attack].estimates["acc1"].value - second.attacks[each.attack].estimates["acc1"].value
        assert each.estimate.value == pytest.approx(gap)
        assert each.p_holm >= each.p_value
        assert each.detectable > 0
        assert each.estimate.n == 24
        assert (each.verdict is not None) == (each.p_holm <= 0.05)
        if each.verdict is not None:
            assert each.verdict == ("leaks less" if gap < 0 else "leaks more")
    assert {each.verdict for each in matrix.differences if each.defence == STRONG} == {"leaks less"}


def test_utility_and_cost_stand_beside_leakage(matrix):
    weak = row(matrix, WEAK)
    assert (weak.utility.low, weak.utility.high) == clopper_pearson(0.97, 3000)
    assert weak.relative_seconds == pytest.approx(1.5)
    assert row(matrix, "veil").relative_seconds is None
    assert weak.strongest == {"acc1": "dmmia"}
    assert weak.attacks["ppa"].seeds == (0, 1)


def test_a_cost_that_is_not_known_is_a_dash_and_a_note_says_how_to_get_it(defended, tmp_path):
    shutil.copytree(defended, tmp_path / "runs")
    for run in (tmp_path / "runs").glob("*--[01]"):
        edit(run, "run.json", lambda whole: whole["attacked"].update(seconds=None))
    made = compare_defences(tmp_path / "runs")
    assert row(made, WEAK).relative_seconds is None
    text = " ".join(made.render("markdown").split())
    assert "no training × beside none, as the card of vgg16@synthfaces has no seconds" in text.lower()
    assert "`mibench train target vgg16 --dataset synthfaces --defence none`" in text
    assert "training × |" not in made.render("markdown"), "a column of dashes"
    assert next(one for one in read(made.render("csv")) if one["defence"] == WEAK)["relative_seconds"] == ""
    # another training by the twin's recipe stands in
    attack_on(tmp_path / "runs" / "ppa-again-0", "open", "ppa", 0.6)
    edit(
        tmp_path / "runs" / "ppa-again-0",
        "run.json",
        lambda whole: (
            whole["spec"]["target"].update(card="vgg16@synthfaces+none", sha256="sha of none"),
            whole["attacked"].update(seconds=120.0),
            whole["attacked"]["defence"].update(name="none", settings={"none": {}}, control=False),
        ),
    )
    again = compare_defences(tmp_path / "runs")
    (line,) = [line for line in again.render("markdown").splitlines() if line.startswith("| veil")][:1]
    assert line.rstrip(" |").endswith("–")
    assert row(again, WEAK).relative_seconds == pytest.approx(150 / 120)
    assert any("no training × of veil: the card has no seconds" in note for note in again.notes)


def test_without_its_twin_a_defence_is_shown_and_not_tested(defended, tmp_path):
    for name in ("ppa-strong-0", "ppa-short-0"):
        shutil.copytree(defended / name, tmp_path / name)
    made = compare_defences(tmp_path)
    assert made.family == 0
    assert any("vgg16@synthfaces is not among the runs" in note for note in made.notes)
    assert row(made, "shield").attacks["ppa"].estimates["acc1"].value is not None
    text = made.render("text")
    assert "Differences to the twin" not in text
    assert "Nothing was tested" not in text, "a note below tables that are not there"


def test_twins_are_known_by_their_weights(defended, tmp_path):
    for name in ("ppa-strong-0", "ppa--0"):
        shutil.copytree(defended / name, tmp_path / name)
    edit(tmp_path / "ppa--0", "run.json", lambda record: record["spec"]["target"].update(sha256="other weights"))
    assert not compare_defences(tmp_path).differences


def test_the_first_line_says_what_was_compared_and_how_sensitively(defended, tmp_path):
    made = compare_defences(defended)
    first = made.render("text").split("\n\n")[1]
    known = [each.detectable for each in made.differences]
    outcomes = [each.verdict for each in made.differences]
    for said in (
        "against none, the undefended twin, under the same attack: acc@1, paired over 24 identities",
        "Holm over 10 tests",
        f"{outcomes.count('leaks less')} leak less",
        f"{outcomes.count(None)} not told apart",
        f"{100 * min(known):.1f} to {100 * max(known):.1f} points",
    ):
        assert said in first
    assert first in " ".join(made.render("markdown").split("\n"))
    assert "paired over 24 identities; p by sign flips" in made.render("latex")
    other = compare_defences(defended, reference="veil").render("text")
    assert "Each row against veil under the same attack" in other
    assert "twin (points)" not in other
    assert "− veil (points)" in other
    for name in ("ppa-strong-0", "ppa-short-0"):
        shutil.copytree(defended / name, tmp_path / name)
    alone = compare_defences(tmp_path).render("text")
    assert "No difference was tested: no row has its twin among the runs." in alone
    assert "“− twin”" not in alone
    for name in ("floor--0", "floor-strong-0"):
        shutil.copytree(defended / name, tmp_path / "floors" / name)
    floors = compare_defences(tmp_path / "floors").render("text")
    assert "No difference was tested: no attack ran but the floor." in floors


def test_what_all_tests_share_is_no_column(defended):
    one = compare_defences(defended).render("markdown").partition("## Differences")[2]
    assert "Under the same attack: acc@1 against none." in one
    assert "| defence" in one
    assert "| metric" not in one
    two = compare_defences(defended, metrics=["acc1", "knn_distance"]).render("markdown").partition("## Differences")[2]
    assert "Under the same attack: against none." in two
    assert "| metric" in two
    assert " points [" in two, "units in the cells, as they differ"


def test_names_keep_their_letters_in_notes(defended, tmp_path):
    for name in ("ppa-strong-0", "ppa-veil-0", "ppa--0", "dmmia--0"):
        shutil.copytree(defended / name, tmp_path / name)
    text = compare_defences(tmp_path).render("text")
    assert "No finished run of dmmia on shield, veil." in text


def test_a_missing_cell_is_said_and_left_blank(defended, tmp_path):
    for name in ("ppa-strong-0", "ppa--0", "dmmia--0"):
        shutil.copytree(defended / name, tmp_path / name)
    made = compare_defences(tmp_path)
    assert "no finished run of dmmia on shield" in made.notes
    assert {each.attack for each in made.differences} == {"ppa"}


def test_runs_that_do_not_record_their_target_are_named(defended, tmp_path):
    shutil.copytree(defended / "ppa-strong-0", tmp_path / "old")
    edit(tmp_path / "old", "run.json", lambda record: record.pop("attacked"))
    assert any("do not record" in note for note in compare_defences(tmp_path).notes)


def test_another_reference_than_the_twin(defended):
    made = compare_defences(defended, reference="veil")
    assert {each.reference for each in made.differences} == {"veil"}
    with pytest.raises(MibenchError, match="did you mean 'veil'"):
        compare_defences(defended, reference="viel")


def test_requested_metrics_make_the_family(defended):
    made = compare_defences(defended, metrics=["acc1", "knn_distance"])
    assert made.family == 20
    less = [each for each in made.differences if each.defence == STRONG and each.metric == "knn_distance"]
    assert {each.verdict for each in less} == {"leaks less"}  # a larger distance is less leakage


def test_formats_agree(matrix, tmp_path):
    files = matrix.write(tmp_path)
    assert [file.name for file in files] == [
        *("defences.csv", "defences.md", "defences.tex", "frontier.png", "frontier.svg")
    ]
    lines = read((tmp_path / "defences.csv").read_text(encoding="utf-8"))
    assert len(lines) == len(LEAKS) * (len(ATTACKS) + 1)
    strong = next(line for line in lines if line["defence"] == STRONG and line["attack"] == "ppa")
    each = matrix.difference(row(matrix, STRONG), "ppa", "acc1")
    assert float(strong["difference"]) == each.estimate.value
    assert float(strong["p_holm"]) == each.p_holm
    value = f"{100 * each.estimate.value:.1f}"
    assert value in (tmp_path / "defences.md").read_text(encoding="utf-8")
    assert value.replace("-", "$-$") in (tmp_path / "defences.tex").read_text(encoding="utf-8")
    assert "\\multicolumn{2}{c}{ppa}" in matrix.render("latex")
    assert json.loads(json.dumps(matrix.as_plain()))["family"] == 10


def test_the_command_and_its_refusal(defended):
    found = json.loads(call(defended, "--by", "defence", "--json").stdout)
    assert found["rows"][0]["label"] == "none"
    assert call(defended, "--by", "target").exit_code == 2
    with pytest.raises(MibenchError, match="not compared by 'target'"):
        compare(defended, by="target")  # type: ignore[call-overload]


def test_the_frontier_has_a_curve_for_each_defence(matrix):
    from mibench.reports.figures.frontier import frontier_plot

    figure = frontier_plot(matrix)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["dmmia", "ppa"]
    legend = {text.get_text() for text in figure.axes[1].get_legend().get_texts()}
    assert legend == {"undefended twin", "undefended, other training", "shield", "veil", "control: open"}
    lengths = sorted(len(line.get_xdata()) for line in figure.axes[0].lines)
    assert lengths.count(2) >= 2  # the knob of shield, and the short training up to the twin


# ---------------------------------------------------------------- published values


def test_published_values_are_complete_and_of_one_kind():
    assert published()
    for each in published():
        assert each.defence
        assert each.dataset
        assert each.source
        assert each.protocol
        assert 0 <= each.value <= 1
        assert re.fullmatch(r"(\w+=\S+( \w+=\S+)*)?", each.settings)


def test_published_values_stand_beside_ours_only_where_all_agrees(defended):
    run = open_run(defended / "ppa-strong-0")
    found = classifier_of([run])
    usual = {"defence": "shield", "settings": "strength=0.9", "dataset": "synthfaces", "model": "vgg16", "attack": ""}
    usual |= {"metric": "test_accuracy", "source": "a paper", "protocol": "toy"}
    [same] = reported_beside(found, run, [Published(**usual, value=0.9)])
    assert (same.values, same.mismatch) == ((0.9,), "")
    for other in ({"settings": "strength=0.5"}, {"dataset": "celeba"}, {"protocol": "celeba"}, {"model": "ir152"}):
        [differs] = reported_beside(found, run, [Published(**{**usual, **other}, value=0.9)])
        assert differs.values == ()
        assert differs.mismatch
    assert reported_beside(found, run, [Published(**{**usual, "defence": "veil"}, value=0.9)]) == ()


# ---------------------------------------------------------------- the suite


def test_the_shipped_suite_spans_defences_and_compares_them():
    suite = load_suite("defences")
    assert (suite.by, suite.metrics) == ("defence", ("acc1",))
    assert "vgg16" in {cell.request.target for cell in suite.cells}
    assert len({cell.request.target for cell in suite.cells}) >= 8
    attacked = {cell.request.target.partition("+")[2] for cell in suite.cells}
    shipped = {CardName.complete(name, "").tag or "" for name in cards.shipped_cards() if "vgg16" in name}
    assert attacked <= shipped
    assert {tuple(cell.request.settings["protocol"]["diagnostics"]) for cell in suite.cells} == {("gradients",)}


def test_a_suite_that_compares_by_something_else_is_refused():
    with pytest.raises(MibenchError, match=r"compare\.by"):
        parse_suite({"attacks": ["floor"], "targets": ["vgg16"], "compare": {"by": "seed"}}, "s.yaml", "s")


def test_one_hundred_and_fifty_runs_are_read_once_each(tmp_path, monkeypatch):
    run = attack_on(tmp_path / "a", "", "ppa", 0.6)
    opened = []
    monkeypatch.setattr("mibench.reports.rows.open_run", lambda path: opened.append(path) or open_run(path))
    compare_defences(tmp_path)
    assert opened == [run]


def test_points_near_the_twin_stay_apart_where_one_defence_costs_far_more(matrix):
    import dataclasses

    from mibench.reports.figures.frontier import frontier_plot

    assert frontier_plot(matrix).axes[0].get_xscale() == "linear"
    ruined = dataclasses.replace(matrix.rows[2], utility=dataclasses.replace(matrix.rows[2].utility, value=0.4))
    axes = frontier_plot(dataclasses.replace(matrix, rows=(*matrix.rows[:2], ruined, *matrix.rows[3:]))).axes[0]
    assert axes.get_xscale() == "logit"
    assert all(0 < tick < 1 for tick in axes.get_xticks())


def test_no_two_defences_look_alike():
    from mibench.reports.figures.palette import LOOKS, defence_looks, look_of
    from mibench.reports.figures.style import GREY, INK

    names = [registered for registered in registry.names("defence") if registered in LOOKS]
    assert len(names) >= 10
    own = [LOOKS[name].colour for name in names if name != "none"]
    assert len(set(own)) == len(own)
    assert not {INK, GREY} & set(own), "those of undefended classifiers"
    looks = defence_looks([*names, *(f"mine-{number}" for number in range(25))])
    assert len({(look.colour, look.marker) for look in looks.values()}) == len(looks)
    assert all(looks[name] == LOOKS[name] == defence_looks([name])[name] for name in names)
    assert defence_looks(["mine-3"])["mine-3"] == look_of("mine-3")


def test_a_defence_has_the_same_look_in_every_figure(matrix):
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_hex

    from mibench.reports.figures.frontier import frontier_plot
    from mibench.reports.figures.palette import look_of
    from mibench.reports.figures.paper_defences import leakage_plot

    for figure in (frontier_plot(matrix), leakage_plot(matrix, 3.35)):
        drawn = {
            to_hex(points.get_edgecolor()[0]).upper()
            for points in figure.axes[0].collections
            if isinstance(points, PathCollection)
        }
        assert {look_of(name).colour for name in ("shield", "veil", "open")} <= drawn


def test_panels_share_their_scale_of_utility_and_show_whole_intervals(matrix):
    import dataclasses

    from mibench.reports.figures.frontier import frontier_plot

    fewer = [
        dataclasses.replace(row, attacks={name: cell for name, cell in row.attacks.items() if name != "dmmia"})
        if row.label == STRONG
        else row
        for row in matrix.rows
    ]
    figure = frontier_plot(dataclasses.replace(matrix, rows=tuple(fewer)))
    limits = [axes.get_xlim() for axes in figure.axes[:2]]
    assert limits[0] == limits[1]
    assert limits[0][0] < min(row.utility.low for row in matrix.rows)
    assert limits[0][1] > max(row.utility.high for row in matrix.rows)
    names = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert names == ["undefended twin", "undefended, other training", "shield", "veil", "control: open"]
