"""Reads answers to panels and counts them: how often outsiders are wrong, and what they say of the reconstructions."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mibench.api import Estimate
from mibench.errors import MibenchError, suggest
from mibench.metrics import estimates
from mibench.metrics.scoring import estimate_as_json
from mibench.results import ABSENT, StoredRun, interval_text, read_object
from mibench.system.canonical import JsonObject
from mibench.system.files import write_json
from mibench.system.text_files import shown

from .export import ANSWERS, KEYS, key_path
from .panel import Key, Panel

Rated = tuple[Panel, str]  # a panel and an answer to it
RATES: dict[
    str, tuple[str, str, str | None]
] = {  # name -> kind of panel, answer that is counted, beside it of the judge
    "outside_acc1": ("reconstruction", "yes", None),
    "outside_false_rejection": ("same", "no", "judge_false_rejection"),
    "outside_false_acceptance_private": ("other", "yes", "judge_false_acceptance_private"),
    "outside_false_acceptance_foreign": ("stranger", "yes", "judge_false_acceptance_foreign"),
}
TITLES = {
    "outside_acc1": "reconstructions taken for the person",
    "outside_false_rejection": "real images of the person refused (false rejection)",
    "outside_false_acceptance_private": "images of another attacked person accepted (false acceptance)",
    "outside_false_acceptance_foreign": "images of strangers accepted (false acceptance)",
    "outside_agreement": "the judge says the same of a reconstruction",
    "outside_refused": "panels without a verdict",
}


@dataclass(frozen=True, kw_only=True)
class OutsideVerdicts:
    """What outsiders said.

    Attributes:
        batch: the export that they answered.
        raters: how many there were.
        answered, panels: panels with an answer, and all of them.
        estimates: name -> rate, intervals over people. Panels that somebody refused to answer count in
            ``outside_refused`` alone.
        judge: name -> what the judge says of the same: of the same reconstructions, and its own errors.
    """

    batch: str
    raters: int
    answered: int
    panels: int
    estimates: dict[str, Estimate]
    judge: dict[str, Estimate | None]

    def as_json(self) -> JsonObject:
        """Everything as JSON types."""
        return {
            "schema": 1,
            "batch": self.batch,
            "raters": self.raters,
            "answered": self.answered,
            "panels": self.panels,
            "outside": {name: estimate_as_json(each) for name, each in self.estimates.items()},
            "judge": {name: None if each is None else estimate_as_json(each) for name, each in self.judge.items()},
        }

    def rows(self) -> list[list[str]]:
        """For a terminal: what was counted, outsiders, the judge."""
        rows = [["", "outside", "judge"]]
        for name, estimate in self.estimates.items():
            rows.append([TITLES[name], _text(estimate), _text(self.judge.get(name))])
        return rows


def _text(estimate: Estimate | None) -> str:
    return ABSENT if estimate is None else interval_text(estimate.value, estimate.low, estimate.high, percent=True)


def import_answers(run: StoredRun, file: Path) -> OutsideVerdicts:
    """Count the answers in a file and keep them beside the key, as ``verdicts.json``.

    Args:
        run: the run that the panels were exported from.
        file: CSV with the columns ``panel`` and ``answer``, and ``rater`` where several answered. An empty answer is
            none.

    Raises:
        MibenchError: a file that cannot be read, a panel or an answer that does not exist, a panel twice by one rater.
    """
    keys = {panel.name: (key, panel) for key in _keys(run) for panel in key.panels}
    rows = _read(file)
    rated: list[Rated] = []
    seen: set[tuple[str, str]] = set()
    batches: dict[str, Key] = {}
    for line, (name, rater, answer) in rows:
        if name not in keys:
            raise MibenchError(
                f"{file}, line {line}: no panel of {run.path} is called {shown(name)}",
                cure="answer the panels that were exported from this run",
            )
        key, panel = keys[name]
        batches[key.batch] = key
        if answer and answer not in ANSWERS:
            raise MibenchError(
                f"{file}, line {line}: {shown(answer)} is no answer{suggest(answer, ANSWERS)}",
                cure=f"answer with {', '.join(ANSWERS[:-1])} or {ANSWERS[-1]}",
            )
        if (name, rater) in seen:
            raise MibenchError(
                f"{file}, line {line}: panel {name} has two answers of one rater",
                cure="tell raters apart by the column rater",
            )
        seen.add((name, rater))
        if answer:
            rated.append((panel, answer))
    if len(batches) != 1:
        raise MibenchError(f"{file} has panels of {len(batches)} exports", cure="import the answers to each by itself")
    (key,) = batches.values()
    if not rated:
        raise MibenchError(f"{file} has no answer", cure=f"fill in the column answer with {', '.join(ANSWERS)}")
    verdicts = _counted(run, key, rated, len({rater for _, (_, rater, answer) in rows if answer}))
    write_json(key_path(run, key.batch).with_name("verdicts.json"), verdicts.as_json())
    return verdicts


def _keys(run: StoredRun) -> list[Key]:
    files = sorted((run.path / KEYS).glob("*/key.json"))
    if not files:
        raise MibenchError(
            f"{run.path} has no exported panels", cure=f"export some with mibench verdicts export {run.path}"
        )
    return [Key.read(read_object(file), str(file)) for file in files]


def _read(file: Path) -> list[tuple[int, tuple[str, str, str]]]:
    """Line numbers, and panel, rater and answer of each."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise MibenchError(f"{file} cannot be read as text ({error})", cure="name the CSV file with answers") from error
    reader = csv.DictReader(text.splitlines())
    lacking = [name for name in ("panel", "answer") if name not in (reader.fieldnames or ())]
    if lacking:
        raise MibenchError(
            f"{file} has no column {lacking[0]!r}", cure="keep the head of the exported file: panel,file,rater,answer"
        )
    rows = []
    for row in reader:
        name, rater, answer = (str(row.get(column) or "").strip() for column in ("panel", "rater", "answer"))
        rows.append((reader.line_num, (name, rater, answer.lower())))
    return rows


def _answers(wanted: str, panel: Panel, answer: str) -> bool:
    return answer == wanted


def _counted(run: StoredRun, key: Key, rated: Sequence[Rated], raters: int) -> OutsideVerdicts:
    def share(name: str, chosen: Sequence[Rated], counted: Callable[[Panel, str], bool]) -> Estimate:
        values = [float(counted(*one)) for one in chosen]
        people = [panel.identity for panel, _ in chosen]
        if not chosen:
            return estimates.null(name, "no such panel has a yes or a no")
        return estimates.mean(name, values, people, proportion=True)

    decided = [one for one in rated if one[1] != "refused"]
    measured: dict[str, Estimate] = {}
    judge: dict[str, Estimate | None] = {}
    for name, (kind, wanted, of_judge) in RATES.items():
        chosen = [one for one in decided if one[0].kind == kind]
        measured[name] = share(name, chosen, partial(_answers, wanted))
        judge[name] = None if of_judge is None else run.metrics.get(of_judge)
    shown_reconstructions = [one for one in decided if one[0].kind == "reconstruction"]
    judge["outside_acc1"] = share("acc1", shown_reconstructions, lambda panel, answer: panel.accepted is True)
    measured["outside_agreement"] = share(
        "outside_agreement", shown_reconstructions, lambda panel, answer: panel.accepted is (answer == "yes")
    )
    measured["outside_refused"] = share("outside_refused", rated, partial(_answers, "refused"))
    return OutsideVerdicts(
        batch=key.batch,
        raters=raters,
        answered=len({panel.name for panel, _ in rated}),
        panels=len(key.panels),
        estimates=measured,
        judge=judge,
    )
