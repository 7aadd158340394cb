"""The reader: tables and figures of finished runs. It reads results and nothing else; it cannot load data.

A report is a callable ``report(run, folder=None, *, floor=None, private=None, hide_faces=None) -> list[Path]``:

* ``run``: a :class:`mibench.results.StoredRun` or a sequence of them; the first one is the subject.
* ``folder``: where to write; by default ``tables`` or ``figures`` inside the first run's directory.
* ``floor``: the same protocol without an attack; a row of every table, a reference line in figures.
* ``private``: private training images of the attacked identities (``.pixels`` uint8 ``(N, 3, H, W)``, ``.labels``
  ``(N,)``, ordered by class as the scoring saw them), handed over by the referee; without them they are left out.
* ``hide_faces``: show faces only as mosaics; None hides them unless the data set is synthetic.

It returns the files it wrote. The same run gives the same bytes.

A comparison is a callable ``compare(runs, *, reference=None, metrics=(), mix=False)`` that ``mibench compare`` prints:
what it returns has ``render(kind, *, width) -> str`` (``text``, ``csv``, ``markdown``, ``latex``), ``as_plain()`` (JSON
types) and ``write(folder) -> list[Path]``.
"""

CATALOGUE: dict[str, dict[str, str]] = {
    "report": {
        "tables": "mibench.reports.tables:write_tables",
        "figures": "mibench.reports.figures.write:write_figures",
    },
    "comparison": {"table": "mibench.reports.compare:compare"},
}
