"""The width multiplier that all networks of this party share."""

from __future__ import annotations

import math

from mibench.api import MibenchError


def scaled(channels: int, width: float) -> int:
    """``channels * width``, rounded to a multiple of 8 and never below 8 (blocked convolution kernels want that)."""
    if not (math.isfinite(width) and width > 0):
        raise MibenchError(f"width must be a positive number, got {width}; 1.0 is the published network")
    return max(8, round(channels * width / 8) * 8)
