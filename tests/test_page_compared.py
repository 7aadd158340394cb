"""Images on pages of several runs: the same people beside each other, under the same rule for faces."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from comparable_runs import make
from html_pages import Page, check
from PIL import Image

from mibench.data.split import Images
from mibench.reports.page.faces import PEOPLE
from mibench.reports.page.faces_compared import BYTES, LEAST_PIXELS, _room
from mibench.reports.page.page import runs_page
from mibench.results import LabelledImages, StoredRun, open_run


def private(run: StoredRun, identities: Sequence[int]) -> LabelledImages:
    labels = torch.tensor(sorted(identities)).repeat_interleave(4)
    return Images(torch.randint(0, 256, (len(labels), 3, 8, 8), dtype=torch.uint8), labels, ())


def forbidden(run: StoredRun, identities: Sequence[int]) -> LabelledImages:
    raise AssertionError("nobody may ask for private images where faces are hidden")


def alts(page: Page) -> list[str]:
    return [image["alt"] for image in page.all("img")]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    make(tmp_path / "runs" / "ppa", "ppa", 0.7)
    make(tmp_path / "runs" / "dmmia", "dmmia", 0.5)
    return tmp_path / "runs"


def pixels(image: dict[str, str]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))))


def test_attacks_stand_beside_each_other_for_each_person(two: Path) -> None:
    page = check(runs_page(two, private=private))
    runs = {name: open_run(two / name) for name in ("ppa", "dmmia")}
    reconstructions = [alt for alt in alts(page) if alt.startswith("Reconstruction")]
    assert len(reconstructions) == 3 * PEOPLE * 2
    identities = [int(alt.split()[3].rstrip(",")) for alt in reconstructions]
    assert identities[::2] == identities[1::2]  # one attack after the other for the same person
    success = sum(run.samples.groupby("identity")["hit1"].mean() for run in runs.values())
    means = [success[identity] for identity in identities[::2]]
    assert means == sorted(means, reverse=True)
    assert means[0] == success.max()
    assert means[-1] == success.min()
    shown = [
        image for image in page.all("img") if image["alt"].startswith(f"Reconstruction of identity {identities[0]}")
    ]
    for image in shown:
        run = runs["ppa" if ", ppa" in image["alt"] else "dmmia"]
        best = run.samples[run.samples["identity"] == identities[0]].sort_values("sample").iloc[0]
        assert np.array_equal(pixels(image), run.image(best["unit"], best["index"]).permute(1, 2, 0).numpy())
    assert sum(alt.startswith("Private image nearest") for alt in alts(page)) == len(reconstructions)


def test_defences_stand_beside_each_other_and_floors_do_not(defended: Path) -> None:
    page = check(runs_page(defended, private=private))
    first = alts(page)[0].split()[-1]
    of_one = [alt for alt in alts(page) if alt.startswith(f"Reconstruction of identity {first},")]
    assert len(of_one) == 6 * 2  # classifiers and attacks; seeds beyond the first are left out
    assert not any("floor" in alt for alt in of_one)


def test_faces_of_real_people_are_hidden_in_comparisons(two: Path) -> None:
    for folder in two.iterdir():
        record = json.loads((folder / "run.json").read_text())
        record["spec"]["dataset"] = "celeba"
        (folder / "run.json").write_text(json.dumps(record))
    page = check(runs_page(two, private=forbidden))
    assert alts(page)
    assert all(alt.startswith("Mosaic of reconstruction") for alt in alts(page))
    assert {pixels(image).shape for image in page.all("img")} == {(8, 8, 3)}
    assert "--show-faces" in " ".join(page.text)
    assert any(alt.startswith("Private image") for alt in alts(check(runs_page(two, private=private, show_faces=True))))


def test_there_is_room_for_any_number_of_rows_in_five_megabytes() -> None:
    for rows in (*range(1, 60), 200, 1000):
        for side in (16, 64, 112, 1024):
            room = _room(rows, side)
            images = 3 * room.people * (2 + 2 * room.rows)
            assert room.people >= 1
            assert room.rows == rows or room.pixels == LEAST_PIXELS
            assert images * 4 * room.pixels**2 <= BYTES
    assert _room(1, 64).people == PEOPLE


def test_a_comparison_of_many_large_images_stays_below_five_megabytes(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 224, 224), generator=generator, dtype=torch.uint8)  # nothing compresses worse
    monkeypatch.setattr(StoredRun, "image", lambda self, unit, index: noise)
    monkeypatch.setattr("mibench.reports.page.faces_compared._side", lambda run: 224)
    for number in range(4):
        make(two / f"ppa-{number}", "ppa", 0.7, target=f"net{number}")

    def photographs(run: StoredRun, identities: Sequence[int]) -> LabelledImages:
        labels = torch.tensor(sorted(identities)).repeat_interleave(4)
        return Images(noise.expand(len(labels), -1, -1, -1), labels, ())

    page = check(runs_page(two, private=photographs))
    assert sum(len(image["src"]) for image in page.all("img")) > 1e6
    assert len(page.html) < 5e6


def test_a_note_of_several_tables_stands_once(suite: Path) -> None:
    text = " ".join(check(runs_page(suite)).text)
    assert text.count("Costs are divided among the identities") == 1
