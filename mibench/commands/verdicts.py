"""Verdicts of people or multimodal models: panels out, answers in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mibench.commands.settings_by_scope import Settings, scoped
from mibench.party_errors import parties_named

if TYPE_CHECKING:
    from mibench.panels.answers import OutsideVerdicts


@parties_named()
def export_verdicts(
    run: Path | str,
    output: Path | str,
    *,
    people: int | None = None,
    per_person: int = 2,
    references: int = 4,
    seed: int = 0,
    show_faces: bool = False,
    settings: Settings | None = None,
) -> int:
    """Write blinded panels of a run for people or multimodal models: ``mibench verdicts export``.

    >>> import mibench
    >>> run = mibench.run(protocol="smoke", out="runs", device="cpu")
    >>> mibench.export_verdicts(run.path, "panels", per_person=1)
    12

    Args:
        run: a run directory. The key to the panels is written into it.
        output: an empty folder for the panels, which may be handed out.
        people: how many of the attacked people; None: all.
        per_person: panels of each kind (reconstruction, same person, another one, a stranger) and person.
        references: real images of the person on a panel.
        seed: of the choice.
        show_faces: the people may be real and are shown all the same.
        settings: of the data set, such as ``{"dataset.root": "faces"}``.

    Returns:
        How many panels there are.

    Raises:
        MibenchError: people who may be real without ``show_faces``; a run that is unfinished; a folder that is taken.
    """
    from mibench.commands.private_images import attacked_data
    from mibench.panels.export import export_panels
    from mibench.results import open_run

    opened = open_run(Path(run))
    dataset = attacked_data(opened, scoped(settings or {}).get("dataset", {}), show_faces=show_faces)
    key = export_panels(
        opened,
        dataset,
        Path(output),
        people=people,
        per_person=per_person,
        references=references,
        seed=seed,
    )
    return len(key.panels)


@parties_named()
def import_verdicts(run: Path | str, answers: Path | str) -> OutsideVerdicts:
    """Count the answers to exported panels: ``mibench verdicts import``.

    >>> from pathlib import Path
    >>> import mibench
    >>> run = mibench.run(protocol="smoke", out="runs", device="cpu")
    >>> panels = mibench.export_verdicts(run.path, "handed-out", people=2, per_person=1)
    >>> sheet = Path("handed-out/answers.csv")
    >>> _ = sheet.write_text(sheet.read_text().replace(",,", ",somebody,yes"))
    >>> verdicts = mibench.import_verdicts(run.path, sheet)
    >>> verdicts.answered, verdicts.estimates["outside_false_acceptance_foreign"].value
    (8, 1.0)

    Args:
        run: the run that the panels were exported from.
        answers: the CSV file that came with the panels, filled in.

    Raises:
        MibenchError: panels or answers that do not exist.
    """
    from mibench.panels.answers import import_answers
    from mibench.results import open_run

    return import_answers(open_run(Path(run)), Path(answers))
