"""Stage d: image-steps per second of each attack, and how far that is from what the device multiplies.

An image-step is one image forwards and backwards through prior and victim. Cells run in the order of their value: all
attacks and targets at the shipped width first, then naive loops, precisions, larger batches, published width, captured
graphs, compiled programs. ``varying`` is eager without deterministic algorithms: what repeating costs. What the clock
does not reach is named in ``not_reached``.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import naive_loop
import torch
from figures import draw_speed
from loops import MODES, Timing, configuration, first_images, in_mode, step_flops, timed, workbench
from stage import BREAKDOWNS, Stage, one_line, out_of_memory
from stage_environment import PRECISIONS, matmul_rate

from mibench.system.devices import deterministic
from mibench.system.malloc import keep_freed_memory

ATTACKS = ("dmmia", "ppa", "gmi", "kedmi")
TARGETS = ("vgg16", "ir152", "facenet64")
PATIENCE = 3.0  # seconds of a step beyond which larger batches teach nothing more
TYPICAL = 512


@dataclass(frozen=True)
class Cell:
    """One thing to time: an attack's step of ``batch`` images."""

    attack: str
    target: str
    width: str = "shipped"
    batch: int = TYPICAL
    precision: str = "float32"
    mode: str = "eager"


def cells(*, tiny: bool) -> Iterator[Cell | str]:
    """What to time, most valuable first; a name of an attack stands for its naive loops."""
    attacks, targets = ATTACKS, TARGETS
    typical = TYPICAL
    if tiny:
        targets, typical = TARGETS[:1], 8
    pairs = [(attack, target) for target in targets for attack in attacks]
    yield from (Cell(*pair, batch=typical) for pair in pairs)
    yield from attacks
    yield from (Cell(*pair, batch=typical, precision=other) for other in PRECISIONS[1:] for pair in pairs)
    if tiny:
        yield from (Cell("ppa", "vgg16", batch=8, mode=mode) for mode in MODES[1:])
        yield Cell("dmmia", "vgg16", width="full", batch=2)
        return
    yield from (Cell(attack, "vgg16", mode="varying") for attack in attacks)
    yield from (Cell(*pair, batch=64) for pair in pairs)
    yield from (Cell(*pair, width="full") for pair in pairs)
    yield from (Cell(attack, "vgg16", batch=batch, mode="graphs") for batch in (64, TYPICAL) for attack in attacks)
    for batch in (2048, 8192, 32768):
        yield from (Cell(*pair, batch=batch) for pair in pairs[: len(attacks)])
    yield from (Cell(*pair, width="full", precision=other) for other in PRECISIONS[1:] for pair in pairs)
    yield from (Cell(attack, target, batch=64, mode="graphs") for target in targets[1:] for attack in attacks)
    yield from (Cell(attack, "vgg16", mode="compiled") for attack in ATTACKS)
    for batch in (2048, 8192, 32768):
        yield from (Cell(*pair, batch=batch) for pair in pairs[len(attacks) :])
    yield from (Cell(attack, "vgg16", width="full", mode="compiled") for attack in ATTACKS)


