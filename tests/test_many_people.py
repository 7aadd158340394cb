"""Thousands of people: what is read of each image is a few numbers, and a page lists no more than a person reads."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from toyworld.build import write_world
from toyworld.data import ToyFaces

import mibench
from mibench.api import ClassifierOutput, ImageSpec, MibenchError
from mibench.audits.preprocessing import _reordered
from mibench.metrics import differences
from mibench.metrics.accuracy import label_confidence, top_k_hits
from mibench.metrics.extractors import JudgeExtractor
from mibench.metrics.groups import rows_by_label, rows_of
from mibench.reports import tables
from mibench.reports.figures.identities import MOST_MARKS, identity_plot
from mibench.reports.table_model import csv_text, markdown_text
from mibench.results import open_run
from mibench.system.progress import Reporter
from mibench.weights.minimum_accuracy import percent

MANY = MOST_MARKS + 1


class Counted(torch.nn.Module):
    """A network that knows how many of its answers somebody still holds."""

    def __init__(self, classes: int = 50) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Linear(3 * 8 * 8, classes)
        self.answers: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
        self.most = self.calls = 0

    def forward(self, images: torch.Tensor) -> ClassifierOutput:
        logits = self.body(images.flatten(1))
        self.answers.add(logits)
        self.calls += 1
        self.most = max(self.most, len(self.answers))
        return ClassifierOutput(images.mean(dim=(2, 3)), logits)


def images(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_logits_are_read_batch_by_batch_and_let_go(tmp_path: Path) -> None:
    network, labels = Counted(), torch.arange(300) % 50
    judge = JudgeExtractor(network, ImageSpec(8), name="it", batch=10, cache=tmp_path)
    whole = judge(images(300))
    network.most = 0
    seen = judge.judged(images(300), labels)
    assert network.most <= 3 < network.calls
    assert seen.classes == 50
    assert torch.equal(seen.features, whole.features)
    assert torch.equal(seen.verdicts.predicted, whole.logits.argmax(dim=1))
    assert torch.equal(seen.verdicts.hit1, top_k_hits(whole.logits, labels, 1))
    assert torch.equal(seen.verdicts.hit5, top_k_hits(whole.logits, labels, 5))
    torch.testing.assert_close(seen.verdicts.confidence, label_confidence(whole.logits, labels))
    first = judge.cached_judged(images(300), labels)
    calls = network.calls
    again = judge.cached_judged(images(300), labels)
    assert network.calls == calls
    assert all(map(torch.equal, first.verdicts, again.verdicts))
    assert again.classes == 50
    assert not torch.equal(judge.cached_judged(images(300), labels.flip(0)).verdicts.confidence, again[1].confidence)
    assert torch.equal(judge.cached_features(images(300)), whole.features)
    with pytest.raises(MibenchError, match="class 50 is outside the 50 classes of judge 'it'"):
        judge.judged(images(3), torch.tensor([0, 50, 1]))


def test_rows_of_people() -> None:
    labels = torch.tensor([7, 0, 7, 2, 0])
    groups = rows_by_label(labels)
    assert {label: rows.tolist() for label, rows in groups.items()} == {0: [1, 4], 2: [3], 7: [0, 2]}
    assert list(groups) == [0, 2, 7]
    assert rows_of(groups, 5).tolist() == []
    assert rows_by_label(labels[:0]) == {}


def test_signs_drawn_in_parts_are_those_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    differences.sign_patterns.cache_clear()
    whole, _ = differences.sign_patterns(40, 500, 3)
    differences.sign_patterns.cache_clear()
    monkeypatch.setattr(differences, "_CHUNK", 1000)
    parts, exact = differences.sign_patterns(40, 500, 3)
    differences.sign_patterns.cache_clear()
    assert not exact
    assert (whole == parts).all()
    assert set(whole.ravel().tolist()) == {-1, 1}


def test_an_order_of_classes_is_sought_among_those_that_were_seen() -> None:
    """Of thousands of people a sample shows some: the others keep their number where it is free."""
    classes, shift = 3000, 5
    shown = torch.arange(0, 1500, 10)
    answers = torch.zeros(len(shown), classes)
    answers[torch.arange(len(shown)), shown + shift] = 1
    assert _reordered(answers, shown, answers, shown) == 1.0
    others = torch.arange(1600, 1700)
    seen = torch.nn.functional.one_hot(others, classes).float()
    assert _reordered(answers, shown, seen, others) == 1.0


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0.0%"), (0.0002, "0.02%"), (1 / 7000, "0.014%"), (0.001, "0.1%"), (0.3144, "31.4%")]
)
def test_chance_among_thousands_is_not_zero(share: float, text: str) -> None:
    assert percent(share) == text


class Heard(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def crowd(toy: Path, tmp_path: Path) -> Any:
    """A run over so many people that marks would cover one another, and what was said."""
    write_world(toy, ToyFaces(persons=MANY + 1, images=2))
    heard = Heard()
    settings = {
        "dataset": {"persons": MANY + 1, "images": 2},
        "protocol": {"identities": MANY},
        "attack": {"unit_size": MANY, "steps": 2},
    }
    run = mibench.run("toyattack", "toynet", "toyfaces", "toy", settings=settings, out=tmp_path, reporter=heard)
    return run, heard.lines


def test_a_crowd_is_counted_in_figures_and_cut_in_tables_for_people(crowd: Any) -> None:
    run, lines = crowd
    assert any(f"{MANY} of {MANY + 1} identities, protocol" in line for line in lines)
    stored, floor = open_run(run.path), open_run(run.floor.path)
    made = identity_plot(stored, "toyattack", floor)
    assert any("too many for a mark each" in text.get_text() for text in made.texts)
    heights = [[bar.get_height() for bar in axes.patches] for axes in made.axes]
    assert [sum(found) for found in heights] == [2 * MANY, 2 * MANY]  # every identity once, here and in the floor
    assert all(len(axes.collections) == 0 for axes in made.axes)
    rows = [("toyattack", stored)]
    assert len(csv_text(tables.identities(rows)).splitlines()) == MANY + 1
    shown = tables.first_identities(rows)
    text = markdown_text([shown], shown.notes)
    assert len([line for line in text.splitlines() if line.startswith("| toyattack")]) == tables.MOST_LISTED
    assert f"The first {tables.MOST_LISTED} of {MANY} identities; all of them are in identities.csv." in text
