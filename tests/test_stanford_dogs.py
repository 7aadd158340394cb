"""Stanford Dogs: lists from MATLAB, labels from 1, first boxes, and what judges see that targets do not."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from mibench.data.datasets.class_folders import released_shuffle
from mibench.data.datasets.stanford_dogs import StanfordDogs
from mibench.data.fixtures.writer import write_fixture
from mibench.data.formats import matlab
from mibench.data.formats.voc_xml import first_box
from mibench.data.verify import verify
from mibench.errors import MibenchError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dogs") / "tree"
    write_fixture("stanford_dogs", root, people=4, images=10, size=64)
    return root


@pytest.fixture
def tree(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "dogs"))


def made(root: Path, **settings: object) -> StanfordDogs:
    return StanfordDogs(root=str(root), **{"classes": 4, **settings})  # type: ignore[arg-type]


def listed(root: Path) -> list[tuple[str, int]]:
    return [entry for name in ("train_list.mat", "test_list.mat") for entry in matlab.read_list(root / name)]


def rewrite(root: Path, change: Callable[[list[str], list[int]], None], file: str = "train_list.mat") -> None:
    """Change names and labels of a list in place."""
    content = loadmat(root / file)
    names = [str(cell[0][0]) for cell in content["file_list"]]
    labels = content["labels"].ravel().tolist()
    change(names, labels)
    cells = np.empty((len(names), 1), dtype=object)
    cells[:, 0] = names
    savemat(root / file, {"file_list": cells, "labels": np.array(labels).reshape(-1, 1)})


def test_both_lists_are_joined_and_shuffled_with_seed_42(tree: Path) -> None:
    split = made(tree)
    everything = [f"Images/{name}" for name, _ in listed(tree)]
    order = list(range(40))
    np.random.seed(42)  # noqa: NPY002 (what the released code calls)
    np.random.shuffle(order)  # noqa: NPY002
    assert [row.name for row in split.rows("train")] == [everything[place] for place in order[:36]]
    assert [row.name for row in split.rows("test")] == [everything[place] for place in order[36:]]


def test_labels_of_the_lists_count_from_one(tree: Path) -> None:
    labels = dict(listed(tree))
    split = made(tree)
    assert {row.label for row in split.rows("train")} == {0, 1, 2, 3}
    for row in split.rows("train"):
        assert row.label == labels[row.name.removeprefix("Images/")] - 1
        assert split.class_names[row.label] == row.name.split("/")[1].partition("-")[2]
    assert "silky-coated_herder" in split.class_names, "a breed's name may have hyphens"


def test_targets_see_pictures_and_judges_see_the_first_dog(tree: Path) -> None:
    split = made(tree)
    judge = split.seen_by("judge")
    assert split.seen_by("target") is split
    assert [row.name for row in judge.rows("train")] == [row.name for row in split.rows("train")]
    number, row = next(
        (number, row)
        for number, row in enumerate(sorted(split.rows("train"), key=lambda row: row.label))
        if (tree / "Annotation" / row.name.removeprefix("Images/").removesuffix(".jpg")).read_text().count("<bndbox>")
        == 2
    )
    box = first_box(tree / "Annotation" / row.name.removeprefix("Images/").removesuffix(".jpg"))
    with Image.open(tree / row.name) as picture:
        image = picture.convert("RGB")
        whole = np.array(image.resize((32, 32), Image.Resampling.BILINEAR))
        dog = np.array(image.crop(box).resize((32, 32), Image.Resampling.BILINEAR))
    assert np.array_equal(split.private("train", 32).pixels[number].permute(1, 2, 0).numpy(), whole)
    assert np.array_equal(judge.private("train", 32).pixels[number].permute(1, 2, 0).numpy(), dog)


def test_cropping_is_a_setting_of_the_data_set(tree: Path) -> None:
    never, always = made(tree, cropped="never"), made(tree, cropped="always")
    assert torch.equal(never.seen_by("judge").private("test", 16).pixels, made(tree).private("test", 16).pixels)
    assert torch.equal(always.private("test", 16).pixels, made(tree).seen_by("judge").private("test", 16).pixels)
    assert len({split.digest for split in (never, always, made(tree))}) == 3
    shutil.rmtree(tree / "Annotation")
    assert made(tree, cropped="never").num_classes == 4
    with pytest.raises(MibenchError, match="Annotation is missing"):
        made(tree)


def test_cards_of_target_and_judge_agree_on_the_data(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe gets another view, the card the digest of the data set as it was asked for."""
    from mibench.weights import training

    seen: list[str] = []

    class Recipe:
        needs = "split"

    def spy(recipe: object, dataset: StanfordDogs, *rest: object) -> StanfordDogs:
        seen.append(dataset.cropped)
        raise MibenchError("far enough")

    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(training, "data_for", spy)
    for kind, architecture in (("target", "vgg16"), ("judge", "facenet112")):
        wanted = training.Training(
            kind=kind,
            architecture=architecture,
            dataset="stanford_dogs",
            settings={"dataset": {"root": str(tree), "classes": 4}, "train": {}},
        )
        with pytest.raises(MibenchError, match="far enough"):
            training.train(wanted, device="cpu")
    assert seen == ["judge", "always"], "as asked for, and cropped"


