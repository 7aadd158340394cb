"""The entry points: a page of runs, and the index of a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.api import MibenchError
from mibench.reports.formatting import FLOOR
from mibench.reports.rows import open_runs
from mibench.results import ComparedBy, IndexFunction, LabelledImages, PageFunction, StoredRun

from .comparison_page import comparison_page
from .environment import page
from .index_page import index_page
from .run_page import run_page


def runs_page(
    runs: StoredRun | Path | str | Sequence[StoredRun | Path | str],
    *,
    by: ComparedBy | None = None,
    private: Callable[[StoredRun, Sequence[int]], LabelledImages] | None = None,
    show_faces: bool = False,
) -> str:
    """The page of a run, or of several beside each other, as :class:`~mibench.results.PageFunction` says."""
    sources = [runs] if isinstance(runs, StoredRun | Path | str) else list(runs)
    opened, _ = open_runs(sources)
    attacks = [run for run in opened if run.attack != FLOOR]
    if len(attacks) == 1 or len(opened) == 1:
        if by is not None:
            raise MibenchError("one run is not compared with anything", cure="leave --by out, or name more runs")
        return run_page((attacks or list(opened))[0], private, show_faces=show_faces)
    return comparison_page(opened, by, private, show_faces=show_faces)


def runs_index(runs: Mapping[str, StoredRun], title: str) -> str:
    """The index of a folder of runs, as :class:`~mibench.results.IndexFunction` says."""
    return index_page(runs, title)


def problem_page(error: MibenchError) -> str:
    """What is wrong with a run or with what was asked for, instead of its page."""
    return page("error.html", {"title": "No page", "problems": [str(problem) for problem in error.problems]})


if TYPE_CHECKING:
    _page: PageFunction = runs_page  # held to the contract
    _index: IndexFunction = runs_index
