"""Folders of people in layouts that are none, or not quite: what is there is said, and what is not used."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import celebatree
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from mibench.cli import cli
from mibench.data.checks import Finding
from mibench.data.datasets.celeba import CelebA
from mibench.data.datasets.folder import Folder
from mibench.data.directory_listing import is_folder, kind_of, real
from mibench.data.verify import verify
from mibench.errors import MibenchError


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Every test has a home of its own."""


def people(root: Path, *names: str, suffix: str = "png") -> Path:
    generator = np.random.default_rng(list(str(root).encode()))
    for name in names or ("ash", "birch"):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            pixels = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            pixels.save(root / name / f"{number}.png")
            (root / name / f"{number}.png").rename(root / name / f"{number}.{suffix}")
    return root


def look(root: Path, **settings: object) -> list[Finding]:
    return verify(Folder, {"root": str(root), **settings})


def wrong(root: Path, **settings: object) -> str:
    (found,) = [finding for finding in look(root, **settings) if finding.level == "wrong"]
    assert found.cure
    return f"{found.what} -> {found.cure}"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: people(root, suffix="gif"), r"ash has no image that is read .* but 3 \.gif files -> convert"),
        (lambda root: people(root, suffix="HEIC"), r"but 3 \.heic files"),
        (lambda root: people(root, suffix="csv"), r"ash has no image -> add some"),
        (
            lambda root: people(root / "photos" / "all"),
            r"photos has no image itself, they lie deeper, inside .*photos/all/ash .* dataset\.root=.*photos/all$",
        ),
        (lambda root: people(root / "photos"), r"photos has no image itself.* dataset\.root=\S+/photos$"),
        (
            lambda root: [people(root / name, "monday", "tuesday") for name in ("ash", "birch")],
            r"ash has no image itself.*inside .*ash/monday .* move the images of a person into the person's own folder",
        ),
        (
            lambda root: [people(root / part) for part in ("Train", "Test")],
            r"has Test/, which would be a person; .*lower case -> rename it to test/",
        ),
        (
            lambda root: [people(root / part) for part in ("training", "testing")],
            r"has testing/, .*called test/ -> rename it to test/",
        ),
        (lambda root: [people(root / part) for part in ("train", "validation")], r"validation/.*rename it to val/"),
        (lambda root: people(root, "ash", "birch", "Public"), r"has Public/, .* rename it to public/"),
        (lambda root: people(root / "test"), r"has test/ but no train/"),
        (lambda root: people(root / "private_test"), r"has private_test/ but no private_train/"),
        (lambda root: [root.mkdir(), (root / "people.zip").touch()], r"no folder, but people\.zip \(not unpacked\)"),
        (lambda root: people(root, ".", suffix="gif"), r"no folder, and 3 \.gif files, which are not read"),
        (
            lambda root: [people(root), people(root / "public", ".", suffix="tif")],
            r"public has no image, .* but 3 \.tif files, which are not read",
        ),
        (
            lambda root: [people(root), people(root / "public" / "a" / "b")],
            r"public has no image, .*some lie deeper, inside .*public/a/b/ash",
        ),
    ],
)
def test_a_folder_of_doubtful_layout_is_refused_with_what_it_holds(
    make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    import re

    make(tmp_path / "faces")
    found = wrong(tmp_path / "faces")
    assert re.search(said, found), found


def test_the_folder_that_is_named_as_a_cure_works(tmp_path: Path) -> None:
    people(tmp_path / "deep" / "faces" / "all")
    root = wrong(tmp_path / "deep").rpartition("dataset.root=")[2]
    assert not [finding for finding in look(Path(root)) if finding.level == "wrong"]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: people(root / "val"), "val/ is not used: images are taken from train/ and test/ only"),
        (lambda root: [people(root / "val"), people(root / "extra")], "extra/, val/ are not used"),
        (lambda root: people(root / "Public"), "Public/ is not used (the public images are in public/, in lower case)"),
        (lambda root: people(root, "."), "3 images beside train/ and test/ are not used (first: 0.png)"),
        (
            lambda root: (root / "train" / "ash" / "0.png").rename(root / "train" / "ash" / "0.GIF"),
            "1 .gif files, which are not read (JPEG, PNG, WEBP, BMP are), were passed over (first: 0.GIF)",
        ),
        (lambda root: os.mkfifo(root / "train" / "ash" / "4.png"), "1 pipes, sockets and devices were passed over"),
    ],
)
def test_unused_files_are_named(make: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    for part in ("train", "test"):
        people(tmp_path / "faces" / part)
    assert Folder(root=str(tmp_path / "faces")).unused() == []
    make(tmp_path / "faces")
    found = look(tmp_path / "faces")
    assert not [finding for finding in found if finding.level == "wrong"]
    assert any(said in finding.what for finding in found if finding.level == "note")
    assert any(said in line for line in Folder(root=str(tmp_path / "faces")).unused())


def test_private_and_public_leave_the_rest_unused(tmp_path: Path) -> None:
    for part in ("private", "public", "more"):
        people(tmp_path / part, *(["carl"] if part == "public" else []))
    assert Folder(root=str(tmp_path)).unused() == ["more/ is not used: images are taken from private/ only"]


def loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("place", ["ash/loop.png", "loop", "ash/loop", "public/loop.png", "public/loop", "train"])
@pytest.mark.parametrize("full", [[], ["--full"]])
def test_a_link_to_itself_is_named(place: str, full: list[str], tmp_path: Path) -> None:
    people(tmp_path / "faces")
    people(tmp_path / "faces" / "public", "carl")
    loop(tmp_path / "faces" / place)
    done = CliRunner().invoke(cli, ["data", "verify", "folder", "--root", str(tmp_path / "faces"), *full])
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert f"{place} cannot be read: Too many levels of symbolic links" in done.stdout


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        ("loop", "Too many levels"),
        ("n" * 300, "File name too long"),
        ("a\0b", "null"),
        ("~no-such-user/x", "home"),
    ],
)
def test_a_root_that_the_system_cannot_look_at(root: str, reason: str, tmp_path: Path) -> None:
    loop(tmp_path / "loop")
    place = root if root.startswith("~") else f"{tmp_path}/{root}"
    for settings in ({"root": place}, {"root": str(people(tmp_path / "faces")), "public_root": place}):
        (found,) = [finding for finding in verify(Folder, settings) if finding.level == "wrong"]
        assert reason in found.what
        assert found.cure


