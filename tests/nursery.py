"""Processes that run the command line in the toy world: one at a time, or forked from a warm parent and killed.

``python nursery.py cli ARGUMENTS`` runs the command line with the toy world plugged in. ``python nursery.py kill DELAYS
ARGUMENTS`` imports everything once, then for each delay forks a child that runs the same command and gets SIGKILL after
so many seconds; a last child runs to its end.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

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


def run_child(arguments: list[str]) -> int:
    """Fork a child that runs the command line; the child never returns."""
    child = os.fork()
    if child == 0:
        from mibench.cli import cli

        try:
            cli(arguments)
        except SystemExit as leaving:
            os._exit(int(leaving.code or 0))
        os._exit(99)
    return child


def main() -> None:
    """See the module's docstring."""
    plug_in()
    mode, *arguments = sys.argv[1:]
    if mode == "cli":
        from mibench.cli import main as run_cli

        sys.argv = ["mibench", *arguments]
        run_cli()
        return
    import pandas  # noqa: F401 (imported once, here, so that the children spend their time on the run)

    import mibench.runner  # noqa: F401

    delays, *arguments = arguments
    killed = 0
    for delay in map(float, delays.split(",")):
        child = run_child(arguments)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
    _, status = os.waitpid(run_child(arguments), 0)
    print(f"killed {killed}, last exit {os.waitstatus_to_exitcode(status)}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
