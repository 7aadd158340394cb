"""CelebA's layout, lists and preprocessing at 64 pixels, on a small tree in its own format; every trap of the lists."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import celebatree
import numpy as np
import pytest
import torch
from PIL import Image

from mibench.api import MibenchError
from mibench.data.datasets import celeba
from mibench.data.datasets.celeba import CelebA
from mibench.data.datasets.celeba_split import rebuilt_split


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    return celebatree.write(tmp_path / "celeba")


def given(folder: Path, **settings: object) -> CelebA:
    return CelebA(root=str(folder), lists="given", **settings)  # type: ignore[arg-type]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_images_and_identities(folder: Path) -> None:
    data = given(folder)
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
    with pytest.raises(MibenchError, match="4 public images, 5 were asked"):
        data.public(64, 5)
    with pytest.raises(MibenchError, match="no class 7 among its train images"):
        data.private("train", 64, [1, 7])


def test_some_classes_are_the_same_images_as_among_all(folder: Path) -> None:
    data = given(folder)
    everything, some = data.private("train", 32), data.private("train", 32, [2, 0])
    assert some.labels.tolist() == [0, 0, 0, 2, 2, 2]
    assert torch.equal(some.pixels, everything.pixels[[0, 1, 2, 6, 7, 8]])


def test_a_person_on_both_sides_is_noticed(folder: Path) -> None:
    edit(folder / "identity_CelebA.txt", "000016.jpg 200", "000016.jpg 101")
    with pytest.raises(MibenchError, match=r"1 identities .* both private and public \(first: celeba-101\)"):
        given(folder).check_disjoint()


def test_the_crop_is_the_protocols(folder: Path) -> None:
    data = given(folder)
    with Image.open(folder / "img_align_celeba" / "000001.jpg") as opened:
        whole = np.array(opened.convert("RGB"))
    by_hand = Image.fromarray(whole[55:163, 35:143]).resize((64, 64), Image.Resampling.BILINEAR)
    assert torch.equal(data.private("train", 64).pixels[0].permute(1, 2, 0), torch.from_numpy(np.array(by_hand)))
    for_judge = Image.fromarray(whole[55:163, 35:143]).resize((112, 112), Image.Resampling.BILINEAR)
    judged = data.private("train", 112).pixels[0].permute(1, 2, 0)
    assert torch.equal(judged, torch.from_numpy(np.array(for_judge))), "the judge's images are of the file, not of 64"
    native = data.private("train", 108).pixels[0].permute(1, 2, 0)
    assert torch.equal(native, torch.from_numpy(whole[55:163, 35:143].copy()))


def test_everything_missing_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path))
    (tmp_path / "celeba").mkdir()
    with pytest.raises(MibenchError) as caught:
        CelebA()
    message = str(caught.value)
    parts = ("img_align_celeba", "identity_CelebA.txt", "trainset.txt", "testset.txt", "ganset.txt", "MIBENCH_DATA")
    for part in parts:
        assert part in message
    assert str(tmp_path / "celeba") in message
    assert "\n" not in message


def test_the_pinned_lists_are_the_released_ones() -> None:
    """The sha256 of celeba_trainset.txt, celeba_testset.txt and celeba_ganset.txt as PLG-MI ships them."""
    pinned = {role: sha256 for role, (_, sha256) in celeba.LISTS.items()}
    assert pinned == {
        "train": "fd758026dab640c7217797f12e713436b23278087ffd2a70e88a7255259eabf7",
        "test": "b67ef7f4770fa3606817392f01ae185f1534c38243987928ab881464cb09c434",
        "public": "1c2173015bfb2951b117eeb766b4da310be9b82bddf8801b8b531bf80e6b8f49",
    }
    assert (celeba.CLASSES, celeba.PUBLIC) == (1000, 30_000)


def pin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the lists of a folder the released ones."""
    pinned = {
        role: (names, hashlib.sha256((folder / "meta" / names[0]).read_bytes()).hexdigest())
        for role, (names, _) in celeba.LISTS.items()
    }
    monkeypatch.setattr(celeba, "LISTS", pinned)


def test_lists_of_ones_own_are_refused_unless_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MibenchError, match="not the released train list"):
        CelebA(root=str(folder))
    pin(folder, monkeypatch)
    assert CelebA(root=str(folder)).num_classes == 3


