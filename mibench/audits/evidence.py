"""The evidence file of an audit: what checklists of AI security ask for, without people, machine paths or times.

Which answers are exposed, limits of queries, results at each access level that was audited, what could not be evaluated
and why, versions, hashes, how to reproduce it. Audits of the same model and data in the same output folder, with less
access, belong to it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from mibench.api import Access
from mibench.errors import MibenchError, printable
from mibench.results import StoredRun
from mibench.system.canonical import JsonObject, plain
from mibench.system.progress import Reporter
from mibench.system.text_files import read_object
from mibench.version import __version__

from .request import AuditRequest

AUDIT = "audit.json"
EVIDENCE = "evidence.json"
SCHEMA = 1
_COMPARED = ("value", "low", "high", "n", "reason")
_PEOPLE = (
    "whether people would recognise someone",
    "the judge is a network, and no study with people is part of an audit",
)


def evidence_of(
    audit: JsonObject, request: AuditRequest, run: StoredRun, fault: str | None, reporter: Reporter
) -> JsonObject:
    """The content of evidence.json.

    Args:
        audit: the content of audit.json.
        request: what was asked for; paths are left out of the command that repeats it.
        run: the finished run.
        fault: why the model gives no gradient although its kind could.
        reporter: hears of audits beside this one that cannot be read.
    """
    levels = _levels(audit, run, fault, reporter)
    return {
        "schema": SCHEMA,
        "mibench": __version__,
        "verdict": audit["verdict"],
        "reasons": audit["reasons"],
        "thresholds": audit["thresholds"],
        "model": {
            "card": audit["model"]["card"],
            "weights_sha256": audit["model"]["weights_sha256"],
            "accuracy": audit["model"]["accuracy"],
            "chance": audit["model"]["chance"],
        },
        "data": audit["data"],
        "judge": audit["judge"],
        "prior": audit["prior"],
        "exposed_answers": {"model_gives": audit["model"]["gives"], "audited_with": audit["model"]["access"]},
        "queries": audit["attack"]["queries"],
        "levels": levels,
        "not_evaluable": _not_evaluable(audit, run, levels),
        "limits": audit["limits"],
        "versions": _versions(run),
        "run": {
            "folder": run.path.name,
            "digest": run.record.get("digest"),
            "floor": audit["attack"]["floor"],
            "protocol": run.protocol,
            "seed": run.seed,
            "precision": run.specification.get("precision"),
        },
        "reproduce": command_of(request, str(audit["attack"]["name"])),
    }


def command_of(request: AuditRequest, attack: str) -> str:
    """The command that repeats an audit, for a shell: files without their folders, data as DATA and PUBLIC."""
    words = ["mibench", "audit", "--model", portable(request.model)]
    options: list[tuple[str, object]] = [
        ("--weights", None if request.weights is None else portable(str(request.weights))),
        ("--data", None if request.data is None else "DATA"),
        ("--public", None if request.public is None else "PUBLIC"),
        ("--size", request.size),
        *((f"--{name}", _joined(getattr(request, name))) for name in ("range", "mean", "std")),
        ("--channel-order", request.channel_order),
        ("--classes", None if request.classes is None else portable(request.classes)),
        ("--outputs", ",".join(request.outputs)),
        ("--features", request.features),
        ("--attack", portable(request.attack or attack)),
        ("--access", request.access),
        ("--judge", request.judge),
        ("--prior", request.prior),
        ("--identities", request.identities),
        ("--min-accuracy", request.min_accuracy),
        ("--seed", request.seed),
    ]
    for option, value in options:
        if value not in (None, ""):
            words += [option, str(value)]
    for scope, settings in sorted(request.settings.items()):
        for name, value in sorted(settings.items()):
            words += ["--set", f"{scope}.{name}={json.dumps(_portable_value(value))}"]
    return printable(shlex.join(words))


def portable(text: str) -> str:
    """A path without its folders; other text as it is (``package.module:build``)."""
    if _leads_elsewhere(text):
        return (PureWindowsPath(text) if "\\" in text else PurePosixPath(text)).name
    if "/" in text and ":" not in text.partition("/")[0]:
        return PurePosixPath(text).name
    return text


def _leads_elsewhere(text: str) -> bool:
    return text.startswith(("/", "~", "./", "../")) or PureWindowsPath(text).is_absolute()


def _portable_value(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _portable_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_portable_value(item) for item in value]
    text = str(value) if isinstance(value, str | Path) else None
    return plain(value) if text is None else portable(text) if _leads_elsewhere(text) else text


def _joined(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


def _levels(audit: JsonObject, run: StoredRun, fault: str | None, reporter: Reporter) -> list[JsonObject]:
    """Labels, scores, gradients: whether the model gives them, and what audits with them found."""
    audits = [audit, *_beside(audit, run, reporter)]
    given = Access[str(audit["model"]["gives"]).upper()]
    levels = []
    for level in Access:
        results = sorted(
            (_result(each) for each in audits if each["attack"]["access"] == level.word),
            key=lambda result: (str(result["attack"]), str(result["run"])),
        )
        reason = None
        if level > given:
            reason = "the model does not give them" if fault is None else f"no usable gradient: {fault}"
        elif not results:
            reason = f"not audited: repeat the audit with --access {level.word}"
        levels.append({"access": level.word, "available": level <= given, "results": results, "reason": reason})
    return levels


def _beside(audit: JsonObject, run: StoredRun, reporter: Reporter) -> list[JsonObject]:
    """Other audits of the same model, data and judge in the same output folder; what cannot be read is left out."""
    audits = []
    for file in sorted(run.path.parent.glob(f"*/{AUDIT}")):
        if file.parent.name == run.path.name:
            continue
        try:
            other = read_object(file)
            if all(_identity(other, part) == _identity(audit, part) for part in ("model", "data", "judge")):
                _result(other)
                audits.append(other)
        except (MibenchError, KeyError, TypeError, AttributeError):
            reporter.say(f"{file} is no audit of this version of mibench and is left out of the evidence")
    return audits


def _identity(audit: JsonObject, part: str) -> object:
    if audit["schema"] != 2:
        raise KeyError("schema")
    return audit[part]["digest" if part == "data" else "weights_sha256"]


def _result(audit: JsonObject) -> JsonObject:
    """What one audit found, without its people.

    Raises:
        KeyError, TypeError, AttributeError: it is no audit.
    """
    attack, difference = audit["attack"], audit["difference_to_floor"]
    shares = {name: audit["recognised"].get(name) for name in ("acc1", "floor")}
    return {
        "attack": str(attack["name"]),
        "verdict": str(audit["verdict"]),
        **{name: None if each is None else _numbers(each, _COMPARED) for name, each in shares.items()},
        "difference": _numbers(difference, _COMPARED) | _numbers(difference["params"], ("p_value", "detectable")),
        **_numbers(attack, ("samples", "seed")),
        "people": _numbers(attack, ("identities",))["identities"],
        "queries": _numbers(attack["queries"], ("limit", "forward", "backward", "prior")),
        "protocol": str(attack["protocol"]),
        "run": str(attack["run"]),
    }


def _numbers(content: JsonObject, keys: Sequence[str]) -> JsonObject:
    """These numbers, None where there is none; the only text is a ``reason``."""
    numbers: JsonObject = {}
    for key in keys:
        value = content.get(key)
        if value is not None and not isinstance(value, str if key == "reason" else int | float):
            raise TypeError(key)
        numbers[key] = value
    return numbers


def _not_evaluable(audit: JsonObject, run: StoredRun, levels: list[JsonObject]) -> list[JsonObject]:
    """What has no answer, with the reason."""
    rows = [(f"access to {level['access']}", level["reason"]) for level in levels if level["reason"] is not None]
    rows += [
        (f"metric {name}", estimate.reason or "no reason was given")
        for name, estimate in sorted(run.metrics.items())
        if estimate.value is None
    ]
    attacked, people = audit["attack"]["identities"], audit["data"]["people"]
    if attacked < people:
        rows.append((f"{people - attacked:,} of {people:,} people", "they were not attacked (--identities)"))
    if audit["verdict"] == "undecided":
        rows.append(("whether the model leaks", "; ".join(reason["text"] for reason in audit["reasons"])))
    return [{"what": what, "reason": reason} for what, reason in (*rows, _PEOPLE)]


def _versions(run: StoredRun) -> JsonObject:
    environment = run.record.get("environment")
    environment = environment if isinstance(environment, dict) else {}
    return {"python": environment.get("python"), **(environment.get("versions") or {})}
