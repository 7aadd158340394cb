"""mibench: a privacy-auditing benchmark suite for image classifiers.

The Python API is the command line: ``mibench.run`` does what ``mibench run`` does, and so do ``score``, ``compare``,
``sweep`` (and ``forecast``, its dry run), ``gate`` (and ``update_baseline``), ``report``, ``view``, ``audit``,
``export_verdicts`` and ``import_verdicts`` (``mibench verdicts``), ``train``, ``import_weights``, ``fetch`` and
``names`` (``mibench list``); ``open_run`` reads a run directory. See ``docs/python.md``. They are imported when first
used, so that ``import mibench`` costs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mibench.version import __version__ as __version__

if TYPE_CHECKING:
    from mibench.commands import (
        audit,
        compare,
        export_verdicts,
        fetch,
        forecast,
        gate,
        import_verdicts,
        import_weights,
        names,
        open_run,
        report,
        run,
        score,
        sweep,
        train,
        update_baseline,
        view,
    )

__all__ = [
    "__version__",
    "audit",
    "compare",
    "export_verdicts",
    "fetch",
    "forecast",
    "gate",
    "import_verdicts",
    "import_weights",
    "names",
    "open_run",
    "report",
    "run",
    "score",
    "sweep",
    "train",
    "update_baseline",
    "view",
]


def __getattr__(name: str) -> object:
    if name in __all__:
        from mibench import commands

        return getattr(commands, name)
    raise AttributeError(f"module 'mibench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
