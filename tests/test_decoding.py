"""From files to pixels: framing, colour, damaged files, progress."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from noise_images import noise, write
from PIL import Image
from torchvision import transforms

from mibench.api import MibenchError
from mibench.data import images
from mibench.data.images import Framing, Picture
from mibench.data.pixels import load
from mibench.system.progress import current_reporter, set_current_reporter

pytestmark = pytest.mark.usefixtures("own_cache")


def pixels(path: Path, size: int = 16, framing: Framing | None = None) -> np.ndarray:
    return images.decode(Picture(path), size, framing or Framing())


# --- framing ---


@pytest.mark.parametrize("shape", [(37, 50), (50, 37), (41, 41), (64, 33)])
def test_cover_is_torchvisions_resize_and_centre_crop(tmp_path: Path, shape: tuple[int, int]) -> None:
    noise(1, *shape).save(tmp_path / "a.png")
    reference = transforms.Compose([transforms.Resize(24), transforms.CenterCrop(24)])
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.array(reference(opened))
    assert np.array_equal(pixels(tmp_path / "a.png", 24, Framing(square="cover")), expected)


@pytest.mark.parametrize(("shape", "crop"), [((40, 48), 20), ((41, 48), 20), ((43, 50), 20), ((20, 20), 20)])
def test_the_crop_is_torchvisions_centre_crop(tmp_path: Path, shape: tuple[int, int], crop: int) -> None:
    noise(1, *shape).save(tmp_path / "a.png")
    reference = transforms.Compose([transforms.CenterCrop(crop), transforms.Resize((12, 12))])
    with Image.open(tmp_path / "a.png") as opened:
        expected = np.array(reference(opened))
    assert np.array_equal(pixels(tmp_path / "a.png", 12, Framing(crop=crop)), expected)


def test_squash_fills_the_square(tmp_path: Path) -> None:
    noise(1, 30, 60).save(tmp_path / "a.png")
    expected = np.array(noise(1, 30, 60).resize((15, 15), Image.Resampling.BILINEAR))
    assert np.array_equal(pixels(tmp_path / "a.png", 15), expected)


def test_a_box_comes_first_and_is_clipped(tmp_path: Path) -> None:
    noise(1, 40, 40).save(tmp_path / "a.png")
    whole = np.array(noise(1, 40, 40))
    framing = Framing(crop=10)
    inside = images.decode(Picture(tmp_path / "a.png", (10, 4, 30, 24)), 10, framing)
    assert np.array_equal(inside, whole[9:19, 15:25])
    clipped = images.decode(Picture(tmp_path / "a.png", (20, 20, 55, 44)), 10, framing)
    assert np.array_equal(clipped, whole[25:35, 25:35])
    with pytest.raises(MibenchError, match=r"a\.png is 40x40, which its box \(50, 0, 60, 9\) misses"):
        images.decode(Picture(tmp_path / "a.png", (50, 0, 60, 9)), 10, framing)


def test_a_picture_smaller_than_its_crop_is_refused(tmp_path: Path) -> None:
    noise(1, 40, 19).save(tmp_path / "a.png")
    with pytest.raises(MibenchError, match=r"a\.png is 40x19, too small for the centre crop of 20"):
        pixels(tmp_path / "a.png", framing=Framing(crop=20))


# --- colour ---


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_other_colours_become_rgb_as_the_fields_loaders_do(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    noise(1, 16, 16).convert(mode).save(path)
    with Image.open(path) as opened:
        assert opened.mode == mode
        expected = np.array(opened.convert("RGB"))
    assert np.array_equal(pixels(path), expected)


def test_alpha_is_dropped_and_grey_repeated(tmp_path: Path) -> None:
    picture = noise(1, 16, 16)
    picture.putalpha(Image.new("L", (16, 16), 7))
    picture.save(tmp_path / "a.png")
    assert np.array_equal(pixels(tmp_path / "a.png"), np.array(noise(1, 16, 16)))
    noise(1, 16, 16).convert("L").save(tmp_path / "g.png")
    grey = pixels(tmp_path / "g.png")
    assert np.array_equal(grey[..., 0], grey[..., 1])
    assert np.array_equal(grey[..., 0], np.array(noise(1, 16, 16).convert("L")))


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    """PIL would clip them to white."""
    Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(MibenchError, match=r"deep\.png has pixels of mode 'I;16'"):
        pixels(tmp_path / "deep.png")


# --- files that are none ---


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that claims a size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def whole(suffix: str) -> bytes:
    import io

    buffer = io.BytesIO()
    noise(1, 178, 218).save(buffer, format={"jpg": "JPEG", "png": "PNG"}[suffix])
    return buffer.getvalue()


DAMAGED = {
    "truncated.jpg": (whole("jpg")[:2000], "cannot be decoded"),
    "truncated.png": (whole("png")[:2000], "cannot be decoded"),
    "flipped.png": (whole("png")[:100] + b"\0\0\0\0" + whole("png")[104:], "cannot be decoded"),
    "header.jpg": (whole("jpg")[:20], "is no image"),
    "empty.jpg": (b"", "is no image .* it is empty"),
    "page.jpg": (b"<!DOCTYPE html><html>quota exceeded</html>", "is no image .* it is a web page"),
    "text.png": (b"version https://git-lfs", "is no image .* it begins like a pointer of Git LFS"),
    "picture.gif": (b"GIF89a" + bytes(40), "is no image"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no image"),
    "bomb.png": (png_header(60_000, 60_000), "a bomb rather than a picture"),
    "small_bomb.png": (png_header(9_000, 9_000), "claims 9000x9000 pixels, a bomb"),
    "middle_bomb.png": (png_header(12_000, 12_000), "claims .* pixels, a bomb"),
}


@pytest.mark.parametrize("name", sorted(DAMAGED))
@pytest.mark.filterwarnings("error")
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    content, message = DAMAGED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MibenchError, match=message) as caught:
        load([Picture(tmp_path / name)], 16, Framing())
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_wrong_size_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [*write(tmp_path / "a", 2), Picture(tmp_path / "a" / "9.png")]
    for cache in "10":
        monkeypatch.setenv("MIBENCH_CACHE", cache)
        with pytest.raises(MibenchError, match=r"9\.png"):
            load(pictures, 16, Framing())
        with pytest.raises(MibenchError, match=r"0\.png is 40x48, expected 48x40"):
            load(pictures[:2], 16, Framing(expected=(48, 40)))


def test_the_first_damaged_file_of_many_is_the_one_named(tmp_path: Path) -> None:
    pictures = write(tmp_path / "a", 60)
    for number in (58, 23, 41):
        pictures[number].path.write_bytes(b"no picture")
    with pytest.raises(MibenchError, match=r"/23\.png is no image"):
        load(pictures, 8, Framing())


def test_nothing_asked_for_is_nothing_loaded(tmp_path: Path) -> None:
    assert load([], 16, Framing()).shape == (0, 3, 16, 16)
    assert load(write(tmp_path / "a", 2), 16, Framing(), []).shape == (0, 3, 16, 16)
    with pytest.raises(MibenchError, match="at least one pixel"):
        load([], 0, Framing())


# --- progress ---


def test_the_commands_reporter_hears_of_decoding_inside_a_stretch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mibench.cli import progress

    before = current_reporter()
    try:
        monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.0)
        reporter = progress.reporter()
        assert current_reporter() is reporter
        reporter.start("training")
        load(write(tmp_path / "a", 40), 16, Framing())
        reporter.update(1, 2)
        lines = capsys.readouterr().err.splitlines()
    finally:
        set_current_reporter(before)
    assert lines[0].startswith("reading 40 files, once, to know them again: 40%")
    assert any(line.startswith("decoding 40 images at 16 pixels: 40%") for line in lines)
    assert lines[-1].startswith("training: 50%"), "the stretch goes on under its own name"


def test_a_terminal_shows_both_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from mibench.cli import progress

    monkeypatch.setenv("COLUMNS", "100")  # bars are cut to a terminal's width,
    monkeypatch.setenv("TERM", "xterm")  # and a dumb one gets none
    screen = io.StringIO()
    reporter = progress.TerminalReporter()
    reporter._console = Console(file=screen, force_terminal=True, width=100)
    reporter.start("training")
    reporter.update(1, 4)
    with reporter.aside("decoding") as inner:
        inner.update(3, 4)
        reporter._bar.refresh()
    reporter.update(2, 4)
    reporter.stop()
    text = screen.getvalue()
    assert "decoding" in text
    assert "75%" in text
    assert "training" in text[text.rindex("decoding") :], "the outer bar is still there afterwards"
