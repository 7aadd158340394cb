"""Figures of runs as PNG and SVG.

================== ==================================================================================
``contact_sheet``  private images, reconstructions, nearest private images, the judge's verdicts
``identities``     accuracy and KNN distance of each identity, with the floor; of many, how many have which
``curves``         what the attack logged over its steps
``spread``         precision against recall, density against coverage, a point per run
================== ==================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mibench.reports.formatting import hides_faces, run_labels
from mibench.results import LabelledImages, Report, StoredRun, as_runs

from .contact_sheet import contact_sheet
from .curves import curves_plot
from .identities import identity_plot
from .spread import spread_plot
from .style import save


def write_figures(
    run: StoredRun | Sequence[StoredRun],
    folder: Path | None = None,
    *,
    floor: StoredRun | None = None,
    private: LabelledImages | None = None,
    hide_faces: bool | None = None,
) -> list[Path]:
    """Draw every figure and return the files.

    Args:
        run: one run or several; contact sheet and identities show the first one, the others all of them.
        folder: where to write; ``figures`` in the first run's directory by default.
        floor: the same protocol without an attack.
        private: private training images of the attacked identities as the scoring saw them (uint8), for the contact
            sheet; without them it shows reconstructions only.
        hide_faces: show faces as mosaics; None hides them unless the data set is synthetic.
    """
    runs = as_runs(run)
    first, labels = runs[0], run_labels(runs)
    folder = folder or first.path / "figures"
    other = floor if floor is not None and floor.path != first.path else None
    drawn = {
        "contact_sheet": contact_sheet(first, labels[0], private, hide_faces=hides_faces(first, hide_faces)),
        "identities": identity_plot(first, labels[0], other),
        "curves": curves_plot(runs, labels),
        "spread": spread_plot(runs, labels, other),
    }
    return [file for name, fig in drawn.items() for file in save(fig, folder, name)]


if TYPE_CHECKING:
    _: Report = write_figures  # held to the contract
