"""Evolution strategy with a diagonal covariance: CMA-ES whose variances are learnt coordinate by coordinate.

Ros and Hansen, "A simple modification in CMA-ES achieving linear time and space complexity", PPSN 2008 (sep-CMA-ES),
with the default constants of Hansen's tutorial (arXiv 1604.00772). Only the order of fitness counts. There is a search
for each identity, side by side; none reads another.

Legend: U searches, N points of a generation, M = N // 2 parents, W dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class DiagonalCMA:
    """Searches for points of high fitness.

    Args:
        start: means of the first generation ``(U, W)``.
        sigma: its standard deviation.
        population: ``N``, at least 4.

    Attributes:
        mean: ``(U, W)``.
        sigma: step sizes ``(U,)``.
        variance: of each coordinate, in units of ``sigma`` squared, ``(U, W)``.
    """

    def __init__(self, start: Tensor, sigma: float, population: int) -> None:
        width, parents = start.shape[1], population // 2
        self.mean = start.clone()
        self.sigma = torch.full(start.shape[:1], sigma, device=start.device)
        self.variance = torch.ones_like(start)
        self._path, self._step_path = torch.zeros_like(start), torch.zeros_like(start)
        self._generation = 0
        weights = [math.log((population + 1) / 2) - math.log(rank) for rank in range(1, parents + 1)]
        self.weights = torch.tensor([weight / sum(weights) for weight in weights], device=start.device)
        effective = 1 / sum((weight / sum(weights)) ** 2 for weight in weights)
        self._effective = effective
        self._step_rate = (effective + 2) / (width + effective + 5)
        self._damping = 1 + 2 * max(0.0, math.sqrt((effective - 1) / (width + 1)) - 1) + self._step_rate
        self._path_rate = (4 + effective / width) / (width + 4 + 2 * effective / width)
        faster = (width + 2) / 3  # Ros and Hansen: fewer numbers are learnt faster
        one = faster * 2 / ((width + 1.3) ** 2 + effective)
        rank = faster * 2 * (effective - 2 + 1 / effective) / ((width + 2) ** 2 + effective)
        self._one_rate = min(one, 0.5)
        self._rank_rate = min(rank, 1 - self._one_rate)
        self._expected = math.sqrt(width) * (1 - 1 / (4 * width) + 1 / (21 * width**2))  # length of a normal vector

    def ask(self, normal: Tensor) -> Tensor:
        """Points ``(U, N, W)`` from standard normal numbers of that shape."""
        return self.mean[:, None] + self.sigma[:, None, None] * self.variance.sqrt()[:, None] * normal

    def tell(self, points: Tensor, fitness: Tensor) -> None:
        """Learn from points ``(U, N, W)``, clipped ones as they were shown, and their fitness ``(U, N)``."""
        order = fitness.sort(dim=1, descending=True, stable=True).indices[:, : len(self.weights)]
        chosen = points.take_along_dim(order[..., None], dim=1)  # (U, M, W)
        moves = (chosen - self.mean[:, None]) / self.sigma[:, None, None]
        move = (self.weights[:, None] * moves).sum(dim=1)
        self.mean = self.mean + self.sigma[:, None] * move
        self._generation += 1
        keep, gain = 1 - self._step_rate, math.sqrt(self._step_rate * (2 - self._step_rate) * self._effective)
        self._step_path = keep * self._step_path + gain * move / self.variance.sqrt()
        length = self._step_path.norm(dim=1)
        fair = length / math.sqrt(1 - keep ** (2 * self._generation))
        steady = (fair < (1.4 + 2 / (self.mean.shape[1] + 1)) * self._expected).float()[:, None]
        keep, gain = 1 - self._path_rate, math.sqrt(self._path_rate * (2 - self._path_rate) * self._effective)
        self._path = keep * self._path + steady * gain * move
        one = self._path.square() + (1 - steady) * self._path_rate * (2 - self._path_rate) * self.variance
        rank = (self.weights[:, None] * moves.square()).sum(dim=1)
        rest = 1 - self._one_rate - self._rank_rate
        self.variance = rest * self.variance + self._one_rate * one + self._rank_rate * rank
        growth = self._step_rate / self._damping * (length / self._expected - 1)
        self.sigma = self.sigma * growth.clamp(max=1.0).exp()