def test_metrics_are_measured_on_what_judges_see(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace
    from unittest.mock import Mock

    from mibench.runs import score as judging
    from mibench.runs.store import RunDir

    asked: list[StanfordDogs] = []

    def private(split: StanfordDogs, part: str, *_: object) -> str:
        asked.append(split)
        return part

    monkeypatch.setattr(judging, "load_units", lambda *_: SimpleNamespace(images=torch.zeros(1, 3, 16, 16)))
    monkeypatch.setattr(
        judging.load, "build_classifier_extractor", lambda *_: SimpleNamespace(image=SimpleNamespace(size=16))
    )
    monkeypatch.setattr(judging, "_inception", lambda *_: (object(), None))
    monkeypatch.setattr(StanfordDogs, "private", private)
    score = Mock(side_effect=MibenchError("far enough"))
    monkeypatch.setattr(judging, "score", score)
    plan, machine = Mock(dataset=made(tree)), Mock(device=torch.device("cpu"))
    plan.spec.protocol.public_control = 0
    plan.spec.protocol.metrics = plan.spec.protocol.diagnostics = ()
    with pytest.raises(MibenchError, match="far enough"):
        judging.judge_units(plan, RunDir(tmp_path), machine)
    assert [split.cropped for split in asked] == ["always"] * len(asked)
    assert len(asked) >= 2
    references = {name: score.call_args.kwargs[name] for name in ("private", "private_native", "private_test")}
    assert references == {"private": "train", "private_native": "train", "private_test": "test"}, (
        "distances, FID and PRDC are measured to train images"
    )


def test_the_published_counts_follow_from_the_shuffle() -> None:
    train, test = released_shuffle(20_580)
    assert (len(train), len(test)) == (18_522, 2_058)


def test_a_missing_picture_moves_no_other(tree: Path) -> None:
    before = {row.name: role for role in ("train", "test") for row in made(tree).rows(role)}  # type: ignore[arg-type]
    gone = made(tree).rows("train")[5].name
    (tree / gone).unlink()
    with pytest.raises(MibenchError, match=rf"lacks 1 of the 40 listed images \(first: {gone}"):
        made(tree)
    split = made(tree, missing="skip")
    after = {row.name: role for role in ("train", "test") for row in split.rows(role)}  # type: ignore[arg-type]
    assert after == {name: role for name, role in before.items() if name != gone}
    assert split.digest != made(tree.parent / "dogs", missing="skip", cropped="never").digest


def _first_label(value: float | complex) -> Callable[[list[str], list[int]], None]:
    def change(names: list[str], labels: list[int]) -> None:
        labels[0] = value  # type: ignore[call-overload]

    return change


def _first_name(value: str) -> Callable[[list[str], list[int]], None]:
    def change(names: list[str], labels: list[int]) -> None:
        names[0] = value

    return change


def _second_is_first(names: list[str], labels: list[int]) -> None:
    names[1], labels[1] = names[0], labels[0]


def _swap_two_labels(names: list[str], labels: list[int]) -> None:
    labels[0] = labels[0] % 4 + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_first_label(0), "has label 0, labels run from 1 to 4"),
        (_first_label(5), "has label 5, labels run from 1 to 4"),
        (_first_label(float("nan")), "a label that is no whole number: 'nan'"),
        (_first_label(float("inf")), "a label that is no whole number: 'inf'"),
        (_first_label(1.5), "a label that is no whole number: '1.5'"),
        (_first_label(1 + 1j), "no array of text or real numbers"),
        (_swap_two_labels, r"label \d stands for .* and for"),
        (_second_is_first, "stands twice in the train list"),
        (_first_name("../../etc/passwd"), r"expected 'breed/file.jpg', got '../../etc/passwd'"),
        (_first_name("/etc/passwd"), "expected 'breed/file.jpg'"),
        (lambda names, labels: labels.pop() and None, "damaged|names and"),
    ],
)
def test_lists_that_contradict_themselves_are_refused(
    change: Callable[[list[str], list[int]], None], message: str, tree: Path
) -> None:
    rewrite(tree, change)
    with pytest.raises(MibenchError, match=message) as caught:
        made(tree)
    assert "\n" not in str(caught.value)


