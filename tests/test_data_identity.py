"""What a data set is: the contents of its files. Other pixels under the same names are other data, everywhere."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import celebatree
import numpy as np
import pytest
import torch
from PIL import Image
from toyworld.data import ToyFaces

from mibench import registry
from mibench.api import Card, ImageSpec, WeightsFile
from mibench.audits.data import read_material
from mibench.audits.request import AuditRequest
from mibench.data.datasets.celeba import CelebA
from mibench.data.datasets.folder import Folder
from mibench.data.datasets.synthfaces import SynthFaces
from mibench.data.files import FileSplit
from mibench.data.fingerprint import what_changed
from mibench.data.fixtures.writer import write_fixture
from mibench.data.images import Framing, Picture
from mibench.data.pixels import load
from mibench.data.verify import verify
from mibench.errors import MibenchError
from mibench.system.progress import Reporter
from mibench.weights.same_data import check_same_data
from mibench.weights.training import Training, train

FIXTURES: dict[str, dict[str, Any]] = {
    "folder": {},
    "celeba": {"lists": "given"},
    "celeba1000": {"classes": 3},
    "facescrub": {"classes": 3},
    "stanford_dogs": {"classes": 3},
    "ffhq": {},
    "metfaces": {},
    "afhq": {},
}


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Every test has a ledger of its own."""


def people(root: Path, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    for name in ("train/ash", "train/birch", "test/ash", "test/birch", "public/cedar"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.bmp")  # one size, whatever the pixels
    return root


def repaint(path: Path) -> None:
    """Other pixels; name, size, times and inode stay as they were."""
    before = path.stat()
    with Image.open(path) as picture:
        pixels = 255 - np.asarray(picture.convert("RGB"))
    content = path.read_bytes()
    Image.fromarray(pixels).save(path, format=None if path.suffix != ".bmp" else "BMP")
    if path.suffix == ".bmp":
        assert len(content) == path.stat().st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def parts(digest: str) -> list[str]:
    return digest.split("-")


@pytest.mark.parametrize("name", FIXTURES)
def test_other_pixels_under_the_same_names_are_another_data_set(name: str, tmp_path: Path) -> None:
    write_fixture(name, tmp_path / "one", people=3, images=1 if name == "ffhq" else 4)
    kind: Any = registry.load("dataset", name)

    def made(root: Path) -> FileSplit:
        split: FileSplit = kind(root=str(root), **FIXTURES[name])
        return split

    before = made(tmp_path / "one")
    digest = before.digest
    assert re.fullmatch(r"[0-9a-f]{16}(-[0-9a-f]{8}){4}", digest)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert made(tmp_path / "copy").digest == digest, "two copies are one data set"
    role = "public" if before.num_classes == 0 else "test"
    repaint(before.picture(before.rows(role)[-1]).path)  # type: ignore[arg-type]
    after = made(tmp_path / "one").digest
    assert after != digest
    side = "public" if role == "public" else "private"
    assert what_changed(digest, after) == f"the {side} images have other contents"
    assert made(tmp_path / "copy").digest == digest


def test_public_pixels_of_another_data_set_count(tmp_path: Path) -> None:
    write_fixture("ffhq", tmp_path / "ffhq", people=2, images=1)
    people(tmp_path / "own")

    def digest() -> str:
        return Folder(root=str(tmp_path / "own"), public_from="ffhq", public_root=str(tmp_path / "ffhq")).digest

    before = digest()
    repaint(next((tmp_path / "ffhq").rglob("*.png")))
    assert what_changed(before, digest()) == "the public images have other contents"


def test_a_box_that_moved_is_another_data_set_unless_nobody_sees_boxes(tmp_path: Path) -> None:
    write_fixture("stanford_dogs", tmp_path / "dogs", people=3, images=4, size=32)
    kind: Any = registry.load("dataset", "stanford_dogs")
    digests = []
    for _ in range(2):
        digests.append([kind(root=str(tmp_path / "dogs"), classes=3, cropped=who).digest for who in ("judge", "never")])
        path = next(path for path in sorted((tmp_path / "dogs" / "Annotation").rglob("*")) if path.is_file())
        path.write_text(re.sub(r"<xmin>\d+</xmin>", "<xmin>0</xmin>", path.read_text(), count=1) + "\n")
    assert digests[0][0] != digests[1][0]
    assert digests[0][1] == digests[1][1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: repaint(root / "train" / "ash" / "0.bmp"), "the private images have other contents"),
        (lambda root: repaint(root / "public" / "cedar" / "0.bmp"), "the public images have other contents"),
        (lambda root: (root / "public" / "cedar").rename(root / "public" / "oak"), "other files are listed"),
        (lambda root: None, "the settings of the data set are others"),
    ],
)
def test_the_part_of_a_digest_that_changed_is_named(
    change: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    root = people(tmp_path / "own")
    before = Folder(root=str(root)).digest
    change(root)
    after = Folder(root=str(root), square="cover" if "settings" in said else "squash").digest
    assert what_changed(before, after).startswith(said)
    assert " and " not in what_changed(before, after)


def card(dataset: str = "folder", digest: str | None = None, measured: str | None = None) -> Card:
    return Card(
        name="vgg16@folder",
        kind="target",
        architecture="vgg16",
        dataset=dataset,
        image=ImageSpec(size=64),
        weights=WeightsFile("w.safetensors", "0" * 64, 1),
        classes=2,
        dataset_digest=digest,
        measured=None if measured is None else {"test_accuracy": 1.0, "dataset_digest": measured},
    )


def test_weights_of_other_images_are_refused_and_the_line_says_why(tmp_path: Path) -> None:
    root = people(tmp_path / "own")
    before = Folder(root=str(root)).digest
    check_same_data("target", card(digest=before), Folder(root=str(root)))
    repaint(root / "train" / "ash" / "0.bmp")
    now = Folder(root=str(root))
    with pytest.raises(MibenchError, match=r"another version of folder: the private images have other .*restore the"):
        check_same_data("target", card(digest=before), now)
    check_same_data("target", card(dataset="celeba", digest=before), now)
    check_same_data("target", card(), now)


def test_a_card_of_names_alone_is_refused_with_its_own_cure(tmp_path: Path) -> None:
    now = Folder(root=str(people(tmp_path / "own")))
    old = "44f1d3600cb6318a"
    with pytest.raises(
        MibenchError, match=r"by the names of the files alone.*; train it again: mibench train"
    ) as caught:
        check_same_data("target", card(digest=old), now)
    assert "drop the --set" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        MibenchError, match=r"measured on another version .* names of the files alone.*; import it again"
    ):
        check_same_data("target", card(measured=old), now)


