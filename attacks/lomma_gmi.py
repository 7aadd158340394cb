"""LOMMA on GMI (Nguyen et al., CVPR 2023, arXiv 2304.01669): the loop of GMI with the losses of LOMMA.

Latents descend ``-D(G(z)) + 100 L_id`` by Nesterov momentum, clamped to a cube; each restart is a sample. ``L_id`` is
that of :mod:`mibench.attacks.lomma`, the loop that of :mod:`mibench.attacks.gmi`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .gmi import GMI
from .lomma import Lomma


@dataclass(frozen=True, kw_only=True)
class LommaGMI(Lomma, GMI):
    """LOMMA on GMI. The defaults are the released configuration's."""

    name: ClassVar[str] = "lomma-gmi"

    iterations: int = 2400  # released configuration

    def __post_init__(self) -> None:
        GMI.__post_init__(self)
        self.check_lomma()
