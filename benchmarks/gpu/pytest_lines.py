"""A pytest plugin that writes a line of JSON when a test ends, so that a suite which is stopped leaves its results."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

FILE = "MIBENCH_TEST_REPORT"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for each test that passed or failed, one for each that was skipped or broke outside its body."""
    if report.when != "call" and report.outcome == "passed":
        return
    row = {"test": report.nodeid, "outcome": report.outcome, "seconds": round(report.duration, 2)}
    if report.outcome == "failed":
        row["reason"] = report.longreprtext[-1500:]
    elif report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        row["reason"] = report.longrepr[2]
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file that cannot be collected is a failure."""
    if report.failed:
        row = {"test": report.nodeid, "outcome": "failed", "seconds": 0.0, "reason": str(report.longrepr)[-1500:]}
        with Path(os.environ[FILE]).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
