"""Runs the stages one after another, each with a clock of its own, and keeps one file of all that was found.

Standard library only: it must work before, and whatever happens to, anything else.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
RESULTS = "results.json"
LOG = "log.txt"
POLL = 0.25  # seconds between looks at a stage
GRACE = 4.0  # seconds that a stage gets beyond its clock to stop by itself, and again after SIGTERM
LOG_LIMIT = 8 * 2**20  # bytes of the log


@dataclass(frozen=True)
class Stage:
    """A part of the campaign.

    Attributes:
        name: in the results.
        script: the stage's program.
        share: of the time that is left, against the stages after it.
        least: seconds without which it is not worth starting.
    """

    name: str
    script: Path
    share: float
    least: float = 5.0


def allotted(stages: Sequence[Stage], left: float) -> float:
    """Seconds for the first of the stages that are still to come: what one leaves unused goes to those after it."""
    return left * stages[0].share / sum(stage.share for stage in stages)


class Campaign:
    """The stages of one run and their results.

    Args:
        stages: in order of value.
        out: gets ``results.json``, ``log.txt`` and the stages' pictures.
        work: whatever need not be kept.
        seconds: for everything.
        arguments: for every stage's program.
        environment: of every stage's process.
        about: facts for the head of the results.
        say: is told each line that a stage prints.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        out: Path,
        work: Path,
        seconds: float,
        *,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        about: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.stages, self.out, self.work = list(stages), out, work
        self._end = time.monotonic() + seconds
        self.arguments, self.environment, self._say = list(arguments), environment, say
        self.results: dict[str, Any] = {"schema": SCHEMA, **(about or {}), "status": "running", "stages": []}

    def left(self) -> float:
        """Seconds until everything must have ended."""
        return self._end - time.monotonic()

    def run(self) -> bool:
        """Run every stage; whether none of them failed. A stage that its clock stopped has not failed."""
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            for number, stage in enumerate(self.stages):
                seconds = allotted(self.stages[number:], self.left() - GRACE)
                if seconds < stage.least:
                    reason = f"{max(seconds, 0):.0f} s were left for it"
                    self._keep({"name": stage.name, "status": "not started", "reason": reason})
                    continue
                self._run(stage, seconds)
        except BaseException:
            self.results["status"] = "interrupted"
            self._write()
            raise
        self.results["status"] = "ended"
        self._write()
        return all(row["status"] != "failed" for row in self.results["stages"])

    def _run(self, stage: Stage, seconds: float) -> None:
        record = self.work / f"{stage.name}.json"
        command = [sys.executable, str(stage.script), "--record", str(record), "--out", str(self.out)]
        command += ["--work", str(self.work / stage.name), "--seconds", f"{seconds:.1f}", *self.arguments]
        row: dict[str, Any] = {"name": stage.name, "status": "running", "allotted_seconds": round(seconds, 1)}
        self._keep(row)
        self._say(f"== {stage.name}: {seconds:.0f} s of {self.left():.0f} s")
        started, printed = time.monotonic(), self.work / f"{stage.name}.log"
        self.work.mkdir(parents=True, exist_ok=True)
        with printed.open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.environment,
                start_new_session=True,
            )  # fmt: skip
            try:
                stopped = self._watch(process, started + seconds + GRACE, printed, record, row)
            finally:
                _end(process)
        row["seconds"] = round(time.monotonic() - started, 1)
        self._take(record, row)
        if stopped:
            row |= {"status": "stopped", "reason": "its time was over"}
        elif process.returncode:
            row |= {"status": "failed", "reason": _last_line(printed) or f"exit code {process.returncode}"}
        else:
            row["status"] = "complete"
        self._append_log(stage.name, printed)
        self._write()
        self._say(f"   {stage.name}: {row['status']} after {row['seconds']} s" + _because(row))

    def _watch(
        self, process: subprocess.Popen[bytes], end: float, printed: Path, record: Path, row: dict[str, Any]
    ) -> bool:
        """Wait for a stage and pass on what it prints and finds; whether its clock ended it."""
        told, seen = 0, 0.0
        while True:
            running = process.poll() is None
            told = self._tell(printed, told)
            changed = record.stat().st_mtime if record.exists() else 0.0
            if changed != seen:
                seen = changed
                self._take(record, row)
                self._write()
            if not running:
                return False
            if time.monotonic() > end:
                return True
            time.sleep(POLL)

    def _tell(self, printed: Path, told: int) -> int:
        with printed.open("rb") as log:
            log.seek(told)
            content = log.read()
        whole = content.rpartition(b"\n")[0]
        for line in whole.decode(errors="replace").splitlines():
            self._say(f"   {line}")
        return told + (len(whole) + 1 if whole else 0)

    def _take(self, record: Path, row: dict[str, Any]) -> None:
        try:
            row["found"] = json.loads(record.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            row.setdefault("found", {})

    def _keep(self, row: dict[str, Any]) -> None:
        self.results["stages"].append(row)
        self._write()

    def _write(self) -> None:
        fresh = self.out / f"{RESULTS}.new"
        fresh.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.out / RESULTS)

    def _append_log(self, name: str, printed: Path) -> None:
        content = f"== {name}\n".encode() + printed.read_bytes()
        log = self.out / LOG
        room = LOG_LIMIT - (log.stat().st_size if log.exists() else 0)
        with log.open("ab") as whole:
            whole.write(content if len(content) <= room else content[: max(room, 0)])


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a stage and everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _last_line(printed: Path) -> str:
    lines = [line for line in printed.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else ""


def _because(row: Mapping[str, Any]) -> str:
    return f": {row['reason']}" if row.get("reason") else ""
