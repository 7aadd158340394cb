"""CelebA's private people with public images of another data set: crops, digests, and what cannot be checked."""

from __future__ import annotations

from pathlib import Path

import celebatree
import numpy as np
import pytest
import torch
from PIL import Image

from mibench.api import MibenchError
from mibench.data.datasets.celeba import CelebA
from mibench.data.datasets.celeba1000 import CelebA1000
from mibench.data.verify import verify


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    return celebatree.write(tmp_path / "celeba")


@pytest.fixture
def ffhq(tmp_path: Path) -> Path:
    root = tmp_path / "ffhq"
    for variant, side in (("thumbnails128x128", 128), ("images1024x1024", 1024)):
        (root / variant / "00000").mkdir(parents=True)
        for number in range(3):
            celebatree.picture(number, side, side).save(root / variant / "00000" / f"{number:05d}.png")
    return root


@pytest.fixture
def facescrub(tmp_path: Path) -> Path:
    root = tmp_path / "facescrub"
    for group, name, first in (("actors", "Zed", 0), ("actresses", "Ann", 10)):
        (root / group / "faces" / name).mkdir(parents=True)
        for number in range(first, first + 4):
            celebatree.picture(number, 64, 64).save(root / group / "faces" / name / f"{number}.png")
    return root


def by_hand(path: Path, crop: int, size: int) -> torch.Tensor:
    with Image.open(path) as opened:
        offset = (opened.width - crop) // 2
        part = opened.crop((offset, offset, offset + crop, offset + crop))
        return torch.from_numpy(np.array(part.resize((size, size), Image.Resampling.BILINEAR))).permute(2, 0, 1)


def made(folder: Path, other: Path, **settings: object) -> CelebA:
    chosen = {"lists": "given", "missing": "skip", "public_root": str(other), **settings}
    return CelebA(root=str(folder), **chosen)  # type: ignore[arg-type]


def test_ffhq_is_cropped_to_88_of_128(folder: Path, ffhq: Path) -> None:
    data = made(folder, ffhq, public_from="ffhq")
    public = data.public(64)
    assert len(public) == 3
    assert torch.equal(public.pixels[1], by_hand(ffhq / "thumbnails128x128" / "00000" / "00001.png", 88, 64))
    assert len(data.private("train", 64)) == 9
    uncropped = made(folder, ffhq, public_from="ffhq", public_crop="none")
    assert torch.equal(uncropped.public(64).pixels[1], by_hand(ffhq / "thumbnails128x128/00000/00001.png", 128, 64))
    digests = {data.digest, uncropped.digest, CelebA(root=str(folder), lists="given").digest}
    assert len(digests) == 3


def test_facescrub_is_cropped_to_54_of_64_or_not_at_all(folder: Path, facescrub: Path) -> None:
    """The released stages do not agree on the crop: which one was used is part of the digest."""
    cropped = made(folder, facescrub, public_from="facescrub")
    whole = made(folder, facescrub, public_from="facescrub", public_crop="none")
    path = facescrub / "actors" / "faces" / "Zed" / "0.png"
    assert len(cropped.public(64)) == len(whole.public(64)) == 8
    assert torch.equal(cropped.public(64).pixels[0], by_hand(path, 54, 64))
    assert torch.equal(whole.public(64).pixels[0], by_hand(path, 64, 64))
    assert cropped.digest != whole.digest
    assert cropped.people("public") == {"facescrub-Zed", "facescrub-Ann"}
    assert cropped.public(64).labels.tolist() == [-1] * 8
    cropped.check_disjoint()


def test_facescrub_of_another_size_is_refused_where_it_would_be_cropped(folder: Path, facescrub: Path) -> None:
    celebatree.picture(3, 90, 90).save(facescrub / "actors" / "faces" / "Zed" / "1.png")
    with pytest.raises(MibenchError, match=r"1\.png is 90x90, expected 64x64"):
        made(folder, facescrub, public_from="facescrub").public(64)
    assert len(made(folder, facescrub, public_from="facescrub", public_crop="none").public(64)) == 8


def test_the_public_list_is_not_wanted_where_public_images_come_from_elsewhere(folder: Path, ffhq: Path) -> None:
    (folder / "meta" / "ganset.txt").unlink()
    assert len(made(folder, ffhq, public_from="ffhq").public(32)) == 3
    with pytest.raises(MibenchError, match="public list"):
        made(folder, ffhq)


def test_a_set_that_is_not_there_is_said_before_any_work(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="ffhq is not complete at"):
        made(folder, tmp_path / "nowhere", public_from="ffhq")


def test_nobody_claims_that_people_of_two_sets_are_disjoint(folder: Path, facescrub: Path) -> None:
    settings = {"root": str(folder), "lists": "given", "public_from": "facescrub", "public_root": str(facescrub)}
    findings = verify(CelebA, settings, full=True)
    assert not [finding for finding in findings if finding.level == "wrong"]
    assert any("nobody can check that they are others" in finding.what for finding in findings)
    assert not any("nobody is on both sides" in finding.what for finding in findings)
    assert any("all 20 images decode" in finding.what for finding in findings), "12 private ones and 8 of FaceScrub"


def test_ffhq_for_224_pixels_is_taken_from_the_large_images(tmp_path: Path, home: Path, ffhq: Path) -> None:
    root = celebatree.write(tmp_path / "celeba1000", suffix="png", width=56, height=56)
    data = CelebA1000(root=str(root), classes=3, public_from="ffhq", public_root=str(ffhq), missing="skip")
    expected = by_hand(ffhq / "images1024x1024" / "00000" / "00000.png", 800, 224)
    assert torch.equal(data.public(224, 1).pixels[0], expected)
    assert len(data.private("train", 56)) == 10
