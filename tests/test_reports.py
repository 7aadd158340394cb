"""Reports of a run on disk: what they say, that they repeat, that they hide faces, that they survive gaps."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch import nn

from mibench.api import ClassifierOutput, ImageSpec, MibenchError
from mibench.data.split import Images, to_uint8
from mibench.metrics.extractors import JudgeExtractor
from mibench.metrics.identity import IdentityTruth
from mibench.metrics.scoring import Reconstructions, score
from mibench.reports import CATALOGUE
from mibench.reports.figures.write import write_figures
from mibench.reports.tables import write_tables
from mibench.results import StoredRun, difference, differences, markdown_lines, open_run


def people(count: int) -> torch.Tensor:
    """Colours of skin, hair and background, eye spacing and mouth width of ``count`` toy people ``(count, 11)``."""
    return torch.rand(count, 11, generator=torch.Generator().manual_seed(4)) * 0.8 + 0.1


def draw(vectors: torch.Tensor, size: int) -> torch.Tensor:
    """Cartoon faces, uint8 ``(n, 3, size, size)``."""
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    skin, hair, back = (vectors[:, i : i + 3, None, None] for i in (0, 3, 6))
    gap, mouth = vectors[:, 9, None, None] * 0.5 + 0.1, vectors[:, 10, None, None] * 0.5
    images = back.expand(-1, -1, size, size).clone()
    images = torch.where(((x / 0.75) ** 2 + ((y + 0.1) / 0.9) ** 2 < 1)[None, None], hair, images)
    images = torch.where(((x / 0.6) ** 2 + ((y - 0.1) / 0.75) ** 2 < 1)[None, None], skin, images)
    eyes = ((x.abs() - gap) ** 2 + (y + 0.1) ** 2 < 0.012)[:, None]
    lips = ((x.abs() < mouth) & ((y - 0.5).abs() < 0.05))[:, None]
    return to_uint8(torch.where(eyes | lips, torch.tensor(0.1), images))


class Reader(nn.Module):
    """Reads colours off patches and compares them with everybody's."""

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("known", self.features(draw(vectors, 32).float() / 255))

    def features(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 6).flatten(1)

    def forward(self, images):
        features = self.features(images)
        return ClassifierOutput(features, -4 * torch.cdist(features, self.known).square())


CLASSES = 12


def private_images(identities: int, seed: int = 6) -> Images:
    labels = torch.arange(identities).repeat_interleave(6)
    vectors = people(CLASSES)[labels]
    vectors = vectors + 0.1 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed))
    return Images(draw(vectors, 32), labels, tuple(f"p{int(label)}" for label in labels))


