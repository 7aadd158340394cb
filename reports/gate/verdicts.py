"""What a gate says: verdicts, exit codes and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "fail", "undecided"]
ReasonCode = Literal[
    "leaks_more",
    "accuracy_below_minimum",
    "accuracy_dropped",
    "accuracy_unknown",
    "margin_not_seen",
    "near_margin",
    "cannot_rise",
    "judge_weak",
    "floor_moved",
    "metric_missing",
]
EXIT_CODES: Mapping[Verdict, int] = {"pass": 0, "fail": 1, "undecided": 3}


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Why a gate does not pass: a code for programs, a sentence for people."""

    code: ReasonCode
    text: str
