"""What an audit writes for people and programs: nothing is trained, names are hostile, neighbours are spoilt."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from audited import SIZE, Listener, paint
from comparable_runs import SAMPLES, edit, make

from mibench.audits.data import read_material
from mibench.audits.evidence import AUDIT, command_of, evidence_of, portable
from mibench.audits.evidence_page import evidence_page
from mibench.audits.exposure import exposure_csv, exposure_lines, exposure_of
from mibench.audits.request import AuditRequest
from mibench.data.split import IdentitySplit
from mibench.metrics.share_interval import clopper_pearson
from mibench.results import StoredRun, csv_cell, markdown_inert, open_run

HOSTILE = (
    "=cmd|'calc'!A0",
    "e\x1b[31mvil\nerror: forged\u202e",
    "<script>alert(1)",
)


@pytest.fixture
def people(tmp_path: Path) -> IdentitySplit:
    """Three people whose folders have hostile names."""
    paint(tmp_path / "people", dict.fromkeys(HOSTILE, (30, 60, 75)), 8)
    paint(tmp_path / "strangers", {"s": (60, 120, 250)}, 3)
    return read_material(
        AuditRequest(model="x:y", data=tmp_path / "people", public=tmp_path / "strangers", size=SIZE)
    ).dataset


def attacked(folder: Path, distances: list[float], hits: list[bool], *, floor: str | None = None) -> StoredRun:
    """A run against three people with these columns, and ``nearest_private`` counting up."""
    make(folder, "floor" if floor is None else "ppa", 0.5, people=3, floor=floor)
    table = pd.read_csv(folder / "samples.csv")
    table["knn_distance"], table["hit1"] = distances, hits
    table["nearest_private"] = [number % SAMPLES for number in range(len(table))]
    table.to_csv(folder / "samples.csv", index=False)
    return open_run(folder)


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    """The second person is recognised most, the first least; the floor recognises nobody."""
    distances = [9.0, 8.0, 7.0, 8.5, 5.0, 4.0, 0.5, 3.0, 6.0, 2.0, 2.5, 3.5]
    hits = [False] * 4 + [True, True, True, False] + [True, False, False, False]
    attacked(tmp_path / "floor", [10.0 + number for number in range(12)], [False] * 12)
    return attacked(tmp_path / "ppa", distances, hits, floor="floor")


def test_the_most_exposed_come_first_with_the_image_that_is_reached(run: StoredRun, people: IdentitySplit) -> None:
    second, third, first = exposure_of(run, people)
    assert (second.identity, third.identity, first.identity) == (1, 2, 0)
    assert (second.recognised, second.samples, second.share) == (3, SAMPLES, 0.75)
    assert (second.low, second.high) == clopper_pearson(0.75, SAMPLES)
    assert second.floor_share == 0.0
    assert (second.image, second.distance, second.floor_distance) == (2, 0.5, 14.0)
    assert third.image == 1
    files = [row.name for row in people.rows("train") if row.label == 1]
    order = people.names_by_class("train")[1]
    assert sorted(order) == sorted(files)
    assert second.file is not None
    assert second.file.endswith(order[2].rpartition("/")[2])


def test_images_are_counted_in_the_order_in_which_the_scoring_sees_them(people: IdentitySplit) -> None:
    images = people.private("train", SIZE)
    names = people.names_by_class("train")
    assert [label for label, listed in names.items() for _ in listed] == images.labels.tolist()
    only = people.private("train", SIZE, [2])
    assert len(only.pixels) == len(names[2])


def test_without_a_floor_or_distances_the_rest_is_there(run: StoredRun, people: IdentitySplit) -> None:
    floor = run.floor
    assert floor is not None
    assert all(person.floor_share is None and person.floor_distance is None for person in exposure_of(floor, people))
    table = pd.read_csv(run.path / "samples.csv")
    table.loc[table["identity"] == 1, "knn_distance"] = float("nan")
    table.to_csv(run.path / "samples.csv", index=False)
    second, *_ = exposure_of(open_run(run.path), people)
    assert (second.image, second.file, second.distance) == (None, None, None)
    assert "distance" not in exposure_lines([second])[0]
    table.drop(columns=["knn_distance"]).to_csv(run.path / "samples.csv", index=False)
    assert all(person.distance is None for person in exposure_of(open_run(run.path), people))


def test_hostile_names_are_inert_on_a_terminal_and_in_csv(run: StoredRun, people: IdentitySplit) -> None:
    exposed = exposure_of(run, people)
    assert len({person.name for person in exposed}) == 3
    for line in exposure_lines(exposed):
        assert line.isprintable()
    text = exposure_csv(exposed)
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 3, "no name makes a row of its own"
    for row in rows:
        assert all(cell is not None and cell[:1] not in ("=", "+", "-", "@", "\t") for cell in row.values())
        assert all(cell.isprintable() for cell in row.values())
    assert any(row["name"] == f"'{HOSTILE[0]}" for row in rows)
    assert any(row["file"].startswith(f"'{HOSTILE[0]}") for row in rows)


@pytest.mark.parametrize(
    ("value", "cell"),
    [("=1+1", "'=1+1"), ("@x", "'@x"), ("+1", "'+1"), ("-1", "'-1"), ("ann", "ann"), (None, ""), (-0.5, -0.5), (3, 3)],
)
def test_a_cell_is_no_formula(value: object, cell: object) -> None:
    assert csv_cell(value) == cell


def test_markdown_shows_text_as_it_is() -> None:
    inert = markdown_inert("<b>|*_`[x](y)!@#\u202e\n# head")
    assert not set(inert) & set("<>|*_`[]!@\u202e\n")


REQUEST = AuditRequest(
    model="/home/ann/secret/model.onnx",
    weights=Path("/srv/weights/w.pth"),
    data=Path("/data/people"),
    public=Path("C:/data/strangers"),
    classes="/home/ann/names.txt",
    size=64,
    range=(-1.0, 1.0),
    identities=20,
    settings={"model": {"path": "/srv/x.bin", "files": ["~/y", "kept/as-it-is"]}, "attack": {"steps": 3}},
)


def test_the_command_repeats_the_audit_and_names_no_folder() -> None:
    command = command_of(REQUEST, "ppa")
    assert command == (
        "mibench audit --model model.onnx --weights w.pth --data DATA --public PUBLIC --size 64 --range -1,1 "
        "--channel-order rgb --classes names.txt --attack ppa --identities 20 --seed 0 --set attack.steps=3 "
        """--set 'model.files=["y", "kept/as-it-is"]' --set 'model.path="x.bin"'"""
    )
    assert command_of(replace(REQUEST, model="a:b\n# forged"), "ppa").isprintable()


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("mynet:build", "mynet:build"), ("/a/b.onnx", "b.onnx"), ("models/b.pt", "b.pt"), ("../b.pt", "b.pt"),
        ("C:\\a\\b.pt", "b.pt"), ("b.pt", "b.pt"), ("./mine.py:Attack", "mine.py:Attack"), ("a.b:make", "a.b:make"),
    ],
)  # fmt: skip
def test_a_path_is_left_without_its_folders(text: str, short: str) -> None:
    assert portable(text) == short


def estimate(value: float | None, **params: Any) -> dict[str, Any]:
    reason = None if value is not None else "nothing"
    return {"value": value, "low": value, "high": value, "n": 3, "reason": reason, "params": params}


def content(name: str, access: str = "gradients", verdict: str = "leaks") -> dict[str, Any]:
    """audit.json as an audit writes it, as far as evidence reads it."""
    return {
        "schema": 2,
        "verdict": verdict,
        "reasons": [{"code": "leaks", "text": "it *leaks* <b>"}],
        "thresholds": {"margin": 0.1},
        "model": {
            "card": "module@folder+1",
            "weights_sha256": "aa",
            "accuracy": {"test": 0.9, "test_images": 30, "train": 1.0, "train_images": 90},
            "chance": 1 / 3,
            "gives": "gradients",
            "access": access,
        },
        "data": {
            "name": "folder", "digest": "dd", "people": 3, "train": 90, "test": 30, "public": 20,
            "held_out_by": "mibench",
        },
        "judge": {"card": "j", "weights_sha256": "jj", "accuracy": None, "images": None, "trained_here": True},
        "prior": {"card": "p", "weights_sha256": "pp", "trained_here": True},
        "attack": {
            "name": f"attack {name}", "access": access, "identities": 2, "samples": 4, "protocol": "audit v1",
            "seed": 0,
            "queries": {"limit": None, "forward": 6, "backward": 4, "prior": 0}, "run": name, "floor": "floor",
        },
        "recognised": {"acc1": estimate(0.5), "floor": estimate(0.1)},
        "difference_to_floor": estimate(0.4, p_value=0.01, detectable=0.2),
        "exposed": [{"name": "zebedee"}],
        "limits": ["a limit | of <i>"],
    }  # fmt: skip


def beside(run: StoredRun, name: str, audit: object) -> Path:
    folder = run.path.parent / name
    folder.mkdir()
    (folder / AUDIT).write_text(audit if isinstance(audit, str) else json.dumps(audit))
    return folder


def test_audits_of_the_same_model_with_less_access_are_part_of_the_evidence(run: StoredRun) -> None:
    beside(run, "scores", content("scores", "scores", "undecided"))
    other = content("other", "labels")
    other["model"]["weights_sha256"] = "another model"
    beside(run, "other", other)
    listener = Listener()
    evidence = evidence_of(content("ppa"), REQUEST, run, None, listener)
    labels, scores, gradients = evidence["levels"]
    assert [level["access"] for level in evidence["levels"]] == ["labels", "scores", "gradients"]
    assert labels["reason"] == "not audited: repeat the audit with --access labels"
    assert not labels["results"]
    assert [result["verdict"] for result in scores["results"]] == ["undecided"]
    assert gradients["results"][0]["difference"] == {
        "value": 0.4, "low": 0.4, "high": 0.4, "n": 3, "reason": None, "p_value": 0.01, "detectable": 0.2
    }  # fmt: skip
    assert not listener.said
    rows = {row["what"]: row["reason"] for row in evidence["not_evaluable"]}
    assert rows["access to labels"] == labels["reason"]
    assert "1 of 3 people" in rows


def test_why_a_level_is_not_there(run: StoredRun) -> None:
    audit = content("ppa", "scores")
    audit["model"]["gives"] = "scores"
    closed = evidence_of(audit, REQUEST, run, None, Listener())["levels"][2]
    broken = evidence_of(audit, REQUEST, run, "it is zero", Listener())["levels"][2]
    assert (closed["available"], closed["reason"]) == (False, "the model does not give them")
    assert broken["reason"] == "no usable gradient: it is zero"


SPOILT: dict[str, Any] = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "{}",
    "an older schema": {**content("x"), "schema": 1},
    "no numbers": {**content("x"), "difference_to_floor": None},
    "text for a number": {**content("x"), "recognised": {"acc1": estimate(0.5) | {"value": "<script>"}, "floor": None}},
    "queries that are a list": {**content("x"), "attack": content("x")["attack"] | {"queries": []}},
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_neighbour_is_left_out_and_named(run: StoredRun, name: str) -> None:
    clean = evidence_of(content("ppa"), REQUEST, run, None, Listener())
    beside(run, "spoilt", SPOILT[name])
    listener = Listener()
    assert evidence_of(content("ppa"), REQUEST, run, None, listener) == clean
    (said,) = listener.said
    assert "is no audit of this version of mibench and is left out of the evidence" in said


def test_the_page_is_inert_and_names_neither_people_nor_folders(run: StoredRun) -> None:
    evil = content("<script>alert(1)</script> | \u202e\n# forged", "scores")
    beside(run, "evil", evil)

    def spoil(record: dict[str, Any]) -> None:
        record["environment"] = {"python": "3.11", "platform": "a machine", "versions": {"torch": "<b>2</b>"}}
        record["started"] = "2026-11-28T11:00:00+00:00"

    edit(run.path, "run.json", spoil)
    fresh = open_run(run.path)
    evidence = evidence_of(content("ppa"), REQUEST, fresh, None, Listener())
    page = evidence_page(evidence)
    assert page.startswith("# Privacy audit: LEAKS\n")
    assert not re.search(r"<\w", page)
    assert "\u202e" not in page
    assert "# forged" not in page
    assert [line for line in page.splitlines() if line.startswith("#")] == [
        "# Privacy audit: LEAKS", "## What was audited", "## What is exposed", "## Results for each access level",
        "## What was not evaluable", "## Limits", "## Origin", "## How to reproduce",
    ]  # fmt: skip
    for secret in ("zebedee", "/home", "secret", "/srv", "/data", str(run.path.parent), "a machine", "2026-11-28"):
        assert secret not in page, secret
        assert secret not in json.dumps(evidence), secret
    tables = [line.count("|") for line in page.splitlines() if line.startswith(("| access", "| scores"))]
    assert len(set(tables)) == 1, "no name makes a column"


def test_the_same_audit_gives_the_same_bytes(run: StoredRun, tmp_path: Path) -> None:
    first = evidence_page(evidence_of(content("ppa"), REQUEST, run, None, Listener()))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for folder in ("ppa", "floor"):
        shutil.copytree(run.path.parent / folder, moved / folder)
    again = evidence_of(copy.deepcopy(content("ppa")), REQUEST, open_run(moved / "ppa"), None, Listener())
    assert evidence_page(again) == first
