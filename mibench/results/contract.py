"""What the referee asks of the reader's objects: reports, comparisons, and what comparisons return."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

from .stored_run import LabelledImages, StoredRun

ComparedBy = Literal["attack", "defence"]
COMPARED_BY: tuple[ComparedBy, ...] = get_args(ComparedBy)


class Report(Protocol):
    """Draws finished runs: registered under the kind ``report``, called at the end of every run.

    The same run gives the same bytes: no times, no machine names.

    Args:
        run: one run or several; the first one is the subject.
        folder: where to write; by default ``tables`` or ``figures`` inside the first run's directory.
        floor: the same protocol without an attack; a row of every table, a reference line in figures.
        private: private training images of the attacked identities, ordered by class as the scoring saw them, handed
            over by the referee; without them they are left out.
        hide_faces: show faces as mosaics; None hides them unless the data set is synthetic.

    Returns:
        The files it wrote.
    """

    def __call__(
        self,
        run: StoredRun | Sequence[StoredRun],
        folder: Path | None = None,
        *,
        floor: StoredRun | None = None,
        private: LabelledImages | None = None,
        hide_faces: bool | None = None,
    ) -> list[Path]: ...


class PrintableComparison(Protocol):
    """What a comparison returns: it prints and writes itself."""

    def render(self, kind: str = "text", *, width: int = 110) -> str:
        """``text`` (tables cut at ``width`` letters), ``csv``, ``markdown`` or ``latex``."""

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""

    def write(self, folder: Path | str, *, paper: bool = False) -> list[Path]:
        """Write every format and return the files; with ``paper`` figures for papers as well."""


class ComparisonFunction(Protocol):
    """Puts runs side by side: registered under the kind ``comparison``; ``mibench compare`` and sweeps call it.

    Args:
        runs: runs, their folders, or folders of runs.
        reference: what every row is tested against; None for the comparison's own choice.
        metrics: which to show and to test; none for the comparison's own choice.
        mix: show runs that must not be compared beside each other, without tests between them, instead of refusing.
        by: what the rows are: attacks on each target, or defences under each attack.

    Raises:
        MibenchError: runs that are unfinished or must not be compared, an unknown reference or metric.
    """

    def __call__(
        self,
        runs: StoredRun | Path | str | Sequence[StoredRun | Path | str],
        *,
        reference: str | None = None,
        metrics: Sequence[str] = (),
        mix: bool = False,
        by: ComparedBy = "attack",
    ) -> PrintableComparison: ...


class PrintableGate(Protocol):
    """What a gate returns: a verdict that prints itself."""

    @property
    def verdict(self) -> Literal["pass", "fail", "undecided"]:
        """Of everything that was tested."""

    @property
    def exit_code(self) -> int:
        """0 passes, 1 fails, 3 undecided."""

    def render(self, kind: str = "text") -> str:
        """As ``text``, ``json``, ``junit`` or ``markdown``."""

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""


class GateFunction(Protocol):
    """Tests runs against a baseline: registered under the kind ``gate``; ``mibench gate`` calls it.

    Args:
        runs: runs, their folders, or folders of runs, against one target.
        baseline: the same, or the file of a baseline; several of them are several accepted classifiers.
        margins: metric -> allowed increase, in the metric's own unit.
        min_accuracy, max_drop: bounds of the test accuracy, in [0, 1]; None: no bound.
        confidence: of the one-sided tests.
        attacks: which attacks of the baseline to test; none for all.

    Raises:
        MibenchError: what must not be compared, an unknown metric or attack.
    """

    def __call__(
        self,
        runs: StoredRun | Path | str | Sequence[StoredRun | Path | str],
        baseline: StoredRun | Path | str | Sequence[StoredRun | Path | str],
        *,
        margins: Mapping[str, float] | None = None,
        min_accuracy: float | None = None,
        max_drop: float | None = None,
        confidence: float = 0.95,
        attacks: Sequence[str] = (),
    ) -> PrintableGate: ...


class PageFunction(Protocol):
    """Makes a page of HTML: registered under the kind ``page`` as ``runs``; ``mibench report`` and ``view`` call it.

    A page is one file that requests nothing. The same runs give the same bytes.

    Args:
        runs: a run, several, or folders of runs; floors come along, and a run with its floor is one run.
        by: what the rows of several are; None for the page's own choice.
        private: gives private training images of identities of a run, as the scoring saw them; it is not called where
            faces are hidden, and one that raises a ``MibenchError`` leaves them out.
        show_faces: show faces although the people may be real; people who are made up are shown anyway.

    Raises:
        MibenchError: runs that are unfinished, damaged or must not be compared.
    """

    def __call__(
        self,
        runs: StoredRun | Path | str | Sequence[StoredRun | Path | str],
        *,
        by: ComparedBy | None = None,
        private: Callable[[StoredRun, Sequence[int]], LabelledImages] | None = None,
        show_faces: bool = False,
    ) -> str: ...


class IndexFunction(Protocol):
    """Makes the index of a folder of runs as HTML: registered under the kind ``page`` as ``index``.

    Args:
        runs: name -> run, finished or not; a complete one is linked as ``/run/NAME``.
        title: what the folder is called.
    """

    def __call__(self, runs: Mapping[str, StoredRun], title: str) -> str: ...
