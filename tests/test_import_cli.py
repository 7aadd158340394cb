"""``mibench import`` as a person meets it: one line for every malformed input, exit 2, nothing written."""

from __future__ import annotations

import json
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CLASSES, backbone, gan, save, state, tree
from click.testing import CliRunner, Result
from torch import Tensor

from mibench.cli import cli

TARGET = ("--as", "target:vgg16@celeba")
Weights = dict[str, Tensor]


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture
def taken(home: Path, tmp_path: Path) -> Path:
    """A home that holds something already: an imported target, which no failure may touch."""
    done = call("import", save(tmp_path / "first.tar", state("vgg16", seed=9)), *TARGET)
    assert done.exit_code == 0, done.output
    return home


def written(folder: Path, content: bytes, name: str = "a.pth") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


class Evil:
    """Runs a command when it is unpickled the usual way."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def evil(folder: Path, legacy: bool) -> Path:
    path = folder / "IR152_91.16.tar"
    content = {"state_dict": state("vgg16"), "more": Evil(f"touch {folder / 'marker'}")}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def bomb(folder: Path) -> Path:
    torch.save({"w": torch.zeros(3_000_000)}, folder / "whole.pth")
    with (
        zipfile.ZipFile(folder / "whole.pth") as old,
        zipfile.ZipFile(folder / "a.pth", "w", compression=zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return folder / "a.pth"


def tarred(folder: Path) -> Path:
    inside = save(folder / "inner.pth", state("vgg16"))
    with tarfile.open(folder / "VGG16_88.26.tar", "w") as archive:
        archive.add(inside, "VGG16/inner.pth")
    return folder / "VGG16_88.26.tar"


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def without(key: str) -> Weights:
    return {k: v for k, v in state("vgg16").items() if k != key}


HTML = b"<!DOCTYPE html><title>Google Drive - Quota exceeded</title>"
MALFORMED: dict[str, tuple[Callable[[Path], list[Any]], str]] = {
    "no such file": (lambda d: [d / "none.tar", *TARGET], "No such file or directory"),
    "a folder": (lambda d: [d, *TARGET], "is a folder"),
    "empty": (lambda d: [written(d, b""), *TARGET], "is empty; download it again"),
    "quota page saved as .pth": (lambda d: [written(d, HTML), *TARGET], "the drive's quota page"),
    "evil pickle, zip": (lambda d: [evil(d, False), *TARGET], "asks for posix.system"),
    "evil pickle, legacy": (lambda d: [evil(d, True), *TARGET], "asks for posix.system"),
    "zip bomb": (lambda d: [bomb(d), *TARGET], "a zip bomb"),
    "cut off, legacy": (lambda d: [cut(save(d / "a.tar", state("vgg16")), 0.7), *TARGET], "download it again"),
    "cut off, zip": (
        lambda d: [cut(save(d / "a.pth", state("vgg16"), legacy=False), 0.7), *TARGET], "cut off or damaged"
    ),
    "really a tar": (lambda d: [tarred(d), *TARGET], "a real tar archive; unpack it first: it holds VGG16/inner.pth"),
    "safetensors of a lying header": (
        lambda d: [written(d, struct.pack("<Q", 2**50) + b'{"w":', "a.safetensors"), *TARGET], "its header claims 1.13e"
    ),
    "whole model": (
        lambda d: [(torch.save(torch.nn.Sequential(torch.nn.Linear(2, 2)), d / "a"), d / "a")[1], *TARGET],
        "a whole network as an object",
    ),
    "no weights in it": (lambda d: [(torch.save({"epoch": 3}, d / "a"), d / "a")[1], *TARGET], "holds no weights"),
    "another sha256": (
        lambda d: [written(d, b"not looked at"), *TARGET, "--sha256", "0" * 64], "another file: its sha256 is"
    ),
    "sha256 for half the files": (
        lambda d: [d / "a", d / "b", "--as", "prior:gmi@celeba", "--sha256", "0" * 64], "give one for each file"
    ),
    "swapped checkpoint": (
        lambda d: [save(d / "a", state("facenet64")), "--as", "target:vgg16@celeba+x"], "it is facenet64 at 64 pixels"
    ),
    "missing key": (lambda d: [save(d / "a", without("bn.weight")), *TARGET], "1 missing (bn.weight)"),
    "class count": (
        lambda d: [save(d / "a", state("vgg16")), "--as", "target:vgg16@synthfaces+x"], "have 5 classes, synthfaces has"
    ),
    "not a number": (
        lambda d: [save(d / "a", {**state("vgg16"), "fc_layer.bias": torch.full((CLASSES,), torch.nan)}), *TARGET],
        "fc_layer.bias is not finite",
    ),
    "name taken": (
        lambda d: [save(d / "a", state("vgg16", seed=1)), *TARGET], "is there already with other weights"
    ),
    "two files of one network": (
        lambda d: [save(d / "a", state("vgg16")), save(d / "b", state("vgg16")), *TARGET], "comes in one file, got 2"
    ),
    "generator without critic": (
        lambda d: [save(d / "a", gan("gmi")[0]), "--as", "prior:gmi@celeba"], "the critic of GMI is missing"
    ),
    "unknown setting": (
        lambda d: [save(d / "a", state("vgg16")), *TARGET, "--set", "import.sampl=1"], "unknown setting 'import.sampl'"
    ),
    "setting of another scope": (
        lambda d: [save(d / "a", state("vgg16")), *TARGET, "--set", "train.epochs=1"], "unknown scope 'train'"
    ),
    "unknown setting of the data set": (
        lambda d: [save(d / "a", state("vgg16")), "--as", "target:vgg16@synthfaces+x", "--set", "dataset.people=5"],
        "unknown setting 'dataset.people'",
    ),
    "data that was asked for and is not there": (
        lambda d: [save(d / "a", state("vgg16")), *TARGET, "--set", f"dataset.root={d / 'nowhere'}"],
        "celeba is not complete at",
    ),
    "a backbone is measured on nothing": (
        lambda d: [save(d / "a", backbone("ir50")), "--as", "backbone:ir50@ms1m", "--set", "dataset.root=x"],
        "a backbone is not measured",
    ),
    "accuracy as a share": (
        lambda d: [save(d / "a", state("vgg16")), *TARGET, "--reported", "0.91"], "in percent, such as 91.16; got 0.91"
    ),
    "unknown device": (lambda d: [save(d / "a", state("vgg16")), *TARGET, "--device", "tpu"], "unknown device 'tpu'"),
    "a name that leaves the folder": (
        lambda d: [save(d / "a", state("vgg16")), "--as", "target:vgg16@celeba+../../x"], "becomes part of file names"
    ),
    "no data set named": (
        lambda d: [save(d / "a", state("vgg16")), "--as", "target:vgg16"], "say what it was trained on"
    ),
    "judge as target": (
        lambda d: [save(d / "a", state("facenet112")), "--as", "target:facenet112@celeba"], "is a judge, no target"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_input_is_one_line_and_leaves_nothing(taken: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    make, message = MALFORMED[name]
    arguments = make(folder)
    before = tree(taken)
    done = call("import", *arguments)
    assert done.exit_code == 2, f"{done.output}\n{done.exception!r}"
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not done.stdout
    assert tree(taken) == before
    assert not (folder / "marker").exists(), "code from a file has run"


def test_the_card_is_told_and_json_is_json(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "VGG16_88.26.tar", state("vgg16"))
    done = call("import", path, *TARGET)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("vgg16@celeba: ")
    assert "test accuracy not measured: celeba is not complete" in done.stdout
    assert done.stdout.rstrip().endswith(str(home / "cards" / "vgg16_celeba.yaml"))
    again = json.loads(call("import", path, *TARGET, "--json").stdout)
    assert again["unchanged"] is True
    assert again["reported"]["test_accuracy"] == 0.8826
    assert "vgg16@celeba" in call("list", "weights").stdout
    assert "doubt" not in call("show", "card", "vgg16@celeba").stdout.lower()


def test_a_doubtful_accuracy_is_stored_marked_and_reported(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tar", state("vgg16"))
    small = [f"dataset.{name}={n}" for name, n in (("identities", CLASSES), ("train_images", 1), ("test_images", 13))]
    settings = [word for text in small for word in ("--set", text)]
    done = call("import", path, "--as", "target:vgg16@synthfaces+x", *settings, "--reported", "99.5")
    assert done.exit_code == 0, done.output
    assert "of 65 images, 99.50% reported" in done.stdout
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "likely cause" in warnings[0]
    shown = json.loads(call("show", "card", "vgg16@synthfaces+x", "--json").stdout)
    assert shown["measured"]["agrees_with_reported"] is False
    assert "Doubt:" in shown["notes"]
    assert "--set dataset.identities=5" in shown["recipe"]["command"].replace("'", "")


def test_every_key_of_a_misfit_is_in_the_json(home: Path, tmp_path: Path) -> None:
    weights = {k: v for k, v in state("vgg16").items() if not k.startswith("feature.4")}
    weights |= {f"odd.{number}": torch.zeros(1) for number in range(20)}
    done = call("import", save(tmp_path / "a.tar", weights), *TARGET, "--json")
    assert done.exit_code == 2
    found = json.loads(done.stdout)
    assert found["unexpected"] == sorted(f"odd.{number}" for number in range(20))
    assert found["missing"] == sorted(k for k in state("vgg16") if k.startswith("feature.4"))
    assert found["error"]["cause"] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not home.exists()


def test_an_imported_target_can_be_audited_by_name(home: Path, tmp_path: Path) -> None:
    """What was imported is found by the commands that use weights."""
    from mibench.weights import cards

    call("import", save(tmp_path / "a.tar", state("ir152")), "--as", "target:ir152@celeba")
    paths = [save(tmp_path / f"celeba_{n}.tar", w) for n, w in zip("GD", gan("gmi"), strict=True)]
    assert call("import", *paths, "--as", "prior:gmi@celeba").exit_code == 0
    assert cards.find("target", "ir152", "celeba").card().classes == CLASSES
    assert cards.find("prior", "gmi", "celeba").card().image.size == 64
    done = call("run", "--attack", "gmi", "--target", "ir152", "--dataset", "celeba")
    assert done.exit_code == 2
    assert "no trained weights for the target" not in done.stderr
    assert "no trained weights for the prior" not in done.stderr
    assert "celeba is not complete" in done.stderr
    assert "mibench import FILE --as judge:facenet112@celeba" in done.stderr


def test_an_output_that_cannot_be_written(home: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = call("import", save(tmp_path / "a.tar", state("vgg16")), *TARGET, "--output", tmp_path / "file")
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "choose another folder with --output" in done.stderr
    assert not home.exists()


def test_the_list_names_backbones(home: Path) -> None:
    listed = json.loads(call("list", "backbones", "--json").stdout)["backbones"]
    assert {"ir50", "ir152", "vgg16_bn"} <= {row["name"] for row in listed}