def make_run(
    folder: Path,
    attack: str,
    noise: float,
    *,
    identities: int = 6,
    samples: int = 6,
    seed: int = 0,
    curves: bool = True,
) -> StoredRun:
    """A run directory as the engine leaves it, with a judge that works on the toy people."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed + 17)
    labels = torch.arange(identities).repeat_interleave(samples + 2)
    drift = torch.randn(len(labels), 11, generator=generator) * noise
    images = draw((people(CLASSES)[labels] + drift).clamp(0, 1), 32)
    confidence = -drift.norm(dim=1) + 0.1 * torch.randn(len(labels), generator=generator)
    (folder / "units").mkdir(parents=True)
    units = []
    for number, rows in enumerate((labels < identities // 2, labels >= identities // 2)):
        steps = torch.arange(1, 41).float()
        start = torch.rand(int(rows.sum()) // (samples + 2), 1, generator=generator)
        logged = {
            "curve.L_ce": (5 + start) * torch.exp(-steps / 15) + 0.1,
            "curve.L_imr": 0.6 - 0.1 * start + 0 * steps,
            "curve.w_drift": start * steps / 40,
            "curve.realism": steps / 40 - 1,
        }
        tensors = {"images": images[rows], "labels": labels[rows], "confidence": confidence[rows]}
        if curves:
            tensors |= {name: curve.contiguous() for name, curve in logged.items()}
        facts = {"queries_forward": 100, "queries_backward": 50, "notes": []}
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            folder / "units" / f"{number:03d}.safetensors",
            metadata={"mibench": json.dumps(facts)},
        )
        (folder / "units" / f"{number:03d}.json").write_text(json.dumps({"seconds": 1.5}))
        units.append((number, images[rows], labels[rows], confidence[rows]))
    truth = IdentityTruth(
        private=people(CLASSES)[:, :3],
        foreign=torch.rand(100, 3, generator=torch.Generator().manual_seed(1)),
        regress=lambda shown: shown[:, :, 20, 16].float() / 255,
        regressor="identity@toy",
    )
    scores = score(
        Reconstructions.of(units),
        private=private_images(identities),
        judge=JudgeExtractor(Reader(people(CLASSES)), ImageSpec(32), name="reader@toy"),
        per_identity=samples,
        truth=truth,
        private_test=private_images(identities, seed=7),
        public=Images(draw(people(60)[20:], 32), torch.full((40,), -1), ("q",) * 40),
        inception_reason="FID needs weights",
        resamples=300,
    )
    scores.samples.to_csv(folder / "samples.csv", index=False, lineterminator="\n")
    (folder / "metrics.json").write_text(json.dumps(scores.as_json(), allow_nan=False))
    specification = {
        "attack": attack,
        "target": {"card": "vgg16@synthfaces", "architecture": "vgg16"},
        "dataset": "synthfaces",
        "protocol": {"name": "toy", "version": 2},
        "seed": seed,
    }
    (folder / "run.json").write_text(json.dumps({"status": "complete", "spec": specification}))
    (folder / "log.jsonl").write_text('{"event": "unit", "unit": 0}\n{"event": "un')
    return open_run(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[StoredRun, StoredRun]:
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "dmmia-1", "dmmia", 0.12), make_run(folder / "floor-1", "floor", 0.35, curves=False)


def read(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- results


def test_a_run_is_read_back(world):
    run, _ = world
    assert (run.status, run.attack, run.target, run.dataset) == ("complete", "dmmia", "vgg16@synthfaces", "synthfaces")
    assert (run.protocol, run.seed) == ("toy v2", 0)
    assert [unit.number for unit in run.units] == [0, 1]
    assert run.total("queries_forward") == 200
    assert run.total("seconds") == 3
    assert run.total("joules") is None
    assert list(run.log) == [{"event": "unit", "unit": 0}]  # the line that a crash cut off is left out
    assert run.metrics["acc1"].n == 6
    assert run.metrics["fid"].reason == "FID needs weights"
    assert run.curves["L_ce"].shape == (6, 40)
    assert run.samples["hit1"].dtype == bool


def test_images_are_found_by_unit_and_index(world):
    run, _ = world
    for row in run.samples.head(20).itertuples():
        image = run.image(row.unit, row.index)
        assert hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest() == row.image_sha256


def test_curves_of_different_lengths_are_padded(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "units").mkdir()
    (tmp_path / "run.json").write_text("{}")
    for number, curve in enumerate((torch.ones(2, 3), torch.ones(5))):
        tensors = {"images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "labels": torch.zeros(1, dtype=torch.int64)}
        tensors |= {"confidence": torch.zeros(1), "curve.loss": curve}
        save_file(tensors, tmp_path / "units" / f"{number:03d}.safetensors")
    curves = open_run(tmp_path).curves["loss"]
    assert curves.shape == (3, 5)
    assert curves.isnan().sum(dim=1).tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metrics.json", "{not json", "not valid JSON"),
        ("metrics.json", "[]", "JSON object"),
        ("metrics.json", '{"acc1": {"valuee": 1}}', "another version"),
        ("metrics.json", None, "not finished"),
        ("samples.csv", None, "not finished"),
        ("samples.csv", "", "cannot be read as a table"),
        ("samples.csv", "identity,sample\n1,2\n", "no column 'selected'"),
        ("units/000.safetensors", "junk", "cannot be read"),
    ],
)
def test_broken_files_are_told_in_one_line(tmp_path, file, content, message):
    (tmp_path / "units").mkdir()
    (tmp_path / "run.json").write_text("{}")
    if content is not None:
        (tmp_path / file).write_text(content)
    run = open_run(tmp_path)
    with pytest.raises(MibenchError, match=message) as caught:
        _ = run.metrics if file == "metrics.json" else run.samples if file == "samples.csv" else run.units
    assert "\n" not in str(caught.value)


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(MibenchError, match=r"no run\.json"):
        open_run(tmp_path)


def test_differences_are_paired_and_adjusted(world):
    run, floor = world
    found = difference(run, floor, "hit1")
    assert found.value == pytest.approx(run.metrics["acc1"].value - floor.metrics["acc1"].value)
    assert found.n == 6
    several = differences(run, floor, ["hit1", "knn_distance"])
    assert all(each.params["p_holm"] >= each.params["p_value"] for each in several)
    assert difference(run, run, "hit1").value == 0


def test_runs_of_other_identities_or_protocols_are_not_compared(world, tmp_path):
    run, _ = world
    fewer = make_run(tmp_path / "fewer", "dmmia", 0.1, identities=4)
    assert "different identities" in difference(run, fewer).reason
    record = json.loads((fewer.path / "run.json").read_text(encoding="utf-8"))
    record["spec"]["protocol"]["version"] = 3
    (fewer.path / "run.json").write_text(json.dumps(record))
    assert "protocols differ" in difference(run, open_run(fewer.path)).reason


# ---------------------------------------------------------------- tables


def test_tables_carry_the_numbers_of_the_run(world, tmp_path):
    run, floor = world
    files = write_tables(run, tmp_path, floor=floor)
    assert {file.name for file in files} == {
        f"{name}.{ending}"
        for name in ("summary", "metrics", "identities", "costs", "against_floor")
        for ending in ("csv", "md")
    }
    rows = read(tmp_path / "summary.csv")
    assert [row["row"] for row in rows] == [
        "dmmia",
        "floor (no attack)",
        "control: nearest public images",
        "control: private test images",
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


def test_markdown_says_what_is_missing_and_why(world, tmp_path):
    run, floor = world
    write_tables(run, tmp_path, floor=floor)
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "floor (no attack)" in text
    assert "FID needs weights" in text
    assert "protocol toy v2" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len({len(line) for line in table}) == 1  # aligned for readers of plain text
    assert "a\\|b" in markdown_lines([["a|b"], ["c"]])[0]


def test_tables_without_a_floor_and_of_the_floor_itself(world, tmp_path):
    run, floor = world
    assert not any("against" in file.name for file in write_tables(run, tmp_path / "a"))
    assert len(read(write_tables(floor, tmp_path / "b", floor=floor)[0])) == 3  # itself once, and two controls


def test_several_runs_get_names_that_differ(world, tmp_path):
    run, floor = world
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
def drawn(world, tmp_path_factory) -> list[Path]:
    run, floor = world
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


def test_the_same_run_gives_the_same_bytes(world, drawn, tmp_path):
    run, floor = world
    again = write_figures(open_run(run.path), tmp_path / "figures", floor=floor, private=private_images(6))
    first = [*drawn, *write_tables(run, tmp_path / "a", floor=floor)]
    second = [*again, *write_tables(open_run(run.path), tmp_path / "b", floor=floor)]
    assert len(first) == 18
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes(), one.name


def test_figures_keep_no_global_state(world, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_figures(world[0], tmp_path)
    assert dict(matplotlib.rcParams) == before


def test_hidden_faces_keep_only_a_coarse_mosaic():
    from mibench.reports.figures.contact_sheet import BLOCKS, _pixels

    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    hidden = _pixels(image, hide=True)
    assert 16 < len(np.unique(hidden.reshape(-1, 3), axis=0)) <= BLOCKS**2 == 64
    assert len(np.unique(_pixels(image, hide=False).reshape(-1, 3), axis=0)) > 1000


@pytest.mark.parametrize(("dataset", "asked", "hidden"), [
    ("synthfaces", None, False), ("celeba", None, True), ("celeba", False, False), ("synthfaces", True, True),
])  # fmt: skip
def test_real_faces_are_hidden_unless_asked_for(world, dataset, asked, hidden):
    from mibench.reports.formatting import hides_faces

    class Named(StoredRun):
        @property
        def dataset(self):
            return dataset

    assert hides_faces(Named(world[0].path), asked) is hidden


def test_figures_survive_what_is_missing(world, tmp_path):
    """No private images, no curves, no floor, metrics that are null, one identity, one sample."""
    one = make_run(tmp_path / "one", "floor", 0.3, identities=2, samples=1, curves=False)
    assert one.metrics["coverage"].value is None
    assert len(write_figures(one, tmp_path / "figures", floor=one)) == 8
    assert len(write_tables(one, tmp_path / "tables")) == 8


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
