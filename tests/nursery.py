"""Processes that run the command line in the toy world: one at a time, or forked from a warm parent and killed.

``python nursery.py cli ARGUMENTS`` runs the command line with the toy world plugged in. ``python nursery.py kill SHARES
WHOLE KILLED ARGUMENTS`` imports everything once and runs the command in a child, to its end, with the output folder
WHOLE. Then for each share it forks a child that runs the same command in the folder KILLED and gets SIGKILL once it has
made that share of the first child's calls of functions; a last child runs to its end. Calls, not seconds: a share is
the same moment on a fast machine, on a slow one and on a busy one. ``kill-shipped`` does it without the toy world.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def start(*arguments: object, home: Path, mode: str = "cli") -> subprocess.Popen[str]:
    """A process of this file."""
    environment = os.environ | {"MIBENCH_HOME": str(home), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "nursery.py"), mode, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def plug_in() -> None:
    """Make the toy world the only party besides the referee."""
    sys.path.insert(0, str(HERE))
    from toyworld.build import entry_points

    from mibench import registry

    registry.entry_points = entry_points  # type: ignore[assignment]


class Calls:
    """Counts what its thread calls and what returns, in Python and in C, and ends the process at one of them."""

    def __init__(self, last: int | None) -> None:
        self.count, self.last = 0, last

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def run_child(arguments: list[str], last: int | None = None) -> tuple[int, int]:
    """Run the command line in a forked child, killed at its ``last`` call; its wait status and number of calls."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        from mibench.cli import cli

        calls, code = Calls(last), 99
        sys.setprofile(calls)
        try:
            cli(arguments)
        except SystemExit as leaving:
            code = int(leaving.code or 0)
        sys.setprofile(None)
        os.write(writing, str(calls.count).encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        counted = pipe.read()  # to its end, which is the child's
    _, status = os.waitpid(child, 0)
    return status, int(counted or 0)


def main() -> None:
    """See the module's docstring."""
    # A shell has what it starts in the background ignore Ctrl-C, and so would the tests' own processes.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mode, *arguments = sys.argv[1:]
    if mode != "kill-shipped":
        plug_in()
    if mode == "cli":
        from mibench.cli import main as run_cli

        sys.argv = ["mibench", *arguments]
        run_cli()
        return
    import pandas  # noqa: F401 (imported once, here, so that the children spend their time on the run)

    import mibench.runs.run  # noqa: F401

    shares, whole, killed, *arguments = arguments
    first, calls = run_child([*arguments, "--output", whole])
    command = [*arguments, "--output", killed]
    ends = [run_child(command, max(1, int(float(share) * calls)))[0] for share in shares.split(",")]
    last, _ = run_child(command)
    codes = [os.waitstatus_to_exitcode(status) for status in (first, last)]
    kills = sum(map(os.WIFSIGNALED, ends))
    print(f"{kills} of {len(ends)} killed, {calls} calls, exit codes {codes}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
