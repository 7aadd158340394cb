"""How to make a run again, and what it was made from."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from mibench.results import StoredRun

from .elements import Fact

NAMES = ("attack", "target", "dataset", "protocol", "prior", "preset", "seed", "precision")
WEIGHTS = ("target", "judge", "prior", "regressor", "surrogate")
FOLDER = "FOLDER"  # stands for a path of the machine that made the run


def command(run: StoredRun) -> str:
    """``mibench run`` with the names and settings that its owner gave; folders of their machine are left out."""
    config = run.config
    words = ["mibench", "run"]
    for name in NAMES:
        if (value := config.get(name)) is not None and (name, value) not in (("precision", "float32"), ("seed", 0)):
            words += [f"--{name}", str(value)]
    for name, value in _settings(config.get("settings")):
        words += ["--set", f"{name}={FOLDER if name == 'dataset.root' else _text(value)}"]
    return shlex.join(words)


def settings(run: StoredRun) -> list[tuple[str, str, str]]:
    """Settings of the attack and those that a person changed: name, value, where the value comes from."""
    recorded = run.record.get("settings")
    found = []
    for name, entry in sorted(recorded.items() if isinstance(recorded, dict) else ()):
        if not isinstance(entry, dict) or name == "dataset.root":
            continue
        if name.startswith("attack.") or entry.get("by_user") is True:
            found.append((name, _text(entry.get("value")), str(entry.get("origin", ""))))
    return found


def provenance(run: StoredRun) -> list[Fact]:
    """Digests, weights, versions and dates, as the run recorded them."""
    record, spec = run.record, run.specification
    facts = [
        Fact("digest of the run", str(record.get("digest", "not recorded")), code=True),
        Fact("data set", f"{run.dataset} {spec.get('dataset_digest', '')}".strip(), code=True),
    ]
    for kind in WEIGHTS:
        weights = spec.get(kind)
        if isinstance(weights, dict):
            facts.append(Fact(kind, f"{weights.get('card', '')} sha256 {weights.get('sha256', 'unknown')}", code=True))
    environment = record.get("environment")
    if isinstance(environment, dict):
        versions = environment.get("versions")
        if isinstance(versions, dict):
            facts.append(Fact("versions", ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))))
        machine = [environment.get(name) for name in ("device", "device_name", "platform")]
        facts.append(Fact("machine", ", ".join(str(part) for part in machine if part)))
        if environment.get("git_commit"):
            facts.append(Fact("commit", str(environment["git_commit"]), code=True))
    facts += [Fact(name, str(record[name])) for name in ("started", "finished") if record.get(name)]
    return facts


def _settings(scopes: object) -> Iterator[tuple[str, object]]:
    for scope, values in scopes.items() if isinstance(scopes, Mapping) else ():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            yield f"{scope}.{name}", value


def _text(value: object) -> str:
    """A value as ``--set`` reads it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_text(item) for item in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
