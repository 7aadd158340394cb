"""Gradients of the attacked model's cross entropy with respect to pixels, as the referee sees them.

No attack takes part: a network that grants scores or labels only, or filters its answers, has gradients all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mibench.data.split import Images
from mibench.errors import MibenchError
from mibench.rng import derive
from mibench.system.foreign_code import out_of_memory, worded

BATCH = 64  # images, fixed: a network that draws anew for each answer then draws alike
UNDERFLOW = float(torch.finfo(torch.float32).tiny)  # below it, float32 has no full precision


class NoGradientError(MibenchError):
    """The network gives no gradient at its images."""


class Gradients(NamedTuple):
    """What is kept of the gradients at ``(N,)`` images.

    Attributes:
        norm: L2 norm over pixels in [0, 1], float64.
        vanished: whether every pixel's derivative is 0 or underflows in float32, bool.
        confidence: softmax probability of the label, float64.
        cosine: of two gradients of one image, with fresh draws of a network that draws, float64 in [-1, 1]. Two that
            are zero agree (1); one that is zero has nothing in common with one that is not (0). NaN where gradients
            were not repeated.
    """

    norm: Tensor
    vanished: Tensor
    confidence: Tensor
    cosine: Tensor


class LossGradients:
    """The attacked model, the reconstructions and public images, until a metric asks for gradients.

    Args:
        logits: of the attacked model, ``(B, C)`` of images ``(B, 3, S, S)`` in [0, 1] on ``device``; differentiable.
        device: where it runs.
        reconstructions: uint8 ``(N, 3, S, S)`` at the model's size, rows as in ``ScoringInputs.samples``.
        public: public images of that size; None where there are none.
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        device: torch.device,
        reconstructions: Tensor,
        public: Images | None,
    ) -> None:
        self._logits, self._device, self._reconstructions = logits, device, reconstructions
        self._public = None if public is None or not len(public) else public.pixels

    def at_reconstructions(self, rows: Tensor, labels: Tensor) -> Gradients:
        """At the reconstructions in ``rows`` ``(R,)``, of the loss of their ``labels`` ``(R,)``."""
        return self._at(self._reconstructions, rows, labels, repeated=False)

    def at_public(self, labels: Tensor, images: int) -> Gradients | None:
        """At the first public images, the same for every label ``(U,)``: each entry is ``(U, images)``.

        Fewer where there are not as many; None where there are none.
        """
        if self._public is None:
            return None
        count = min(images, len(self._public))
        rows = torch.arange(count).repeat(len(labels))
        found = self._at(self._public, rows, labels.repeat_interleave(count), repeated=True)
        return Gradients(*(values.view(len(labels), count) for values in found))

    def _at(self, images: Tensor, rows: Tensor, labels: Tensor, *, repeated: bool) -> Gradients:
        """Draws do not depend on the run's seed: what is measured belongs to the model and the images."""
        device = self._device
        parts = []
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.enable_grad():
            torch.manual_seed(derive(0, "loss gradients"))
            for part, own in zip(rows.split(BATCH), labels.split(BATCH), strict=True):
                pixels = images[part].to(device, non_blocking=True).float() / 255
                classes = own.to(device, non_blocking=True)
                first, probability = self._gradient(pixels, classes)
                norm = first.norm(dim=1)
                vanished = (first.abs() < UNDERFLOW).all(dim=1)
                second = self._gradient(pixels, classes)[0] if repeated else None
                cosine = torch.full_like(norm, torch.nan) if second is None else _cosine(first, second)
                parts.append(Gradients(norm, vanished, probability, cosine))  # on the device: no batch waits for it
        return Gradients(*(torch.cat(values).cpu() for values in zip(*parts, strict=True)))

    def _gradient(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient ``(B, D)`` of every image's own cross entropy, and the probability of its label ``(B,)``; float64.

        Raises:
            NoGradientError: there is none.
        """
        shown = pixels.clone().requires_grad_()
        try:
            logits = self._logits(shown).float()
            if not logits.requires_grad:
                raise NoGradientError("the attacked model's scores come without a gradient")
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, shown, allow_unused=True)
        except RuntimeError as error:  # the way back may be a person's own code
            if out_of_memory(error):
                raise
            raise NoGradientError(f"the attacked model's gradient cannot be computed: {worded(error)}") from error
        if gradient is None:
            raise NoGradientError("the attacked model's gradient does not reach its images")
        probability = logits.detach().double().softmax(dim=1).gather(1, labels[:, None]).squeeze(1)
        return gradient.flatten(1).double(), probability


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Of the rows of ``(B, D)``; exactly 1 where they are the same, whatever the rounding of their norms."""
    product = first.norm(dim=1) * second.norm(dim=1)
    cosine = (first * second).sum(dim=1) / product.clamp_min(torch.finfo(torch.float64).tiny)
    return torch.where((first == second).all(dim=1), torch.ones_like(cosine), cosine.clamp(-1, 1))
