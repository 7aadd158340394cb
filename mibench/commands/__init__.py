"""The Python API: what the commands do, from Python. ``mibench.run`` is ``mibench run``, and so on.

Each function returns the object that its command prints; the command line itself calls these functions. Nothing heavy
is imported before a function is called.
"""

from mibench.commands.gates import gate, update_baseline
from mibench.commands.models import StoredWeights, audit, fetch, import_weights, train
from mibench.commands.pages import report, view
from mibench.commands.runs import RunComparison, compare, forecast, names, open_run, run, score, sweep
from mibench.commands.verdicts import export_verdicts, import_verdicts

__all__ = [
    "RunComparison",
    "StoredWeights",
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
