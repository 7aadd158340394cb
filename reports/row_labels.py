"""What the rows of a comparison are called: the attack, and only what tells it from the other rows of that attack."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mibench.results import StoredRun

from .formatting import FLOOR, FLOOR_LABEL

MOST_SETTINGS = 3  # settings that differ are named in a label up to this many

Settings = Mapping[str, object]


def row_labels(groups: Sequence[Sequence[StoredRun]], mixed: Sequence[str]) -> list[str]:
    """Labels of rows, unique on each target.

    Args:
        groups: the runs of each row; they differ in nothing but their seed.
        mixed: for each row the circumstance that differs where neither protocol nor data set names it, else empty.
    """
    labels = [runs[0].attack_title for runs in groups]
    for attack in dict.fromkeys(labels):
        indices = [index for index, runs in enumerate(groups) if runs[0].attack_title == attack]
        heads = [groups[index][0] for index in indices]
        details: list[list[str]] = [[] for _ in indices]
        for texts in (
            [f"prior {prior_of(run)}" for run in heads],
            _prior_settings(heads),
            _attack_settings(heads),
            [str(run.specification.get("precision", "")) for run in heads],
            [run.protocol for run in heads],
            [run.dataset for run in heads],
            [mixed[index] for index in indices],
        ):
            if len(set(texts)) > 1:
                for detail, text in zip(details, texts, strict=True):
                    detail.append(text)
        bare = FLOOR_LABEL if attack == FLOOR else attack
        for index, detail in zip(indices, details, strict=True):
            labels[index] = f"{attack} ({', '.join(text for text in detail if text)})" if any(detail) else bare
    return _made_unique(labels, groups)


def block_names(runs: Sequence[StoredRun]) -> dict[str, str]:
    """Key of a target -> its card's name, with the hash of the weights where two targets share a name."""
    runs_by_target = {target_key(run): run for run in runs}
    names = [run.target for run in runs_by_target.values()]
    return {
        key: run.target if names.count(run.target) == 1 else f"{run.target} ({short_hash(weights_of(run, 'target'))})"
        for key, run in runs_by_target.items()
    }


def prior_of(run: StoredRun) -> str:
    """The prior as people call it: architecture, and tag unless the tag is only the target it was made against."""
    weights = run.specification.get("prior")
    if not isinstance(weights, dict):
        return "none"
    name, _, tag = str(weights.get("card", weights.get("architecture", "unknown"))).partition("+")
    architecture, target = name.partition("@")[0], run.target
    own = target.partition("@")[0] + (f"-{target.partition('+')[2]}" if "+" in target else "")
    return architecture + (f"+{tag}" if tag and tag != own else "")


def target_key(run: StoredRun) -> str:
    """The same text for runs against the same weights."""
    return json.dumps(weights_of(run, "target"))


def weights_of(run: StoredRun, kind: str) -> object:
    """What a set of weights is: by hash where there is one, else by name."""
    weights = run.specification.get(kind)
    if isinstance(weights, dict):
        filters = [weights["filters"]] if "filters" in weights else []
        return [weights.get("sha256") or weights.get("card"), weights.get("card"), weights.get("arguments"), *filters]
    return weights


def short_hash(value: object) -> str:
    """Six hexadecimal digits that tell values apart."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:6]


def _made_unique(labels: list[str], groups: Sequence[Sequence[StoredRun]]) -> list[str]:
    """Labels that are still shared by two rows of one target get the name of a folder."""
    folder_names: tuple[Callable[[StoredRun], str], ...] = (
        lambda run: run.path.resolve().parent.name,
        lambda run: run.path.resolve().name,
        lambda run: str(run.path.resolve()),
    )
    targets = [target_key(runs[0]) for runs in groups]
    keys = list(zip(labels, targets, strict=True))
    shared = {index for index, key in enumerate(keys) if keys.count(key) > 1}
    for folder_name in folder_names:
        candidates = [
            f"{label} · {folder_name(runs[0])}" if index in shared else label
            for index, (label, runs) in enumerate(zip(labels, groups, strict=True))
        ]
        if len({(candidates[index], targets[index]) for index in shared}) == len(shared):
            return candidates
    return labels


def _attack_settings(heads: Sequence[StoredRun]) -> list[str]:
    """What tells the settings of rows apart: the ones that differ, where they are few; else the preset, where it is
    another one each time; else what is unlike most rows; else a hash."""
    settings: list[Settings] = [dict(run.specification.get("attack_settings") or {}) for run in heads]
    names = sorted({name for each in settings for name in each})
    varying = [name for name in names if _differs(settings, name)]
    if len(varying) <= MOST_SETTINGS:
        return [_listed(each, varying) for each in settings]
    presets = [str(run.specification.get("preset")) for run in heads]
    hashes = [short_hash(each) for each in settings]
    if len(set(presets)) == len(set(zip(presets, hashes, strict=True))):
        return [f"preset {preset}" for preset in presets]
    usual = {name: Counter(json.dumps(each.get(name)) for each in settings).most_common(1)[0][0] for name in varying}
    unusual = [[name for name in varying if json.dumps(each.get(name)) != usual[name]] for each in settings]
    return [
        f"settings {digest}" if len(names) > MOST_SETTINGS else _listed(each, names)
        for each, names, digest in zip(settings, unusual, hashes, strict=True)
    ]


def _prior_settings(heads: Sequence[StoredRun]) -> list[str]:
    """What tells rows with the same prior apart: its settings that are not alike, where a row has one."""

    def arguments(run: StoredRun) -> Settings:
        weights = run.specification.get("prior")
        return dict(weights.get("arguments") or {}) if isinstance(weights, dict) else {}

    texts = []
    for run in heads:
        alike = [arguments(other) for other in heads if prior_of(other) == prior_of(run)]
        texts.append(_listed(arguments(run), [name for name in sorted(arguments(run)) if _differs(alike, name)]))
    return texts


def _differs(settings: Sequence[Settings], name: str) -> bool:
    return len({json.dumps(each.get(name)) for each in settings}) > 1


def _listed(settings: Settings, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={settings[name]}" if name in settings else f"without {name}" for name in names)
