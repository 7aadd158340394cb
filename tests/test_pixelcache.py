"""Decoded pixels on disk: filled on demand, by several processes, through kills, full disks and damaged files."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_images import noise, write

from mibench.api import MibenchError
from mibench.data import images as decoding
from mibench.data import pixel_cache
from mibench.data.images import Framing, Picture
from mibench.data.pixels import load
from mibench.system.progress import Reporter
from mibench.targets.training.augment import channels_last_store

pytestmark = pytest.mark.usefixtures("own_cache")


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from now on."""
    names: list[str] = []
    honest = decoding.decode

    def counting(picture: Picture, size: int, framing: Framing) -> np.ndarray:
        names.append(picture.path.stem)
        return honest(picture, size, framing)

    monkeypatch.setattr(decoding, "decode", counting)
    return names


def direct(pictures: Sequence[Picture], size: int = 16) -> torch.Tensor:
    """What :func:`load` should give, one picture after the other and without a cache."""
    images = [torch.from_numpy(decoding.decode(picture, size, Framing())) for picture in pictures]
    return torch.stack(images).permute(0, 3, 1, 2)


def test_parts_of_a_list_share_a_cache_and_nothing_is_decoded_twice(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = write(tmp_path / "a", 40)
    expected = direct(pictures)
    names = count_decodes(monkeypatch)
    assert torch.equal(load(pictures, 16, Framing(), [5, 30, 7]), expected[[5, 30, 7]])
    assert sorted(names) == ["30", "5", "7"]
    assert torch.equal(load(pictures, 16, Framing()), expected)
    assert sorted(names, key=int) == [str(n) for n in range(40)]
    assert torch.equal(load(pictures, 16, Framing(), range(10, 20)), expected[10:20])
    assert len(names) == 40
    assert len(list((home / "cache" / "images").iterdir())) == 1


def test_without_the_cache_nothing_is_written(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(tmp_path / "a", 5)
    monkeypatch.setenv("MIBENCH_CACHE", "0")
    assert torch.equal(load(pictures, 16, Framing(), [4, 1]), direct(pictures)[[4, 1]])
    assert not home.exists()
    monkeypatch.setenv("MIBENCH_CACHE", "no")
    with pytest.raises(MibenchError, match="MIBENCH_CACHE must be 0 or 1, got 'no'"):
        load(pictures, 16, Framing())


@pytest.mark.parametrize("cache", ["0", "1"])
def test_training_takes_the_pixels_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str) -> None:
    monkeypatch.setenv("MIBENCH_CACHE", cache)
    loaded = load(write(tmp_path / "a", 6), 16, Framing())
    assert loaded.shape == (6, 3, 16, 16)
    store = channels_last_store(loaded, torch.device("cpu"))
    assert store.shape == (6, 16, 16, 3)
    assert store.data_ptr() == loaded.data_ptr()


def test_what_a_reader_does_to_its_pixels_stays_with_it(tmp_path: Path) -> None:
    pictures = write(tmp_path / "a", 4)
    load(pictures, 16, Framing()).zero_()
    assert torch.equal(load(pictures, 16, Framing()), direct(pictures))


def test_a_changed_file_is_decoded_again_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(tmp_path / "a", 6)
    load(pictures, 16, Framing())
    names = count_decodes(monkeypatch)
    noise(77, 40, 48).save(pictures[3].path)
    os.utime(pictures[3].path, ns=(1, 1))
    assert torch.equal(load(pictures, 16, Framing()), direct(pictures))
    assert names.count("3") == 2  # once by the cache, once by direct()
    assert names.count("2") == 1


@pytest.mark.parametrize("other", [Framing(crop=20), Framing(version=2), Framing(square="cover")])
def test_another_framing_or_size_is_another_cache(tmp_path: Path, home: Path, other: Framing) -> None:
    pictures = write(tmp_path / "a", 3)
    load(pictures, 16, Framing())
    load(pictures, 16, other)
    load(pictures, 12, Framing())
    assert len(list((home / "cache" / "images").iterdir())) == 3


@pytest.mark.parametrize("name", ["pixels.npy", "done.npy"])
@pytest.mark.parametrize("damage", ["shorter", "absent", "foreign"])
def test_a_damaged_cache_is_made_again(tmp_path: Path, home: Path, name: str, damage: str) -> None:
    pictures = write(tmp_path / "a", 5)
    load(pictures, 16, Framing())
    (path,) = (home / "cache" / "images").glob(f"*/{name}")
    if damage == "absent":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if damage == "shorter" else b"something else")
    assert torch.equal(load(pictures, 16, Framing()), direct(pictures))


def test_an_interruption_keeps_what_was_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(tmp_path / "a", 64)
    names = count_decodes(monkeypatch)

    class Impatient(Reporter):
        def update(self, done: float, total: float, text: str = "") -> None:
            if done >= 32:
                raise KeyboardInterrupt

        @contextlib.contextmanager
        def aside(self, text: str) -> Iterator[Reporter]:
            yield self if text.startswith("decoding") else Reporter()

    with pytest.raises(KeyboardInterrupt):
        load(pictures, 16, Framing(), reporter=Impatient())
    names.clear()
    assert torch.equal(load(pictures, 16, Framing()), load(pictures, 16, Framing()))
    assert sorted(map(int, names)) == list(range(32, 64))
    assert torch.equal(load(pictures, 16, Framing()), direct(pictures))


def _fill_half(pictures: list[Picture]) -> None:
    """Decode the first hundred pictures or so, commit them, and never come to an end."""
    honest = decoding.decode

    def stuck(picture: Picture, size: int, framing: Framing) -> np.ndarray:
        if int(picture.path.stem) >= 100:
            threading.Event().wait()
        return honest(picture, size, framing)

    decoding.decode = stuck
    pixel_cache.COMMIT = 16 * 16 * 3 * 8
    load(pictures, 16, Framing())


def test_a_killed_process_leaves_a_cache_that_others_finish(tmp_path: Path, home: Path) -> None:
    """Killed between two commits, holding the lock: no row that counts is wrong, and nobody waits for the dead."""
    pictures = write(tmp_path / "a", 200)
    child = multiprocessing.get_context("fork").Process(target=_fill_half, args=(pictures,))
    child.start()
    try:
        deadline = time.monotonic() + 300
        while not (found := list((home / "cache" / "images").glob("*/done.npy"))) or not np.load(found[0]).any():
            assert child.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.join()
    rows = int(np.load(found[0]).any(axis=1).sum())
    assert 0 < rows < 200
    assert torch.equal(load(pictures, 16, Framing()), direct(pictures))


def _read(pictures: list[Picture], path: Path) -> None:
    np.save(path, load(pictures, 16, Framing()).numpy())


def test_two_processes_at_once_agree(tmp_path: Path) -> None:
    pictures = write(tmp_path / "a", 120)
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_read, args=(pictures, tmp_path / f"{n}.npy")) for n in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(300)
        assert child.exitcode == 0
    expected = direct(pictures).numpy()
    assert all(np.array_equal(np.load(tmp_path / f"{n}.npy"), expected) for n in range(3))


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write(tmp_path / "a", 3)

    def full(self: object, row: int, values: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pixel_cache._RowFile, "put", full)
    with pytest.raises(MibenchError, match=r"No space left on device; make room or .* MIBENCH_CACHE=0"):
        load(pictures, 16, Framing())


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path, home: Path) -> None:
    home.mkdir()
    (home / "cache").write_text("a file where the folder should be")
    with pytest.raises(MibenchError, match=r"cannot write the cache .* MIBENCH_CACHE=0"):
        load(write(tmp_path / "a", 3), 16, Framing())
