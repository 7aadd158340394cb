"""``mibench data verify``: what is there, missing, misplaced, packed, corrupt; who is on which side; the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import celebatree
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from mibench.catalogue import CATALOGUE
from mibench.cli import cli
from mibench.data.checks import expect_file, expect_folder


@pytest.fixture
def folder(tmp_path: Path, home: Path) -> Path:
    return celebatree.write(tmp_path / "celeba")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["data", "verify", *(str(argument) for argument in arguments)])


def look(folder: Path, *arguments: object) -> tuple[int, list[dict[str, str]]]:
    """Exit code and findings for lists of one's own."""
    done = call("celeba", "--root", folder, "--set", "dataset.lists=given", "--json", *arguments)
    return done.exit_code, json.loads(done.stdout)["findings"]


def wrong(findings: list[dict[str, str]]) -> list[str]:
    return [f"{finding['what']} -> {finding['cure']}" for finding in findings if finding["level"] == "wrong"]


def test_a_tree_in_order(folder: Path) -> None:
    code, findings = look(folder, "--full")
    assert code == 0
    assert not wrong(findings)
    said = "\n".join(finding["what"] for finding in findings)
    for part in (
        "private: 3 classes, 3 people; public: 2",
        "nobody is on both sides",
        "train: 9 images",
        "test: 3 images",
        "public: 4 images",
        "format of the images: .jpg",
        "trainset.txt: not the released train list",
        "all 16 images decode",
    ):
        assert part in said


def test_words_for_people(folder: Path) -> None:
    done = call("celeba", "--root", folder, "--set", "dataset.lists=given")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1] == "celeba: no problems"
    assert "-> --full decodes every one" in done.stdout
    (folder / "identity_CelebA.txt").unlink()
    done = call("celeba", "--root", folder)
    assert done.exit_code == 2
    assert "wrong  identity_CelebA.txt is missing" in done.stdout
    assert done.stdout.splitlines()[-1] == "celeba: 1 problem"


def test_lists_that_are_not_the_pinned_ones(folder: Path) -> None:
    done = call("celeba", "--root", folder)
    assert done.exit_code == 2
    assert "trainset.txt is not the released train list: sha256" in done.stdout
    assert "dataset.lists=given" in done.stdout


