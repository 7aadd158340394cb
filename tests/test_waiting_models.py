"""Models that sleep or hang: what is waited for is said, Ctrl-C ends it, nothing finished is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine import result_files, toy_run
from toyworld.data import ToyFaces

from mibench.api import ClassifierOutput, ImageSpec
from mibench.audits.preprocessing import logits_of, measure
from mibench.cli import interrupts, progress

TESTS = Path(__file__).parent
needs_signals = pytest.mark.skipif(os.name != "posix", reason="the test sends SIGINT to one process alone")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is for the reporters; no thread of theirs looks at it."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_watch", lambda whose, ended: None)
    return now


def test_silence_is_broken_at_longer_and_longer_distances(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    reporter = progress.PlainReporter()
    reporter.start("measuring the model")
    lines = []
    for second in range(400):
        clock[0] = 1000.0 + second
        reporter.look()
        lines += [(second, line) for line in capsys.readouterr().err.splitlines()]
    assert [second for second, _ in lines] == [30, 60, 120, 240]
    assert lines[0][1] == (
        "measuring the model: no news for 0:30, still waiting (Ctrl-C stops, the same command goes on)"
    )


def test_news_begin_the_silence_anew_and_are_repeated(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    reporter = progress.PlainReporter()
    reporter.start("gmi against mine")
    clock[0] += 20
    reporter.update(1, 4, "rank reconstructions")
    clock[0] += 20
    capsys.readouterr()
    reporter.look()
    assert capsys.readouterr().err == ""
    with reporter.aside("decoding images"):
        clock[0] += 100
        reporter.look()
        assert capsys.readouterr().err == ""  # the work inside has lines of its own
    clock[0] += 31
    reporter.look()
    assert "gmi against mine: 25%, rank reconstructions, no news for 0:31, still" in capsys.readouterr().err


def test_a_model_that_waits_is_spoken_of_while_it_waits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody else could say it: the thread that computes is inside the model, which here waits for the line."""
    spoken = threading.Event()
    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "LOOK", 0.001)
    echo = progress.click.echo

    def heard(*arguments: Any, **options: Any) -> None:
        echo(*arguments, **options)
        spoken.set()

    monkeypatch.setattr(progress.click, "echo", heard)
    reporter = progress.PlainReporter()
    reporter.start("measuring the model")
    assert spoken.wait(60)
    reporter.stop()
    assert "measuring the model: no news for 0:00, still waiting" in capsys.readouterr().err


def test_a_stretch_that_has_ended_is_silent(clock: list[float]) -> None:
    reporter = progress.PlainReporter()
    reporter.start("one")
    first = reporter._ended
    reporter.start("two")
    second = reporter._ended
    reporter.stop()
    assert first is not None
    assert first.is_set()
    assert second is not None
    assert second.is_set()
    reporter.stop()


def test_measuring_counts_images() -> None:
    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> ClassifierOutput:
            logits = images.flatten(1)[:, :6]
            return ClassifierOutput(logits, logits)

    heard: list[tuple[int, int]] = []
    logits = logits_of(Network(), torch.device("cpu"))
    measure(logits, ImageSpec(8), ToyFaces(images=20), lambda done, total: heard.append((done, total)))
    assert heard[0] == (64, 240)
    assert heard[-1] == (240, 240)


def attending(monkeypatch: pytest.MonkeyPatch) -> tuple[int, Callable[[], list[Any]]]:
    """Where numbers of signals go in, and what came of them once that end is closed."""
    monkeypatch.setattr(interrupts, "PATIENCE", 0)
    monkeypatch.setattr(interrupts, "_interrupted", threading.Event())
    done: list[Any] = []
    monkeypatch.setattr(interrupts, "_write", done.append)
    heard, rung = os.pipe()
    thread = threading.Thread(target=interrupts.watch_signals, args=(heard, done.append))
    thread.start()

    def ended() -> list[Any]:
        os.close(rung)
        thread.join()
        for other in threading.enumerate():
            if other.name == "interrupts, words":
                other.join()
        os.close(heard)
        return done

    return rung, ended


