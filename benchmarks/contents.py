"""What it costs that a data set is known by its contents: every file is read once, and remembered from then on.

    python benchmarks/contents.py
    python benchmarks/contents.py --count 2000 --json

Writes the JPEG files of ``decode.py`` (178 x 218 pixels) as one folder a person, and asks for the digest of that folder
as a command does: the first time, with the files not in the system's memory ("cold", Linux) and in it, and when every
file is remembered. Wall-clock seconds and CPU time of all threads: on a busy machine compare the second.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
from decode import Stage, forget, timed, write_pictures

from mibench.data.content_hashes import SETTLED, content_hashes
from mibench.data.datasets.folder import Folder
from mibench.data.images import worker_count

PEOPLE = 500


def deal(pictures: list[Path], root: Path) -> list[Path]:
    """The same files, one folder a person."""
    dealt = []
    for number, path in enumerate(pictures):
        place = root / f"{number % PEOPLE:04d}" / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        dealt.append(path.rename(place))
    return dealt


def measure(paths: list[Path], root: Path, home: Path) -> list[Stage]:
    """Every stage, in the order in which a person meets them."""
    count, weight = len(paths), sum(path.stat().st_size for path in paths)
    time.sleep(SETTLED / 1e9 + 0.1)  # files that are newer are not remembered
    ledger = home / "cache" / "contents.sqlite"

    def again() -> None:
        ledger.unlink(missing_ok=True)

    def digest() -> str:
        return Folder(root=str(root)).digest

    stages = []
    if forget(paths):
        stages.append(timed("digest, nothing remembered, cold", count, weight, digest))
    again()
    stages.append(timed("digest, nothing remembered, warm", count, weight, digest))
    stages.append(timed("digest, everything remembered", count, weight, digest))
    stages.append(timed("of which hashes from the ledger", count, weight, lambda: content_hashes(paths)))
    stages.append(timed("of which the listing", count, weight, lambda: Folder(root=str(root))))
    return stages


@click.command(help=__doc__)
@click.option("--count", default=30_000, show_default=True, help="Images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(count: int, as_json: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        os.environ["MIBENCH_HOME"] = home
        (Path(folder) / "all").mkdir()
        drawn = [picture.path for picture in write_pictures(Path(folder) / "all", count)]
        root = Path(folder) / "people"
        paths = deal(drawn, root)
        stages = measure(paths, root, Path(home))
        size = (Path(home) / "cache" / "contents.sqlite").stat().st_size
        mean = sum(path.stat().st_size for path in paths) / count
    record = {
        "images": count,
        "mean_bytes": round(mean),
        "ledger_bytes": size,
        "cores": worker_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "stages": [asdict(stage) for stage in stages],
    }
    if as_json:
        click.echo(json.dumps(record, indent=2))
        return
    click.echo(f"{count:,} JPEG files of {mean / 1e3:.1f} KB each, ledger {size / 1e6:.1f} MB; {worker_count()} cores")


if __name__ == "__main__":
    main()
