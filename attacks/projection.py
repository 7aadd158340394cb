"""Images projected into a prior: the styles whose image is nearest to a given one, by gradient descent until it stops
improving.

The distance knows pixels and edges at several scales and no trained network, so that nothing of a judge, of a target or
of a regressor has a part in it.

Legend: N images, W numbers of a style, L layers with a style each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

Render = Callable[[Tensor], Tensor]  # styles (N, W) or (N, L, W) to images (N, 3, S, S) in [0, 1]
SMALLEST = 4  # pixels a side of the coarsest scale


def pyramid_distance(images: Tensor, originals: Tensor, edges: float) -> Tensor:
    """Distance ``(N,)`` of images ``(N, 3, S, S)`` to originals of the same shape.

    The mean over scales, each half as large as the one before, of the mean absolute difference in pixels and, weighted
    by ``edges``, in the differences of neighbouring pixels. Coarse scales keep a descent from halting at a face that is
    a few pixels off. A Laplacian pyramid serves the same end in Bojanowski et al., ICML 2018 (arXiv 1707.05776).
    """
    total, scales = images.new_zeros(len(images)), 0
    while True:
        gap = images - originals
        total = total + gap.abs().mean(dim=(1, 2, 3))
        if edges:
            across, down = gap[..., 1:] - gap[..., :-1], gap[..., 1:, :] - gap[..., :-1, :]
            total = total + edges * (across.abs().mean(dim=(1, 2, 3)) + down.abs().mean(dim=(1, 2, 3)))
        scales += 1
        if min(images.shape[-2:]) < 2 * SMALLEST:
            return total / scales
        images, originals = avg_pool2d(images, 2), avg_pool2d(originals, 2)


@dataclass(frozen=True, kw_only=True)
class Descent:
    """How styles are moved: Adam with a rate of its own for each image.

    Attributes:
        steps: at most.
        learning_rate: of the first steps.
        patience: steps after which an image must be nearer, by ``tolerance``, than before them; else its rate falls.
        tolerance: share of its distance.
        falls: how often a rate falls to a third; an image that has stopped improving after the last fall is finished.
        betas: of Adam.
        edges: see :func:`pyramid_distance`.
    """

    steps: int
    learning_rate: float
    patience: int
    tolerance: float
    falls: int
    betas: tuple[float, float]
    edges: float

    def project(
        self, render: Render, styles: Tensor, originals: Tensor, report: Callable[[int], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The best styles on the way, their distances ``(N,)`` and the steps that each image took ``(N,)``, int64.

        Args:
            render: from styles to images.
            styles: where to begin ``(N, W)`` or ``(N, L, W)``.
            originals: what to come near to ``(N, 3, S, S)``.
            report: called with the number of every step.
        """
        styles = styles.detach().clone()
        best, nearest = styles.clone(), styles.new_full((len(styles),), torch.inf, dtype=torch.float32)
        before, taken = nearest.clone(), torch.zeros(len(styles), dtype=torch.int64, device=styles.device)
        rate = torch.full_like(nearest, self.learning_rate)
        falls = torch.zeros_like(taken)
        mean, square = torch.zeros_like(styles), torch.zeros_like(styles)
        active = torch.arange(len(styles), device=styles.device)
        first, second = self.betas
        tail = (1,) * (styles.dim() - 1)
        for step in range(1, self.steps + 1):
            leaf = styles[active].requires_grad_()
            distance = pyramid_distance(render(leaf).float(), originals[active], self.edges)
            (gradient,) = torch.autograd.grad(distance.sum(), leaf)
            distance, found = distance.detach(), leaf.detach()
            closer = distance < nearest[active]
            best[active[closer]], nearest[active[closer]] = found[closer], distance[closer]
            mean[active] = first * mean[active] + (1 - first) * gradient
            square[active] = second * square[active] + (1 - second) * gradient.square()
            ahead = mean[active] / (1 - first**step)
            scale = (square[active] / (1 - second**step)).sqrt() + 1e-8
            styles[active] = found - rate[active].view(-1, *tail) * ahead / scale
            taken[active] = step
            report(step)
            if step % self.patience:
                continue
            stuck = active[nearest[active] > (1 - self.tolerance) * before[active]]
            before[active] = nearest[active]
            rate[stuck] /= 3
            falls[stuck] += 1
            styles[stuck] = best[stuck]
            active = active[falls[active] <= self.falls]
            if not len(active):
                break
        return best, nearest, taken
