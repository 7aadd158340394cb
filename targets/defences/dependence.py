"""Kernel measures of the dependence between two sets of vectors, as the code of BiDO computes them.

Peng et al., "Bilateral Dependency Optimization: Defending Against Model-inversion Attacks" (KDD 2022). Legend: ``m``
samples in a batch, ``d`` coordinates of a vector, ``H = I - 11^T / m`` centres.

All of it is float64: nHSIC inverts matrices that are nearly singular, and in float32 its gradient on a small batch is
noise. Matrices of 64 x 64 cost next to nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-5  # times m, added to a kernel matrix before it is inverted
LEAST_MEDIAN = 1e-2

MEASURES = ("nhsic", "coco", "hsic")
COCO_NORMS = ("fro", "spectral")
LABEL_KERNELS = ("linear", "gaussian", "imq")


def squared_distances(vectors: Tensor) -> Tensor:
    """``(m, d)`` to ``(m, m)``, never below 0."""
    squares = vectors.square().sum(dim=1)
    return (squares[:, None] + squares[None] - 2 * vectors @ vectors.T).clamp_min(0)


def median_distance(vectors: Tensor) -> Tensor:
    """The released estimate of a bandwidth: a median of *squared* distances, over ``(m, d)`` joined with itself.

    So every pair counts four times and every sample once with distance 0. A constant.
    """
    doubled = torch.cat([vectors.detach()] * 2)
    count = len(doubled)
    rows, columns = torch.tril_indices(count, count, -1, device=vectors.device)
    distances = squared_distances(doubled)[rows, columns].sort().values
    middle = len(distances) // 2
    median = (distances[middle] + distances[-middle - 1]) / 2
    return torch.where(median > 0, median, distances.mean()).clamp_min(LEAST_MEDIAN)


def gaussian_kernel(vectors: Tensor, sigma: float) -> Tensor:
    """``exp(-|u_i - u_j|^2 / (2 sigma^2 d))``, ``(m, d)`` to ``(m, m)``.

    Args:
        vectors: ``(m, d)``.
        sigma: bandwidth; 0: ``exp(-|u_i - u_j|^2 / (2 s^2))`` with s from :func:`median_distance`.
    """
    if sigma:
        return (squared_distances(vectors) / (-2 * sigma**2 * vectors.shape[1])).exp()
    return (squared_distances(vectors) / (-2 * median_distance(vectors) ** 2)).exp()


def label_kernel(onehot: Tensor, kind: str, sigma: float) -> Tensor:
    """Of labels ``(m, C)``: ``linear``, ``Y Y^T``; ``gaussian``; ``imq``, ``(1 + |y_i - y_j|^2)^-1/2``."""
    if kind == "linear":
        return onehot @ onehot.T
    if kind == "gaussian":
        return gaussian_kernel(onehot, sigma)
    return (1 + squared_distances(onehot)).rsqrt()


def prepared(kernel: Tensor, measure: str) -> Tensor:
    """A kernel matrix ``(m, m)`` as :func:`dependence` takes it.

    ``nhsic``: centred on one side, ``K H``, then ``R = K H (K H + ridge m I)^-1``. ``coco`` and ``hsic``: ``H K H``.
    """
    centred = kernel - kernel.mean(dim=1, keepdim=True)
    if measure != "nhsic":
        return centred - centred.mean(dim=0, keepdim=True)
    count = len(kernel)
    ridge = RIDGE * count * torch.eye(count, dtype=kernel.dtype, device=kernel.device)
    normalised: Tensor = torch.linalg.solve(centred + ridge, centred)  # the two commute
    return normalised


def dependence(one: Tensor, other: Tensor, measure: str, coco_norm: str = "fro") -> Tensor:
    """How much two sets of vectors depend on each other, a scalar; 0 where one of them is constant.

    Args:
        one, other: ``(m, m)`` of :func:`prepared` for the same measure.
        measure: ``nhsic``, ``tr(R_1 R_2)``, at most the smaller rank; ``coco``, ``sqrt(|K_1 K_2|) / m``; ``hsic``, the
            biased estimate ``tr(K_1 H K_2 H) / (m - 1)^2``, which is not what the released code calls HSIC.
        coco_norm: ``fro``, Frobenius, as released; ``spectral``, the largest singular value, as COCO is defined.
    """
    if measure == "coco":
        norm = torch.linalg.matrix_norm(one @ other, "fro" if coco_norm == "fro" else 2)
        return torch.where(norm > 0, norm.clamp_min(torch.finfo(norm.dtype).tiny).sqrt(), 0) / len(one)
    trace = (one * other.T).sum()
    return trace if measure == "nhsic" else trace / (len(one) - 1) ** 2