def test_a_person_may_be_called_as_the_folder(tmp_path: Path) -> None:
    people(tmp_path / "ash", "ash", "birch")
    assert not [finding for finding in look(tmp_path / "ash") if finding.level == "wrong"]
    people(tmp_path / "x" / "x")
    (tmp_path / "x" / ".DS_Store").touch()
    assert "lies one folder too deep" in wrong(tmp_path / "x")


def test_the_folder_itself_may_be_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(people(tmp_path / "faces"))
    assert not [finding for finding in look(Path()) if finding.level == "wrong"]


def test_a_link_to_itself_among_listed_files(tmp_path: Path) -> None:
    folder = celebatree.write(tmp_path / "celeba")
    (folder / "img_align_celeba" / "000001.jpg").unlink()
    loop(folder / "img_align_celeba" / "000001.jpg")
    found = verify(CelebA, {"root": str(folder), "lists": "given"}, full=True)
    (line,) = [finding.what for finding in found if finding.level == "wrong"]
    assert "000001.jpg" in line
    assert "Too many levels" in line
    with pytest.raises(MibenchError, match=r"000001\.jpg cannot be read: Too many levels"):
        _ = CelebA(root=str(folder), lists="given").digest
    (folder / "identity_CelebA.txt").unlink()
    loop(folder / "identity_CelebA.txt")
    found = verify(CelebA, {"root": str(folder), "lists": "given"})
    assert any("identity_CelebA.txt cannot be read" in finding.what for finding in found if finding.level == "wrong")


def test_links_up_the_tree_end(tmp_path: Path) -> None:
    """A folder that contains itself by a link is not walked for ever."""
    people(tmp_path / "faces" / "all")
    (tmp_path / "faces" / "all" / "ash" / "up").symlink_to(tmp_path / "faces")
    (tmp_path / "faces" / "a").mkdir()
    (tmp_path / "faces" / "a" / "up").symlink_to(tmp_path / "faces")
    assert "no image" in wrong(tmp_path / "faces")


def test_what_lies_at_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "to").symlink_to("file")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    kinds = {name: kind_of(tmp_path / name) for name in ("file", "to", "gone", "pipe", "absent", "file/x", ".")}
    assert kinds == {
        "file": "file", "to": "file", "gone": "nothing", "pipe": "other", "absent": "nothing", "file/x": "nothing",
        ".": "folder",
    }  # fmt: skip
    loop(tmp_path / "loop")
    with os.scandir(tmp_path) as found:
        for entry in found:
            if entry.name == "loop":
                with pytest.raises(MibenchError, match="Too many levels"):
                    kind_of(entry)
            else:
                assert kind_of(entry) == kinds[entry.name]
    for ask in (is_folder, real):
        with pytest.raises(MibenchError, match=r"loop cannot be read: .*; restore it, or remove it"):
            ask(tmp_path / "loop")


def test_names_write_no_lines_of_their_own(tmp_path: Path) -> None:
    people(tmp_path / "faces", "ash", "birch\nwrong  \x1b[2Jx")
    (tmp_path / "faces" / "ash" / "a\nfine   b.gif").touch()
    done = CliRunner().invoke(cli, ["data", "verify", "folder", "--root", str(tmp_path / "faces")])
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith(("wrong", "fine   b.gif"))]
    assert r"a\nfine   b.gif" in done.stdout
