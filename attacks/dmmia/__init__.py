"""DMMIA: Model Inversion Attack via Dynamic Memory Learning (Qi et al., arXiv 2309.00013)."""

from .attack import DMMIA

__all__ = ["DMMIA"]