class Bench:
    """Times cells; keeps the networks of the last one, and the counts of operations."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.device = stage, stage.device
        self._built: tuple[tuple[str, str, str], Any] | None = None
        self._flops: dict[tuple[str, str, str], float] = {}
        self._full: set[tuple[str, str, str, str, str]] = set()  # what ran out of memory or of patience
        size = 512 if stage.tiny else 4096
        self.rates = {precision: matmul_rate(self.device, precision, size) for precision in PRECISIONS}
        stage.record(matmul_flops_per_second=self.rates, matmul_size=size)

    def measure(self, cell: Cell) -> dict[str, Any] | None:
        """A row of the table; None when a smaller batch was too much already."""
        series = (cell.attack, cell.target, cell.width, cell.precision, cell.mode)
        if series in self._full:
            return None
        row: dict[str, Any] = asdict(cell)
        try:
            timing = self._timing(cell)
            flops = self._flops_of(cell) * timing.images
            row |= facts(timing, flops, self.rates[cell.precision])
            if timing.seconds > PATIENCE:
                self._full.add(series)
            if cell.mode != "eager":
                row["apart_from_eager"] = self._apart(cell)
        except BREAKDOWNS as error:  # a cell that breaks is a row of the table, and the next cell is measured
            row["reason"] = "out of memory" if out_of_memory(error) else one_line(error)
            self._full.add(series)
            self._built = None
        self._free()
        return row

    def _context(self, cell: Cell) -> Any:
        key = (cell.attack, cell.target, cell.width)
        if cell.mode != "eager":
            self._built = None
            self._free()
            if cell.mode == "compiled":
                torch.compiler.reset()
            return in_mode(workbench(*key, self.device), cell.mode)
        if self._built is None or self._built[0] != key:
            self._built = None
            self._free()
            self._built = (key, workbench(*key, self.device))
        return self._built[1]

    def _timing(self, cell: Cell) -> Timing:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = 0.05 if self.stage.tiny else 0.4
        return timed(
            *configuration(cell.attack, cell.batch),
            self._context(cell),
            precision=cell.precision,
            seconds=seconds,
            repeatable=cell.mode != "varying",
        )

    def _flops_of(self, cell: Cell) -> float:
        """Operations of one image in one step, counted at a small batch (KEDMI's critic compares pairs: a few more)."""
        key = (cell.attack, cell.target, cell.width)
        if key not in self._flops:
            batch = min(8, cell.batch)
            context = workbench(*key, self.device) if cell.mode != "eager" else self._context(cell)
            with deterministic(self.device, "float32"):
                self._flops[key] = step_flops(*configuration(cell.attack, batch), context) / batch
        return self._flops[key]

    def _apart(self, cell: Cell) -> float:
        """How far the images of the first steps are from those of the eager loop, relative to their mean."""
        means = []
        for mode in ("eager", cell.mode):
            context = in_mode(workbench(cell.attack, cell.target, cell.width, self.device), mode)
            means.append(first_images(*configuration(cell.attack, cell.batch), context))
        return float(((means[0] - means[1]).abs() / means[0].abs()).max())

    def _free(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def naive(self, attack: str) -> Iterator[dict[str, Any]]:
        """The attack's loop against naive ones: as people write it, and with frozen networks."""
        identities, batch, steps = (2, 2, 2) if self.stage.tiny else (10, 8, 5)
        settings = naive_loop.configurations(steps, batch)[attack]
        for frozen in (False, True):
            row: dict[str, Any] = {"attack": attack, "target": "vgg16", "frozen": frozen}
            try:
                context, _ = naive_loop.build_context(settings[0], "vgg16", self.device, identities * batch)
                with deterministic(self.device, "float32"):
                    found = naive_loop.measure(
                        *settings, context, torch.arange(identities), 1 if self.stage.tiny else 3, frozen=frozen
                    )
                row |= found
            except BREAKDOWNS as error:  # as above: a row, not an end
                row["reason"] = one_line(error)
            self._free()
            yield row


def facts(timing: Timing, flops: float, rate: float) -> dict[str, Any]:
    """What a timing means; ``flops`` of the whole step, ``rate`` of the matrix product in the same precision."""
    floor = flops / rate
    return {
        "steps_timed": timing.steps,
        "images": timing.images,
        "milliseconds_per_step": 1e3 * timing.seconds,
        "image_steps_per_second": timing.rate,
        "gflop_per_image_step": flops / timing.images / 1e9,
        "share_of_matmul_rate": floor / timing.seconds,
        "times_the_floor": timing.seconds / floor,
        "peak_memory_bytes": timing.peak_memory_bytes,
    }


def main() -> None:
    """Cell after cell until the clock says stop."""
    stage = Stage(__doc__)
    keep_freed_memory()  # as runs do
    bench = Bench(stage)
    todo = list(cells(tiny=stage.tiny))
    for number, cell in enumerate(todo):
        if stage.left() < 3:
            stage.record(not_reached=[describe(other) for other in todo[number:]])
            stage.say(f"{len(todo) - number} cells were not reached")
            break
        if isinstance(cell, str):
            for row in bench.naive(cell):
                stage.add("naive", row)
                stage.say(f"naive {cell}: {row.get('naive_over_here', row.get('reason'))}")
        elif (row := bench.measure(cell)) is not None:
            stage.add("cells", row)
            stage.say(f"{describe(cell)}: {outcome(row)}")
        if number % 8 == 0:
            draw_speed(stage.found, stage.picture("speed"))
    draw_speed(stage.found, stage.picture("speed"))
    rows = stage.found.get("cells", [])
    if not any("reason" not in row for row in rows):
        raise SystemExit(f"nothing could be timed: {rows[0]['reason'] if rows else 'no time'}")


def describe(cell: Cell | str) -> str:
    """A cell in words."""
    if isinstance(cell, str):
        return f"naive loops of {cell}"
    return f"{cell.attack} {cell.target} {cell.width} {cell.precision} {cell.mode} batch {cell.batch}"


def outcome(row: dict[str, Any]) -> str:
    """A row in words."""
    if "reason" in row:
        return str(row["reason"])
    return f"{row['image_steps_per_second']:,.0f} image-steps/s, {row['share_of_matmul_rate']:.1%} of the matmul rate"


if __name__ == "__main__":
    main()
