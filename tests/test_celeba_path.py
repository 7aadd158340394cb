"""The main job on a tree laid out like CelebA, by the commands of docs/data.md: verify, train, attack, judge again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mibench.cli import cli
from mibench.data.preview import BLOCKS, HEADING, MARGIN

TINY_TRAINING = ["--set", "train.width=0.0625", "--set", "train.epochs=1", "--device", "cpu"]
TINY_PRIOR = [
    f"--set=train.{name}={value}"
    for name, value in {
        "images": 64,
        "resolution": 16,
        "z_dim": 16,
        "w_dim": 16,
        "channel_base": 128,
        "channel_max": 16,
        "discriminator_base": 128,
        "discriminator_max": 16,
    }.items()
]


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five people in CelebA's files and formats."""
    root = tmp_path_factory.mktemp("data") / "celeba"
    call("data", "fixture", "celeba", "--output", root, "--people", 5, "--images", 10)
    return root


def test_verify_train_run_and_score_in_sequence(tree: Path, home: Path, tmp_path: Path) -> None:
    data = ["--set", f"dataset.root={tree}", "--set", "dataset.lists=given"]
    celeba = ["--dataset", "celeba", *data]

    report = json.loads(call("data", "verify", "celeba", "--root", tree, *data[2:], "--full", "--json").stdout)
    assert all(finding["level"] != "wrong" for finding in report["findings"])

    call("train", "target", "ir152", *celeba, *TINY_TRAINING)
    call("train", "judge", "facenet112", *celeba, *TINY_TRAINING)
    call("train", "prior", "stylegan2", *celeba, *TINY_PRIOR, "--device", "cpu")
    assert {path.stem for path in (home / "cards").glob("*.yaml")} == {
        "ir152_celeba",
        "facenet112_celeba",
        "stylegan2_celeba",
    }

    wanted = ["--attack", "dmmia", "--target", "ir152", *celeba, "--protocol", "celeba-smoke", "--device", "cpu"]
    wanted += ["--min-accuracy", "0"]  # an epoch of a tiny network
    found = json.loads(call("run", *wanted, "--output", tmp_path, "--json").stdout)
    metrics = found["metrics"]
    assert all(metrics[name]["value"] is not None for name in ("acc1", "knn_distance"))
    assert metrics["acc5"]["value"] is None  # of five people it could only be 1
    assert metrics["acc5"]["params"]["cannot_differ"]
    assert metrics["acc1"]["n"] == 3
    assert found["floor"]["metrics"]["acc1"]["value"] is not None
    assert not any((Path(found["path"]) / "images").glob("*")), "photographs are not laid out as pictures"

    again = json.loads(call("score", found["path"], "--device", "cpu", "--json").stdout)
    assert again["metrics"] == metrics


def test_a_preview_hides_faces_unless_asked(tree: Path, home: Path, tmp_path: Path) -> None:
    def colours(*flags: str) -> int:
        picture = tmp_path / "preview.png"
        data = ["--set", f"dataset.root={tree}", "--set", "dataset.lists=given"]
        call("data", "preview", "celeba", *data, "--people", 1, "--images", 1, "--output", picture, *flags)
        face = Image.open(picture).convert("RGB").crop((MARGIN, HEADING, MARGIN + 64, HEADING + 64))
        return len(face.getcolors(64 * 64) or ())

    assert colours() <= BLOCKS**2
    assert colours("--show-faces") > 500
