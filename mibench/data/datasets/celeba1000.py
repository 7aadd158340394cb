"""CelebA in the protocol of PPA at 224 pixels: the 1,000 people with most images, labelled by their rank.

The images are CelebA's, cropped anew and square (HD-CelebA-Cropper: face factor 0.65, bicubic, 224 x 224, PNG), below
``root`` (``$MIBENCH_DATA/celeba1000`` by default)::

    img_align_celeba/000001.png ... 202599.png      cropped, all of one square size
    identity_CelebA.txt                             "000001.jpg 2880" a line
    list_eval_partition.txt                         "000001.jpg 0" a line: its order decides ties and the shuffle

The split is PPA's: all images of these people in the order of the partition file, whatever their partition, shuffled by
numpy with seed 42, the first nine tenths for training. It is drawn from the names that are listed, so files that are
missing move no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from mibench.data.datasets.celeba_files import (
    IDENTITIES,
    PARTITION,
    CelebAFiles,
    identity_of,
    inspect_images,
    needed,
    read_identities,
    read_numbers,
)
from mibench.data.datasets.celeba_split import Listed, frequent_split
from mibench.data.files import Missing
from mibench.data.images import Framing, size_of
from mibench.errors import MibenchError

if TYPE_CHECKING:
    from mibench.data.checks import Finding
    from mibench.data.split import IdentitySplit

FFHQ_CROP = 100  # of 128, that is 800 of 1024: what PPA keeps of an image of the FFHQ generator
PUBLISHED = (27_034, 3_004)  # train and test images, by the paper


@dataclass(frozen=True, kw_only=True)
class CelebA1000(CelebAFiles):
    """The people with most images. Making one opens a single image, to see that the images are the cropped ones.

    Raises:
        MibenchError: files are missing, or the images are not square and no crop is given.
    """

    name: ClassVar[str] = "celeba1000"
    protocol: ClassVar[str] = "ppa"

    root: str = ""  # folder; empty: $MIBENCH_DATA/celeba1000
    classes: int = 1000  # PPA; fewer for a quick look
    crop: int = 0  # centre crop in pixels of the files; 0: none, they are square
    missing: Missing = "refuse"  # listed images without a file: refuse, or skip them
    public_from: Literal["own", "ffhq", "metfaces"] = "own"  # own: images of other people
    public_root: str = ""  # folder of that data set; empty: its own place
    public_images: int = 30_000  # at most, of other people; as many as in the 64-pixel protocol

    def __post_init__(self) -> None:
        from mibench.data.checks import require

        if self.crop < 0 or self.public_images < 1:
            raise MibenchError("celeba1000: crop is at least 0 and public_images at least 1")
        require(self.name, self.folder, self.inspect(self.folder, {}))
        self.check_files()
        _ = self.framing, self.public_source

    @classmethod
    def inspect(cls, folder: Path, settings: Mapping[str, object]) -> Iterator[Finding]:
        """Images, identity file and partition file."""
        from mibench.data.checks import expect_file

        del settings
        yield from inspect_images(folder, "000001.png ... 202599.png, cropped to one square size")
        yield from expect_file(folder, IDENTITIES, "'000001.jpg 2880' a line")
        yield from expect_file(folder, PARTITION, "'000001.jpg 0' a line")

    @cached_property
    def framing(self) -> Framing:
        """The size of the first image is the size of all."""
        first = self.picture(self.rows("train")[0]).path
        width, height = size_of(first)
        if width != height and not self.crop:
            raise MibenchError(
                f"{first} is {width}x{height}: this protocol has square crops (HD-CelebA-Cropper, 224x224)",
                cure=(
                    "crop the images, or --set dataset.crop=N for a centre crop of N pixels (comparable with nobody's)"
                ),
            )
        return Framing(crop=self.crop or None, expected=(width, height))

    @property
    def num_classes(self) -> int:
        """One class a person."""
        return self.classes

    @cached_property
    def public_source(self) -> IdentitySplit | None:
        """FFHQ or MetFaces where they were asked for."""
        if self.public_from == "own":
            return None
        from mibench.data.datasets.ffhq import FFHQ
        from mibench.data.datasets.metfaces import MetFaces
        from mibench.data.root_setting import public_settings

        with public_settings():
            if self.public_from == "metfaces":
                return MetFaces(root=self.public_root)
            return FFHQ(root=self.public_root, variant="images1024x1024", crop=FFHQ_CROP, missing=self.missing)

    def remarks(self) -> Iterator[Finding]:
        """Whether the split has the published counts, and what was left out."""
        from mibench.data.checks import Finding

        counts = len(self.listed["train"]), len(self.listed["test"])
        if counts == PUBLISHED:
            yield Finding("fine", f"{counts[0]:,} train and {counts[1]:,} test images are listed, as published")
        else:
            published = " and ".join(f"{count:,}" for count in PUBLISHED)
            yield Finding("note", f"{counts[0]:,} and {counts[1]:,} images are listed, published are {published}")
        width, height = self.framing.expected or (0, 0)
        yield Finding("fine", f"images of {width}x{height}")
        yield from super().remarks()

    @cached_property
    def listed(self) -> Listed:
        """The split, by the partition file and the identity file."""
        people, source = read_identities(self.folder), needed(self.folder, IDENTITIES)
        order = list(read_numbers(needed(self.folder, PARTITION), "000001.jpg 0"))
        for stem in order:
            identity_of(people, stem, source)
        listed = frequent_split(people, order, classes=self.classes, public=self.public_images)
        return listed if self.public_from == "own" else {**listed, "public": []}