def test_every_corrupt_image_counts(folder: Path) -> None:
    images = folder / "img_align_celeba"
    whole = (images / "000003.jpg").read_bytes()
    (images / "000003.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "000007.jpg").write_bytes(b"")
    Image.new("RGB", (20, 20)).save(images / "000009.jpg")
    (images / "000013.jpg").write_bytes(b"<html>quota exceeded")
    (images / "000014.jpg").write_bytes(b"text")
    assert look(folder)[0] == 0, "counted, not opened"
    code, findings = look(folder, "--full")
    assert code == 2
    found = wrong(findings)
    assert len(found) == 4, "three by name, the rest counted"
    assert "000003.jpg cannot be decoded" in found[0]
    assert found[-1].startswith("2 more images cannot be used")


def test_a_missing_image(folder: Path) -> None:
    (folder / "img_align_celeba" / "000007.jpg").unlink()
    code, findings = look(folder)
    assert code == 2
    assert "lacks 1 of the 16 listed images (first: img_align_celeba/000007.jpg)" in wrong(findings)[0]
    assert "missing=skip" in wrong(findings)[0]
    code, findings = look(folder, "--set", "dataset.missing=skip")
    assert code == 0
    assert any("1 listed images are left out" in finding["what"] for finding in findings)


def test_a_person_on_both_sides(folder: Path) -> None:
    path = folder / "identity_CelebA.txt"
    path.write_text(path.read_text().replace("000016.jpg 200", "000016.jpg 101"))
    code, findings = look(folder)
    assert code == 2
    assert wrong(findings)[0].startswith("1 people are both private and public (first: celeba-101)")


def test_one_folder_too_deep(folder: Path) -> None:
    """How the archive of a data market unpacks."""
    images = folder / "img_align_celeba"
    images.rename(folder / "inner")
    images.mkdir()
    (folder / "inner").rename(images / "img_align_celeba")
    code, findings = look(folder)
    assert code == 2
    assert "lies one folder too deep" in wrong(findings)[0]
    assert str(images / "img_align_celeba") in wrong(findings)[0]


@pytest.mark.parametrize("name", ["img_align_celeba.zip", "img_align_celeba_png.7z.001", "IMG_align_celeba.ZIP"])
def test_an_archive_that_is_not_unpacked(folder: Path, name: str) -> None:
    (folder / "img_align_celeba").rename(folder.parent / "elsewhere")
    (folder / name).write_bytes(b"PK\x03\x04")
    code, findings = look(folder)
    assert code == 2
    assert f"{name} is not unpacked -> unpack it in {folder}" in wrong(findings)[0]


def test_lists_beside_the_images_are_accepted(folder: Path) -> None:
    for path in (folder / "meta").iterdir():
        path.rename(folder / path.name)
    assert look(folder)[0] == 0


def test_a_file_elsewhere_near_is_pointed_at(folder: Path) -> None:
    (folder / "downloads").mkdir()
    (folder / "identity_CelebA.txt").rename(folder / "downloads" / "identity_CelebA.txt")
    found = wrong(look(folder)[1])
    assert len(found) == 1
    assert f"it lies at {folder / 'downloads' / 'identity_CelebA.txt'} -> move it to" in found[0]


def test_everything_that_is_wrong_is_listed(tmp_path: Path, home: Path) -> None:
    code, findings = look(tmp_path / "nowhere")
    assert code == 2
    assert len(wrong(findings)) == 5, "images, identities and three lists"


def test_files_that_are_empty_or_of_another_case(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    assert [f.what for f in expect_file(tmp_path, "a.txt", "a list")] == [f"{tmp_path / 'a.txt'} is empty (a list)"]
    (tmp_path / "Images").mkdir()
    (finding,) = expect_folder(tmp_path, "images", "pictures")
    assert finding.what == "images is missing (pictures); Images differs in case"
    (finding,) = expect_folder(tmp_path, "Images", "pictures")
    assert finding.what == "Images/ is empty (pictures)"


def test_a_rebuilt_split(folder: Path) -> None:
    for path in (folder / "meta").iterdir():
        path.unlink()
    rebuilt = ["--set", "dataset.lists=rebuilt", "--set", "dataset.classes=3"]
    done = call("celeba", "--root", folder, *rebuilt)
    assert done.exit_code == 0
    assert "note   split=rebuilt" in done.stdout


def test_a_world_that_is_made_has_no_files(home: Path) -> None:
    settings = ["identities=3", "public_identities=5", "public_images=5"]
    done = call("synthfaces", *(word for s in settings for word in ("--set", f"dataset.{s}")))
    assert done.exit_code == 0
    assert "made on the spot" in done.stdout
    assert call("synthfaces", "--root", "/tmp").exit_code == 2


@pytest.mark.parametrize("name", sorted(set(CATALOGUE["dataset"]) - {"synthfaces"}))
def test_every_data_set_says_what_is_missing(tmp_path: Path, home: Path, name: str) -> None:
    done = call(name, "--root", tmp_path / "nowhere", "--json")
    assert done.exit_code == 2
    found = wrong(json.loads(done.stdout)["findings"])
    assert found
    assert all(" -> " in line and not line.endswith("-> ") for line in found), "each with a cure"


def test_wrong_arguments_of_data_verify(folder: Path) -> None:
    done = call("celebra", "--root", folder)
    assert done.exit_code == 2
    assert "did you mean 'celeba'" in done.stderr
    done = call("celeba", "--root", folder, "--set", f"dataset.root={folder}")
    assert done.exit_code == 2
    assert "set the same thing" in done.stderr
