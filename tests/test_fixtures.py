"""Fixtures have the folders, names, formats and lists of the real sets; people of one side are not on the other."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mibench.cli import cli
from mibench.data.fixtures import writer
from mibench.data.fixtures.celeba import ATTRIBUTES
from mibench.data.fixtures.writer import KINDS, write_fixture
from mibench.errors import MibenchError

SMALL = {"people": 4, "images": 5}


def tree(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        picture.load()
        return picture.size


@pytest.mark.parametrize("name", sorted(KINDS))
def test_the_same_order_gives_the_same_bytes_and_another_seed_others(name: str, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_fixture(name, tmp_path / folder, people=3, images=3, seed=seed)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert tree(tmp_path / "a") != tree(tmp_path / "c")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"], "leftovers"
    note = (tmp_path / "a" / "FIXTURE.txt").read_text()
    assert f"This is not {name}" in note
    assert f"mibench data fixture {name} --people 3 --images 3" in note


def test_celeba_has_the_lists_of_the_real_one(tmp_path: Path) -> None:
    root = tmp_path / "celeba"
    written = write_fixture("celeba", root, people=4, images=10)
    files = sorted(path.name for path in (root / "img_align_celeba").iterdir())
    assert files == [f"{number:06d}.jpg" for number in range(1, len(files) + 1)]
    assert {size_of(path) for path in (root / "img_align_celeba").iterdir()} == {(178, 218)}
    identity = dict(line.split() for line in (root / "identity_CelebA.txt").read_text().splitlines())
    partition = dict(line.split() for line in (root / "list_eval_partition.txt").read_text().splitlines())
    assert list(identity) == list(partition) == files
    assert list(partition.values()) == sorted(partition.values()), "files are numbered by partition"
    assert len({(identity[name], partition[name]) for name in files}) == 12, "a person is in one partition"
    attributes = (root / "list_attr_celeba.txt").read_text().splitlines()
    assert attributes[0] == str(len(files))
    assert attributes[1].split() == list(ATTRIBUTES)
    assert len(ATTRIBUTES) == 40
    for name, line in zip(files, attributes[2:], strict=True):
        assert line.split()[0] == name
        assert len(line.split()) == 41
        assert set(line.split()[1:]) <= {"1", "-1"}
    for name, columns in (("list_landmarks_align_celeba.txt", 11), ("list_bbox_celeba.txt", 5)):
        lines = (root / name).read_text().splitlines()
        assert lines[0] == str(len(files))
        assert {len(line.split()) for line in lines[2:]} == {columns}

    train = [line.split() for line in (root / "meta" / "trainset.txt").read_text().splitlines()]
    test = [line.split() for line in (root / "meta" / "testset.txt").read_text().splitlines()]
    public = (root / "meta" / "ganset.txt").read_text().split()
    assert train == sorted(train, key=lambda row: (int(row[1]), row[0]))
    assert Counter(label for _, label in train).most_common()[-1][1] == 9, "nine train pictures and one test picture"
    assert {label for _, label in train} == {label for _, label in test} == {"0", "1", "2", "3"}
    assert sorted([name for name, _ in train + test] + public) == files
    private_people = {identity[name] for name, _ in train + test}
    assert len(private_people) == 4
    assert not private_people & {identity[name] for name in public}
    assert len({(identity[name], label) for name, label in train + test}) == 4, "a label is one person"
    counts = Counter(identity.values())
    assert min(counts[person] for person in private_people) > max(
        count for person, count in counts.items() if person not in private_people
    ), "private people are the most frequent ones"
    assert written.facts["private images"] == len(train) + len(test)


def test_celeba1000_has_cropped_pngs_and_no_lists(tmp_path: Path) -> None:
    write_fixture("celeba1000", tmp_path / "c", **SMALL)
    pictures = list((tmp_path / "c" / "img_align_celeba").iterdir())
    assert {path.suffix for path in pictures} == {".png"}
    assert size_of(pictures[0]) == (224, 224)
    assert not (tmp_path / "c" / "meta").exists()
    assert (tmp_path / "c" / "identity_CelebA.txt").read_text().startswith("000001.jpg ")


def test_ffhq_has_thumbnails_and_when_asked_large_pictures(tmp_path: Path) -> None:
    write_fixture("ffhq", tmp_path / "f", people=2, images=1, size=1024)
    for folder, side in (("thumbnails128x128", 128), ("images1024x1024", 1024)):
        files = sorted((tmp_path / "f" / folder / "00000").iterdir())
        assert [path.name for path in files] == ["00000.png", "00001.png"]
        assert size_of(files[1]) == (side, side)


def test_facescrub_has_two_groups_and_square_crops(tmp_path: Path) -> None:
    write_fixture("facescrub", tmp_path / "f", **SMALL)
    for group in ("actors", "actresses"):
        people = list((tmp_path / "f" / group / "faces").iterdir())
        assert len(people) == 2
        for person in people:
            sizes = [size_of(path) for path in person.iterdir()]
            assert len(sizes) == 5
            assert all(width == height for width, height in sizes)
            assert len(set(sizes)) > 1


def test_stanford_dogs_lists_are_read_as_the_real_ones_are(tmp_path: Path) -> None:
    from scipy.io import loadmat

    root = tmp_path / "dogs"
    write_fixture("stanford_dogs", root, people=4, images=9)
    everything = []
    for part in ("train_list", "test_list"):
        content = loadmat(root / f"{part}.mat")
        names = [cell[0][0] for cell in content["file_list"]]
        assert [cell[0][0] + ".jpg" for cell in content["annotation_list"]] == names
        assert content["labels"].shape == (len(names), 1)
        everything += list(zip(names, content["labels"][:, 0].tolist(), strict=True))
    whole = loadmat(root / "file_list.mat")
    assert sorted(name for name, _ in everything) == sorted(cell[0][0] for cell in whole["file_list"])
    assert {label for _, label in everything} == {1, 2, 3, 4}, "labels count from 1"
    boxes: Counter[int] = Counter()
    for name, _ in everything:
        text = (root / "Annotation" / name.removesuffix(".jpg")).read_text()
        assert text.startswith("<annotation>")
        width, height = size_of(root / "Images" / name)
        assert f"<width>{width}</width>" in text
        assert f"<height>{height}</height>" in text
        boxes[text.count("<bndbox>")] += 1
    assert set(boxes) == {1, 2}, "some pictures show two dogs"
    assert any("-" in folder.name.partition("-")[2] for folder in (root / "Images").iterdir()), "a hyphen in a breed"


def test_a_face_sits_in_the_crop(tmp_path: Path) -> None:
    """The middle of the crop differs from its corners as skin does from a wall, in nearly every picture."""
    write_fixture("celeba", tmp_path / "c", people=4, images=4)
    apart = []
    for path in (tmp_path / "c" / "img_align_celeba").iterdir():
        with Image.open(path) as picture:
            crop = np.asarray(picture.crop((35, 55, 143, 163)), dtype=np.float64)
        middle, corner = crop[45:75, 40:70].mean((0, 1)), crop[:14, :14].mean((0, 1))
        apart.append(float(np.abs(middle - corner).max()))
    assert np.mean(np.array(apart) > 20) > 0.9


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    out = tmp_path / "a b" / "folder"
    arguments = ["data", "fixture", "folder", "--output", str(out), "--people", "2", "--images", "2", "--size", "32"]
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    record: dict[str, Any] = json.loads(done.stdout)
    assert record["fixture"] is True
    assert record["files"] == {"jpg": 2 * 2 + 4 * 1, "txt": 1}
    assert record["settings"] == [f"dataset.root={out}"]
    assert record["next"][0] == f"mibench data verify folder --set 'dataset.root={out}'"
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 2
    assert "is not an empty folder" in again.stderr
    assert len(again.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("celebs", {}, "unknown fixture 'celebs'; did you mean 'celeba'"),
        ("celeba", {"size": 64}, "have one size; drop --size"),
        ("ffhq", {"size": 256}, "come in 128 or 1024 pixels, not 256"),
        ("celeba", {"images": 1}, "needs --images 2 or more"),
        ("facescrub", {"people": 1}, "ask for --people 2 or more"),
        ("stanford_dogs", {"people": 121}, "names for 120 breeds"),
    ],
)
def test_an_order_that_makes_no_sense_writes_nothing(
    name: str, options: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(MibenchError, match=message):
        write_fixture(name, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = writer.Tree.picture
    taken = []

    def picture(self: writer.Tree, name: str, image: Image.Image) -> None:
        taken.append(name)
        if len(taken) > 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        stored(self, name, image)

    monkeypatch.setattr(writer.Tree, "picture", picture)
    with pytest.raises(MibenchError, match="No space left on device"):
        write_fixture("afhq", tmp_path / "out", people=6, images=1)
    assert not list(tmp_path.iterdir())
