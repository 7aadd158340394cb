"""Reports of a run on disk: what they say, that they repeat, that they hide faces, that they survive gaps."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from reported_runs import make_run, private_images, read

from mibench.reports import CATALOGUE
from mibench.reports.figures.write import write_figures
from mibench.reports.tables import write_tables
from mibench.results import StoredRun, markdown_lines, open_run


def test_tables_carry_the_numbers_of_the_run(run_and_floor, tmp_path):
    run, floor = run_and_floor
    files = write_tables(run, tmp_path, floor=floor)
    assert {file.name for file in files} == {
        f"{name}.{ending}"
        for name in ("summary", "metrics", "judge", "identities", "costs", "against_floor")
        for ending in ("csv", "md")
    }
    rows = read(tmp_path / "summary.csv")
    assert [row["row"] for row in rows] == [
        "dmmia",
        "floor (no attack)",
        "control: nearest public images",
        "control: private test images",
        "control: no information",
    ]
    for row, each in zip(rows, (run, floor), strict=False):
        assert float(row["acc1"]) == each.metrics["acc1"].value
        assert float(row["acc1_low"]) == each.metrics["acc1"].low
        assert row["fid"] == ""
    assert float(rows[3]["acc1"]) == run.metrics["control_private_test_acc1"].value
    long = read(tmp_path / "metrics.csv")
    assert {row["metric"] for row in long} == set(run.metrics)
    assert all(row["reason"] for row in long if not row["value"])
    per_identity = read(tmp_path / "identities.csv")
    assert len(per_identity) == 12
    own = [float(row["acc1"]) for row in per_identity if row["run"] == "dmmia"]
    assert np.mean(own) == pytest.approx(run.metrics["acc1"].value)
    against = read(tmp_path / "against_floor.csv")
    assert float(against[0]["difference"]) == pytest.approx(run.metrics["acc1"].value - floor.metrics["acc1"].value)


def test_markdown_says_what_is_missing_and_why(run_and_floor, tmp_path):
    run, floor = run_and_floor
    write_tables(run, tmp_path, floor=floor)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "floor (no attack)" in text
    assert "FID needs weights" in text
    assert "protocol toy v2" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len({len(line) for line in table}) == 1  # aligned for readers of plain text
    assert "a\\|b" in markdown_lines([["a|b"], ["c"]])[0]


def test_tables_without_a_floor_and_of_the_floor_itself(run_and_floor, tmp_path):
    run, floor = run_and_floor
    assert not any("against" in file.name for file in write_tables(run, tmp_path / "a"))
    assert len(read(write_tables(floor, tmp_path / "b", floor=floor)[0])) == 4  # itself once, and three controls


def test_several_runs_get_names_that_differ(run_and_floor, tmp_path):
    run, floor = run_and_floor
    again = make_run(tmp_path / "again", "dmmia", 0.15, seed=1)
    write_tables([run, again], tmp_path / "t", floor=floor)
    assert [row["row"] for row in read(tmp_path / "t" / "summary.csv")][:3] == [
        "dmmia · seed 0",
        "dmmia · seed 1",
        "floor (no attack)",
    ]


# ---------------------------------------------------------------- figures


def png_size(file: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(file) as image:
        image.load()
        return image.size


@pytest.fixture(scope="module")
def styles():
    """What matplotlib's settings were before ``drawn``."""
    import matplotlib

    return dict(matplotlib.rcParams)


@pytest.fixture(scope="module")
def drawn(styles, run_and_floor, tmp_path_factory) -> list[Path]:
    run, floor = run_and_floor
    return write_figures(run, tmp_path_factory.mktemp("drawn"), floor=floor, private=private_images(6))


def test_figures_are_drawn_as_png_and_svg(drawn):
    files = drawn
    assert {file.name for file in files} == {
        f"{name}.{ending}" for name in ("contact_sheet", "identities", "curves", "spread") for ending in ("png", "svg")
    }
    for file in files:
        if file.suffix == ".png":
            width, height = png_size(file)
            assert 600 < width < 3000
            assert 300 < height < 3000
        else:
            assert ElementTree.parse(file).getroot().tag.endswith("svg")


def test_the_same_run_gives_the_same_bytes(run_and_floor, drawn, tmp_path):
    run, floor = run_and_floor
    again = write_figures(open_run(run.path), tmp_path / "figures", floor=floor, private=private_images(6))
    first = [*drawn, *write_tables(run, tmp_path / "a", floor=floor)]
    second = [*again, *write_tables(open_run(run.path), tmp_path / "b", floor=floor)]
    assert len(first) == 20
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name


def test_figures_keep_no_global_state(styles, drawn):
    import matplotlib

    assert dict(matplotlib.rcParams) == styles


def test_hidden_faces_keep_only_a_coarse_mosaic():
    from mibench.reports.figures.contact_sheet import BLOCKS, _pixels

    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    hidden = _pixels(image, hide=True)
    assert 16 < len(np.unique(hidden.reshape(-1, 3), axis=0)) <= BLOCKS**2 == 64
    assert len(np.unique(_pixels(image, hide=False).reshape(-1, 3), axis=0)) > 1000


@pytest.mark.parametrize(("dataset", "asked", "hidden"), [
    ("synthfaces", None, False), ("celeba", None, True), ("celeba", False, False), ("synthfaces", True, True),
])  # fmt: skip
def test_real_faces_are_hidden_unless_asked_for(run_and_floor, dataset, asked, hidden):
    from mibench.reports.formatting import hides_faces

    class Named(StoredRun):
        @property
        def dataset(self):
            return dataset

    assert hides_faces(Named(run_and_floor[0].path), asked) is hidden


def test_figures_survive_what_is_missing(run_and_floor, tmp_path):
    """No private images, no curves, no floor, metrics that are null, one identity, one sample."""
    one = make_run(tmp_path / "one", "floor", 0.3, identities=2, samples=1, curves=False)
    assert one.metrics["coverage"].value is None
    assert len(write_figures(one, tmp_path / "figures", floor=one)) == 8
    assert len(write_tables(one, tmp_path / "tables")) == 10


def test_many_identities_stay_within_the_page(tmp_path):
    import pandas as pd

    from mibench.reports.figures.identities import identity_plot

    (tmp_path / "run.json").write_text("{}")
    count = 300
    identity = np.repeat(np.arange(count), 5)
    table = pd.DataFrame({"identity": identity, "sample": np.tile(np.arange(5), count), "selected": True})
    table["hit1"] = table["hit5"] = np.random.default_rng(0).random(len(table)) < 0.5
    table["knn_distance"] = np.random.default_rng(1).gamma(9, 2, len(table))
    table.to_csv(tmp_path / "samples.csv", index=False)
    (tmp_path / "metrics.json").write_text("{}")
    figure = identity_plot(open_run(tmp_path), "dmmia", None)
    assert figure.get_figwidth() <= 14


def test_the_catalogue_resolves():
    import importlib

    for reference in CATALOGUE["report"].values():
        module, attribute = reference.split(":")
        assert callable(getattr(importlib.import_module(module), attribute))


def test_the_catalogue_costs_nothing():
    import subprocess
    import sys

    program = "import sys, mibench.reports; sys.exit(bool({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