def test_imported_weights_are_tied_to_the_private_images_that_measured_them(tmp_path: Path) -> None:
    root = people(tmp_path / "own")
    before = Folder(root=str(root)).digest
    repaint(root / "public" / "cedar" / "0.bmp")
    check_same_data("target", card(measured=before), Folder(root=str(root), square="cover"))
    repaint(root / "test" / "ash" / "0.bmp")
    with pytest.raises(MibenchError, match="measured on another version of folder when it was imported: the private"):
        check_same_data("target", card(measured=before), Folder(root=str(root)))


def test_a_made_world_has_the_digest_that_shipped_cards_carry() -> None:
    assert SynthFaces().digest == "44f1d3600cb6318a"
    check_same_data("target", dataclasses.replace(card(digest="44f1d3600cb6318a"), dataset="synthfaces"), SynthFaces())
    with pytest.raises(MibenchError, match="digest d1, here 44f1d3600cb6318a"):
        check_same_data("target", dataclasses.replace(card(digest="d1"), dataset="synthfaces"), SynthFaces())


def test_decoded_pixels_are_of_the_contents_not_of_sizes_and_times(tmp_path: Path) -> None:
    """``rsync -t`` brings a picture of one size with the time of the old one."""
    root = people(tmp_path / "own")
    path = root / "train" / "ash" / "0.bmp"
    first = load([Picture(path)], 8, Framing()).clone()
    repaint(path)
    assert torch.equal(load([Picture(path)], 8, Framing()), 255 - first)


