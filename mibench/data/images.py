"""From image files to uint8 pixels: one defined path for every data set, in parallel, cached.

The path of a picture: decode, RGB, box, centre crop, bilinear resize (PIL's, antialiased) on 8 bits. Colour is treated
as the field's loaders treat it (PIL's ``convert("RGB")``): grey is repeated, a palette looked up, alpha dropped, CMYK
converted without a profile; the orientation that a camera notes is ignored. Deeper than 8 bits is refused, because PIL
would clip it.
"""

from __future__ import annotations

import functools
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from mibench.errors import MibenchError
from mibench.system.file_type import HEAD, beginning
from mibench.system.progress import Reporter

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # nothing that PIL hands to another program
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MODES = ("RGB", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "1", "PA", "RGBX")
MAX_PIXELS = 1 << 26  # of a file, before decoding: 8192 x 8192; more is a bomb rather than a picture of a face
AHEAD = 1 << 26  # bytes of decoded pixels that may wait to be stored
CHUNK = 16  # pictures a task: handing over one at a time costs as much as a small picture does

Item = TypeVar("Item")
Result = TypeVar("Result")
Pixels = npt.NDArray[np.uint8]
# What PIL's readers raise on damaged files, besides their own errors (which are OSErrors).
ANEW = "unpack or download it again"  # the cure of a file that cannot be read
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError, struct.error, zlib.error)


@dataclass(frozen=True)
class Framing:
    """How a stored picture becomes a square image.

    Attributes:
        crop: side of the centre crop, in pixels of the file; None: no crop.
        expected: (width, height) that every file must have; None: any.
        square: for what is not square after the crop: ``squash`` to a square, or ``cover``: resize the shorter side,
            then centre crop.
        version: raised when the same settings come to mean other pixels.
    """

    crop: int | None = None
    expected: tuple[int, int] | None = None
    square: Literal["squash", "cover"] = "squash"
    version: int = 1


@dataclass(frozen=True)
class Picture:
    """A file and, where only a part of it is meant, the box (left, top, right, bottom), applied before the framing."""

    path: Path
    box: tuple[int, int, int, int] | None = None


def decoded(pictures: Sequence[Picture], size: int, framing: Framing, reporter: Reporter) -> Iterator[Pixels]:
    """Pixels ``(size, size, 3)`` of each picture, in order, decoded on all cores with bounded memory.

    Threads, not processes. PIL releases the interpreter's lock while it decodes and resizes, which is most of the time;
    two processes were 1.4 times as fast as two threads (docs/data.md), seconds that are paid once, but forking beside
    CUDA or OpenMP can hang, and fresh interpreters need seconds to start and a guarded main module.
    """

    def task(chunk: Sequence[Picture]) -> list[Pixels]:
        return [decode(picture, size, framing) for picture in chunk]

    done, total = 0, len(pictures)
    with reporter.aside(f"decoding {total:,} images at {size} pixels") as progress:
        for chunk in in_parallel(task, pictures, ahead=max(1, AHEAD // (size * size * 3))):
            yield from chunk
            done += len(chunk)
            progress.update(done, total)


def in_parallel(
    task: Callable[[Sequence[Item]], Result], items: Sequence[Item], *, ahead: int, threads: int | None = None
) -> Iterator[Result]:
    """Results of ``task`` over chunks of items, in order, with at most about ``ahead`` items in flight."""
    threads = threads or worker_count()
    chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
    window = max(2 * threads, ahead // CHUNK)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(chunks), window):
            # map() cancels what has not begun as soon as one task fails or the reader stops
            yield from pool.map(task, chunks[start : start + window])


def worker_count() -> int:
    """Cores that this process may use, at most 16: more decode faster than a disk delivers."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(available, 16)


def decode(picture: Picture, size: int, framing: Framing) -> Pixels:
    """One picture as uint8 ``(size, size, 3)``.

    Raises:
        MibenchError: see :func:`load`.
    """
    from PIL import Image

    image = framed(read_rgb(picture.path, framing.expected), picture, framing)
    if framing.square == "cover" and image.width != image.height:
        shorter = min(image.size)
        width, height = (int(size * side / shorter) for side in image.size)
        image = centre(image.resize((width, height), Image.Resampling.BILINEAR), size)
    return np.array(image.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)


def framed(image: Image.Image, picture: Picture, framing: Framing) -> Image.Image:
    """The part of a PIL image that box and centre crop leave. A box that reaches past the edge is clipped."""
    if picture.box is not None:
        left, top, right, bottom = picture.box
        box = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
        if box[0] >= box[2] or box[1] >= box[3]:
            raise MibenchError(
                f"{picture.path} is {image.width}x{image.height}, which its box {picture.box} misses",
                cure="restore picture and annotation",
            )
        image = image.crop(box)
    if framing.crop is not None:
        if framing.crop > min(image.size):
            raise MibenchError(
                f"{picture.path} is {image.width}x{image.height}, too small for the centre crop of {framing.crop}"
            )
        image = centre(image, framing.crop)
    return image


def centre(image: Image.Image, side: int) -> Image.Image:
    """The middle square of a PIL image; half a pixel goes to the even offset, as in torchvision's ``CenterCrop``."""
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def size_of(path: Path) -> tuple[int, int]:
    """(width, height) by the header of a file; nothing is decoded."""
    with _opened(path) as image:
        return int(image.width), int(image.height)


def read_rgb(path: Path, expected: tuple[int, int] | None = None) -> Image.Image:
    """A file as a PIL image in RGB, decoded. Its size is checked before anything is decoded."""
    with _opened(path) as opened:
        width, height = opened.size
        if expected is not None and opened.size != expected:
            raise MibenchError(
                f"{path} is {width}x{height}, expected {expected[0]}x{expected[1]}: another release of the "
                "images, or a file that was changed",
                cure="restore it",
            )
        if width * height > MAX_PIXELS:
            raise MibenchError(f"{path} claims {width}x{height} pixels, a bomb rather than a picture", cure="remove it")
        if opened.mode not in MODES:
            raise MibenchError(f"{path} has pixels of mode {opened.mode!r}", cure="convert it to 8 bits a channel")
        return opened.convert("RGB")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """A PIL image whose header is read; what PIL raises inside, in our words."""
    from PIL import Image, UnidentifiedImageError

    _silence_bombs()
    try:
        with Image.open(path, formats=FORMATS) as opened:
            yield opened
    except FileNotFoundError as error:
        raise MibenchError(f"{path} does not exist", cure="restore it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MibenchError(f"{path} claims too many pixels, a bomb rather than a picture", cure="remove it") from error
    except UnidentifiedImageError as error:
        raise MibenchError(
            f"{path} is no image ({', '.join(FORMATS)} are read): {looks_like(path)}", cure=ANEW
        ) from error
    except _DAMAGE as error:
        reason = " ".join(str((error.strerror if isinstance(error, OSError) else None) or error).split())
        raise MibenchError(f"{path} cannot be decoded ({reason})", cure=ANEW) from error


@functools.cache
def _silence_bombs() -> None:
    """PIL warns of large pictures in two lines of its own; :data:`MAX_PIXELS` refuses them in one of ours."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def looks_like(path: Path) -> str:
    """What an unreadable file looks like, for a message; the cure is :data:`ANEW`."""
    with path.open("rb") as file:
        return beginning(file.read(HEAD))
