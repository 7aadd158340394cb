"""Runs commands in forked children and disturbs them at a named place: killed, interrupted once or twice, stopped.

``python disturbing.py toy`` (or ``shipped``) imports everything once, reads orders as JSON, one a line, and answers
each with a line. A place is a function (``mibench.metrics.scoring:control_tables``), or the moment before a file takes
its name (``rename metrics.json``), each with the number of the call that counts (``... #2``). Places, not seconds: they
are the same moment on any machine.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # not there by itself where PYTHONSAFEPATH is set, as in tox

HERE = Path(__file__).parent
PATIENCE = 300.0  # seconds after which a child is killed, so that a test fails rather than hangs
LOADED = (
    "pandas",
    "matplotlib.backends.backend_agg",
    "mibench.runs.run",
    "mibench.weights.training",
    "mibench.audits.audit",
)


class Disturbance:
    """Strikes once, when its place is reached for the n-th time."""

    def __init__(self, place: str, how: str, later: int) -> None:
        self.place, _, number = place.partition(" #")
        self.left, self.how, self.later = int(number or 1), how, later

    def arm(self) -> None:
        """Put the trap in its place."""
        if self.place.startswith("rename "):
            owner, name = Path, "replace"
        else:
            module, _, path = self.place.partition(":")
            *owners, name = path.split(".")
            owner = functools.reduce(getattr, owners, importlib.import_module(module))
        honest = getattr(owner, name)
        pattern = self.place.removeprefix("rename ")

        @functools.wraps(honest)
        def trapped(*arguments: Any, **named: Any) -> Any:
            if owner is not Path or fnmatch.fnmatch(Path(arguments[1]).name, pattern):
                self.reached()
            return honest(*arguments, **named)

        setattr(owner, name, trapped)
        if self.how == "INT INT":
            from mibench import cli

            listen = cli.listen  # a handler is set in the main thread; a place may be reached in another
            cli.listen = lambda: (listen(), self.again())  # type: ignore[assignment,func-returns-value]

    def reached(self) -> None:
        self.left -= 1
        if self.left != 0:
            return
        os.kill(os.getpid(), getattr(signal, f"SIG{self.how.split()[0]}"))

    def again(self) -> None:
        """Have a second Ctrl-C come so many calls of functions after the first."""
        before = signal.getsignal(signal.SIGINT)
        left = self.later

        def count(frame: Any, event: str, argument: Any) -> None:
            nonlocal left
            if event not in ("call", "c_call"):
                return
            left -= 1
            if left == 0:
                sys.setprofile(None)
                os.kill(os.getpid(), signal.SIGINT)

        def first(number: int, frame: Any) -> Any:
            signal.signal(signal.SIGINT, before)
            sys.setprofile(count)
            return before(number, frame)  # type: ignore[operator,misc]

        signal.signal(signal.SIGINT, first)


def begin(order: dict[str, Any], streams: Path, *, disturbed: bool) -> int:
    """Fork a child that runs the command as the program does; its process number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{streams}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), descriptor)
        os.environ["MIBENCH_HOME"] = order["home"]
        os.chdir(order["folder"])
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if disturbed:
            Disturbance(order["place"], order["how"], order.get("later", 1)).arm()
        from mibench.cli import main

        sys.argv = ["mibench", *order["command"]]
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:  # noqa: BLE001 (what the interpreter does with it)
        traceback.print_exc()
    finally:
        sys.setprofile(None)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, streams: Path, until: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    """Wait for a child to end or stop, or for ``until``: its code (None: it is alive), and what it said."""
    status, deadline = None, time.monotonic() + PATIENCE
    while status is None and not until():
        found, raw = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if found:
            status = "stopped" if os.WIFSTOPPED(raw) else os.waitstatus_to_exitcode(raw)
        elif time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        else:
            time.sleep(0.01)
    said = {name: Path(f"{streams}.{name}").read_text(errors="replace") for name in ("out", "err")}
    return {"code": status, "pid": child, **said}


def carry_out(order: dict[str, Any]) -> dict[str, Any]:
    """The command once, disturbed where a place is named; with STOP a second one beside it, and then the first on."""
    streams = Path(order["streams"])
    first = begin(order, streams / "first", disturbed="place" in order)
    answer = {"first": ended(first, streams / "first")}
    if answer["first"]["code"] != "stopped":
        return answer
    second = begin(order, streams / "second", disturbed=False)
    words = streams / "second.err"

    def waits() -> bool:
        return words.exists() and "waiting for" in words.read_text(errors="replace")

    answer["second"] = ended(second, streams / "second", waits)
    os.kill(first, signal.SIGCONT)
    answer["first"] = ended(first, streams / "first")
    if answer["second"]["code"] is None:
        answer["second"] = ended(second, streams / "second") | {"waited": True}
    return answer


def main() -> None:
    """See the module's docstring."""
    if sys.argv[1] == "toy":
        from importlib.metadata import EntryPoint

        from nursery import plug_in
        from toyworld import build

        from mibench import registry

        build.POINTS = (*build.POINTS, EntryPoint("reports", "mibench.reports:CATALOGUE", registry.GROUP))
        plug_in()
    for name in LOADED:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    assert threading.active_count() == 1
    for line in sys.stdin:
        print(json.dumps(carry_out(json.loads(line))), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