def test_lists_that_are_pinned_do_not_pin_pixels(tmp_path: Path) -> None:
    """The lists of CelebA are known by hash; the files that they name may be of any release."""
    folder = celebatree.write(tmp_path / "celeba")
    before = CelebA(root=str(folder), lists="given").digest
    repaint(folder / "img_align_celeba" / "000001.jpg")
    after = CelebA(root=str(folder), lists="given").digest
    assert [one == other for one, other in zip(parts(before), parts(after), strict=True)] == [
        False, False, True, True, True,
    ]  # fmt: skip


def test_a_stored_run_of_other_data_is_not_scored_again_nor_taken_for_done(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mibench
    from mibench.results import StoredRun
    from mibench.runs import run

    def toy_run() -> StoredRun:
        return mibench.run(
            "toyattack", target="toynet", dataset="toyfaces", protocol="toy", out=tmp_path / "runs", device="cpu"
        )

    for path in (toy / "cards").glob("*.yaml"):  # as those of imported weights, which are tied to no digest
        lines = [line for line in path.read_text().splitlines() if not line.startswith("dataset_digest")]
        path.write_text("\n".join(lines) + "\n")
    found = toy_run()
    assert toy_run().reused
    before = ToyFaces().digest
    monkeypatch.setattr(ToyFaces, "digest", property(lambda split: "others"))
    with pytest.raises(MibenchError, match=rf"another version of toyfaces: digest {before}, here others; restore"):
        run.rescore(found.path, "cpu")
    other = toy_run()
    assert not other.reused
    assert other.path != found.path


def test_an_audit_says_what_it_does_not_use(tmp_path: Path) -> None:
    root = people(tmp_path / "own")
    shutil.copytree(root / "test", root / "val")
    material = read_material(AuditRequest(model="x:y", data=root, public=root / "public"))
    assert material.unused == ("val/ is not used: images are taken from train/ and test/ only",)


def test_a_training_says_what_it_does_not_use_before_it_begins(tmp_path: Path) -> None:
    root = people(tmp_path / "own")
    shutil.copytree(root / "test", root / "val")

    class Said(Exception):
        pass

    class Listener(Reporter):
        def say(self, text: str) -> None:
            raise Said(text)

    training = Training(
        kind="target",
        architecture="vgg16",
        dataset="folder",
        settings={"dataset": {"root": str(root)}, "train": {"width": 0.0625, "epochs": 1}},
    )
    with pytest.raises(Said, match="val/ is not used"):
        train(training, device="cpu", reporter=Listener())


def test_a_run_says_what_it_does_not_use_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from mibench.runs import run
    from mibench.runs.attack import Execution
    from mibench.runs.request import RunRequest

    root = people(tmp_path / "own")
    shutil.copytree(root / "test", root / "val")
    picture = next((root / "train").rglob("*.*"))
    shutil.copy(picture, picture.with_suffix(".gif"))

    class Said(Exception):
        pass

    class Listener(Reporter):
        def say(self, text: str) -> None:
            raise Said(text)

    plan = SimpleNamespace(dataset=Folder(root=str(root)), spec=SimpleNamespace(dataset="folder"))
    monkeypatch.setattr(run, "make_plan", lambda request: plan)
    machine = Execution(torch.device("cpu"), reporter=Listener())
    with pytest.raises(Said, match=r"data set folder: val/ is not used: .*; 1 .gif files.* passed over"):
        run.run_request(RunRequest(), tmp_path / "runs", machine)


def test_verify_ends_with_the_digest(tmp_path: Path) -> None:
    root = people(tmp_path / "own")
    found = verify(Folder, {"root": str(root)})
    assert found[-1].what == f"digest of the contents: {Folder(root=str(root)).digest}"
    next((root / "train").rglob("*.*")).write_bytes(b"")
    assert "digest" not in verify(Folder, {"root": str(root)}, full=True)[-1].what
