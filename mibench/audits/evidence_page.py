"""The evidence of an audit as a Markdown page. Names are escaped."""

from __future__ import annotations

from collections.abc import Iterable

from mibench.results import ABSENT, count_text, interval_text, markdown_inert, markdown_lines
from mibench.system.canonical import JsonObject
from mibench.weights.minimum_accuracy import percent

from .verdicts import SYMBOLS

PAGE = "evidence.md"


def evidence_page(evidence: JsonObject) -> str:
    """``evidence.md``, from the content of evidence.json."""
    model, data, judge, run = (evidence[part] for part in ("model", "data", "judge", "run"))
    exposed, queries = evidence["exposed_answers"], evidence["queries"]
    right = f"{percent(model['accuracy']['test'])} of {model['accuracy']['test_images']:,} held-out images"
    subject = [
        ("model", model["card"]),
        ("weights, SHA-256", model["weights_sha256"]),
        ("accuracy", f"{right} (chance {percent(model['chance'])})"),
        ("data, digest", data["digest"]),
        (
            "data",
            f"{data['people']:,} people, {data['train']:,} images of them, {data['test']:,} held out by "
            f"{data['held_out_by']}, {data['public']:,} public images",
        ),
        ("judge", f"{judge['card']}, {_percent(judge['accuracy'])} of held-out images"),
        ("judge, SHA-256", judge["weights_sha256"]),
        ("prior", evidence["prior"]["card"]),
        ("prior, SHA-256", evidence["prior"]["weights_sha256"]),
    ]
    answers = [
        ("the model gives", exposed["model_gives"]),
        ("audited with", exposed["audited_with"]),
        ("limit of queries for each person", "none" if queries["limit"] is None else count_text(queries["limit"])),
        ("images shown for each person", count_text(queries["forward"])),
        ("of these, with a gradient back", count_text(queries["backward"])),
        ("shown while the prior was trained", count_text(queries["prior"])),
    ]
    origin = [
        ("run", run["folder"]),
        ("digest", run["digest"]),
        ("floor", run["floor"]),
        ("protocol", run["protocol"]),
        ("seed", run["seed"]),
        ("precision", run["precision"]),
        *evidence["versions"].items(),
    ]
    parts = [
        [f"# Privacy audit: {SYMBOLS[evidence['verdict']]}", ""],
        [f"- {_inert(reason['text'])}" for reason in evidence["reasons"]],
        ["", "## What was audited", "", *_table(subject)],
        ["", "## What is exposed", "", *_table(answers)],
        ["", "## Results for each access level", "", *_levels(evidence["levels"])],
        ["", "## What was not evaluable", ""],
        [f"- {_inert(row['what'])}: {_inert(row['reason'])}" for row in evidence["not_evaluable"]],
        ["", "## Limits", ""],
        [f"- {_inert(sentence)}" for sentence in evidence["limits"]],
        ["", "## Origin", "", *_table(origin)],
        ["", "## How to reproduce", "", *_reproduce(evidence["reproduce"])],
    ]
    return "\n".join(line for part in parts for line in part) + "\n"


def _levels(levels: Iterable[JsonObject]) -> list[str]:
    head = ["access", "attack", "verdict", "acc@1 %", "floor %", "difference, points", "n", "queries each", "remark"]
    rows = []
    for level in levels:
        for result in level["results"]:
            shown = [_inert(result["attack"]), SYMBOLS.get(result["verdict"], _inert(result["verdict"]))]
            shown += [_share(result["acc1"]), _share(result["floor"]), _share(result["difference"])]
            shown += [str(result["difference"]["n"]), count_text(result["queries"]["forward"]), ""]
            rows.append([level["access"], *shown])
        if not level["results"]:
            rows.append([level["access"], *[ABSENT] * 7, _inert(level["reason"])])
    return markdown_lines([head, *rows])


def _reproduce(command: str) -> list[str]:
    """An indented block: nothing in it is markup, and nothing ends it."""
    return [
        "DATA and PUBLIC are the folders with the digest above; other files are named without their folders.",
        "",
        f"    {command}",
    ]


def _table(rows: Iterable[tuple[str, object]]) -> list[str]:
    return markdown_lines([["", ""], *([name, _inert(value)] for name, value in rows)])


def _inert(value: object) -> str:
    return ABSENT if value is None else markdown_inert(str(value))


def _share(number: JsonObject | None) -> str:
    if number is None:
        return ABSENT
    return interval_text(number["value"], number["low"], number["high"], percent=True).replace(" %", "")


def _percent(value: float | None) -> str:
    return "unknown" if value is None else percent(value)
