"""Names of people as a person reads them: Unicode forms and upper and lower case are one name, or are said."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mibench.data.datasets.class_order import class_order
from mibench.data.datasets.facescrub import FaceScrub
from mibench.data.datasets.folder import Folder
from mibench.data.files import held_out
from mibench.data.identity_names import alike, alike_but_for_case, both_spellings, composed, matched, normalised_name
from mibench.data.verify import verify
from mibench.errors import MibenchError

NAME = "érable"
NFC, NFD = (unicodedata.normalize(form, NAME) for form in ("NFC", "NFD"))


@pytest.fixture(autouse=True)
def _home(home: Path) -> None:
    """Every test has a home of its own."""


def people(root: Path, names: Sequence[str], seed: int = 0, images: int = 3) -> Path:
    generator = np.random.default_rng([seed, *root.name.encode()])
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(images):
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


def notes(root: Path) -> str:
    found = verify(Folder, {"root": str(root)})
    assert all(finding.level != "wrong" for finding in found)
    return "\n".join(finding.what for finding in found if finding.level == "note")


def keeps_forms(folder: Path) -> bool:
    """Whether the file system tells the two forms apart."""
    (folder / NFC).mkdir()
    there = (folder / NFD).exists()
    (folder / NFC).rmdir()
    return not there


def test_names_that_are_one() -> None:
    assert composed(NFD) == NFC != NFD
    assert normalised_name("ÉRABLE") == normalised_name(NFD) == normalised_name(NFC)
    assert normalised_name("Straße") == normalised_name("STRASSE")
    assert normalised_name("ash") != normalised_name("birch")
    assert composed("\udcff") == "\udcff", "bytes that are no text stay"
    assert both_spellings(NFC, NFD) == r"'\xe9rable' and 'e\u0301rable', which differ only in Unicode form"
    assert both_spellings("Ash", "ash") == "'Ash' and 'ash', which differ only in upper and lower case"
    assert alike([NFC, "ash", NFD]) == [(NFC, NFD)]
    assert alike(["Ash", "ash"]) == []
    assert alike_but_for_case(["Ash", NFC, NFD, "ash"]) == [("Ash", "ash")]


@pytest.mark.parametrize(
    ("wanted", "there", "pairs"),
    [
        (["ash", NFC], [NFD, "ash"], {"ash": "ash", NFC: NFD}),
        (["Ash"], ["ash"], {"Ash": "ash"}),
        (["Ash", "ash"], ["ash", "Ash"], {"Ash": "Ash", "ash": "ash"}),
        (["Ash", "ash"], ["ash", "ASH"], {"ash": "ash", "Ash": "ASH"}),
        (["Ash", "aSh"], ["ash"], {}),
        (["Ash"], ["ash", "ASH"], {}),
        (["ash"], ["birch"], {}),
    ],
)
def test_a_unique_spelling_is_matched_and_an_ambiguous_one_is_not(
    wanted: list[str], there: list[str], pairs: dict[str, str]
) -> None:
    assert matched(wanted, there) == pairs


@pytest.mark.parametrize(
    ("train", "test", "said"), [(NFC, NFD, "Unicode form"), (NFD, NFC, "Unicode form"), ("Anna", "anna", "lower case")]
)
def test_one_person_in_train_and_test(train: str, test: str, said: str, tmp_path: Path) -> None:
    people(tmp_path / "train", [train, "bob"])
    people(tmp_path / "test", ["bob", test])
    split = Folder(root=str(tmp_path))
    assert split.class_names == tuple(sorted([train, "bob"])), "as ImageFolder sorts the folder that one trains on"
    label = split.class_names.index(train)
    rows = [row for row in split.rows("test") if row.label == label]
    assert {row.name.split("/")[1] for row in rows} == {test}
    assert {row.identity for row in rows} == {f"folder-{composed(train)}"}
    assert len(split.people("private")) == 2
    assert len(split.private("test", 8, [label])) == 3
    assert said in notes(tmp_path)


def test_names_that_are_in_doubt_are_refused_with_the_difference(tmp_path: Path) -> None:
    people(tmp_path / "train", ["Anna", "aNNa", "bob"])
    people(tmp_path / "test", ["anna", "bob"])
    with pytest.raises(MibenchError, match=r"not hold the same people: .*which differ only in upper and lower case"):
        Folder(root=str(tmp_path))


def test_a_third_spelling_is_refused_with_the_difference(tmp_path: Path) -> None:
    if not keeps_forms(tmp_path):
        pytest.skip("this file system has one form of a name")
    people(tmp_path / "train", [NFC, "bob"])
    people(tmp_path / "test", [NFC, NFD, "bob"])
    with pytest.raises(
        MibenchError, match=r"in one of them only \('e\\u0301rable' and '\\xe9rable', which differ only"
    ):
        Folder(root=str(tmp_path))


def test_two_folders_that_look_the_same_are_no_two_people(tmp_path: Path) -> None:
    if not keeps_forms(tmp_path):
        pytest.skip("this file system has one form of a name")
    people(tmp_path, [NFC, NFD, "bob"])
    with pytest.raises(MibenchError, match=r"two folders .*differ only in Unicode form; join them"):
        Folder(root=str(tmp_path))


def test_two_people_whose_names_differ_in_case_are_a_note(tmp_path: Path) -> None:
    people(tmp_path, ["Ash", "ash", "bob"])
    assert len(Folder(root=str(tmp_path)).class_names) == 3
    assert "two people are called 'Ash' and 'ash', which differ only in upper and lower case" in notes(tmp_path)


@pytest.mark.parametrize(("private", "public"), [(NFC, NFD), ("Bob", "bob"), ("bob", "bob")])
def test_a_person_on_both_sides_is_found_in_any_spelling(private: str, public: str, tmp_path: Path) -> None:
    people(tmp_path / "private", [private, "anna"])
    people(tmp_path / "public", [public], seed=1)
    split = Folder(root=str(tmp_path))
    with pytest.raises(MibenchError, match=r"1 identities .*both private and public \(first: '?folder-"):
        split.check_disjoint()
    wrong = [finding.what for finding in verify(Folder, {"root": str(tmp_path)}) if finding.level == "wrong"]
    assert len(wrong) == 1
    assert ("differ only in" in wrong[0]) == (private == "Bob"), "names that look the same are one identity"


def test_a_typed_list_of_classes_finds_the_folders_of_another_form() -> None:
    assert class_order([NFD, "ash"], "names", ["ash", NFC]) == ("ash", NFD)
    with pytest.raises(MibenchError, match="1 folders are not in the file of classes"):
        class_order([NFD, "ash"], "names", ["ash", "oak"])


def test_copies_in_another_form_are_one_data_set_with_one_split(tmp_path: Path) -> None:
    copies = []
    for form in ("NFC", "NFD"):
        root = people(tmp_path / form / "x", ["ash", "zoë"], images=1)
        generator = np.random.default_rng(0)
        for name in ("ash", "zoë"):
            (root / name / "0.png").unlink()
            folder = root / unicodedata.normalize(form, name)
            (root / name).rename(folder)
            for number in range(12):
                file = folder / unicodedata.normalize(form, f"é{number}.png")
                Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
        copies.append(Folder(root=str(root)))
    one, other = copies
    for role in ("train", "test"):
        names = [[composed(row.name) for row in split.rows(role)] for split in copies]  # type: ignore[arg-type]
        assert names[0] == names[1], "held out by the name that a person reads"
    assert one.digest == other.digest
    assert {row.identity for row in one.rows("test")} == {row.identity for row in other.rows("test")}


def test_held_out_files_of_plain_names_are_the_same_as_ever() -> None:
    """Splits of data that people have must not move."""
    out = [held_out(f"actors/faces/A/{number}.jpg", 0.1, "facescrub 1") for number in range(60)]
    assert [number for number, held in enumerate(out) if held] == [2, 7, 21, 24, 39, 41, 49, 50]


def test_actors_and_actresses_of_one_name_in_two_spellings(tmp_path: Path) -> None:
    people(tmp_path / "actors" / "faces", ["Sam Ash"])
    people(tmp_path / "actresses" / "faces", ["Sam ash"], seed=1)
    with pytest.raises(MibenchError, match=r"two folders 'Sam Ash' and 'Sam ash', which differ only in upper and"):
        FaceScrub(root=str(tmp_path), classes=2)