def test_another_number_of_breeds_is_refused(tree: Path) -> None:
    with pytest.raises(MibenchError, match=r"have 4 breeds, expected 120.*dataset\.classes=4"):
        StanfordDogs(root=str(tree))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>quota exceeded</html>".ljust(200), "a web page"),
        (b"\x89HDF\r\n\x1a\n".ljust(200, b"\0"), "is no MATLAB file"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(64), "another version"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"\x0e\0\0\0\xff\xff\xff\x7f" + bytes(64), "damaged"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM", "has no variable 'file_list'"),
    ],
)
def test_a_list_that_is_no_matlab_file(content: bytes, message: str, tree: Path) -> None:
    (tree / "train_list.mat").write_bytes(content)
    if not content:
        findings = verify(StanfordDogs, {"root": str(tree), "classes": 4})
        assert any(finding.level == "wrong" and "train_list.mat is empty" in finding.what for finding in findings)
        return
    with pytest.raises(MibenchError, match=message):
        made(tree)


def array(kind: int, sides: tuple[int, int], inner: bytes, name: bytes = b"") -> bytes:
    """An array of MATLAB's level 5."""
    head = struct.pack("<IIII", 6, 8, kind, 0) + struct.pack("<IIii", 5, 8, *sides)
    body = head + struct.pack("<II", 1, len(name)) + name + bytes(-len(name) % 8) + inner
    return struct.pack("<II", 14, len(body)) + body


CELLS, BILLIONS = 1, (2**31 - 1, 1)
TEXT = array(4, (1, 3), struct.pack("<II", 16, 3) + b"a/b" + bytes(5))
STRUCT, OTHER_LENGTH = array(2, BILLIONS, b""), TEXT[:4] + struct.pack("<I", 8) + TEXT[8:]


