"""The reader: tables, figures and comparisons of finished runs. It reads results only; it cannot load data.

What the referee asks of the objects registered here is typed in :mod:`mibench.results.contract`:

============== ====================================== ============================================
kind           contract                               called by
============== ====================================== ============================================
``report``     ``mibench.results.Report``             every run at its end, ``mibench score``
``comparison`` ``mibench.results.ComparisonFunction`` ``mibench compare`` (``table``), every sweep
``gate``       ``mibench.results.GateFunction``       ``mibench gate`` (``decide``; ``baseline``, ``requests``)
``page``       ``mibench.results.PageFunction``       ``mibench report`` (``runs``), ``view`` (``index``, ``problem``)
============== ====================================== ============================================

From top to bottom: ``rows`` (which runs are one row), ``significance`` (tests between rows), ``comparison`` (both as
data), ``compare`` (makes it), ``comparison_tables`` and ``figures`` (draw it). With defences as rows: ``defended``
(classifiers and their twins), ``published``, ``matrix`` (the data), ``compare_defences``, ``matrix_tables``,
``matrix_tests``.
``tables`` is about single runs. All tables are :class:`~mibench.reports.table_model.Table` objects, from which CSV,
Markdown and LaTeX are written. Which metrics stand in a table, what they are called and whether they are tested is read
from ``StoredRun.infos``, what each metric says about itself.

``gate`` decides whether a classifier leaks more than its baseline. ``page`` makes HTML of the tables and figures of one
run or several. Another report that every run draws is a file or folder here and a line under ``report``.
"""

CATALOGUE: dict[str, dict[str, str]] = {
    "report": {
        "tables": "mibench.reports.tables:write_tables",
        "figures": "mibench.reports.figures.write:write_figures",
    },
    "comparison": {"table": "mibench.reports.compare:compare"},
    "gate": {
        "decide": "mibench.reports.gate.gate:gate",
        "baseline": "mibench.reports.gate.gate:write_baseline",
        "requests": "mibench.reports.gate.gate:requests",
    },
    "page": {
        "runs": "mibench.reports.page.page:runs_page",
        "index": "mibench.reports.page.page:runs_index",
        "problem": "mibench.reports.page.page:problem_page",
    },
}
