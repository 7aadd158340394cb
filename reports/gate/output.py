"""A gate in words, as JSON, as JUnit XML and as Markdown. Text from names is escaped in each."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from xml.etree import ElementTree

from mibench.results import markdown_inert, markdown_lines, number_text, printable

from .decision import Gate, GateTest
from .verdicts import Reason

SCHEMA = 1
SYMBOLS = {"pass": "PASS", "fail": "FAIL", "undecided": "UNDECIDED"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_plain(gate: Gate) -> dict[str, object]:
    """Everything as JSON types; the schema is in docs/ci.md. JSON has no infinity: such a bound is null."""
    return {
        "schema": SCHEMA,
        "verdict": gate.verdict,
        "exit_code": gate.exit_code,
        "target": gate.target,
        "baselines": list(gate.baselines),
        "confidence": gate.confidence,
        "protocol": gate.circumstances.get("protocol"),
        "seeds": {"now": list(gate.seeds[0]), "baseline": list(gate.seeds[1])},
        "tests": [{name: _finite(value) for name, value in asdict(test).items()} for test in gate.tests],
        "utility": asdict(gate.utility),
        "reasons": [asdict(reason) for reason in gate.reasons],
    }


def text(gate: Gate) -> str:
    """For a terminal: a line for each test, the reasons below it, utility, and the verdict last."""
    lines = []
    for test in gate.tests:
        lines.append(_headline(gate, test))
        lines += [f"  {reason.text}" for reason in test.reasons]
    lines.append(_utility(gate))
    lines += [f"  {reason.text}" for reason in gate.utility.reasons]
    lines.append(_verdict(gate))
    return "\n".join(map(printable, lines))


def markdown(gate: Gate) -> str:
    """For the summary of a job or a comment on a change."""
    header = ["", "attack", "metric", "baseline", "now", "increase", "allowed", "p", "n"]
    rows = [
        [
            SYMBOLS[test.verdict],
            markdown_inert(test.attack),
            markdown_inert(test.title),
            _value(test, test.old),
            _value(test, test.new),
            _change(test),
            _signed(test, test.margin),
            _p(test.p_more if test.verdict == "fail" else test.p_within),
            str(test.identities),
        ]
        for test in gate.tests
    ]
    lines = [f"### Privacy gate: {SYMBOLS[gate.verdict]}", ""]
    lines += markdown_lines([header, *rows])
    lines += ["", f"{markdown_inert(_utility(gate))}."]
    lines += [f"- {markdown_inert(reason.text)}" for reason in gate.reasons]
    protocol = markdown_inert(str(gate.circumstances.get("protocol")))
    lines += [
        "",
        f"{markdown_inert(gate.target)} against {markdown_inert(_baselines(gate))}, protocol {protocol}; "
        f"increases towards leaking more with one-sided {100 * gate.confidence:g} % bounds, paired over n identities.",
    ]
    return "\n".join(map(printable, lines)) + "\n"


def junit(gate: Gate) -> str:
    """JUnit XML: a case for each test and one for utility; undecided is an error, leaking more a failure."""
    suite = ElementTree.Element("testsuite", name="mibench gate")
    cases: list[tuple[str, str, str, tuple[str, ...]]] = [
        (f"{test.attack}: {test.metric}", test.verdict, _headline(gate, test), _texts(test.reasons))
        for test in gate.tests
    ]
    cases.append(("utility", gate.utility.verdict, _utility(gate), _texts(gate.utility.reasons)))
    for name, verdict, headline, reasons in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=_xml(f"privacy.{gate.target}"), name=_xml(name))
        if verdict == "pass":
            ElementTree.SubElement(case, "system-out").text = _xml(headline)
            continue
        kind = "failure" if verdict == "fail" else "error"
        problem = ElementTree.SubElement(case, kind, message=_xml(headline), type=verdict)
        problem.text = "\n".join(map(_xml, (headline, *reasons)))
    counts = {kind: sum(case.find(kind) is not None for case in suite) for kind in ("failure", "error")}
    suite.set("tests", str(len(cases)))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    ElementTree.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suite, encoding="unicode") + "\n"


FORMATS: Mapping[str, Callable[[Gate], str]] = {
    "json": lambda gate: json.dumps(as_plain(gate), indent=2, allow_nan=False) + "\n",
    "junit": junit,
    "markdown": markdown,
    "text": lambda gate: text(gate) + "\n",
}


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _texts(reasons: tuple[Reason, ...]) -> tuple[str, ...]:
    return tuple(reason.text for reason in reasons)


def _headline(gate: Gate, test: GateTest) -> str:
    if test.increase is None:
        return f"{SYMBOLS[test.verdict]} {test.attack}: {test.metric} was not measured"
    shown = test.p_more if test.verdict == "fail" else test.p_within
    line = f"{SYMBOLS[test.verdict]} {test.attack}: {test.title} {_change(test)}"
    line += f"; allowed {_signed(test, test.margin)}; p {_p(shown)}, n {test.identities}"
    if test.detectable is not None:
        line += f"; {_amount(test, test.detectable)} could have been seen"
    if len(gate.baselines) > 1:
        line += f"; against {test.against}"
    return line


def _change(test: GateTest) -> str:
    """``+9.4 points [+3.1, +15.6]``: towards leaking more, with both one-sided bounds."""
    if test.increase is None or test.lower is None or test.upper is None:
        return "–"
    scale = 100 if test.percent else 1
    bounds = ", ".join(_number(scale * bound, test) for bound in (test.lower, test.upper))
    return f"{_signed(test, test.increase)} [{bounds}]"


def _number(value: float, test: GateTest) -> str:
    return f"{value:+.1f}" if test.percent else f"{value:+.3g}"


def _signed(test: GateTest, value: float) -> str:
    return f"{_number(100 * value, test)} points" if test.percent else _number(value, test)


def _amount(test: GateTest, value: float) -> str:
    return f"{100 * value:.1f} points" if test.percent else f"{value:.3g}"


def _value(test: GateTest, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.1f} %" if test.percent else number_text(value)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _utility(gate: Gate) -> str:
    utility = gate.utility
    if utility.new is None:
        return "accuracy is not known"
    before = "" if utility.old is None else f" (was {100 * utility.old:.1f} %)"
    bounds = [f"at least {100 * utility.minimum:.1f} %"] if utility.minimum is not None else []
    bounds += [f"a drop of at most {100 * utility.max_drop:.1f} points"] if utility.max_drop is not None else []
    asked = f"; asked for {' and '.join(bounds)}" if bounds else ""
    return f"accuracy {100 * utility.new:.1f} %{before}{asked}"


def _verdict(gate: Gate) -> str:
    against = f"{gate.target} against {_baselines(gate)}, confidence {100 * gate.confidence:g} %"
    return f"{SYMBOLS[gate.verdict]}: {against}"


def _baselines(gate: Gate) -> str:
    """What it is compared with; of several classifiers, each test has taken the one that leaks most."""
    if len(gate.baselines) == 1:
        return f"the baseline {gate.baselines[0]}"
    return f"the most leaking of {len(gate.baselines)} baselines ({', '.join(gate.baselines)})"


def _xml(value: str) -> str:
    """Text of one line without what would reorder or hide it."""
    return _NOT_XML.sub("", printable(value))


def render(gate: Gate, kind: str) -> str:
    """``text``, ``json``, ``junit`` or ``markdown``."""
    return FORMATS[kind](gate)
