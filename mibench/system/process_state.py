"""Settings of the whole process that somebody else's code may change: read before, put back after.

Each is compared before it is written, so that code which changes nothing costs some microseconds.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

TINY = sys.float_info.min
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
# Since torch 2.9 the precision of float32 products has names of its own beside the older switches. Writing an older
# switch sets some of the names, and it cannot be read after a name was used.
ROUNDS = 2  # of writing: settings that hang together put one another out
PRECISIONS = ("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn", "mkldnn", "mkldnn.conv", "mkldnn.matmul")


@dataclass(frozen=True)
class Setting:
    """One setting: how it is called, read and written, and whether numbers that are computed depend on it."""

    name: str
    read: Callable[[], object]
    write: Callable[[Any], object]
    numeric: bool = True

    def value(self) -> object:
        """What it is now; None where it cannot be read (two ways of saying it contradict each other)."""
        try:
            return self.read()
        except (RuntimeError, OSError):  # OSError: the working directory was removed
            return None


def _attribute(owner: object, attribute: str, name: str, *, numeric: bool = True) -> Setting:
    return Setting(name, lambda: getattr(owner, attribute), lambda value: setattr(owner, attribute, value), numeric)


def _backend(path: str, attribute: str) -> Setting | None:
    """A switch of ``torch.backends``; None where this version of torch has none such."""
    owner: object = torch.backends
    for part in filter(None, path.split(".")):
        owner = getattr(owner, part, None)
    if not hasattr(owner, attribute):
        return None
    return _attribute(owner, attribute, ".".join(filter(None, ("torch.backends", path, attribute))))


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _autocast(device: str) -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _set_autocast(device: str) -> Callable[[tuple[bool, torch.dtype]], None]:
    def write(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])

    return write


def _cuda_device() -> int:
    return torch.cuda.current_device() if torch.cuda.is_initialized() else 0


def _set_cuda_device(device: int) -> None:
    if torch.cuda.is_initialized():
        torch.cuda.set_device(device)


def _handlers() -> tuple[Any, ...]:
    return tuple(signal.getsignal(getattr(signal, name)) for name in SIGNALS if hasattr(signal, name))


def _set_handlers(value: tuple[Any, ...]) -> None:
    if threading.current_thread() is threading.main_thread():  # elsewhere nobody could have changed them
        for name, handler in zip((n for n in SIGNALS if hasattr(signal, n)), value, strict=True):
            signal.signal(getattr(signal, name), handler)


def _set_filters(value: Sequence[Any]) -> None:
    warnings.filters[:] = value  # type: ignore[index]


SETTINGS: tuple[Setting, ...] = tuple(
    filter(
        None,
        (
            Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
            Setting(
                "torch's default device",
                torch.get_default_device,
                lambda device: torch.set_default_device(None if device.type == "cpu" else device),
            ),
            Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
            Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
            Setting(
                "torch's deterministic algorithms",
                lambda: (
                    torch.are_deterministic_algorithms_enabled(),
                    torch.is_deterministic_algorithms_warn_only_enabled(),
                ),
                _set_deterministic,
            ),
            Setting("torch's autocast on the CPU", lambda: _autocast("cpu"), _set_autocast("cpu")),
            Setting("torch's autocast on CUDA", lambda: _autocast("cuda"), _set_autocast("cuda")),
            Setting("torch's anomaly detection", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False),
            Setting("torch's inference mode", torch.is_inference_mode_enabled, lambda value: None),
            Setting("torch's CUDA device", _cuda_device, _set_cuda_device),
            *(_backend("cudnn", name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")),
            _backend("cuda.matmul", "allow_tf32"),
            _backend("mkldnn", "enabled"),
            Setting(
                "torch's precision of matrix products",
                torch.get_float32_matmul_precision,
                torch.set_float32_matmul_precision,
            ),
            *(_backend(path, "fp32_precision") for path in PRECISIONS),
            Setting("rounding of the smallest numbers to 0", lambda: TINY / 2 == 0, torch.set_flush_denormal),
            Setting("NumPy's handling of errors", np.geterr, lambda value: np.seterr(**value)),
            Setting("filters of warnings", lambda: tuple(warnings.filters), _set_filters, False),
            _attribute(warnings, "showwarning", "showing of warnings", numeric=False),
            _attribute(logging.root.manager, "disable", "the level below which nothing is logged", numeric=False),
            Setting("the working folder", os.getcwd, os.chdir, False),
            Setting("handlers of signals", _handlers, _set_handlers, False),
            Setting("the limit of recursion", sys.getrecursionlimit, sys.setrecursionlimit, False),
            Setting("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable(), False),
        ),
    )
)


@contextmanager
def settings_kept(numeric: list[str] | None = None) -> Iterator[list[str]]:
    """Put every setting back at the end; the list then names those that could not be.

    Args:
        numeric: gets the names of changed settings that numbers depend on, whether they could be put back or not.
    """
    stuck: list[str] = []
    before = [setting.value() for setting in SETTINGS]
    try:
        yield stuck
    finally:
        changed = _differing(before)
        if numeric is not None:
            numeric += [setting.name for setting, _ in changed if setting.numeric]
        for _ in range(ROUNDS):
            for setting, value in changed:
                with contextlib.suppress(RuntimeError, OSError):
                    setting.write(value)
            changed = _differing(before) if changed else []
        stuck += [setting.name for setting, _ in changed]


def _differing(before: Sequence[object]) -> list[tuple[Setting, object]]:
    return [
        (setting, value)
        for setting, value in zip(SETTINGS, before, strict=True)
        if value is not None and setting.value() != value
    ]


@contextmanager
def randomness_kept() -> Iterator[list[str]]:
    """Put the global random numbers of torch, NumPy and Python back at the end; the list then says whether torch got
    another seed.

    To draw from them is not noticed: building a network does, before its weights are loaded.
    """
    reseeded: list[str] = []
    seed, numbers, python = torch.initial_seed(), torch.get_rng_state(), random.getstate()
    generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    numpy = generator.state
    device = _cuda_device() if torch.cuda.is_initialized() else None
    cuda = None if device is None else torch.cuda.get_rng_state(device)
    try:
        yield reseeded
    finally:
        if torch.initial_seed() != seed:
            reseeded.append("torch's seed")
        torch.set_rng_state(numbers)
        random.setstate(python)
        np.random.set_bit_generator(generator)  # type: ignore[attr-defined]
        generator.state = numpy
        if device is not None and cuda is not None:
            torch.cuda.set_rng_state(cuda, device)


class _Randomness:
    """The random numbers of somebody else's code: streams of its own, which go on from one call to the next.

    A network that adds noise draws new noise in each call, as it would alone, and one that sets a seed sets its own.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.torch: Tensor | None = None
        self.cuda: dict[int, Tensor] = {}
        self.numpy: Any = None
        self.python: Any = None

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Swap the streams of torch, NumPy and Python; calls within calls share the outermost one's."""
        self.depth += 1
        try:
            if self.depth == 1:
                with self._swapped():
                    yield
            else:
                yield
        finally:
            self.depth -= 1

    @contextmanager
    def _swapped(self) -> Iterator[None]:
        ours, python = torch.get_rng_state(), random.getstate()
        device = _cuda_device() if torch.cuda.is_initialized() else None
        cuda = None if device is None else torch.cuda.get_rng_state(device)
        numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]
        if self.numpy is None:
            self.numpy = np.random.MT19937()
        np.random.set_bit_generator(self.numpy)  # type: ignore[attr-defined]
        if self.torch is not None:
            torch.set_rng_state(self.torch)
            random.setstate(self.python)
        if device in self.cuda:
            torch.cuda.set_rng_state(self.cuda[device], device)
        try:
            yield
        finally:
            self.torch, self.python = torch.get_rng_state(), random.getstate()
            self.numpy = np.random.get_bit_generator()  # type: ignore[attr-defined]
            torch.set_rng_state(ours)
            if python != self.python:
                random.setstate(python)
            np.random.set_bit_generator(numpy)  # type: ignore[attr-defined]
            if device is not None and cuda is not None:
                self.cuda[device] = torch.cuda.get_rng_state(device)
                torch.cuda.set_rng_state(cuda, device)


randomness_of_others = _Randomness()
