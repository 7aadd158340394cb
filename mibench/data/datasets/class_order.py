"""Which class a folder is: the trap that makes a good model look like a bad one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mibench.data.datasets.class_folders import name_some
from mibench.data.identity_names import matched
from mibench.errors import MibenchError

Order = Literal["names", "sorted", "imagefolder"]


def class_order(folders: Sequence[str], order: Order, listed: Sequence[str] | None) -> tuple[str, ...]:
    """Folder names in the order of the classes.

    Args:
        folders: as found.
        order: ``names``: folders that are all numbers are their own classes (7 is class 7, never the place of "7" in
            0, 1, 10, 100), others are sorted as text; ``sorted``: by number where all are numbers, else as text;
            ``imagefolder``: as text, also numbers, which is what torchvision's ImageFolder does.
        listed: names in the order of the classes, which decide alone; None: no such list.

    Raises:
        MibenchError: numbers that are not 0 to K-1, or a list that does not name the folders.
    """
    if not folders:
        raise MibenchError(
            "there is no folder of a person", cure="put the images of each person into a folder of their own"
        )
    if listed is not None:
        return _as_listed(folders, listed)
    if order == "imagefolder" or not all(name.isascii() and name.isdecimal() for name in folders):
        return tuple(sorted(folders))
    by_number = sorted(folders, key=int)
    numbers = [int(name) for name in by_number]
    if twice := [name for name, other in zip(by_number[1:], numbers, strict=False) if int(name) == other]:
        raise MibenchError(
            f"two folders are the class {int(twice[0])} (one is {twice[0]!r})", cure="rename or join them"
        )
    if order == "names" and numbers != list(range(len(numbers))):
        wanted = next(index for index, number in enumerate(numbers) if index != number)
        raise MibenchError(
            f"the folders are numbers but not 0 to {len(numbers) - 1} (there is no {wanted}), so which class "
            "each is is in doubt",
            cure=(
                "--set dataset.labels=sorted numbers them in their order, --set dataset.classes=classes.txt gives "
                "the model's order, one name a line"
            ),
        )
    return tuple(by_number)


def _as_listed(folders: Sequence[str], listed: Sequence[str]) -> tuple[str, ...]:
    if len(set(listed)) != len(listed):
        twice = sorted({name for name in listed if list(listed).count(name) > 1})
        raise MibenchError(f"the file of classes names {name_some(twice)} twice; each name is one class")
    folder_of_name = matched(
        listed, folders
    )  # a list that was typed has another Unicode form than what some disks keep
    if unknown := sorted(set(folders) - set(folder_of_name.values())):
        raise MibenchError(
            f"{len(unknown)} folders are not in the file of classes (first: {unknown[0]!r})",
            cure="add them at their places, or remove the folders",
        )
    if empty := [name for name in listed if name not in folder_of_name]:
        raise MibenchError(
            f"{len(empty)} classes of the file have no folder (first: {empty[0]!r})",
            cure="add images of each, a class without any can be neither attacked nor judged",
        )
    return tuple(folder_of_name[name] for name in listed)
