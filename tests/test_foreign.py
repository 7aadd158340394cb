"""The guard around other people's code: what it may not do, and what is put back."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from mibench.cli import cli
from mibench.errors import MibenchError
from mibench.system.foreign_code import foreign, out_of_memory, worded
from mibench.system.process_state import SETTINGS, settings_kept
from mibench.system.stdout_guard import stdout_to_stderr

numpy_wide: Any = np.random  # the generator of the whole process, which a person's code may use


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no text either")


class Leaving(Exception):
    def __str__(self) -> str:
        sys.exit(0)


class Strange(BaseException):
    pass


def parse() -> None:
    argparse.ArgumentParser().parse_args()


def parse_what_is_known() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=7)
    assert parser.parse_known_args()[0].size == 7, "our --size is none of theirs"


def demand_an_argument() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("weights")
    parser.parse_args()


def end(*code: Any) -> Callable[[], None]:
    return lambda: sys.exit(*code)


def throw(error: BaseException) -> Callable[[], None]:
    def thrown() -> None:
        raise error

    return thrown


@pytest.mark.parametrize(
    ("work", "message"),
    [
        (end(0), "the model ends the program when it runs (sys.exit(0)); keep what belongs to a script below"),
        (end(), "ends the program when it runs (sys.exit(None))"),
        (end("done\nerror: nothing"), "(sys.exit(done\\nerror: nothing))"),
        (throw(Strange("x")), "the model raises Strange: x when it runs"),
        (throw(GeneratorExit()), "the model raises GeneratorExit when it runs"),
        (parse, "the model reads the command line when it runs, and this one is mibench's"),
        (parse_what_is_known, "reads the command line"),
        (demand_an_argument, "reads the command line"),
        (lambda: sys.argv[1].strip(), "reads the command line"),
        (throw(ValueError("first\nsecond")), "it fails: ValueError: second"),
        (throw(Silent()), "it fails: Silent"),
        (throw(Leaving()), "it fails: Leaving"),
        (throw(KeyError("\x1b[2Jgone")), "it fails: KeyError: '\\x1b[2Jgone'"),
    ],
)
def test_an_error_of_foreign_code_is_one_line(
    work: Callable[[], None], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mibench", "audit", "--size", "32"])
    with pytest.raises(MibenchError) as refused, foreign("the model", "when it runs", failing="it fails"):
        work()
    assert message in str(refused.value)
    assert str(refused.value).isprintable()
    assert sys.argv == ["mibench", "audit", "--size", "32"]


def test_exceptions_pass_where_the_caller_finds_the_words() -> None:
    with pytest.raises(ZeroDivisionError), foreign("the model", "when it runs"):
        _ = 1 / 0
    assert worded(Silent()) == "Silent"


def test_harmless_looks_at_the_command_line_are_allowed() -> None:
    with foreign("the model", "when it runs"):
        assert len(sys.argv) == 1
        assert "--debug" not in sys.argv
        assert sys.argv[0]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate"),
        KeyboardInterrupt(),
    ],
)
def test_full_memory_and_control_c_reach_the_program(error: BaseException) -> None:
    with pytest.raises(type(error)), foreign("the model", "when it runs", failing="it fails"):
        raise error
    assert out_of_memory(error) == (not isinstance(error, KeyboardInterrupt))
    assert not out_of_memory(Silent())


def test_nothing_that_is_printed_reaches_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with foreign("the model", "when it runs"):
        sys.stdout.write("from python\n")
        with foreign("its part", "when it runs"):
            os.write(1, b"from C\n")
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        sys.stdout = None  # type: ignore[assignment]
    sys.stdout.write("ours\n")
    spoken = capfd.readouterr()
    assert spoken.out == "ours\n"
    for text in ("from python", "from C", "from a child"):
        assert text in spoken.err


def test_calls_that_overlap_put_stdout_back_once(capfd: pytest.CaptureFixture[str]) -> None:
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with stdout_to_stderr():
            first_in.set()
            second_in.wait(10)
        first_out.set()

    before = sys.stdout
    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(10)
    with stdout_to_stderr():
        second_in.set()
        first_out.wait(10)
        os.write(1, b"aside\n")
    thread.join(10)
    assert sys.stdout is before
    os.write(1, b"ours\n")
    spoken = capfd.readouterr()
    assert (spoken.out, spoken.err) == ("ours\n", "aside\n")


def set_filters() -> None:
    warnings.simplefilter("error")


def enter_autocast() -> None:
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)


CHANGES: dict[str, Callable[[], Any]] = {
    "dtype": lambda: torch.set_default_dtype(torch.float64),
    "device": lambda: torch.set_default_device("meta"),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "gradients": lambda: torch.set_grad_enabled(False),
    "deterministic": lambda: torch.use_deterministic_algorithms(True),
    "autocast": enter_autocast,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "products": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "cudnn": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "mkldnn": lambda: torch.backends.mkldnn.set_flags(False),
    "denormals": lambda: torch.set_flush_denormal(True),
    "numpy": lambda: np.seterr(all="raise"),
    "warnings": set_filters,
    "showing": lambda: setattr(warnings, "showwarning", print),
    "logging": lambda: logging.disable(logging.CRITICAL),
    "folder": lambda: os.chdir("/"),
    "signals": lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    "recursion": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 7),
    "garbage": gc.disable,
    "stderr": lambda: setattr(sys, "stderr", None),
    "argv": lambda: setattr(sys, "argv", ["theirs"]),
}
if hasattr(torch.backends, "fp32_precision"):
    CHANGES["precision"] = lambda: setattr(torch.backends, "fp32_precision", "tf32")


def state() -> list[Any]:
    return [setting.value() for setting in SETTINGS] + [sys.stderr, sys.stdout, sys.argv]


@pytest.fixture
def settled() -> Iterator[None]:
    """Whatever a failing test leaves behind is put back."""
    with settings_kept():
        yield


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_that_was_changed_is_put_back(settled: None, change: str, fails: bool) -> None:
    before = state()
    changed = []
    try:
        with foreign("the model", "when it runs"):
            CHANGES[change]()
            changed = state()
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert changed != before, "this platform has no such setting"
    assert state() == before
    assert (torch.ones(1) + 1).dtype == torch.float32


def test_a_setting_that_cannot_be_restored_is_reported() -> None:
    mode = torch.inference_mode()
    try:
        message = "the model changes torch's inference mode when it runs, and that cannot be put back"
        with pytest.raises(MibenchError, match=message), foreign("the model", "when it runs"):
            mode.__enter__()
    finally:
        mode.__exit__(None, None, None)


def draw() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(numpy_wide.rand()), random.random()


def seed(number: int) -> None:
    torch.manual_seed(number)
    numpy_wide.seed(number)
    random.seed(number)


def test_seeds_of_others_are_not_ours_and_their_randomness_goes_on() -> None:
    """Trap: were the streams only put back, a network that adds noise as a defence would add the same in every call."""
    before = torch.get_rng_state(), numpy_wide.get_state(), random.getstate()
    try:
        seed(5)
        ours = [draw() for _ in range(4)]
        seed(5)
        found, theirs = [], []
        for number in range(4):
            with foreign("the model", "when it runs"):
                if number == 0:
                    seed(5)
                theirs.append(draw())
                with foreign("its part", "when it runs"):
                    draw()
            found.append(draw())
    finally:
        torch.set_rng_state(before[0])
        numpy_wide.set_state(before[1])
        random.setstate(before[2])
    assert found == ours
    assert theirs[0] == ours[0]
    assert all(len(set(numbers)) == 4 for numbers in zip(*theirs, strict=True))


def test_code_that_ends_a_command_is_no_success(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def leave(*arguments: Any, **options: Any) -> None:
        sys.stdout.write("on my way out\n")
        sys.exit(0)

    monkeypatch.setattr("mibench.commands.run", leave)
    done = CliRunner().invoke(cli, ["run", "--json"])
    assert done.exit_code == 2
    assert "on my way out" not in done.stdout
    assert json.loads(done.stdout)["exit_code"] == 2
    assert "error: code that this command loaded ended the program (sys.exit(0))" in done.stderr


def test_what_others_print_at_the_very_end_is_no_output() -> None:
    program = (
        "import atexit, sys; from mibench.cli import main; atexit.register(print, 'goodbye');"
        "sys.argv = ['mibench', '--version']; main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mibench")
    assert "goodbye" not in done.stdout
    assert "goodbye" in done.stderr


LEAVING = (  # a command whose work is somebody's function `leave`
    "import os, sys, types; from mibench.cli import main; sys.argv = ['mibench', 'doctor', '--json'];\n"
    "sys.modules['mibench.doctor'] = types.SimpleNamespace(examine=lambda **options: leave())\n"
)


@pytest.mark.parametrize("status", [0, 7])
def test_code_that_ends_the_process_at_once_is_no_success_either(status: int) -> None:
    program = f"{LEAVING}def leave(): os._exit({status})\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exit_code"] == 2
    assert f"error: code that this command loaded ended the program (sys.exit({status}))" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system starts processes in another way")
def test_a_child_process_of_other_code_ends_as_it_wants() -> None:
    program = (
        f"{LEAVING}def leave():\n"
        "    child = os.fork()\n"
        "    if child == 0: os._exit(7)\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "(sys.exit(7))" in done.stderr
    assert len(done.stderr.splitlines()) == 1
