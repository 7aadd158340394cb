"""Reference vectors of public code for attacks, and the sequences that they are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "field_vectors.json").read_text())


def sines(shape: tuple[int, ...], a: float, b: float, scale: float = 1.0) -> Tensor:
    """``S(shape, a, b, s)``: ``s sin(a k + b)`` over the flattened tensor, float64."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * (a * k + b).sin()).view(shape)
