"""The API beside other work: in threads, after a fork, in an event loop, without streams. Same bytes, nothing left."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from test_engine import result_files, toy_run

from mibench.api import MibenchError
from mibench.cli import cli, progress
from mibench.system import turns
from mibench.system.devices import choose_device
from mibench.system.process_state import SETTINGS
from mibench.system.progress import Reporter
from mibench.system.turns import ForkSafeLock, computing


def state() -> dict[str, Any]:
    """What belongs to the whole process."""
    found: dict[str, Any] = {setting.name: setting.value() for setting in SETTINGS}
    found["random numbers"] = torch.get_rng_state().tolist()
    found["fill"] = torch.utils.deterministic.fill_uninitialized_memory
    found["streams"] = id(sys.stdout), id(sys.stderr)
    return found


@pytest.fixture
def nothing_left(toy: Path, tmp_path: Path) -> Iterator[None]:
    del toy
    toy_run(tmp_path / "first")  # what is imported on the way adds filters of warnings, once
    before = state()
    yield
    assert {name for name, value in state().items() if value != before[name]} == set()


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Begin ``work`` in a thread; the function that is returned waits for what it returns or raises."""
    box: list[Any] = []

    def keep() -> None:
        try:
            box.append(work())
        except Exception as error:  # noqa: BLE001 (handed on to who waits)
            box.append(error)

    thread = threading.Thread(target=keep)
    thread.start()

    def ended() -> Any:
        thread.join()
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]

    return ended


class Gate(Reporter):
    """Holds a run at its first word until somebody opens it; ``heard`` is set by each word."""

    def __init__(self, *, closed: bool = False) -> None:
        self.lines: list[str] = []
        self.heard, self.open = threading.Event(), threading.Event()
        if not closed:
            self.open.set()

    def say(self, text: str) -> None:
        self.lines.append(text)
        self.heard.set()
        self.open.wait()


@pytest.mark.usefixtures("nothing_left")
def test_threads_take_turns_and_leave_nothing(tmp_path: Path) -> None:
    alone = result_files(toy_run(tmp_path / "alone").path)
    first, second, third = Gate(closed=True), Gate(), Gate()
    ends = [in_thread(lambda: toy_run(tmp_path / "one", reporter=first))]
    first.heard.wait()  # it is at work and stays there
    ends.append(in_thread(lambda: toy_run(tmp_path / "two", reporter=second)))
    ends.append(in_thread(lambda: toy_run(tmp_path / "one", reporter=third)))
    second.heard.wait()
    third.heard.wait()
    said = ["another thread of this process is computing; this one begins when that has ended"]
    assert second.lines == third.lines == said
    first.open.set()
    runs = [end() for end in ends]
    assert [result_files(run.path) == alone for run in runs] == [True, True, True]
    assert [run.reused for run in runs] == [False, False, True]  # in one folder: the second finds it complete


@pytest.mark.usefixtures("nothing_left")
def test_a_mistake_in_a_thread_frees_the_turn(tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="unknown attack"):
        in_thread(lambda: toy_run(tmp_path, "toyatack"))()
    assert toy_run(tmp_path).metrics["acc1"].value == 1.0


@pytest.mark.usefixtures("nothing_left")
def test_inside_an_event_loop(tmp_path: Path) -> None:
    async def both() -> tuple[Any, Any]:
        return toy_run(tmp_path / "here"), await asyncio.to_thread(toy_run, tmp_path / "there")

    here, there = asyncio.run(both())
    assert result_files(here.path) == result_files(there.path)


class WritesOnly:
    """What stands for stdout in notebooks and services may know no more."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@pytest.mark.parametrize("stream", [None, WritesOnly()], ids=["no stream", "a stream that only writes"])
@pytest.mark.usefixtures("nothing_left")
def test_without_real_streams(stream: Any, tmp_path: Path) -> None:
    alone = result_files(toy_run(tmp_path / "alone").path)
    kept = sys.stdout, sys.stderr
    sys.stdout = sys.stderr = stream
    try:
        found = toy_run(tmp_path / "bare", reporter=progress.reporter())
        with pytest.raises(SystemExit) as end:
            cli.main(["show", "attack", "toyattack"])
    finally:
        sys.stdout, sys.stderr = kept
    assert end.value.code == 0
    assert result_files(found.path) == alone
    if stream is not None:
        assert "against toynet@toyfaces" in stream.text
        assert "steps" in stream.text


def forked(work: Callable[[], None]) -> int:
    """Exit code of a forked child that does ``work``."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    return child.exitcode or 0


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@needs_fork
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forking beside threads, which is what is tried
def test_a_forked_child_runs_also_while_a_thread_of_its_parent_does(toy: Path, tmp_path: Path) -> None:
    alone = result_files(toy_run(tmp_path / "alone").path)
    first = Gate(closed=True)
    end = in_thread(lambda: toy_run(tmp_path / "parent", reporter=first))
    first.heard.wait()

    def child() -> None:
        torch.set_num_threads(1)
        toy_run(tmp_path / "child")

    code = forked(child)
    first.open.set()
    assert code == 0
    assert result_files(end().path) == alone
    (made,) = (tmp_path / "child").glob("toyattack-*")
    assert result_files(made) == alone


def test_threads_that_a_fork_left_behind_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_forked", True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with (
        pytest.raises(MibenchError, match=r"forked .* 'spawn', or call torch.set_num_threads\(1\)"),
        computing(Reporter()),
    ):
        pass
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with computing(Reporter()):
        pass


def test_a_gpu_is_not_shared_by_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(MibenchError, match="forked from one that had used the GPU"):
        choose_device("auto")


def test_a_turn_is_kept_by_the_thread_that_forks_and_freed_of_others() -> None:
    turn = ForkSafeLock()
    with turn.acquired():
        turn.after_fork()
        with turn.acquired():
            pass
        assert in_thread(lambda: turn._lock.acquire(blocking=False))() is False
    taken, let = threading.Event(), threading.Event()

    def hold() -> None:
        with turn.acquired():
            taken.set()
            let.wait()

    end = in_thread(hold)
    taken.wait()
    turn.after_fork()  # as in a child, where that thread is not
    with turn.acquired():
        let.set()
        end()


def test_the_command_line_in_a_thread(toy: Path, tmp_path: Path) -> None:
    """Handlers of signals belong to the main thread; nothing here sets one elsewhere."""
    words = ["run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"]
    found = in_thread(lambda: CliRunner().invoke(cli, [*words, "--output", str(tmp_path)]))()
    assert found.exit_code == 0, found.output
