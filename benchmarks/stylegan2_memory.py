"""Seconds and memory of StyleGAN2 by image size: random weights, forwards alone and forwards and backwards.

    python benchmarks/stylegan2_memory.py
    python benchmarks/stylegan2_memory.py --device cuda --sizes 1024 --images 1,4,16

Every row is a process of its own: the peak memory of a process never falls. Memory is what the pass adds to the
weights; the last column holds it against :attr:`StyleGAN2Prior.bytes_per_image`, which bounds a run's micro-batch.
"""

from __future__ import annotations

import multiprocessing
import resource
import time

import click
import torch

from mibench.api import ImageSpec
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Arguments, StyleGAN2Prior


def measure(size: int, images: int, backwards: bool, device: str, threads: int) -> tuple[float, int, int]:
    """Seconds and bytes of one pass after the weights are there, and the estimate for an image."""
    torch.set_num_threads(threads)
    arguments = StyleGAN2Arguments(resolution=size, channel_base=32768 if size >= 512 else 16384, conv_clamp=256.0)
    prior = StyleGAN2Prior(arguments.generator(), None, image=ImageSpec(size=size)).to(device)
    w = torch.randn(images, prior.w_dim, device=device).requires_grad_(backwards)
    before = _peak(device)
    started = time.perf_counter()
    made = prior.synthesis(w)
    if backwards:
        made.sum().backward()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started, _peak(device) - before, prior.bytes_per_image


def _peak(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@click.command(help=__doc__)
@click.option("--sizes", default="64,256,512,1024", show_default=True)
@click.option("--images", default="1", show_default=True, help="At a time, such as 1,4,16.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(sizes: str, images: str, device: str, threads: int) -> None:
    click.echo("| pixels | images | pass | seconds | MB | MB / estimate |\n| ---: | ---: | --- | ---: | ---: | ---: |")
    context = multiprocessing.get_context("spawn")
    for size in map(int, sizes.split(",")):
        for count in map(int, images.split(",")):
            for backwards in (False, True):
                with context.Pool(1) as pool:
                    seconds, taken, each = pool.apply(measure, (size, count, backwards, device, threads))
                kind = "forwards and backwards" if backwards else "forwards"
                share = taken / (each * count)
                click.echo(f"| {size} | {count} | {kind} | {seconds:.2f} | {taken / 1e6:.0f} | {share:.2f} |")


if __name__ == "__main__":
    main()
