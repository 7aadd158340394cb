"""mibench: a privacy-auditing benchmark suite for image classifiers.

``mibench.run(...)`` does from Python what ``mibench run`` does from a shell. It is imported when first used, so that
``import mibench`` (and ``mibench list``) costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mibench.runs.run import run

__all__ = ["__version__", "run"]


def __getattr__(name: str) -> Any:
    if name == "run":
        from mibench.runs import run

        return getattr(run, name)
    raise AttributeError(f"module 'mibench' has no attribute {name!r}")
