"""CelebA's layout and preprocessing on a small fixture in its own format."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mibench.api import MibenchError
from mibench.data import celeba
from mibench.data.celeba import CelebA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three private people with three train images and one test image each, four public images of two others."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    (root / "meta").mkdir()
    generator = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"trainset": [], "testset": [], "ganset": []}
    people = []
    for number in range(1, 17):
        name = f"{number:06d}.jpg"
        coarse = generator.integers(0, 256, (7, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((178, 218), Image.Resampling.BICUBIC).save(
            root / "img_align_celeba" / name, quality=95
        )
        if number <= 12:
            label = (number - 1) // 4
            lists["testset" if number % 4 == 0 else "trainset"].append(f"{name} {label}")
            people.append(f"{name} {100 + label}")
        else:
            lists["ganset"].append(name)
            people.append(f"{name} {200 + number % 2}")
    for stem, lines in lists.items():
        (root / "meta" / f"{stem}.txt").write_text("\n".join(lines) + "\n")
    (root / "identity_CelebA.txt").write_text("\n".join(people) + "\n")
    return root


def test_images_and_identities(folder: Path) -> None:
    data = CelebA(root=str(folder), lists="given")
    assert data.num_classes == 3
    train = data.private("train", 64)
    assert train.pixels.shape == (9, 3, 64, 64)
    assert train.pixels.dtype == torch.uint8
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert train.identities[3] == "celeba-101"
    assert data.private("test", 64, [2]).labels.tolist() == [2]
    public = data.public(64, 3)
    assert public.labels.tolist() == [-1] * 3
    data.check_disjoint()
    assert data.people("private") == {"celeba-100", "celeba-101", "celeba-102"}
    assert data.people("public") == set(data.public(64).identities)


def test_a_person_on_both_sides_is_noticed(folder: Path) -> None:
    path = folder / "identity_CelebA.txt"
    path.write_text(path.read_text().replace("000016.jpg 200", "000016.jpg 101"))
    with pytest.raises(MibenchError, match=r"1 identities .* both private and public \(first: celeba-101\)"):
        CelebA(root=str(folder), lists="given").check_disjoint()


def test_the_crop_is_the_protocols(folder: Path) -> None:
    data = CelebA(root=str(folder), lists="given")
    with Image.open(folder / "img_align_celeba" / "000001.jpg") as opened:
        whole = np.array(opened.convert("RGB"))
    by_hand = Image.fromarray(whole[55:163, 35:143]).resize((64, 64), Image.Resampling.BILINEAR)
    assert torch.equal(data.private("train", 64).pixels[0].permute(1, 2, 0), torch.from_numpy(np.array(by_hand)))
    native = data.private("train", 108).pixels[0].permute(1, 2, 0)
    assert torch.equal(native, torch.from_numpy(whole[55:163, 35:143].copy()))


def test_everything_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path))
    with pytest.raises(MibenchError) as caught:
        CelebA()
    message = str(caught.value)
    for part in (
        "img_align_celeba",
        "identity_CelebA.txt",
        "trainset.txt",
        "testset.txt",
        "ganset.txt",
        "MIBENCH_DATA",
    ):
        assert part in message
    assert str(tmp_path / "celeba") in message
    assert "\n" not in message


def test_lists_of_ones_own_are_refused_unless_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MibenchError, match="not the released train list"):
        CelebA(root=str(folder))
    pinned = {
        role: (names, hashlib.sha256((folder / "meta" / names[0]).read_bytes()).hexdigest())
        for role, (names, _) in celeba.LISTS.items()
    }
    monkeypatch.setattr(celeba, "LISTS", pinned)
    assert CelebA(root=str(folder)).num_classes == 3


def test_other_names_of_the_lists_are_found(folder: Path) -> None:
    expected = CelebA(root=str(folder), lists="given").digest
    (folder / "meta" / "trainset.txt").rename(folder / "meta" / "private_train.txt")
    (folder / "meta" / "ganset.txt").rename(folder / "celeba_ganset.txt")
    assert CelebA(root=str(folder), lists="given").digest == expected


def test_a_missing_or_wrong_image_is_named(folder: Path) -> None:
    data = CelebA(root=str(folder), lists="given")
    Image.new("RGB", (100, 100)).save(folder / "img_align_celeba" / "000002.jpg")
    with pytest.raises(MibenchError, match=r"000002\.jpg is 100x100"):
        data.private("train", 64)
    (folder / "img_align_celeba" / "000002.jpg").write_bytes(b"not a jpeg")
    with pytest.raises(MibenchError, match=r"000002\.jpg cannot be read"):
        data.private("train", 64)


def test_an_absent_image_is_reported_before_any_work(folder: Path) -> None:
    (folder / "img_align_celeba" / "000007.jpg").unlink()
    with pytest.raises(MibenchError, match=r"lacks 1 of the 16 listed images \(first: 000007"):
        CelebA(root=str(folder), lists="given")


def test_the_digest_follows_the_lists(folder: Path) -> None:
    before = CelebA(root=str(folder), lists="given").digest
    path = folder / "meta" / "ganset.txt"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    assert CelebA(root=str(folder), lists="given").digest != before
