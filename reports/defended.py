"""Attacked classifiers as tables of defences name them: the defence, and only the settings that tell it apart."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mibench.api import Estimate
from mibench.results import StoredRun, utility

from .row_labels import MOST_SETTINGS, short_hash, target_key, weights_of

UNDEFENDED = "none"  # how a card names that nothing defends its classifier
Role = Literal["undefended", "defence", "control"]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """An attacked classifier.

    Attributes:
        key: the same for runs against the same weights.
        card: its name.
        sha256: of its weights; empty where it is not known.
        defence: registered name; names joined by ``+`` where several were combined.
        settings: of its defences, ``name`` or ``defence.name`` -> value.
        role: a control is expected to leak more.
        twin, twin_sha256: card and weights of the same training without the defence; None: none was named.
        utility: its test accuracy.
        differs: settings of its training that its twin's recipe does not have: name -> the twin's value and its own.
        seconds: of its training.
        recorded: whether its runs say how it is defended.
    """

    key: str
    card: str
    sha256: str
    defence: str
    settings: Mapping[str, object]
    role: Role
    twin: str | None
    twin_sha256: str | None
    differs: Mapping[str, tuple[object, object]]
    utility: Estimate
    seconds: float | None
    recorded: bool

    @property
    def group(self) -> str:
        """Classifiers that belong in one table: ``architecture@dataset`` of the undefended one."""
        return (self.twin or self.card).partition("+")[0]

    @property
    def tag(self) -> str:
        """What its card's name has after the ``+``; empty without."""
        return self.card.partition("+")[2]


def classifier_of(runs: Sequence[StoredRun]) -> Classifier:
    """The classifier that all of ``runs`` attacked."""
    run = next((run for run in runs if run.attacked), runs[0])
    record = run.attacked.get("defence")
    defence = record if isinstance(record, dict) else {}
    name = str(defence.get("name", UNDEFENDED))
    undefended = set(name.split("+")) == {UNDEFENDED}
    weights = weights_of(run, "target")
    seconds = (each.attacked.get("seconds") for each in runs)  # equal weights may have cards that say more
    return Classifier(
        key=target_key(run),
        card=run.target,
        sha256=str(weights[0]) if isinstance(weights, list) and weights else "",
        defence=UNDEFENDED if undefended else name,
        settings={} if undefended else _flat(defence.get("settings")),
        role="undefended" if undefended else "control" if defence.get("control") is True else "defence",
        twin=_text(defence.get("twin")),
        twin_sha256=_text(defence.get("twin_sha256")),
        differs=_pairs(defence.get("differs_from_twin")),
        utility=utility(run),
        seconds=next((float(value) for value in seconds if isinstance(value, int | float)), None),
        recorded=bool(run.attacked),
    )


def defence_labels(classifiers: Sequence[Classifier]) -> dict[str, str]:
    """Key -> label, unique within a group: ``midre``, ``midre (largest=0.8)``, ``none (short)``, ``control: ls``."""
    labels: dict[str, str] = {}
    for group in dict.fromkeys(each.group for each in classifiers):
        members = [each for each in classifiers if each.group == group]
        for name in dict.fromkeys(each.defence for each in members):
            alike = [each for each in members if each.defence == name]
            for each, detail in zip(alike, _details(alike), strict=True):
                label = f"{name} ({detail})" if detail else name
                labels[each.key] = f"control: {label}" if each.role == "control" else label
    return labels


def twin_of(classifier: Classifier, classifiers: Sequence[Classifier]) -> Classifier | None:
    """The undefended classifier among ``classifiers`` that one is compared with; None where it is not among them.

    A defended one has the twin that its card names, by its weights; one without such a record, and an undefended
    training of another recipe, has the undefended one of its group that has no tag, or else the only one.
    """
    undefended = [each for each in classifiers if each.role == "undefended" and each.group == classifier.group]
    if classifier.twin_sha256 is not None:
        same = [each for each in undefended if each.sha256 == classifier.twin_sha256]
        return same[0] if same and same[0].key != classifier.key else None
    if classifier.twin is not None:
        undefended = [each for each in undefended if each.card == classifier.twin]
    plain = [each for each in undefended if not each.tag] or undefended
    return plain[0] if len(plain) == 1 and plain[0].key != classifier.key else None


def recipe_seconds(twin: Classifier, classifiers: Sequence[Classifier]) -> float | None:
    """Seconds that a twin's recipe takes: of its own training, or of another undefended one by the same recipe."""
    again = (
        each.seconds
        for each in classifiers
        if each.role == "undefended" and each.twin_sha256 == twin.sha256 and twin.sha256 and not each.differs
    )
    return twin.seconds if twin.seconds is not None else next((each for each in again if each is not None), None)


def _details(alike: Sequence[Classifier]) -> list[str]:
    """What tells classifiers of one defence apart.

    Settings of the defence and of the training where they are few, then the tags of their cards, and where nothing
    else does, hashes of their weights.
    """
    names = sorted({name for each in alike for name in each.settings})
    varying = [name for name in names if len({json.dumps(each.settings.get(name)) for each in alike}) > 1]
    if len(varying) <= MOST_SETTINGS:
        details = [", ".join(f"{name}={setting_text(each.settings.get(name))}" for name in varying) for each in alike]
    else:
        details = [each.tag for each in alike]
    for texts in (
        [_own_recipe(each, alike, names) for each in alike],
        [_own_name(each) for each in alike],
        [short_hash(each.key) for each in alike],
    ):
        shared = {detail for detail in details if details.count(detail) > 1}
        details = [
            ", ".join(filter(None, (detail, text))) if detail in shared else detail
            for detail, text in zip(details, texts, strict=True)
        ]
    return details


def _own_recipe(classifier: Classifier, alike: Sequence[Classifier], settings: Sequence[str]) -> str:
    """``epochs=3``: where its training left the twin's recipe, and not all of ``alike`` did so in the same way.

    A name that is among the ``settings`` of the defence, too, becomes ``train.NAME``.
    """
    own = {
        name: pair[1]
        for name, pair in classifier.differs.items()
        if any(json.dumps(other.differs.get(name)) != json.dumps(pair) for other in alike)
    }
    if len(own) > MOST_SETTINGS:
        return ""
    return ", ".join(
        f"{'train.' if name in settings else ''}{name}={setting_text(value)}" for name, value in own.items()
    )


def _own_name(classifier: Classifier) -> str:
    """The tag, unless it only repeats the defence; for another training by an undefended twin's recipe, that it is."""
    if classifier.tag != classifier.defence:
        return classifier.tag
    again = classifier.role == "undefended" and classifier.twin is not None and not classifier.differs
    return "same recipe" if again else ""


def _flat(settings: object) -> dict[str, object]:
    if not isinstance(settings, dict):
        return {}
    each = {name: values for name, values in settings.items() if isinstance(values, dict)}
    if len(each) == 1:
        return {str(name): value for values in each.values() for name, value in values.items()}
    return {f"{defence}.{name}": value for defence, values in each.items() for name, value in values.items()}


def _pairs(record: object) -> dict[str, tuple[object, object]]:
    values = record.items() if isinstance(record, dict) else ()
    return {str(name): (pair[0], pair[1]) for name, pair in values if isinstance(pair, list) and len(pair) == 2}


def setting_text(value: object) -> str:
    """A setting's value as labels and notes write it; of a hash its first digits."""
    if not isinstance(value, str):
        return json.dumps(value)
    return value[:8] if re.fullmatch("[0-9a-f]{64}", value) else value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
