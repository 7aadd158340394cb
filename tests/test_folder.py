"""Own data: which class a folder is, which images are held out, who is on both sides, and what is no image at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mibench.data.datasets.class_folders import hold_out
from mibench.data.datasets.class_order import class_order
from mibench.data.datasets.folder import Folder
from mibench.data.duplicate_files import copies
from mibench.data.fixtures.writer import write_fixture
from mibench.data.verify import verify
from mibench.errors import MibenchError


def people(root: Path, names: Sequence[str], images: int = 4, seed: int = 0) -> Path:
    """A folder for each name, with noise that no other call makes."""
    generator = np.random.default_rng([seed, len(str(root))])
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def made(root: Path, **settings: object) -> Folder:
    return Folder(root=str(root), **settings)  # type: ignore[arg-type]


def test_numbers_are_classes_and_never_places_in_a_sorted_list(tmp_path: Path) -> None:
    split = made(people(tmp_path, [str(number) for number in range(12)]))
    assert split.class_names == tuple(str(number) for number in range(12))
    for row in split.rows("train"):
        assert row.label == int(row.name.split("/")[0]), "0, 1, 10, 11, 2 is the trap"
    padded = made(people(tmp_path / "padded", [f"{number:03d}" for number in range(11)]))
    assert padded.class_names[10] == "010"


def test_numbers_with_gaps_are_refused_with_both_cures(tmp_path: Path) -> None:
    people(tmp_path, ["3", "20", "100"])
    with pytest.raises(MibenchError, match=r"not 0 to 2 \(there is no 0\).*labels=sorted.*classes=classes\.txt"):
        made(tmp_path)
    assert made(tmp_path, labels="sorted").class_names == ("3", "20", "100")
    assert made(tmp_path, labels="imagefolder").class_names == ("100", "20", "3")
    (tmp_path / "classes.txt").write_text("20\n100\n3\n")
    listed = made(tmp_path, classes="classes.txt")
    assert listed.class_names == ("20", "100", "3")
    assert {row.label for row in listed.rows("train") if row.name.startswith("100/")} == {1}
    assert len({split.digest for split in (listed, made(tmp_path, labels="sorted"))}) == 2


@pytest.mark.parametrize(
    ("folders", "listed", "message"),
    [
        (["1", "01"], None, "two folders are the class 1"),
        (["1", "2"], None, r"not 0 to 1 \(there is no 0\)"),
        (["0", "2"], None, r"there is no 1"),
        ([], None, "there is no folder of a person"),
        (["a", "b"], ["a"], r"1 folders are not in the file of classes \(first: 'b'\)"),
        (["a"], ["a", "b"], r"1 classes of the file have no folder \(first: 'b'\)"),
        (["a"], ["a", "a"], "names a twice"),
    ],
)
def test_an_order_in_doubt_is_refused(folders: list[str], listed: list[str] | None, message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        class_order(folders, "names", listed)


def test_names_are_sorted_as_text(tmp_path: Path) -> None:
    assert made(people(tmp_path, ["bob", "Anna", "zoe", "10"])).class_names == ("10", "Anna", "bob", "zoe")


def test_digits_of_other_scripts_are_names() -> None:
    assert class_order(["²", "1"], "names", None) == ("1", "²")


def test_test_images_are_held_out_by_file_name(tmp_path: Path) -> None:
    people(tmp_path, ["anna", "bob", "cy"], images=20)
    split = made(tmp_path)
    before = {row.name: role for role in ("train", "test") for row in split.rows(role)}  # type: ignore[arg-type]
    for role in ("train", "test"):
        assert {row.label for row in split.rows(role)} == {0, 1, 2}  # type: ignore[arg-type]
    gone = next(name for name, role in before.items() if role == "train")
    (tmp_path / gone).unlink()
    after = {row.name: role for role in ("train", "test") for row in made(tmp_path).rows(role)}  # type: ignore[arg-type]
    assert after == {name: role for name, role in before.items() if name != gone}
    moved = tmp_path.parent / f"{tmp_path.name}-moved" / "private"
    shutil.copytree(tmp_path, moved)
    there = {row.name: role for role in ("train", "test") for row in made(moved.parent).rows(role)}  # type: ignore[arg-type]
    assert there == {f"private/{name}": role for name, role in after.items()}, "wherever the folder lies"


@pytest.mark.parametrize("share", [0.001, 0.2, 0.999])
@pytest.mark.parametrize("count", [2, 3, 30])
def test_at_least_one_is_held_out_and_at_least_one_is_not(share: float, count: int) -> None:
    names = [f"x/{number}.jpg" for number in range(count)]
    out = hold_out(names, share, "salt")
    assert 1 <= len(out) < count
    assert out <= set(names)
    assert out == hold_out(names[::-1], share, "salt")


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0])
def test_a_share_that_is_none_is_refused(share: float, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="test_share must lie between 0 and 1"):
        made(people(tmp_path, ["a", "b"]), test_share=share)


def test_the_layout_of_other_suites(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(11)]
    for part, seed in (("private_train", 1), ("private_test", 2), ("public", 3)):
        people(tmp_path / part, numbers, images=2, seed=seed)
    split = made(tmp_path)
    assert {row.label for row in split.rows("test") if "/10/" in row.name} == {10}
    assert all(row.name.startswith("private_train/") for row in split.rows("train"))
    assert split.public_count() == 22
    split.check_disjoint()  # 3 of private_train and 3 of public are numbers, not one person
    (tmp_path / "private_test").rename(tmp_path / "elsewhere")
    with pytest.raises(MibenchError, match=r"has private_train/ but no private_test/"):
        made(tmp_path)


def test_train_and_test_hold_the_same_people(tmp_path: Path) -> None:
    people(tmp_path / "train", ["anna", "bob"], seed=1)
    people(tmp_path / "test", ["anna", "bob"], images=1, seed=2)
    split = made(tmp_path)
    assert len(split.rows("train")) == 8
    assert len(split.rows("test")) == 2
    assert split.people("private") == {"folder-anna", "folder-bob"}
    shutil.rmtree(tmp_path / "test" / "bob")
    with pytest.raises(MibenchError, match="do not hold the same people: bob"):
        made(tmp_path)


def test_the_fixture_has_private_and_public_people(tmp_path: Path) -> None:
    write_fixture("folder", tmp_path / "f", people=3, images=4, size=32)
    split = made(tmp_path / "f")
    assert split.num_classes == 3
    assert split.public_count() == 12
    assert len(split.people("public")) == 6
    split.check_disjoint()
    assert split.public(24).pixels.shape == (12, 3, 24, 24)


@pytest.mark.parametrize("nested", [False, True])
def test_public_images_may_lie_elsewhere_flat_or_nested(nested: bool, tmp_path: Path) -> None:
    people(tmp_path / "staff", ["anna", "bob"])
    people(tmp_path / "others", ["." if not nested else "carl"], images=3, seed=5)
    split = made(tmp_path / "staff", public_root=str(tmp_path / "others"))
    assert len(split.public(16)) == 3
    assert split.people("public") == (
        {"folder-carl"} if nested else {f"folder-public/{number}.png" for number in range(3)}
    )


def test_a_public_folder_inside_the_root_is_no_person(tmp_path: Path) -> None:
    people(tmp_path, ["anna", "bob"])
    people(tmp_path / "visitors", ["carl"], seed=9)
    split = made(tmp_path, public_root=str(tmp_path / "visitors"))
    assert split.class_names == ("anna", "bob")
    with pytest.raises(MibenchError, match="private images cannot be the public ones"):
        made(tmp_path, public_root=str(tmp_path))
    with pytest.raises(MibenchError, match="is no folder"):
        made(tmp_path, public_root=str(tmp_path / "nowhere"))


def test_a_person_on_both_sides_is_refused_by_name(tmp_path: Path) -> None:
    people(tmp_path / "private", ["anna", "bob"], seed=1)
    people(tmp_path / "public", ["bob"], seed=2)
    with pytest.raises(MibenchError, match=r"1 identities .* both private and public \(first: folder-bob\)"):
        made(tmp_path).check_disjoint()
    assert any(finding.level == "wrong" for finding in verify(Folder, {"root": str(tmp_path)}))


def test_a_picture_on_both_sides_is_refused_by_content(tmp_path: Path) -> None:
    people(tmp_path / "private", ["anna", "bob"], seed=1)
    people(tmp_path / "public", ["carl"], seed=2)
    made(tmp_path).check_disjoint()
    shutil.copy(tmp_path / "private" / "bob" / "2.png", tmp_path / "public" / "carl" / "renamed.png")
    with pytest.raises(MibenchError, match=r"1 public files .* are copies of private ones .*renamed\.png.*bob/2\.png"):
        made(tmp_path).check_disjoint()
    wrong = [finding for finding in verify(Folder, {"root": str(tmp_path)}) if finding.level == "wrong"]
    assert len(wrong) == 1
    assert "copies of private ones" in wrong[0].what


def test_copies_read_only_files_of_equal_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mibench.data import content_hashes as module

    for name, content in (("a", b"one"), ("b", b"four"), ("c", b"two"), ("d", b"one")):
        (tmp_path / name).write_bytes(content)
    read = []
    hashed = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda key: read.append(Path(os.fsdecode(key)).name) or hashed(key))
    assert copies([tmp_path / "a", tmp_path / "b"], [tmp_path / "c", tmp_path / "d"]) == [
        (str(tmp_path / "a"), str(tmp_path / "d"))
    ]
    assert sorted(read) == ["a", "c", "d"]


def test_a_test_image_that_was_trained_on_is_a_note(tmp_path: Path) -> None:
    people(tmp_path / "train", ["a", "b"], seed=1)
    people(tmp_path / "test", ["a", "b"], seed=2)
    shutil.copy(tmp_path / "train" / "a" / "0.png", tmp_path / "test" / "a" / "1.png")
    notes = [finding.what for finding in verify(Folder, {"root": str(tmp_path)}) if finding.level == "note"]
    assert any("1 test files are copies of train files" in what for what in notes)


def test_files_without_an_image_are_passed_over_and_listed(tmp_path: Path) -> None:
    people(tmp_path, ["anna", "bob"])
    before = made(tmp_path).digest
    (tmp_path / ".git").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "anna" / ".hidden.jpg").write_bytes(b"x")
    (tmp_path / "anna" / "data.csv").write_text("x")
    split = made(tmp_path)
    assert split.digest == before
    said = " ".join(finding.what for finding in split.remarks())
    for part in ("hidden entries", "notes.txt", "data.csv"):
        assert part in said


def test_an_empty_person_and_a_single_image_are_refused(tmp_path: Path) -> None:
    people(tmp_path, ["anna", "bob"])
    (tmp_path / "carl").mkdir()
    with pytest.raises(MibenchError, match="carl has no image"):
        made(tmp_path)
    shutil.copy(tmp_path / "bob" / "0.png", tmp_path / "carl" / "0.png")
    with pytest.raises(MibenchError, match="carl has one image: a person needs two"):
        made(tmp_path)


def test_links_are_followed_unless_they_lead_nowhere_or_to_one_person(tmp_path: Path) -> None:
    store = people(tmp_path / "store", ["x", "y"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "anna").symlink_to(store / "x")
    (root / "bob").symlink_to(store / "y")
    assert len(made(root).private("train", 16)) + len(made(root).private("test", 16)) == 8
    (root / "eve").symlink_to(store / "x")
    with pytest.raises(MibenchError, match="anna, eve are links to one folder"):
        made(root)
    (root / "eve").unlink()
    (root / "fay").symlink_to(store / "gone")
    with pytest.raises(MibenchError, match="fay is a link that leads nowhere"):
        made(root)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "is empty|has no folder"),
        (lambda root: people(root, ["."]), "4 images but no folder"),
        (lambda root: people(root / "train", ["a", "b"]), r"has train/ but no test/.*dataset\.root=.*train"),
    ],
)
def test_a_folder_without_a_layout(prepare: object, message: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    prepare(root)  # type: ignore[operator]
    with pytest.raises(MibenchError, match=message) as caught:
        made(root)
    assert "\n" not in str(caught.value)


def test_a_file_of_classes_that_cannot_be_read(tmp_path: Path) -> None:
    people(tmp_path, ["a", "b"])
    with pytest.raises(MibenchError, match=r"cannot read the file of classes none\.txt"):
        made(tmp_path, classes="none.txt")
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MibenchError, match="not a text file"):
        made(tmp_path, classes="classes.txt")


def test_without_public_images_the_cures_are_named(tmp_path: Path) -> None:
    split = made(people(tmp_path, ["a", "b"]))
    assert split.public_count() == 0
    assert len(split.public(16, 0)) == 0
    with pytest.raises(MibenchError, match=r"no public images; put some .*public_root=FOLDER.*public_from=ffhq"):
        split.public(16)
    write_fixture("ffhq", tmp_path.parent / f"{tmp_path.name}-ffhq", people=2, images=1)
    other = made(tmp_path, public_from="ffhq", public_root=str(tmp_path.parent / f"{tmp_path.name}-ffhq"))
    assert len(other.public(16)) == 2
    people(tmp_path / "public", ["c"], seed=7)
    assert made(tmp_path).public_count() == 4
    assert made(tmp_path, public_from="none").public_count() == 0


def test_pictures_that_are_not_square(tmp_path: Path) -> None:
    people(tmp_path, ["a", "b"])
    for path in tmp_path.rglob("*.png"):
        Image.effect_noise((40, 20), 60).convert("RGB").save(path)
    squash, cover = made(tmp_path), made(tmp_path, square="cover")
    assert squash.digest != cover.digest
    row = squash.rows("train")[0]
    with Image.open(tmp_path / row.name) as picture:
        middle = np.array(picture.convert("RGB").crop((10, 0, 30, 20)))
    assert np.array_equal(cover.private("train", 20).pixels[0].permute(1, 2, 0).numpy(), middle)