def test_the_first_ctrl_c_is_patient_and_the_second_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rung, ended = attending(monkeypatch)
    os.write(rung, bytes([signal.SIGINT]))
    assert ended() == [interrupts.STOPPING]
    rung, ended = attending(monkeypatch)
    os.write(rung, bytes([signal.SIGTERM, signal.SIGINT, signal.SIGINT]))
    assert [each for each in ended() if each != interrupts.STOPPING] == [interrupts.INTERRUPTED_MESSAGE, 130]


def test_nobody_leaves_before_the_words_are_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main thread and the one that reads both end the program: the second to come waits for the first."""
    events: list[Any] = []
    writing, go_on = threading.Event(), threading.Event()

    def slowly(text: str) -> None:
        writing.set()
        go_on.wait()
        events.append(text)

    monkeypatch.setattr(interrupts, "_interrupted", threading.Event())
    monkeypatch.setattr(interrupts, "_write", slowly)
    threads = [threading.Thread(target=interrupts._end, args=(events.append,)) for _ in range(2)]
    threads[0].start()
    writing.wait()
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert events == [interrupts.INTERRUPTED_MESSAGE, 130, 130]


HANGS = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
how = sys.argv.pop(1)
from mibench import registry
from toyworld import attacks
from toyworld.build import entry_points
registry.entry_points = entry_points
plain = attacks.ToyAttack.reconstruct

def reconstruct(self, context, state, labels, streams):
    if 0 in labels.tolist():
        return plain(self, context, state, labels, streams)  # the first unit is finished
    lock = threading.Lock()
    lock.acquire()
    print("waiting", file=sys.stderr, flush=True)
    while True:
        try:
            lock.acquire()
        except KeyboardInterrupt:
            if how == "waits":
                raise

attacks.ToyAttack.reconstruct = reconstruct
from mibench.cli import interrupts, main
if how == "swallows":
    interrupts.PATIENCE = 0
main()
"""


def hanging(how: str, home: Path, out: Path) -> subprocess.Popen[str]:
    words = ["run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"]
    child = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(TESTS), how, *words, "--device", "cpu", "--output", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"MIBENCH_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    read_to(child, "waiting")
    return child


def read_to(child: subprocess.Popen[str], words: str) -> None:
    """Read stderr up to a line that holds these words."""
    assert child.stderr is not None
    said = []
    for line in child.stderr:
        said.append(line)
        if words in line:
            return
    raise AssertionError(f"it never said {words!r}: {''.join(said)}")


@needs_signals
def test_ctrl_c_ends_a_model_that_waits_and_the_same_command_goes_on(toy: Path, tmp_path: Path) -> None:
    child = hanging("waits", toy, tmp_path / "runs")
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 130
    assert "interrupted: everything finished is kept; repeat the command to continue" in said
    (stopped,) = (tmp_path / "runs").glob("toyattack-*")
    assert [path.name for path in sorted((stopped / "units").glob("*.safetensors"))] == ["000.safetensors"]
    resumed, whole = toy_run(tmp_path / "runs"), toy_run(tmp_path / "whole")
    assert resumed.path == stopped
    assert result_files(resumed.path) == result_files(whole.path)


@pytest.mark.slow
@needs_signals
def test_a_model_that_catches_ctrl_c_is_ended_by_the_second(toy: Path, tmp_path: Path) -> None:
    child = hanging("swallows", toy, tmp_path / "runs")
    child.send_signal(signal.SIGINT)
    read_to(child, "Ctrl-C once more ends at once")
    child.send_signal(signal.SIGINT)
    _, said = child.communicate()
    assert child.returncode == 130
    assert interrupts.INTERRUPTED_MESSAGE in said
