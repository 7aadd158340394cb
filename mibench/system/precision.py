"""The numbers that networks compute with."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["float32", "bfloat16"]


PRECISIONS: tuple[Precision, ...] = get_args(Precision)