def test_a_released_list_in_another_form_is_the_released_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line ends of Windows, names in .png (KEDMI's), and public lists that carry labels (another suite's)."""
    pin(folder, monkeypatch)
    expected = CelebA(root=str(folder)).digest
    train, public = folder / "meta" / "trainset.txt", folder / "meta" / "ganset.txt"
    train.write_bytes(train.read_bytes().replace(b"\n", b"\r\n"))
    edit(folder / "meta" / "testset.txt", ".jpg", ".png")
    public.write_text("".join(f"{line} 77\n" for line in public.read_text().splitlines()))
    assert CelebA(root=str(folder)).digest == expected
    edit(train, "000001.jpg 0", "000001.jpg 1")
    with pytest.raises(MibenchError, match="not the released train list"):
        CelebA(root=str(folder))


def test_other_names_and_folders_of_the_release_are_recognised(folder: Path) -> None:
    expected = given(folder).digest
    (folder / "meta" / "trainset.txt").rename(folder / "meta" / "private_train.txt")
    (folder / "meta" / "ganset.txt").rename(folder / "celeba_ganset.txt")
    (folder / "Anno").mkdir()
    (folder / "identity_CelebA.txt").rename(folder / "Anno" / "identity_CelebA.txt")
    (folder / "Img").mkdir()
    (folder / "img_align_celeba").rename(folder / "Img" / "img_align_celeba")
    assert given(folder).digest == expected


@pytest.mark.parametrize(("files", "listed"), [("png", "jpg"), ("jpg", "png"), ("png", "png")])
def test_labels_stay_with_their_images_whatever_the_suffix(tmp_path: Path, home: Path, files: str, listed: str) -> None:
    """The older loaders skip names that do not end in .png but keep their labels: everything is then off by some."""
    jpeg = given(celebatree.write(tmp_path / "jpg")).private("train", 64)
    other = given(celebatree.write(tmp_path / "other", suffix=files, listed=listed)).private("train", 64)
    assert other.labels.tolist() == jpeg.labels.tolist()
    assert other.identities == jpeg.identities
    differences = (other.pixels.float() - jpeg.pixels.float()).abs().mean(dim=(1, 2, 3))
    assert (
        differences.max() < 3
    )  # JPEG's loss; two different images of the tree differ by far more, as the next line says
    assert (jpeg.pixels[0].float() - jpeg.pixels[1].float()).abs().mean() > 20


def test_jpeg_and_png_are_different_data(tmp_path: Path) -> None:
    digests = {given(celebatree.write(tmp_path / suffix, suffix=suffix)).digest for suffix in ("jpg", "png")}
    assert len(digests) == 2


def test_jpeg_wins_where_both_are(folder: Path) -> None:
    expected = given(folder).digest
    celebatree.picture(99, 178, 218).save(folder / "img_align_celeba" / "000001.png")
    data = given(folder)
    assert data.digest == expected
    assert data.picture(data.rows("train")[0]).path.name == "000001.jpg"


def test_a_wrong_image_is_named(folder: Path) -> None:
    data = given(folder)
    path = folder / "img_align_celeba" / "000002.jpg"
    Image.new("RGB", (100, 100)).save(path)
    with pytest.raises(MibenchError, match=r"000002\.jpg is 100x100, expected 178x218"):
        data.private("train", 64)
    path.write_bytes(b"not a jpeg")
    with pytest.raises(MibenchError, match=r"000002\.jpg is no image"):
        data.private("train", 64)


def test_an_absent_image_is_reported_before_any_work(folder: Path) -> None:
    (folder / "img_align_celeba" / "000007.jpg").unlink()
    with pytest.raises(MibenchError, match=r"lacks 1 of the 16 listed images \(first: img_align_celeba/000007"):
        given(folder)


def test_the_split_survives_a_missing_image(folder: Path) -> None:
    whole = given(folder)
    digest, before = whole.digest, whole.private("train", 32)
    (folder / "img_align_celeba" / "000006.jpg").unlink()
    data = given(folder, missing="skip")
    after = data.private("train", 32)
    kept = [row for row in range(9) if row != 4]  # the images of class 1 are 5, 6, 7; all others keep their place
    assert torch.equal(after.pixels, before.pixels[kept])
    assert after.labels.tolist() == before.labels[kept].tolist()
    assert data.num_classes == 3
    assert data.digest != digest
    for number in (5, 7):
        (folder / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    assert given(folder, missing="skip").num_classes == 3, "a class that lost its images keeps its number"


def test_the_digest_follows_the_lists_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = given(folder).digest
    assert given(celebatree.write(tmp_path / "copy")).digest == before
    edit(folder / "meta" / "ganset.txt", "000016.jpg\n", "")
    assert given(folder).digest != before


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("meta/trainset.txt", "000005.jpg 1", "000005.jpg 2", r"class 2 has two people|celeba-101 is in two classes"),
        ("meta/testset.txt", "000012.jpg 2", "000012.jpg 3", "class 3 of the test list has no train image"),
        ("meta/trainset.txt", "000005.jpg 1", "000005.jpg", r"trainset\.txt line 4: expected 'NNNNNN\.jpg LABEL'"),
        ("meta/trainset.txt", "000005.jpg 1", "000005.jpg -1", "line 4: expected"),
        ("meta/trainset.txt", "000005.jpg 1", f"000005.jpg {'9' * 5000}", "line 4: expected"),
        ("identity_CelebA.txt", "000003.jpg 100", f"000003.jpg {'9' * 5000}", "line 3: expected"),
        ("meta/trainset.txt", "000005.jpg", "000001.jpg", "000001.jpg stands twice in the train list"),
        ("meta/testset.txt", "000004.jpg", "000003.jpg", "stands in the train and the test list"),
        ("meta/ganset.txt", "000013.jpg", "000003.jpg", "stands in the train and the public list"),
        ("meta/ganset.txt", "000013.jpg", "000099.jpg", r"identity_CelebA\.txt names no identity for 000099"),
        ("identity_CelebA.txt", "000003.jpg 100", "000003.jpg", r"identity_CelebA\.txt line 3: expected"),
        ("identity_CelebA.txt", "000003.jpg", "000002.jpg", "000002.jpg stands there twice"),
        ("identity_CelebA.txt", "000003.jpg 100", "000003.jpg 102", "class 0 has two people"),
    ],
)
def test_lists_that_contradict_themselves(folder: Path, file: str, old: str, new: str, message: str) -> None:
    edit(folder / file, old, new)
    with pytest.raises(MibenchError, match=message) as caught:
        given(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("label", "lacking"), [(3, 1), (999_999_999, 999_999_997)])
def test_labels_with_a_gap_are_refused(folder: Path, label: int, lacking: int) -> None:
    for name in ("trainset.txt", "testset.txt"):
        edit(folder / "meta" / name, ".jpg 2", f".jpg {label}")
    with pytest.raises(MibenchError, match=rf"labels go up to {label} but {lacking} have no image \(first: 2\)"):
        given(folder)


def test_a_list_that_is_no_text_is_named(folder: Path) -> None:
    (folder / "meta" / "trainset.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(MibenchError, match=r"trainset\.txt: not a text file"):
        given(folder)


def test_a_prior_cannot_be_trained_on_the_private_list(folder: Path) -> None:
    """An example of another suite names the private train list as the public one."""
    text = (folder / "meta" / "trainset.txt").read_text()
    (folder / "meta" / "ganset.txt").write_text(text)
    with pytest.raises(MibenchError, match="stands in the train and the public list"):
        given(folder)


# --- the rebuilt split ---


def test_a_rebuilt_split_needs_no_lists(folder: Path) -> None:
    for path in (folder / "meta").iterdir():
        path.unlink()
    data = CelebA(root=str(folder), lists="rebuilt", classes=3)
    assert data.people("private") == {"celeba-100", "celeba-101", "celeba-102"}
    assert data.people("public") == {"celeba-200", "celeba-201"}
    data.check_disjoint()
    assert len(data.private("train", 16)) == 9
    assert len(data.public(16)) == 4
    assert data.details()["split"] == "rebuilt"
    assert any("split=rebuilt" in finding.what for finding in data.remarks())


def test_a_rebuilt_split_differs_from_the_lists_in_its_digest(folder: Path) -> None:
    assert CelebA(root=str(folder), lists="rebuilt", classes=3).digest != given(folder).digest


def release() -> dict[str, int]:
    """Images of 12 people: person ``p`` of 1 to 12 has 25 + p of them, dealt in turn."""
    turns = [(turn, person) for turn in range(40) for person in range(1, 13) if turn < 25 + person]
    return {f"{number:06d}": person for number, (_, person) in enumerate(turns, start=1)}


def test_the_rebuilt_split_is_that_of_the_specification() -> None:
    listed = rebuilt_split(release(), classes=6, public=40)
    people = {row.identity: row.label for row in listed["train"]}
    assert people == {f"celeba-{person}": person - 7 for person in range(7, 13)}, "most images; labels by number"
    assert Counter(row.label for row in listed["train"]) == dict.fromkeys(range(6), 27)
    assert Counter(row.label for row in listed["test"]) == {label: 5 + label for label in range(6)}
    assert len(listed["public"]) == 40
    assert not {row.identity for row in listed["public"]} & set(people)


def test_ties_go_to_the_smaller_number() -> None:
    people = {f"{n:06d}": person for n, person in enumerate([30, 30, 4, 4, 7, 7, 8], start=1)}
    listed = rebuilt_split(people, classes=2, public=5)
    assert {row.identity for row in listed["train"]} == {"celeba-4", "celeba-7"}


def test_the_settings_of_a_rebuilt_split_are_refused_elsewhere(folder: Path) -> None:
    with pytest.raises(MibenchError, match="follow from the lists"):
        given(folder, classes=3)
    with pytest.raises(MibenchError, match=r"5 private people were asked for, the identity file has 5"):
        CelebA(root=str(folder), lists="rebuilt", classes=5)