@pytest.mark.parametrize("packed", ["", "packed", "packed, then damaged"])
@pytest.mark.parametrize(
    "variable",
    [
        array(CELLS, BILLIONS, TEXT, b"file_list"),
        array(CELLS, (1, 1), array(CELLS, BILLIONS, b""), b"file_list"),
        array(CELLS, (2, 1), TEXT + array(CELLS, BILLIONS, b""), b"file_list"),
        array(CELLS, (2, 1), OTHER_LENGTH + array(CELLS, BILLIONS, b""), b"file_list"),
        array(CELLS, (1, 1), STRUCT, b"file_list"),
        array(2, BILLIONS, b"", b"labels"),
    ],
    ids=["cells", "cells in a cell", "in the second cell", "behind a wrong length", "struct in a cell", "struct"],
)
def test_a_list_that_claims_billions_of_cells_is_not_opened(tree: Path, variable: bytes, packed: str) -> None:
    """Readers make room for them, about 20 GB, before they look for the first."""
    if packed:
        content = zlib.compress(variable + bytes(100))
        content = content[:-1] + bytes([content[-1] ^ 1]) if "damaged" in packed else content
        variable = struct.pack("<II", 15, len(content)) + content
    (tree / "train_list.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + variable)
    with pytest.raises(MibenchError, match=r"is a damaged MATLAB file, or no flat list"):
        made(tree)


@pytest.mark.parametrize("kind", [0, 8, 10, 14, 99])
def test_an_element_of_an_unknown_type_is_refused(tree: Path, kind: int) -> None:
    """scipy's reader looks its type up beyond the end of a table, and the process dies."""
    labels = array(6, (1, 1), struct.pack("<IId", kind, 8, 1.0), b"labels")
    content = array(CELLS, (1, 1), TEXT, b"file_list") + labels
    (tree / "train_list.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content)
    with pytest.raises(MibenchError, match=rf"no flat list \(an element of type {kind}"):
        made(tree)


def test_a_list_by_hand_is_read(tree: Path) -> None:
    """The opposite case: these bytes, honest, are a list."""
    labels = array(6, (2, 1), struct.pack("<IIdd", 9, 16, 1.0, 2.0), b"labels")
    for cells in (TEXT + TEXT, TEXT + struct.pack("<II", 14, 0)):
        other = array(2, (1, 1), bytes(16), b"annotation_list")  # a struct: not wanted, not read
        content = other + array(CELLS, (2, 1), cells, b"file_list") + labels
        (tree / "a.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + content)
        if cells == TEXT + TEXT:
            assert matlab.read_list(tree / "a.mat") == [("a/b", 1), ("a/b", 2)]
        else:
            with pytest.raises(MibenchError, match="a name that is no text"):
                matlab.read_list(tree / "a.mat")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_truncated_list_is_refused(share: float, tree: Path) -> None:
    content = (tree / "train_list.mat").read_bytes()
    (tree / "train_list.mat").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(MibenchError, match=r"train_list\.mat"):
        made(tree)


def test_a_list_that_unpacks_without_end_is_not_opened(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matlab, "LARGEST_UNPACKED", 1 << 20)
    packed = zlib.compress(bytes(8 << 20))
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tree / "train_list.mat").write_bytes(
        head + (15).to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    )
    with pytest.raises(MibenchError, match="unpacks to more than any list"):
        made(tree)


BOMB = """<?xml version="1.0"?>
<!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>
<annotation><object><bndbox><xmin>&c;</xmin></bndbox></object></annotation>"""
BOX = (
    "<annotation><object><bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    "</annotation>"
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "holds a document type or an entity"),
        (BOMB.replace("1.0", '1.0" encoding="utf-16').encode("utf-16"), "holds a document type or an entity"),
        (b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotation/>', "holds a document type or an entity"),
        (b"<annotation><object>", "is no XML"),
        (b"", "is no XML"),
        (b"<annotation/>", "has no box"),
        (b'<?xml version="1.0" encoding="nosuch"?><annotation/>', "is no XML"),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "is no XML"),
        (b'<?xml version="1.0" encoding="idna"?><annotation/>', "is no XML"),
        (BOX.format("left").encode(), "has no box"),
        (BOX.format("nan").encode(), "has no box"),
        (BOX.format("9").encode(), r"has an empty box \(9, 1, 9, 9\)"),
        (b"<a>" * 40, "nested deeper"),
        (b"<annotation>" + b" " * (1 << 18), "larger than any annotation"),
    ],
)
def test_an_annotation_that_is_none(content: bytes, message: str, tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "n1_1"
    path.write_bytes(content)
    with pytest.raises(MibenchError, match=message):
        first_box(path)


def test_the_first_box_is_the_first_objects(tmp_path: Path) -> None:
    path = tmp_path / "n1_1"
    one = "<object><name>x</name><part><bndbox><xmin>7</xmin></bndbox></part><bndbox>{}</bndbox></object>"
    box = "<xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax><ymax>4</ymax>"
    path.write_text(f"<annotation>{one.format(box.format(3))}{one.format(box.format(99))}</annotation>")
    assert first_box(path) == (1, 2, 3, 4)


def test_a_box_that_misses_its_picture_is_named(tree: Path) -> None:
    row = made(tree).rows("train")[0]
    path = tree / "Annotation" / row.name.removeprefix("Images/").removesuffix(".jpg")
    path.write_text(
        "<annotation><object><bndbox><xmin>900</xmin><ymin>1</ymin><xmax>950</xmax><ymax>9</ymax></bndbox></object>"
        "</annotation>"
    )
    with pytest.raises(MibenchError, match=r"which its box .* misses"):
        made(tree).seen_by("judge").private("train", 16)


def test_a_missing_annotation_is_named(tree: Path) -> None:
    row = made(tree).rows("test")[0]
    (tree / "Annotation" / row.name.removeprefix("Images/").removesuffix(".jpg")).unlink()
    with pytest.raises(MibenchError, match="cannot read the annotation"):
        made(tree).seen_by("judge").private("test", 16)
    findings = verify(StanfordDogs, {"root": str(tree), "classes": 4})
    assert any(finding.level == "wrong" and "annotation" in finding.what for finding in findings)
