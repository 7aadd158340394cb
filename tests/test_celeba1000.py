"""PPA's protocol of CelebA: 1,000 people by rank, nine tenths by a published shuffle, stable when files are missing."""

from __future__ import annotations

from pathlib import Path

import celebatree
import numpy as np
import pytest
import torch
from PIL import Image

from mibench.api import MibenchError
from mibench.data.datasets.celeba1000 import CelebA1000
from mibench.data.datasets.celeba_split import frequent_split


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    return celebatree.write(tmp_path / "celeba1000", suffix="png", width=56, height=56)


def made(folder: Path, **settings: object) -> CelebA1000:
    return CelebA1000(root=str(folder), **{"classes": 3, **settings})  # type: ignore[arg-type]


def crowd() -> tuple[dict[str, int], list[str]]:
    """About 600 images of 40 people, and the order of the partition file, which is not that of the names."""
    generator = np.random.default_rng(0)
    people = {f"{number:06d}": int(generator.integers(1, 41) ** 2 % 97) for number in range(1, 601)}
    return people, [f"{number:06d}" for number in generator.permutation(600) + 1]


def reference(people: dict[str, int], order: list[str], classes: int) -> tuple[dict[str, int], dict[str, int]]:
    """The published split in other words: stable ranks, numpy's global generator, the first nine tenths."""
    targets = np.array([people[name] for name in order])
    values, first, counts = np.unique(targets, return_index=True, return_counts=True)
    ranked = [int(v) for _, _, v in sorted(zip(-counts, first, values, strict=True))][:classes]
    indices = [place for place, target in enumerate(targets) if target in ranked]
    state = np.random.get_state()  # noqa: NPY002 (the published code shuffles with the global generator)
    np.random.seed(42)  # noqa: NPY002
    np.random.shuffle(indices)  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    cut = int(0.9 * len(indices))

    def labelled(places: list[int]) -> dict[str, int]:
        return {order[place]: ranked.index(int(targets[place])) for place in places}

    return labelled(indices[:cut]), labelled(indices[cut:])


@pytest.mark.parametrize("classes", [2, 7, 20])
def test_the_split_is_the_published_one(classes: int) -> None:
    people, order = crowd()
    listed = frequent_split(people, order, classes=classes, public=100)
    train, test = reference(people, order, classes)
    assert {Path(row.name).stem: row.label for row in listed["train"]} == train
    assert {Path(row.name).stem: row.label for row in listed["test"]} == test
    assert len(listed["public"]) == 100
    private = {row.identity for row in listed["train"] + listed["test"]}
    assert not private & {row.identity for row in listed["public"]}


def test_the_published_counts_follow_from_the_published_total() -> None:
    """30,038 images of 1,000 people: 27,034 and 3,004."""
    people = {f"{n:06d}": n % 1000 for n in range(30_038)} | {"900000": 2000}
    listed = frequent_split(people, list(people), classes=1000, public=5)
    assert (len(listed["train"]), len(listed["test"]), len(listed["public"])) == (27_034, 3_004, 1)


def test_labels_are_ranks_and_ties_go_to_who_comes_first() -> None:
    people = {"a": 9, "b": 3, "c": 9, "d": 3, "e": 5, "f": 5, "g": 5, "h": 1}
    listed = frequent_split(people, ["h", "d", "a", "b", "c", "e", "f", "g"], classes=3, public=9)
    ranks = {row.identity: row.label for row in listed["train"] + listed["test"]}
    assert ranks == {"celeba-5": 0, "celeba-3": 1, "celeba-9": 2}


def test_images_at_the_size_of_the_protocol(folder: Path) -> None:
    data = made(folder)
    assert data.num_classes == 3
    train, test = data.private("train", 56), data.private("test", 56)
    assert len(train) == int(0.9 * 12)
    assert len(train) + len(test) == 12
    assert train.labels.tolist() == sorted(train.labels.tolist())
    first = data.picture(data._by_class["train"][0]).path
    with Image.open(first) as opened:
        assert torch.equal(train.pixels[0].permute(1, 2, 0), torch.from_numpy(np.array(opened)))
    assert first.suffix == ".png", "the lists say .jpg, the cropper writes .png"
    assert data.people("public") == {"celeba-200", "celeba-201"}
    data.check_disjoint()


def test_a_missing_file_moves_no_other(folder: Path) -> None:
    before = made(folder)
    digest = before.digest  # while the files are there: it is of their contents
    roles = {row.name: (role, row.label) for role in ("train", "test", "public") for row in before.rows(role)}
    for number in (2, 9):
        (folder / "img_align_celeba" / f"{number:06d}.png").unlink()
    with pytest.raises(MibenchError, match=r"lacks 2 of the 16 listed images .*000002\.jpg\); unpack .*missing=skip"):
        made(folder)
    after = made(folder, missing="skip")
    kept = {row.name: (role, row.label) for role in ("train", "test", "public") for row in after.rows(role)}
    assert len(kept) == 14
    assert kept == {name: place for name, place in roles.items() if name in kept}
    assert after.digest != digest


def test_the_aligned_release_is_refused_unless_a_crop_is_set(tmp_path: Path) -> None:
    folder = celebatree.write(tmp_path / "aligned")
    with pytest.raises(MibenchError, match=r"is 178x218: this protocol has square crops .* dataset\.crop=N"):
        made(folder)
    assert made(folder, crop=108).framing.crop == 108


def test_an_image_of_another_size_than_the_first_is_named(folder: Path) -> None:
    Image.new("RGB", (60, 60)).save(folder / "img_align_celeba" / "000016.png")
    with pytest.raises(MibenchError, match=r"000016\.png is 60x60, expected 56x56"):
        made(folder).public(32)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("list_eval_partition.txt", "000003.jpg 0", "000003.jpg", r"list_eval_partition\.txt line 3: expected"),
        ("list_eval_partition.txt", "000003.jpg 0", "000099.jpg 0", "names no identity for 000099"),
        ("list_eval_partition.txt", "000003.jpg", "000002.jpg", "000002.jpg stands there twice"),
        ("identity_CelebA.txt", "000003.jpg", "000033.jpg", "names no identity for 000003"),
    ],
)
def test_lists_that_contradict_each_other(folder: Path, file: str, old: str, new: str, message: str) -> None:
    path = folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(MibenchError, match=message):
        made(folder)


def test_too_few_people_are_refused(folder: Path) -> None:
    with pytest.raises(MibenchError, match=r"1000 private people were asked for, the identity file has 5"):
        made(folder, classes=1000)


def test_everything_missing_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MibenchError) as caught:
        made(tmp_path / "nowhere")
    for part in ("img_align_celeba", "identity_CelebA.txt", "list_eval_partition.txt", "mibench data verify"):
        assert part in str(caught.value)
