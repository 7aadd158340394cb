"""Pages with a control that saw private images: a line to compare with, no attack and no leak."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from comparable_runs import edit, make
from html_pages import check

from mibench.api import MibenchError
from mibench.reports.compare import compare_attacks
from mibench.reports.page.page import runs_page
from mibench.results import open_run


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An attack, its floor, and a control whose order of people is its own."""
    make(tmp_path / "ppa", "ppa", 0.5, floor="floor")
    make(tmp_path / "floor", "floor", 0.05)
    make(tmp_path / "ceiling", "ceiling", 0.95, floor="floor", seed=3)
    edit(tmp_path / "ceiling", "run.json", lambda record: record.update(sees_private=True))
    return tmp_path


def test_a_control_is_counted_as_no_attack(runs: Path) -> None:
    page = check(runs_page(runs))
    text = " ".join(" ".join(page.text).split())
    assert "1 run of 1 attack against 1 target" in text
    assert "ppa has the highest acc@1" in text
    assert "ceiling (sees private images)" in text  # it stands beside them
    assert "ceiling (sees private images): a control, no attack, which no test counts" in text.replace(
        "Ceiling", "ceiling"
    )
    body = page.html.partition('id="people-table"')[2].partition("</tbody>")[0]
    assert body.count("<tr>") - body.partition("<tbody>")[0].count("<tr>") == 16  # of the attack alone


def test_who_is_exposed_is_said_by_attacks(runs: Path) -> None:
    shown = [image["alt"] for image in check(runs_page(runs)).all("img")]
    order = list(dict.fromkeys(int(found[1]) for alt in shown if (found := re.search(r"of identity (\d+), ppa", alt))))
    success = open_run(runs / "ppa").samples.groupby("identity")["hit1"].mean()
    means = [success[identity] for identity in order]
    assert means == sorted(means, reverse=True)
    assert (means[0], means[-1]) == (success.max(), success.min())


def test_the_page_of_a_control_speaks_of_no_leak(runs: Path) -> None:
    page = check(runs_page(runs / "ceiling"))
    text = " ".join(" ".join(page.text).split())
    assert "A control, no attack: it was handed images of the private people." in text
    assert "What the prior can show" in text
    for word in ("(higher leaks more)", "The attack adds", "What leaked", "Only what exceeds it has leaked"):
        assert word not in text
    assert "What leaked" in check(runs_page(runs / "ppa")).html


def test_nothing_is_tested_against_a_control(runs: Path) -> None:
    with pytest.raises(MibenchError, match="a control") as caught:
        compare_attacks(runs, reference="ceiling")
    assert len(caught.value.problems) == 1


def test_columns_without_any_value_are_left_out_of_the_table_of_people(runs: Path) -> None:
    for source in (runs, runs / "ppa"):
        html = check(runs_page(source)).html
        head = html.partition('id="people-table"')[2].partition("</thead>")[0]
        assert "acc@1" in head
        assert "second judge" not in head
