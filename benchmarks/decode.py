"""What images cost: reading, decoding, filling the cache and reading it back, and which of them is the bound.

    python benchmarks/decode.py
    python benchmarks/decode.py --count 2000 --json

Writes JPEG files of 178 x 218 pixels (drawn: smooth with a little noise, quality 95) into a temporary folder, then
takes them through the framing of the 64-pixel protocol as ``mibench`` does. "Cold" asks the system to forget the files
first (Linux). Every row has wall-clock seconds and CPU time of all threads: on a busy machine compare the second.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from mibench.data.images import CHUNK, Framing, Picture, decode, in_parallel, worker_count
from mibench.data.pixels import load

WIDTH, HEIGHT, QUALITY = 178, 218, 95
FRAMING = Framing(crop=108, expected=(WIDTH, HEIGHT))
NOISE = 1.6  # of 255


@dataclass(frozen=True)
class Stage:
    """One row: ``bytes`` went through in ``seconds``; ``cpu`` are the seconds of all threads and child processes."""

    name: str
    images: int
    bytes: int
    seconds: float
    cpu: float

    def line(self) -> str:
        """For people."""
        rate, speed = self.images / self.seconds, self.bytes / 1e6 / self.seconds
        per = self.cpu / self.images * 1e3
        return f"{self.name:38} {self.seconds:8.2f} s {rate:10,.0f} images/s {speed:9,.1f} MB/s {per:8.3f} ms CPU each"


def write_pictures(folder: Path, count: int) -> list[Picture]:
    """JPEG files of smooth colours with a little noise, no two alike."""
    from PIL import Image

    generator = np.random.default_rng(0)
    noise = generator.normal(0, NOISE, (HEIGHT, WIDTH, 3))
    pictures = []
    for number in range(count):
        coarse = generator.integers(60, 200, (6, 5, 3), dtype=np.uint8)
        smooth = np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
        drawn = (smooth + np.roll(noise, number, axis=1)).clip(0, 255).astype(np.uint8)
        path = folder / f"{number:06d}.jpg"
        Image.fromarray(drawn).save(path, quality=QUALITY)
        pictures.append(Picture(path))
    os.sync()
    return pictures


def forget(paths: Sequence[Path]) -> bool:
    """Ask the system to drop files from its memory; False where it cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return True


def timed(name: str, images: int, size: int, work: Callable[[], Any]) -> Stage:
    """Run ``work`` and print its row to stderr."""
    before, began = os.times(), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - began, os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    stage = Stage(name, images, size, seconds, cpu)
    click.echo(stage.line(), err=True)
    return stage


def decode_chunk(chunk: Sequence[Picture]) -> list[Any]:
    """The path of ``mibench``: decode, crop, resize."""
    return [decode(picture, 64, FRAMING) for picture in chunk]


def measure(pictures: list[Picture], size: int, processes: int) -> list[Stage]:
    """Every stage, in the order in which a person meets them."""
    from PIL import Image

    count, paths = len(pictures), [picture.path for picture in pictures]
    weight = sum(path.stat().st_size for path in paths)
    pixels = count * size * size * 3

    def read_all() -> None:
        for path in paths:
            path.read_bytes()

    def through(threads: int) -> Callable[[], None]:
        return lambda: [None for _ in in_parallel(decode_chunk, pictures, ahead=4096, threads=threads)] and None

    def through_processes() -> None:
        chunks = [pictures[start : start + CHUNK] for start in range(0, count, CHUNK)]
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
            for _ in pool.map(decode_chunk, chunks):
                pass

    def decode_only() -> None:
        for content in contents:
            Image.open(io.BytesIO(content)).convert("RGB")

    def read_back() -> None:
        load(pictures, size, FRAMING).clone()

    stages = []
    if forget(paths):
        stages.append(timed("read, cold", count, weight, read_all))
    stages.append(timed("read, warm", count, weight, read_all))
    contents = [path.read_bytes() for path in paths]
    stages.append(timed("decode only, 1 thread", count, weight, decode_only))
    stages.append(timed("decode, crop, resize, 1 thread", count, weight, through(1)))
    stages.append(timed(f"decode, crop, resize, {processes} threads", count, weight, through(processes)))
    stages.append(timed(f"decode, crop, resize, {processes} processes", count, weight, through_processes))
    with tempfile.TemporaryDirectory() as home:
        os.environ["MIBENCH_HOME"] = home
        forget(paths)
        stages.append(timed("fill the cache, cold", count, weight, lambda: load(pictures, size, FRAMING)))
        cached = next(Path(home).rglob("pixels.npy"))
        stages.append(timed("read the cache, warm", count, pixels, read_back))
        if forget([cached]):
            stages.append(timed("read the cache, cold", count, pixels, read_back))
        stages.append(timed("open the cache, no pixel read", count, pixels, lambda: load(pictures, size, FRAMING)))
    return stages


def verdict(stages: list[Stage]) -> str:
    """Which part of filling the cache sets its time."""
    by_name = {stage.name: stage for stage in stages}
    fill = by_name["fill the cache, cold"].seconds
    disk = by_name.get("read, cold", by_name["read, warm"]).seconds
    decoder = next(
        stage for stage in stages if stage.name.startswith("decode, crop") and "threads" in stage.name
    ).seconds
    bound = "decoder" if decoder > disk else "disk"
    return f"bound: the {bound} (fill {fill:.1f} s, decoder alone {decoder:.1f} s, disk alone {disk:.1f} s)"


@click.command(help=__doc__)
@click.option("--count", default=30_000, show_default=True, help="Images.")
@click.option("--size", default=64, show_default=True, help="Pixels a side, in the cache.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(count: int, size: int, as_json: bool, out: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures = write_pictures(Path(folder), count)
        stages = measure(pictures, size, max(2, worker_count()))
        mean = sum(picture.path.stat().st_size for picture in pictures) / count
    load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    record = {
        "images": count,
        "mean_bytes": round(mean),
        "cores": worker_count(),
        "load_average": load_average,
        "bound": verdict(stages),
        "stages": [asdict(stage) for stage in stages],
    }
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    click.echo(f"{count:,} JPEG files of {WIDTH}x{HEIGHT}, {mean / 1e3:.1f} KB each; {worker_count()} cores")
    click.echo(record["bound"])


if __name__ == "__main__":
    main()
