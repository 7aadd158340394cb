"""Does a usable gradient come back to the images? One that does not reads as "no leak" later on.

A network may compute without a graph (``no_grad``, NumPy), round (argmax, one-hot), or divide by zero on the way back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mibench.api import Victim
from mibench.errors import MibenchError
from mibench.rng import stream
from mibench.system.devices import deterministic
from mibench.system.foreign_code import foreign, out_of_memory, worded

CONTRASTS = (1.0, 0.2)  # of noise about mid-grey
COARSE = 4  # pixels a side of the noise that is blown up to a smooth picture


def gradient_fault(victim: Victim, device: torch.device) -> str | None:
    """Why the gradient of a victim's scores is of no use to an attack; None: it is of use.

    Args:
        victim: grants gradients. What is shown here is counted like everything else.
        device: where it lies.

    Raises:
        MibenchError: the network fails on the way forward.
    """
    draw = stream(0, "gradients", "probe")
    shown = _pictures(victim.image.size, draw).to(device).requires_grad_(True)
    weights = torch.randn(victim.num_classes, generator=draw).to(device)  # one score alone may be saturated
    with deterministic(device, "float32"), torch.enable_grad():
        logits = victim.logits(shown)
        if not logits.requires_grad:
            return "its scores come without one (no_grad, detach, NumPy or another library on the way)"
        try:
            with foreign(victim.name, "on the way back from its scores"):
                (gradient,) = torch.autograd.grad((logits * weights).sum(), shown, allow_unused=True)
        except MibenchError:
            raise
        except Exception as error:  # the way back may be a person's own code, and raise anything
            if out_of_memory(error):
                raise
            return f"it cannot be computed ({worded(error)})"
    if gradient is None:
        return "it does not reach the images (detach, NumPy or another library on the way)"
    if not bool(torch.isfinite(gradient).all()):
        return "it is not finite"
    if not bool((gradient != 0).any()):
        return "it is zero everywhere (argmax, one-hot or rounding on the way)"
    return None


def _pictures(size: int, draw: torch.Generator) -> Tensor:
    """Noise of strong and weak contrast, and a smooth picture, ``(3, 3, size, size)`` in [0, 1]: a network may be
    saturated, or silent, on one kind."""
    noise = [0.5 + contrast * (torch.rand(1, 3, size, size, generator=draw) - 0.5) for contrast in CONTRASTS]
    coarse = torch.rand(1, 3, COARSE, COARSE, generator=draw)
    return torch.cat([*noise, nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")])
