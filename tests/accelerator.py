"""The device of tests marked ``gpu``, how far it may differ from the CPU, and attacks small enough for both.

``MIBENCH_TEST_ACCELERATOR=cpu pytest -m gpu`` rehearses these tests on a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import test_alignmi
import test_brep
import test_c2fmi
import test_consensus
import test_dmmia
import test_gmi
import test_if_gmi
import test_kedmi
import test_lokt_pool
import test_lomma
import test_miface
import test_mirror
import test_plgmi
import test_ppa
import test_ppdg
import test_rlb
import test_smile
import test_vmi
import torch
from torch import Tensor, nn

from mibench.api import Attack, Context, Reconstruction
from mibench.attacks.floor import Floor
from mibench.rng import Streams
from mibench.system.devices import deterministic

VARIABLE = "MIBENCH_TEST_ACCELERATOR"
LABELS = torch.tensor([1, 3])

# How far float32 (TensorFloat-32 off) on two devices may differ, by quantity. A number is rounded to 6e-8 of itself;
# sums of hundreds of terms in another order, through some twenty layers, add up to some 1e-6 of the largest. Steps
# carry it on, and where a gradient is near zero Adam's sign may turn: then single numbers differ by a whole step, means
# hardly. Measured between kernels of one CPU on CASES (the default ones against ATen's baseline with oneDNN's SSE4.1,
# against oneDNN off, and against AVX2 with MKL in its compatible mode; torch 2.14, an AMD EPYC): the numbers behind.
# A GPU has other algorithms as well (Winograd, fast exponentials).
TOLERANCE = {
    "forward": 1e-4,  # largest difference of one pass over its largest number; between CPU kernels 6.9e-6
    "curve": 1e-3,  # the same of losses and drifts, over up to 8 steps; 7.4e-6
    "images": 1e-3,  # mean difference of pixels in [0, 1] after them; 4.2e-7 (a single pixel 8.5e-6)
    "latents": 1e-3,  # mean difference over the largest number; the largest difference, not over it: 2.5e-6
    "confidence": 1e-2,  # largest difference of a probability; 6.3e-6
    "metric": 0.05,  # of rates and distances of a whole run, whose samples are few
}


@pytest.fixture(scope="session", name="accelerator")
def an_accelerator() -> torch.device:
    """A GPU; what the variable names instead; or a reason to skip."""
    named = os.environ.get(VARIABLE, "cuda")
    if torch.device(named).type == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"no CUDA device here; {VARIABLE}=cpu rehearses on the CPU")
    return torch.device(named)


def dmmia_context(**options: Any) -> Context:
    return test_dmmia.context(**options)


def gmi_context(**options: Any) -> Context:
    return test_gmi.context(**options)


def crowd_context(**options: Any) -> Context:
    return test_gmi.context(test_kedmi.crowd(), **options)


def small_context(kind: str) -> Callable[..., Context]:
    """The real network of the prior, narrow."""
    return lambda **options: test_gmi.context(test_gmi.small(kind), **options)


def lomma_context(**options: Any) -> Context:
    return test_lomma.place(**options)


def plgmi_context(**options: Any) -> Context:
    return test_plgmi.place(**options)


def ppdg_context(**options: Any) -> Context:
    return test_ppdg.context(**options)


FLOOR = Floor(unit_size=2, pool_size=48, candidates=4, truncation=1.0, selection_transforms=2)
CASES: dict[str, tuple[Attack, Callable[..., Context]]] = {
    "floor": (FLOOR, dmmia_context),
    "gmi": (replace(test_gmi.TINY, iterations=6), gmi_context),
    "gmi-best": (replace(test_gmi.TINY, iterations=6, best_of=2, selection_transforms=2), small_context("gmi")),
    "kedmi": (replace(test_kedmi.TINY, iterations=6), crowd_context),
    "kedmi-own": (replace(test_kedmi.TINY, iterations=6, samples_per_step=2), small_context("kedmi")),
    "brep": (test_brep.TINY, dmmia_context),
    "c2fmi": (test_c2fmi.TINY, dmmia_context),
    "c2fmi-coarse": (test_c2fmi.PUBLIC, test_c2fmi.with_strangers),
    "consensus": (test_consensus.TINY, dmmia_context),
    "if-gmi": (test_if_gmi.TINY, dmmia_context),
    "lomma-gmi": (test_lomma.TINY_GMI, lomma_context),
    "lomma-kedmi": (test_lomma.TINY_KEDMI, lomma_context),
    "lokt-pool": (test_lokt_pool.TINY, dmmia_context),
    "miface": (test_miface.TINY, gmi_context),
    "ppa-paa": (test_alignmi.PAA_PPA, dmmia_context),
    "ppa-taa": (test_alignmi.TAA_PPA, dmmia_context),
    "rlb": (test_rlb.TINY, gmi_context),
    "smile": (test_smile.TINY, dmmia_context),
    "mirror-b": (test_mirror.TINY_B, dmmia_context),
    "mirror-w": (test_mirror.TINY_W, dmmia_context),
    "plgmi": (test_plgmi.TINY, plgmi_context),
    "ppa": (test_ppa.TINY, dmmia_context),
    "ppdg": (test_ppdg.TINY, ppdg_context),
    "ppa-strong": (replace(test_ppa.TINY, views="strong"), dmmia_context),
    "ppa-stepped": (test_consensus.STEPPED_PPA, dmmia_context),
    "vmi": (test_vmi.TINY, dmmia_context),
    "vmi-flow": (replace(test_vmi.TINY, family="flow"), dmmia_context),
    "dmmia": (test_dmmia.TINY, dmmia_context),
    "dmmia-stepped": (test_consensus.STEPPED_DMMIA, dmmia_context),
    "dmmia-w": (replace(test_dmmia.TINY, optimise="w", learning_rate=0.05), dmmia_context),
}


def moved(context: Context, device: torch.device) -> Context:
    """The same context with its networks on the device."""
    context.victim._network.to(device)
    prior: Any = context.prior
    for network in (prior.generator, getattr(prior, "discriminator", None)):
        if isinstance(network, nn.Module):
            network.to(device)
    return replace(context, device=device)


def attacked(
    attack: Attack, context: Context, device: torch.device, *, settled: bool = True, labels: Tensor = LABELS
) -> Reconstruction:
    """Prepare and reconstruct as the engine does: the state comes from the CPU, labels lie on the device.

    Not ``settled``: without the engine's settings, under which torch interpolates on a GPU by another formula.
    """
    there, streams = moved(context, device), Streams(7, ("test",))
    with deterministic(device, "float32") if settled else contextlib.nullcontext():
        state = {name: tensor.cpu().to(device) for name, tensor in attack.prepare(there, streams).items()}
        found = attack.reconstruct(there, state, labels.to(device), streams)
    return replace(
        found,
        images=found.images.cpu(),
        labels=found.labels.cpu(),
        confidence=found.confidence.cpu(),
        latents=found.latents.cpu(),
        curves={name: curve.cpu() for name, curve in found.curves.items()},
    )


def same_bits(one: Reconstruction, other: Reconstruction) -> bool:
    """Whether everything of two results is equal to the bit."""
    pairs = [
        (one.images, other.images),
        (one.labels, other.labels),
        (one.confidence, other.confidence),
        (one.latents, other.latents),
        *((one.curves[name], other.curves[name]) for name in one.curves),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def shares(found: Reconstruction, expected: Reconstruction) -> dict[str, float]:
    """How far two results are apart in parts of what :data:`TOLERANCE` allows; above 1 is too far."""
    apart = {
        "images": float((found.images - expected.images).abs().mean()) / TOLERANCE["images"],
        "confidence": float((found.confidence - expected.confidence).abs().max()) / TOLERANCE["confidence"],
        "latents": relative(found.latents, expected.latents, mean=True) / TOLERANCE["latents"],
    }
    for name, curve in expected.curves.items():
        apart[f"curve {name}"] = relative(found.curves[name], curve) / TOLERANCE["curve"]
    return apart


def relative(found: Tensor, expected: Tensor, *, mean: bool = False) -> float:
    """The largest (or the mean) difference as a share of the largest expected number."""
    difference = (found.double() - expected.double()).abs()
    return float((difference.mean() if mean else difference.max()) / expected.abs().max().clamp(min=1e-12))
