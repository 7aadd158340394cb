"""LOMMA on KEDMI (Nguyen et al., CVPR 2023, arXiv 2304.01669): the loop of KEDMI with the losses of LOMMA.

For each identity a normal distribution of latents is recovered on ``-log D(G(z)) + 100 L_id``, z clamped to a cube
inside the loss; the results are clamped draws. ``L_id`` is that of :mod:`mibench.attacks.lomma`, the loop that of
:mod:`mibench.attacks.kedmi`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .kedmi import KEDMI
from .lomma import Lomma


@dataclass(frozen=True, kw_only=True)
class LommaKEDMI(Lomma, KEDMI):
    """LOMMA on KEDMI. The defaults are the released configuration's."""

    name: ClassVar[str] = "lomma-kedmi"

    clip_z: bool = True  # released code: in the loss and in the draws

    def __post_init__(self) -> None:
        KEDMI.__post_init__(self)
        self.check_lomma()
