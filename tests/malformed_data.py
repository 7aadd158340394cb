"""Malformed data sets: rows for `mibench data verify` and `mibench train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from malformed import HTML, Row, World, bomb_png, cut, edit, first_picture

# mibench data verify


def celeba(root: Path, *more: str) -> list[Any]:
    return ["data", "verify", "celeba", "--root", root, "--set", "dataset.lists=given", "--json", *more]


def dogs(root: Path, *more: str) -> list[Any]:
    return ["data", "verify", "stanford_dogs", "--root", root, "--set", "dataset.classes=3", "--json", *more]


def own(root: Path, *more: str) -> list[Any]:
    return ["data", "verify", "folder", "--root", root, "--json", *more]


def truncated_jpeg(world: World) -> list[Any]:
    root = world.tree("celeba")
    cut(first_picture(root))
    return celeba(root, "--full")


def page_as_jpeg(world: World) -> list[Any]:
    root = world.tree("celeba")
    first_picture(root).write_bytes(HTML)
    return celeba(root, "--full")


def empty_jpeg(world: World) -> list[Any]:
    root = world.tree("celeba")
    first_picture(root).write_bytes(b"")
    return celeba(root, "--full")


def folder_as_jpeg(world: World) -> list[Any]:
    root = world.tree("celeba")
    picture = first_picture(root)
    picture.unlink()
    picture.mkdir()
    return celeba(root, "--full")


def image_of_another_size(world: World) -> list[Any]:
    from PIL import Image

    root = world.tree("celeba")
    Image.new("RGB", (128, 128)).save(first_picture(root))
    return celeba(root, "--full")


def pixel_bomb(world: World) -> list[Any]:
    root = world.tree("folder")
    first_picture(root).with_suffix(".png").write_bytes(bomb_png())
    return own(root, "--full")


def missing_picture(world: World) -> list[Any]:
    root = world.tree("celeba")
    first_picture(root).unlink()
    return celeba(root)


def list_of_another_hash(world: World) -> list[Any]:
    root = world.tree("celeba")
    return ["data", "verify", "celeba", "--root", root, "--json"]


def label_that_is_no_number(world: World) -> list[Any]:
    root = world.tree("celeba")
    edit(root / "meta" / "trainset.txt", lambda lines: lines.__setitem__(2, "000001.jpg Alice"))
    return celeba(root)


def label_with_a_gap(world: World) -> list[Any]:
    root = world.tree("celeba")
    for name in ("trainset.txt", "testset.txt"):
        path = root / "meta" / name
        path.write_text(path.read_text().replace(" 3\n", " 999\n"))
    return celeba(root)


def label_of_another_person(world: World) -> list[Any]:
    root = world.tree("celeba")
    edit(root / "meta" / "trainset.txt", lambda lines: lines.__setitem__(0, lines[0].split()[0] + " 1"))
    return celeba(root)


def person_on_both_sides(world: World) -> list[Any]:
    root = world.tree("celeba")
    private = (root / "meta" / "trainset.txt").read_text().split()[0]
    public = (root / "meta" / "ganset.txt").read_text().split()[0]
    people = dict(line.split() for line in (root / "identity_CelebA.txt").read_text().splitlines())
    people[public] = people[private]
    (root / "identity_CelebA.txt").write_text("".join(f"{name} {number}\n" for name, number in people.items()))
    return celeba(root)


def picture_in_two_lists(world: World) -> list[Any]:
    root = world.tree("celeba")
    first = (root / "meta" / "trainset.txt").read_text().splitlines()[0]
    edit(root / "meta" / "testset.txt", lambda lines: lines.append(first))
    return celeba(root)


def binary_identity_file(world: World) -> list[Any]:
    root = world.tree("celeba")
    (root / "identity_CelebA.txt").write_bytes(bytes(range(128, 256)) * 9)
    return celeba(root)


def empty_identity_file(world: World) -> list[Any]:
    root = world.tree("celeba")
    (root / "identity_CelebA.txt").write_bytes(b"")
    return celeba(root)


def images_one_folder_too_deep(world: World) -> list[Any]:
    root = world.tree("celeba")
    (root / "img_align_celeba").rename(root / "deep")
    (root / "img_align_celeba").mkdir()
    (root / "deep").rename(root / "img_align_celeba" / "img_align_celeba")
    return celeba(root)


def no_data_at_all(world: World) -> list[Any]:
    return celeba(world.place / "nowhere")


def matlab_garbage(world: World) -> list[Any]:
    root = world.tree("stanford_dogs")
    (root / "train_list.mat").write_bytes(b"MATLAB 5.0 MAT-file, said the garbage" + bytes(500))
    return dogs(root)


def first_annotation(root: Path) -> Path:
    return min(path for path in (root / "Annotation").rglob("*") if path.is_file())


XML_BOMB = """<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">
<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;"><!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;">]><b>&d;</b>"""


def xml_bomb(world: World) -> list[Any]:
    root = world.tree("stanford_dogs")
    first_annotation(root).write_text(XML_BOMB)
    return dogs(root, "--set", "dataset.cropped=always", "--full")


def cut_off_xml(world: World) -> list[Any]:
    root = world.tree("stanford_dogs")
    cut(first_annotation(root))
    return dogs(root, "--set", "dataset.cropped=always", "--full")


def folders_0_1_7(world: World) -> list[Any]:
    root = world.tree("folder")
    for new, old in zip((0, 1, 7), sorted((root / "private").iterdir()), strict=True):
        old.rename(root / "private" / str(new))
    return own(root)


def same_folder_private_and_public(world: World) -> list[Any]:
    root = world.tree("folder")
    private, public = min((root / "private").iterdir()), min((root / "public").iterdir())
    public.rename(root / "public" / private.name)
    return own(root)


VERIFY = [
    Row("truncated JPEG", truncated_jpeg, ("000001.jpg cannot be decoded", "download it again")),
    Row("HTML saved as JPEG", page_as_jpeg, ("000001.jpg is no image", "web page", "download it again")),
    Row("empty JPEG", empty_jpeg, ("000001.jpg", "it is empty", "download it again")),
    Row("folder in place of a JPEG", folder_as_jpeg, ("000001.jpg cannot be decoded (Is a directory)",)),
    Row("image of another size", image_of_another_size, ("000001.jpg is 128x128, expected 178x218", "restore it")),
    Row("picture of 1.6 billion pixels", pixel_bomb, ("a bomb rather than a picture", "remove it")),
    Row("list with a missing file", missing_picture, ("lacks 1 of the", "000001.jpg", "dataset.missing=skip")),
    Row("label that is no number", label_that_is_no_number, ("trainset.txt line 3", "'000001.jpg Alice'")),
    Row("labels with a gap", label_with_a_gap, ("labels go up to 999", "without gaps")),
    Row("label of another person", label_of_another_person, ("is in two classes", "correct the labels")),
    Row("person on both sides", person_on_both_sides, ("both private and public", "results mean nothing")),
    Row("picture in two lists", picture_in_two_lists, ("in the train and the test list", "correct the lists")),
    Row("identity file that is no text", binary_identity_file, ("identity_CelebA.txt", "not a text file", "restore")),
    Row("empty identity file", empty_identity_file, ("identity_CelebA.txt is empty", "download it again")),
    Row("images one folder too deep", images_one_folder_too_deep, ("one folder too deep", "move it up")),
    Row("MATLAB garbage", matlab_garbage, ("train_list.mat is no MATLAB file", "download it again")),
    Row("XML bomb", xml_bomb, ("Annotation", "a document type or an entity", "restore it")),
    Row("cut off XML", cut_off_xml, ("Annotation", "is no XML", "restore it")),
    Row("folders named 0, 1, 7", folders_0_1_7, ("the folders are numbers but not 0 to 2", "dataset.labels=sorted")),
    Row("same folder private and public", same_folder_private_and_public, ("both private and public", "employee-001")),
]


# mibench train


def train(root: Path, *more: str, dataset: str = "celeba", lists: str = "given") -> list[Any]:
    said = [f"--set=dataset.root={root}"] + ([f"--set=dataset.lists={lists}"] if dataset == "celeba" else [])
    tiny = ["--set=train.width=0.0625", "--set=train.epochs=1", "--device=cpu"]
    return ["train", "target", "vgg16", "--dataset", dataset, *said, *tiny, *more]


def train_on(spoil: Callable[[World], list[Any]]) -> Callable[[World], list[Any]]:
    """The same damage, met by a training instead of a verification."""

    def arguments(world: World) -> list[Any]:
        given = spoil(world)
        return train(given[given.index("--root") + 1], lists="given" if "dataset.lists=given" in given else "pinned")

    return arguments


TRAIN = [
    Row(
        "no data at all",
        train_on(no_data_at_all),
        ("celeba is not complete at", "nowhere", "MIBENCH_DATA", "`mibench fetch celeba`"),
    ),
    Row("truncated JPEG", train_on(truncated_jpeg), ("cannot be decoded", "download it again")),
    Row("HTML saved as JPEG", train_on(page_as_jpeg), ("web page", "download it again")),
    Row("image of another size", train_on(image_of_another_size), ("is 128x128, expected 178x218", "restore it")),
    Row("list with a missing file", train_on(missing_picture), ("lacks 1 of the", "dataset.missing=skip")),
    Row("list of another hash", train_on(list_of_another_hash), ("is not the released train list", "lists=given")),
    Row("label of another person", train_on(label_of_another_person), ("is in two classes", "correct the labels")),
    Row("person on both sides", train_on(person_on_both_sides), ("both private and public", "fix the split")),
    Row(
        "start from weights that are not here",
        lambda w: train(w.tree("celeba"), "--set=train.init=vgg16_bn@imagenet"),
        ("vgg16_bn@imagenet", "mibench fetch vgg16_bn@imagenet", "mibench import FILE"),
    ),
    Row(
        "judge trained as a target",
        lambda w: ["train", "target", "facenet112", "--dataset", "celeba"],
        ("unknown target 'facenet112'", "known:"),
    ),
    Row("unknown setting", lambda w: train(w.tree("celeba"), "--set=train.epoch=1"), ("did you mean 'epochs'",)),
    Row("only two lines of a list", lambda w: train(edit_list(w)), ("has no train image", "correct the lists")),
]


def edit_list(world: World) -> Path:
    root = world.tree("celeba")
    edit(root / "meta" / "trainset.txt", lambda lines: lines.__delitem__(slice(2, None)))
    return root
