"""Panels for outsiders: blind, complete, and counted by hand; answers that make no sense are refused by line."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from reported_runs import draw, make_run, people, private_images

from mibench.cli import cli
from mibench.commands.private_images import attacked_data
from mibench.data.split import IdentitySplit, Images
from mibench.errors import MibenchError
from mibench.panels.answers import import_answers
from mibench.panels.export import export_panels, key_path
from mibench.panels.panel import Key
from mibench.results import StoredRun, open_run


class Toy(IdentitySplit):
    """Six people of the toy runs, and strangers."""

    name = "toy"
    num_classes = 6
    digest = "toy"

    def private(self, part: str, size: int, labels: object = None) -> Images:
        del size, labels
        return private_images(6, seed=3 if part == "train" else 7)

    def public(self, size: int, count: int | None = None) -> Images:
        del size
        images = draw(people(60)[20:50], 32)
        return (
            Images(images, torch.full((30,), -1), ("q",) * 30)
            if count is None
            else Images(images[:count], torch.full((count,), -1), ("q",) * count)
        )


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return make_run(tmp_path / "runs" / "dmmia-1", "dmmia", 0.2)


def answered(folder: Path, answer: object, rater: str = "") -> Path:
    """The sheet, filled in by a function of the name of a panel."""
    sheet = folder / "answers.csv"
    with sheet.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    with sheet.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["panel", "file", "rater", "answer"])
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "rater": rater, "answer": answer(row["panel"])})  # type: ignore[operator]
    return sheet


def test_what_is_handed_out_says_nothing_of_what_it_is(run: StoredRun, tmp_path: Path) -> None:
    key = export_panels(run, Toy(), tmp_path / "panels", per_person=2, references=3)
    assert Counter(panel.kind for panel in key.panels) == dict.fromkeys(
        ("reconstruction", "same", "other", "stranger"), 12
    )
    handed = sorted(file.name for file in (tmp_path / "panels").iterdir())
    assert handed == sorted([*(f"{panel.name}.png" for panel in key.panels), "README.txt", "answers.csv"])
    sizes = set()
    for panel in key.panels:
        with Image.open(tmp_path / "panels" / f"{panel.name}.png") as picture:
            sizes.add(picture.size)
            assert not picture.info
    assert len(sizes) == 1
    text = (tmp_path / "panels" / "answers.csv").read_text()
    assert not any(word in text for word in ("reconstruction", "same", "other", "stranger", str(run.path)))
    kinds = [panel.kind for panel in sorted(key.panels, key=lambda panel: panel.name)]
    assert len({*kinds[:12]}) > 1, "in the order of names, kinds are mixed"
    stored = json.loads(key_path(run, key.batch).read_text())
    assert Key.read(stored, "key") == key


def test_a_panel_shows_the_person_and_the_image_in_question(run: StoredRun, tmp_path: Path) -> None:
    key = export_panels(run, Toy(), tmp_path / "panels", per_person=1, references=2)
    test, table = Toy().private("test", 32), run.samples
    for panel in key.panels:
        with Image.open(tmp_path / "panels" / f"{panel.name}.png") as picture:
            shown = torch.from_numpy(np.array(picture)[:, -128:]).float()
        if panel.kind == "reconstruction":
            image = run.image(*panel.image)
            row = table[(table["unit"] == panel.image[0]) & (table["index"] == panel.image[1])]
            assert row["identity"].item() == panel.identity
            assert bool(row["selected"].item())
            assert bool(row["hit1"].item()) is panel.accepted
        elif panel.kind == "stranger":
            image = Toy().public(32).pixels[panel.image[1]]
        else:
            assert (panel.image[0] == panel.identity) is (panel.kind == "same")
            image = test.pixels[test.labels == panel.image[0]][panel.image[1]]
        mean = image.float().mean(dim=(1, 2))
        assert torch.allclose(shown.mean(dim=(0, 1)), mean, atol=4), panel.kind


def test_the_same_request_gives_the_same_bytes_and_no_folder_is_overwritten(run: StoredRun, tmp_path: Path) -> None:
    first, second = (export_panels(run, Toy(), tmp_path / name, per_person=1) for name in ("a", "b"))
    assert first == second
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    assert export_panels(run, Toy(), tmp_path / "c", per_person=1, seed=1).batch != first.batch
    with pytest.raises(MibenchError, match="not an empty folder"):
        export_panels(run, Toy(), tmp_path / "a", per_person=1)
    with pytest.raises(MibenchError, match=r"identity 0 has .* training"):
        export_panels(run, Toy(), tmp_path / "d", references=500)


def test_answers_are_counted_beside_the_judge(run: StoredRun, tmp_path: Path) -> None:
    key = export_panels(run, Toy(), tmp_path / "panels", per_person=2, references=3)
    kinds = {panel.name: panel for panel in key.panels}

    def answer(name: str) -> str:
        panel = kinds[name]
        if panel.kind == "reconstruction":
            return "yes" if panel.accepted else "no"
        if panel.kind == "same":
            return "no" if panel.identity == 0 else "YES"
        if panel.kind == "other":
            return "refused" if panel.identity == 1 else "no"
        return "yes" if panel.identity < 3 else ""

    verdicts = import_answers(run, answered(tmp_path / "panels", answer))
    values = {name: estimate.value for name, estimate in verdicts.estimates.items()}
    accepted = [panel.accepted for panel in key.panels if panel.kind == "reconstruction"]
    assert values["outside_acc1"] == pytest.approx(sum(map(bool, accepted)) / 12)
    assert values["outside_agreement"] == 1
    assert values["outside_false_rejection"] == pytest.approx(2 / 12)
    assert values["outside_false_acceptance_private"] == 0
    assert values["outside_false_acceptance_foreign"] == 1
    assert values["outside_refused"] == pytest.approx(2 / 42)
    assert verdicts.estimates["outside_false_rejection"].n == 6
    assert verdicts.estimates["outside_false_acceptance_private"].n == 5
    assert (verdicts.answered, verdicts.panels, verdicts.raters) == (42, 48, 1)
    judge = verdicts.judge["outside_false_rejection"]
    assert judge is not None
    assert judge.value == run.metrics["judge_false_rejection"].value
    assert verdicts.judge["outside_acc1"].value == values["outside_acc1"]  # type: ignore[union-attr]
    stored = json.loads(key_path(run, key.batch).with_name("verdicts.json").read_text())
    assert stored == json.loads(json.dumps(verdicts.as_json()))
    assert "judge" in verdicts.rows()[0]


def test_several_raters_are_told_apart(run: StoredRun, tmp_path: Path) -> None:
    export_panels(run, Toy(), tmp_path / "panels", per_person=1)
    sheet = answered(tmp_path / "panels", lambda name: "yes", "ada")
    more = sheet.read_text().splitlines()[1:]
    sheet.write_text(
        "\n".join([*sheet.read_text().splitlines(), *(line.replace("ada,yes", "ben,no") for line in more)])
    )
    verdicts = import_answers(run, sheet)
    assert verdicts.raters == 2
    assert verdicts.estimates["outside_acc1"].value == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",yes", ",yse", 1), r"line 2: 'yse' is no answer; did you mean 'yes'"),
        (lambda text: text + text.splitlines()[1] + "\n", "line 26: panel .* has two answers"),
        (lambda text: text + "nobody,nobody.png,,yes\n", "line 26: no panel of .* is called 'nobody'"),
        (lambda text: text.replace("answer", "verdict", 1), "has no column 'answer'"),
        (lambda text: text.replace(",yes", ","), "has no answer"),
    ],
)
def test_answers_that_make_no_sense_are_refused(run: StoredRun, tmp_path: Path, change: object, message: str) -> None:
    export_panels(run, Toy(), tmp_path / "panels", per_person=1)
    sheet = answered(tmp_path / "panels", lambda name: "yes")
    sheet.write_bytes(change(sheet.read_text()).encode())  # type: ignore[operator]
    with pytest.raises(MibenchError, match=message):
        import_answers(run, sheet)


def test_photographs_need_to_be_asked_for(run: StoredRun) -> None:
    record = json.loads((run.path / "run.json").read_text())
    record["spec"]["dataset"] = "celeba"
    (run.path / "run.json").write_text(json.dumps(record))
    with pytest.raises(MibenchError, match=r"may be real.*--show-faces"):
        attacked_data(open_run(run.path), {}, show_faces=False)


def test_the_command_prints_the_table_and_says_what_is_wrong(run: StoredRun, tmp_path: Path) -> None:
    export_panels(run, Toy(), tmp_path / "panels", per_person=1)
    sheet = answered(tmp_path / "panels", lambda name: "yes")
    done = CliRunner().invoke(cli, ["verdicts", "import", str(run.path), str(sheet)])
    assert done.exit_code == 0, done.output
    assert "false acceptance" in done.stdout
    assert "24 of 24 panels answered by 1 rater" in " ".join(done.output.split())
    plain = CliRunner().invoke(cli, ["verdicts", "import", str(run.path), str(sheet), "--json"])
    assert json.loads(plain.stdout)["outside"]["outside_false_rejection"]["value"] == 0
    missing = CliRunner().invoke(cli, ["verdicts", "import", str(run.path), str(tmp_path / "nothing.csv")])
    assert missing.exit_code == 2
    assert "cannot be read" in missing.output
