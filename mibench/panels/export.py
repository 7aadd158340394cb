"""Writes panels: a PNG for each, and a CSV with room for answers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.results import StoredRun
from mibench.system.files import atomic_write, check_writable, write_json

from .panel import Key, draw_panels, images_of

ANSWERS = ("yes", "no", "refused")
QUESTION = "The images on the left show one person. Does the image on the right show the same person?"
SHEET = "answers.csv"
KEYS = "verdicts"  # folder of a run
TILE, GAP, MARGIN = 128, 4, 24  # pixels
HOW_TO = f"""{QUESTION}

Answer in the column "answer" of {SHEET} with yes, no or refused, a panel a row. Whoever answers should see the panels
alone, one at a time, and neither the run nor its tables. Several raters: a copy of the rows for each, told apart by the
column "rater". Then: mibench verdicts import RUN {SHEET}
"""


def export_panels(
    run: StoredRun,
    dataset: IdentitySplit,
    folder: Path,
    *,
    people: int | None = None,
    per_person: int = 2,
    references: int = 4,
    seed: int = 0,
) -> Key:
    """Write panels into an empty ``folder`` and the key into the run.

    Args:
        run: complete and scored.
        dataset: what was attacked; its people appear on the panels as they are.
        folder: for the panels; what is in it may be handed out.
        people, per_person, references, seed: see :func:`~mibench.panels.panel.draw_panels`.

    Raises:
        MibenchError: a folder with something in it, images missing, a file that cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise MibenchError(f"{folder} is there already and not an empty folder", cure="name another --output")
    check_writable(folder, run.path)
    key = draw_panels(run, dataset, people=people, per_person=per_person, references=references, seed=seed)
    size = int(run.units[0].images.shape[-1])
    images = images_of(run, dataset, key, size)
    rows = []
    for panel in key.panels:
        own, image = images.of(panel)
        atomic_write(folder / f"{panel.name}.png", panel_png(own, image))
        rows.append([panel.name, f"{panel.name}.png", "", ""])
    atomic_write(folder / SHEET, _csv([["panel", "file", "rater", "answer"], *rows]))
    atomic_write(folder / "README.txt", HOW_TO.encode())
    write_json(key_path(run, key.batch), key.as_json())
    return key


def key_path(run: StoredRun, batch: str) -> Path:
    """Where a run keeps the key of an export."""
    return run.path / KEYS / batch / "key.json"


def panel_png(own: Sequence[Tensor], image: Tensor) -> bytes:
    """Real images of a person, a gap, the image in question: uint8 ``(3, S, S)``, scaled alike, without metadata."""
    from PIL import Image

    width = len(own) * (TILE + GAP) + MARGIN + TILE
    canvas = Image.new("RGB", (width, TILE), (255, 255, 255))
    lefts = [number * (TILE + GAP) for number in range(len(own))]
    for left, pixels in zip([*lefts, width - TILE], [*own, image], strict=True):
        tile = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))
        canvas.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, 0))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()


def _csv(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
