"""Pages of HTML: what they say, that they are whole, self-contained and safe, and whom they show."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from html_pages import HOSTILE, Page, assert_inert, check
from PIL import Image
from reported_runs import make_run, private_images
from untouched import contents

from mibench.api import MibenchError
from mibench.cli import cli
from mibench.commands.private_images import private_images as loader
from mibench.data.split import Images
from mibench.reports.page.charts import chart
from mibench.reports.page.environment import TEMPLATES
from mibench.reports.page.faces import MOST_PIXELS, by_exposure, chosen_people
from mibench.reports.page.page import runs_index, runs_page
from mibench.reports.page.reproduce import command
from mibench.results import StoredRun, open_run


def edit(run: Path, change: Any) -> None:
    record = json.loads((run / "run.json").read_text())
    change(record)
    (run / "run.json").write_text(json.dumps(record))


@pytest.fixture
def pair(run_and_floor: tuple[StoredRun, StoredRun], tmp_path: Path) -> Path:
    """A run that knows the floor beside it, to be edited."""
    for run in run_and_floor:
        shutil.copytree(run.path, tmp_path / "runs" / run.path.name)
    path = tmp_path / "runs" / run_and_floor[0].path.name
    edit(path, lambda record: record.update(floor="floor-1"))
    return path


def private(run: StoredRun, identities: Any) -> Images:
    images = private_images(6)
    keep = torch.isin(images.labels, torch.tensor(sorted(identities)))
    return Images(images.pixels[keep], images.labels[keep], ())


def pictures(page: Page) -> list[np.ndarray]:
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))
        for image in page.all("img")
    ]


def test_the_page_of_a_run_has_the_numbers_of_the_run(pair: Path) -> None:
    run = open_run(pair)
    page = check(runs_page(run, private=private))
    text = " ".join(page.text)
    assert f"{100 * float(run.metrics['acc1'].value or 0):.1f} %" in text
    assert f"{100 * float(run.floor.metrics['acc1'].value or 0):.1f} %" in text  # type: ignore[union-attr]
    assert "paired over people" in text
    assert "FID needs weights" in text
    assert len(page.all("svg")) == 4
    assert 'id="people-table" data-sortable' in page.html
    body = page.html.partition('id="people-table"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    listed = [int(value) for value in re.findall(r'<tr><th scope="row" data-value="(\d+)"', body)]
    assert listed == by_exposure(run)


def test_the_page_repeats_and_writes_nothing(pair: Path) -> None:
    before = contents(pair.parent)
    first = runs_page(pair, private=private)
    assert runs_page(open_run(pair), private=private) == first
    assert contents(pair.parent) == before
    assert str(pair.parent) not in first


def test_the_policy_knows_the_script_by_its_hash(pair: Path) -> None:
    page = check(runs_page(pair))
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.all("meta")[1]["content"]
    assert len((TEMPLATES / "page.js").read_text().splitlines()) < 200


def test_a_run_without_floor_or_curves_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "ppa", 0.2, identities=2, samples=2, curves=False)
    page = check(runs_page(run))
    assert "There is no floor beside it" in " ".join(page.text)
    assert "Everybody, the most exposed first" in " ".join(page.text)


def test_people_are_shown_by_exposure_and_nobody_twice() -> None:
    chosen = chosen_people(list(range(50)))
    assert [title for title, _ in chosen] == ["Most exposed", "Median", "Least exposed"]
    assert [people for _, people in chosen] == [[0, 1, 2], [23, 24, 25], [47, 48, 49]]
    for count in range(1, 60):
        shown = [person for _, people in chosen_people(list(range(count))) for person in people]
        assert len(shown) == len(set(shown)) == min(count, 9)


# ---------------------------------------------------------------- faces


def forbidden(run: StoredRun, identities: Any) -> Images:
    raise AssertionError("nobody may ask for private images where faces are hidden")


def test_faces_of_real_people_are_hidden(pair: Path) -> None:
    edit(pair, lambda record: record["spec"].update(dataset="celeba"))
    html = runs_page(pair, private=forbidden)
    page = check(html)
    shown = pictures(page)
    assert shown
    assert {image.shape for image in shown} == {(8, 8, 3)}  # 64 mean colours are all there is
    assert all("Mosaic" in image["alt"] for image in page.all("img"))
    assert "--show-faces" in " ".join(page.text)
    originals = {run.pixels.tobytes() for run in pictures_of(pair)}
    assert not originals & {image.tobytes() for image in shown}


class Pixels:
    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels


def pictures_of(run: Path) -> list[Pixels]:
    stored = [image for unit in open_run(run).units for image in unit.images]
    return [Pixels(image.permute(1, 2, 0).numpy()) for image in [*stored, *private_images(6).pixels]]


def test_show_faces_shows_private_images_and_the_nearest(pair: Path) -> None:
    edit(pair, lambda record: record["spec"].update(dataset="celeba"))
    page = check(runs_page(pair, private=private, show_faces=True))
    known = {each.pixels.tobytes() for each in pictures_of(pair)}
    assert {image.tobytes() for image in pictures(page)} <= known
    alts = [image["alt"] for image in page.all("img")]
    assert sum(alt.startswith("Private image nearest") for alt in alts) == 6 * 3
    assert sum(alt.startswith("Reconstruction") for alt in alts) == 6 * 3


def test_made_up_people_are_always_shown(pair: Path) -> None:
    assert "Private image 1 of identity 0" in runs_page(pair, private=private)


def test_private_images_that_are_not_there_leave_a_note(pair: Path) -> None:
    def absent(run: StoredRun, identities: Any) -> Images:
        raise MibenchError("the data is elsewhere", cure="bring it")

    page = check(runs_page(pair, private=absent))
    assert "Private images are left out: the data is elsewhere; bring it." in " ".join(page.text)


def test_private_images_are_those_of_the_data_set_that_was_attacked(smoke_world: Path) -> None:
    run = next(open_run(path) for path in sorted((smoke_world / "runs").iterdir()) if "floor" not in path.name)
    images = loader({}, show_faces=False)(run, [1, 0])
    assert set(images.labels.tolist()) == {0, 1}
    assert images.pixels.shape[-1] == run.units[0].images.shape[-1]
    with pytest.raises(MibenchError, match="is not the one that was attacked"):
        loader({"seed": 5}, show_faces=False)(run, [0])


def test_a_run_cannot_name_the_folder_that_photographs_are_read_from(pair: Path) -> None:
    def planted(record: dict[str, Any]) -> None:
        record["spec"] |= {"dataset": "folder", "dataset_settings": {"root": "/home"}, "dataset_digest": "x"}

    edit(pair, planted)
    with pytest.raises(MibenchError, match="may be real"):
        loader({}, show_faces=False)(open_run(pair), [0])
    with pytest.raises(MibenchError) as caught:
        loader({}, show_faces=True)(open_run(pair), [0])
    assert "/home" not in str(caught.value)


def test_a_page_stays_below_five_megabytes(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 224, 224), generator=generator, dtype=torch.uint8)  # nothing compresses worse
    monkeypatch.setattr(StoredRun, "image", lambda self, unit, index: noise)

    def photographs(run: StoredRun, identities: Any) -> Images:
        labels = torch.tensor(sorted(identities)).repeat_interleave(6)
        return Images(noise.expand(len(labels), -1, -1, -1), labels, ())

    page = check(runs_page(pair, private=photographs))
    assert {max(image.shape[:2]) for image in pictures(page)} == {MOST_PIXELS}
    images = sum(len(image["src"]) for image in page.all("img"))
    of_nine_people = images * 9 / 6
    assert len(page.html) - images + of_nine_people + 50 * 2000 < 5e6


def test_score_draws_faces_only_when_asked(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wishes: list[Any] = []

    def record(run: StoredRun, folder: Any = None, *, floor: Any, private: Any, hide_faces: Any = None) -> list[Path]:
        wishes.append(hide_faces)
        return []

    monkeypatch.setattr("toyworld.reports.write_report", record)
    names = ["--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"]
    assert call("run", *names, "--device", "cpu", "--output", tmp_path).exit_code == 0
    path = next(path for path in tmp_path.iterdir() if path.name.startswith("toyattack"))
    for option in (["--show-faces"], []):
        assert call("score", path, "--device", "cpu", *option).exit_code == 0
    assert wishes == [None, None, False, False, None, None]  # each time the floor, then the run


# ---------------------------------------------------------------- safety


def poisoned(value: Any, text: str) -> Any:
    """Every text below a value replaced, as far as the kind of the record allows it."""
    if isinstance(value, dict):
        return {key: poisoned(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item, text) for item in value]
    return text if isinstance(value, str) else value


@pytest.mark.parametrize("text", ["".join(HOSTILE), "".join(reversed(HOSTILE)), HOSTILE[4]], ids=range(3))
def test_text_from_files_is_inert(pair: Path, text: str) -> None:
    def poison(record: dict[str, Any]) -> None:
        spec = record["spec"]
        record["spec"] = poisoned(spec, text) | {"dataset": spec["dataset"]}
        record["spec"]["protocol"] = {"name": text, "version": text, "access": text}
        for kind in ("judge", "prior", "regressor", "surrogate", "target"):
            record["spec"][kind] = {"card": text, "sha256": text, "architecture": text}
        record["spec"] |= {"preset": text, "variant": text, "dataset_digest": text}
        record |= {"digest": text, "started": text, "finished": text, "missing": {text: text}}
        record["environment"] = {"versions": {text: text}, "device": text, "device_name": text, "git_commit": text}
        record["settings"] = {f"attack.{text}": {"value": text, "origin": text, "by_user": True}}
        record["attacked"] = {"defence": {"name": text, "settings": {text: text}}}
        record["metrics"] = [
            {"name": "acc1", "title": text, "unit": text, "column": "hit1", "views": ["summary", "comparison"]},
            {"name": "fid", "title": text, "views": ["summary"]},
        ]

    edit(pair, poison)
    estimates = json.loads((pair / "metrics.json").read_text())
    for estimate in estimates.values():
        estimate |= {name: text for name in ("unit", "version", "extractor", "reason") if name in estimate}
    (pair / "metrics.json").write_text(json.dumps(estimates))
    settings = {"attack": text, "target": text, "settings": {"attack": {"steps": text}}}
    (pair / "config.yaml").write_text(yaml.safe_dump(settings))
    run = open_run(pair)
    assert_inert(runs_page(run, private=private))
    assert_inert(runs_index({text: run, "second": open_run(pair.parent / "floor-1")}, text))


def test_a_chart_takes_any_text(pair: Path) -> None:
    from matplotlib.figure import Figure

    def draw() -> Figure:
        figure = Figure()
        figure.add_subplot().set_title("".join(HOSTILE))
        return figure

    svg = str(chart(draw, "one", "".join(HOSTILE), "".join(HOSTILE)))
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert "x_1" in svg  # text and no formula


def test_charts_of_one_page_share_no_identifier(pair: Path) -> None:
    html = runs_page(pair)
    used = re.findall(r'(?:url\(#|href="#)([^")]+)', html)
    defined = re.findall(r' id="([^"]+)"', html)
    assert set(used) <= set(defined)
    assert len(defined) == len(set(defined))


def test_a_tampered_run_has_no_page(pair: Path) -> None:
    edit(pair, lambda record: record.update(outputs={"metrics.json": "0" * 64}))
    with pytest.raises(MibenchError, match="is damaged since it was finished"):
        runs_page(pair)


# ---------------------------------------------------------------- several runs


def test_several_runs_are_compared_by_attack(suite: Path) -> None:
    page = check(runs_page(suite))
    text = " ".join(page.text)
    assert "12 runs of 2 attacks against 2 targets" in text
    assert "has the highest acc@1" in text
    body = page.html.partition('id="people-table"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    assert body.count("<tr>") == 12 * 16


def test_defences_are_compared_without_being_asked(defended: Path) -> None:
    html = runs_page(defended)
    check(html)
    assert "Privacy against utility" in html
    assert html == runs_page(defended, by="defence")
    assert "Attacks side by side" in runs_page(defended, by="attack")


def test_one_run_is_not_compared(pair: Path) -> None:
    with pytest.raises(MibenchError, match="one run is not compared"):
        runs_page(pair, by="attack")


# ---------------------------------------------------------------- the command


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_command_writes_a_page_of_a_real_run(smoke_world: Path, tmp_path: Path) -> None:
    before = contents(smoke_world / "runs")
    done = call("report", smoke_world / "runs", "--output", tmp_path / "new" / "page.html", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["bytes"] == (tmp_path / "new" / "page.html").stat().st_size
    page = check((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))
    assert any(image["alt"].startswith("Private image") for image in page.all("img"))
    assert contents(smoke_world / "runs") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere is neither a run directory nor a folder of them; start a run with mibench run"),
        (["nowhere", "--set", "attack.steps=1"], "dataset"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str) -> None:
    done = call("report", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_folder_is_no_file_to_write(pair: Path) -> None:
    done = call("report", pair, "--output", pair.parent)
    assert done.exit_code == 2
    assert "is a folder; name a file" in done.stderr


def test_the_command_to_repeat_leaves_folders_of_its_machine_out(pair: Path) -> None:
    settings = {"dataset": {"root": "/home/somebody/faces"}, "attack": {"steps": 3, "names": ["a b", True]}}
    config = {"attack": "dmmia", "target": "vgg16", "seed": 2, "precision": "float32", "settings": settings}
    (pair / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    text = command(open_run(pair))
    assert text.startswith("mibench run --attack dmmia --target vgg16 --seed 2 --set")
    assert "--set attack.steps=3" in text
    assert "--set 'attack.names=[a b, true]'" in text
    assert "--set dataset.root=FOLDER" in text
    assert "somebody" not in text
