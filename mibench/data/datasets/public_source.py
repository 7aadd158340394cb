"""The public images of a data set that has none of its own: FFHQ, MetFaces or AFHQ, by name."""

from __future__ import annotations

from mibench.data.datasets.afhq import AFHQ
from mibench.data.datasets.ffhq import FFHQ
from mibench.data.datasets.metfaces import MetFaces
from mibench.data.datasets.public_only import PublicOnly
from mibench.data.root_setting import public_settings
from mibench.errors import MibenchError


def public_source(name: str, root: str, *, portraits: bool = False) -> PublicOnly | None:
    """The data set that ``dataset.public_from`` names; None for ``none``.

    Args:
        name: none, ffhq, metfaces or afhq.
        root: its folder; empty: ``$MIBENCH_DATA/<name>``.
        portraits: FFHQ's large pictures, of which the middle 800 of 1024 pixels are kept, as Plug & Play Attacks does
            with what its prior draws; else the thumbnails as KEDMI crops them.

    Raises:
        MibenchError: it is not complete at ``root``.
    """
    with public_settings():
        if name == "ffhq":
            return FFHQ(root=root, variant="images1024x1024", crop=100) if portraits else FFHQ(root=root)
        if name == "metfaces":
            return MetFaces(root=root)
        return AFHQ(root=root) if name == "afhq" else None


def without_public(name: str) -> MibenchError:
    """What a data set says that was asked for public images and was given none."""
    return MibenchError(
        f"{name} has no public images of its own",
        cure="name a data set that has some, such as --set dataset.public_from=ffhq --set dataset.public_root=FOLDER",
    )
