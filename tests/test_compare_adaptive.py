"""The strongest adaptive attack of each defence: which it is, what it is compared with, and its family of tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from comparable_runs import edit, read
from defended_runs import LEAKS, attack_on
from untouched import untouched

from mibench.reports.adaptive import strongest
from mibench.reports.compare import compare
from mibench.reports.compare_defences import PrintedMatrix, compare_defences

VARIANTS = {"margin": 0.3, "scaled": 0.9, "transfer": 0.75}  # variant of ppa -> its level against the defences
TAGS = {tag: LEAKS[tag] for tag in ("", "strong", "veil")}


def variant_on(folder: Path, tag: str, variant: str, level: float, seed: int = 0) -> Path:
    """A finished run of ``ppa:variant`` on the classifier ``tag``."""
    settings = {"surrogate": "twin"} if variant == "transfer" else {"loss": variant}
    run = attack_on(folder, tag, "ppa", level, seed, settings=settings, variant=variant)
    if variant == "transfer":
        twin = {"card": "vgg16@synthfaces", "architecture": "vgg16", "sha256": "sha of "}
        edit(run, "run.json", lambda record: record["spec"].update(surrogate=twin))
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("adaptive")
    for tag in TAGS:
        attack_on(folder / f"ppa-{tag}", tag, "ppa", 0.6 - LEAKS[tag][0])
        for variant, level in VARIANTS.items():
            if (tag, variant) not in {("", "transfer"), ("veil", "margin"), ("veil", "scaled")}:
                variant_on(folder / f"{variant}-{tag}", tag, variant, level if tag else 0.6)
    with untouched(folder):
        yield folder


@pytest.fixture(scope="module")
def matrix(runs: Path) -> PrintedMatrix:
    return compare_defences(runs)


def row(matrix: PrintedMatrix, label: str):
    return next(each for each in matrix.rows if each.label == label)


def test_adaptive_attacks_are_no_columns_and_leave_the_other_family_alone(matrix):
    assert matrix.attacks == ("ppa",)
    assert {each.attack for each in matrix.differences} == {"ppa"}
    assert matrix.family == 2
    assert row(matrix, "shield").strongest == {"acc1": "ppa"}


def test_each_row_names_its_strongest(matrix):
    best = strongest(row(matrix, "shield").adaptive, "acc1")
    assert best is not None
    assert best.label == "ppa:scaled"
    assert best.estimate.low < best.estimate.value < best.estimate.high
    assert strongest((), "acc1") is None


def test_what_the_twin_s_gradients_find_is_no_leak_of_the_defence(matrix, runs, tmp_path):
    veil = row(matrix, "veil")
    assert [(each.label, each.from_twin) for each in veil.adaptive] == [("ppa:transfer", True)]
    assert strongest(veil.adaptive, "acc1") is None
    assert "ppa:transfer follows the twin's gradients" in matrix.render("text", width=300)
    attack_on(tmp_path / "ppa", "veil", "ppa", 0.3)
    other = variant_on(tmp_path / "other", "veil", "transfer", 0.75)
    edit(other, "run.json", lambda record: record["spec"]["surrogate"].update(sha256="distilled from its answers"))
    best = strongest(row(compare_defences(tmp_path), "veil").adaptive, "acc1")
    assert best is not None
    assert best.label == "ppa:transfer"


def test_each_is_paired_with_the_same_attack_on_the_twin_and_a_transfer_with_its_white_box(matrix):
    twin = row(matrix, "none")
    on_twin = {each.label: each.estimate.value for each in twin.adaptive} | {
        "ppa:transfer": twin.attacks["ppa"].estimates["acc1"].value
    }
    found = {each.label: each for each in row(matrix, "shield").adaptive}
    assert {label: each.reference for label, each in found.items()} == {
        "ppa:margin": "ppa:margin",
        "ppa:scaled": "ppa:scaled",
        "ppa:transfer": "ppa",
    }
    for label, each in found.items():
        assert each.difference.value == pytest.approx(each.estimate.value - on_twin[label])
        assert each.stands_out == (each.p_holm <= 0.05)
        assert each.p_holm >= each.p_value
    assert all(each.difference is None for each in twin.adaptive)
    assert matrix.adaptive_family == 4  # three on the one, one on the other


def test_a_transfer_is_compared_with_no_other_settings_and_no_other_weights(tmp_path):
    attack_on(tmp_path / "white", "", "ppa", 0.6)
    transfer = variant_on(tmp_path / "transfer", "veil", "transfer", 0.5)
    assert compare_defences(tmp_path).adaptive_family == 1
    edit(tmp_path / "white", "run.json", lambda record: record["spec"]["attack_settings"].update(steps=4))
    assert compare_defences(tmp_path).adaptive_family == 0
    edit(tmp_path / "white", "run.json", lambda record: record["spec"]["attack_settings"].update(steps=3))
    edit(transfer, "run.json", lambda record: record["spec"]["surrogate"].update(sha256="others"))
    assert compare_defences(tmp_path).adaptive_family == 0


def test_all_formats_show_them(matrix, tmp_path):
    lines = read(matrix.render("csv"))
    scaled = next(line for line in lines if (line["defence"], line["attack"]) == ("shield", "ppa:scaled"))
    found = next(each for each in row(matrix, "shield").adaptive if each.label == "ppa:scaled")
    assert (scaled["adaptive"], scaled["family"]) == ("true", "4")
    assert float(scaled["difference"]) == found.difference.value
    assert float(scaled["p_holm"]) == found.p_holm
    assert {line["adaptive"] for line in lines if line["attack"] == "ppa"} == {"false"}
    text = matrix.render("text", width=300)
    assert "strongest adaptive" in text
    assert "ppa:scaled" in text
    assert "over the 4 tests of such attacks" in text
    assert "ppa:scaled" in matrix.render("latex")
    assert json.loads(json.dumps(matrix.as_plain()))["adaptive_family"] == 4


def test_without_adaptive_attacks_nothing_is_said_of_them(defended):
    made = compare_defences(defended)
    assert made.adaptive_family == 0
    assert "adaptive" not in made.render("text", width=300)


def test_where_there_is_nothing_else_they_are_the_columns(tmp_path):
    variant_on(tmp_path / "a", "veil", "margin", 0.5)
    variant_on(tmp_path / "b", "", "margin", 0.6)
    made = compare_defences(tmp_path)
    assert made.attacks == ("ppa:margin",)
    assert made.family == 1


def test_a_row_with_adaptive_attacks_alone_is_shown(runs, tmp_path):
    variant_on(tmp_path / "a", "veil", "margin", 0.5)
    attack_on(tmp_path / "b", "", "ppa", 0.6)
    made = compare_defences(tmp_path)
    assert {each.label for each in made.rows} == {"none", "veil"}
    assert "ppa:margin" in made.render("text", width=300)


def test_a_comparison_of_attacks_has_a_row_for_each(runs):
    assert {each.label for each in compare(runs).rows} == {"ppa", *(f"ppa:{variant}" for variant in VARIANTS)}
