"""What DMMIA costs: prototypes against none, image-steps per second, peak memory, and how far the machine allows more.

    python benchmarks/speed.py --targets vgg16,ir152,facenet64
    python benchmarks/speed.py --device cuda --identities 50

All figures of a target come from one process in which the variants take turns, so their ratios hold on a noisy machine.
The floor of an image-step is the floating-point work of one forward pass and one backward pass with respect to the
images, through synthesis and victim, divided by the rate of a large matrix product measured in the same minute.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils.flop_counter import FlopCounterMode

from mibench.api import Access, Context
from mibench.attacks.dmmia import DMMIA
from mibench.attacks.dmmia.optimisation import DMMIAOptimisation
from mibench.rng import Streams
from mibench.system.malloc import keep_freed_memory
from mibench.weights import cards, load

VARIANTS: dict[str, dict[str, Any]] = {
    "DMMIA": {},
    "without prototypes": {"lambda_imr": 0.0, "lambda_idr": 0.0},
}


@click.command(help=__doc__)
@click.option("--targets", default="vgg16,ir152,facenet64", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--identities", default=10, show_default=True, help="Identities of the unit.")
@click.option("--batch-size", default=8, show_default=True, help="Candidates of each in a step.")
@click.option("--steps", default=3, show_default=True, help="Steps per turn.")
@click.option("--turns", default=5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures as JSON.")
def main(targets: str, device: str, identities: int, batch_size: int, steps: int, turns: int, out: Path | None) -> None:
    rows = []
    for target in targets.split(","):
        # a process for each target: the peak memory of a process never falls
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows.append(pool.submit(measure, target, device, identities, batch_size, steps, turns).result())
        click.echo(json.dumps(rows[-1], indent=2))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(target: str, place: str, identities: int, batch: int, steps: int, turns: int) -> dict[str, Any]:
    """Figures of one target; the variants' turns alternate, and so does who goes first."""
    device = torch.device(place)
    keep_freed_memory()  # as runs do
    victim = load.build_victim(cards.find("target", target, "synthfaces"), Access.GRADIENTS, device)
    file = cards.find("prior", "stylegan2", "synthfaces")
    prior = load.build_prior(file, file.card().arguments, device)
    context = Context(victim=victim, prior=prior, device=device, micro_batch=identities * batch)
    labels = torch.arange(identities)
    runs = {}
    for name, change in VARIANTS.items():
        attack = DMMIA(pool_size=64, candidates=batch, batch_size=batch, temperature=0.1, learning_rate=1e-3, **change)
        streams = Streams(0, ("benchmark",))
        runs[name] = DMMIAOptimisation(attack, context, attack.prepare(context, streams), labels, streams)
    rows = torch.arange(batch, device=device).expand(identities, batch)
    crops = torch.tensor([0.0, 0.0, 0.95, 0.95], device=device).expand(identities, batch, 4)

    def turn(run: DMMIAOptimisation) -> float:
        synchronise(device)
        started = time.perf_counter()
        for _ in range(steps):
            run._step(rows, crops)
        synchronise(device)
        return (time.perf_counter() - started) / steps

    for run in runs.values():
        turn(run)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    rates = []
    for number in range(turns):
        rates.append(matmul_rate(device))
        for name in list(runs) if number % 2 else list(reversed(runs)):
            seconds[name].append(turn(runs[name]))
    images = identities * batch
    step = statistics.median(seconds["DMMIA"])
    plain = seconds["without prototypes"]
    work = step_flops(runs["DMMIA"], rows, crops) / images
    rate = statistics.median(rates)
    return {
        "target": target,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "images_per_step": images,
        "milliseconds_per_image_step": 1000 * step / images,
        "image_steps_per_second": images / step,
        "cost_of_prototypes_ratio": statistics.median(a / b for a, b in zip(seconds["DMMIA"], plain, strict=True)),
        "gflop_per_image_step": work / 1e9,
        "matmul_gflops": rate / 1e9,
        "floor_milliseconds_per_image_step": 1000 * work / rate,
        "times_the_floor": step / images / (work / rate),
        "peak_memory_bytes": peak_memory(device),
    }


def step_flops(run: DMMIAOptimisation, rows: torch.Tensor, crops: torch.Tensor) -> float:
    """Floating-point operations of one step, counted by torch (matrix products and convolutions)."""
    with FlopCounterMode(display=False) as counter:
        run._step(rows, crops)
    return float(counter.get_total_flops())


def matmul_rate(device: torch.device, size: int = 2048) -> float:
    """Operations per second of a float32 matrix product."""
    a, b = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    a @ b
    synchronise(device)
    started = time.perf_counter()
    for _ in range(4):
        a @ b
    synchronise(device)
    return 4 * 2 * size**3 / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Of the process (CPU) or of the device's allocator (CUDA), in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
