"""Devices: choosing one, making it repeat itself, measuring its memory."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mibench.errors import MibenchError
from mibench.system.foreign_code import out_of_memory as out_of_memory
from mibench.system.process_state import settings_kept

DEVICES = ("auto", "cpu", "cuda")
VARYING = (  # what torch warns of an operation whose numbers vary, and its name
    r"(.+?) (?:does not have a deterministic implementation|defaults to a non-deterministic algorithm)"
    r"|.*not deterministic because it uses (CuBLAS)"
)


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        MibenchError: not a device, or no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.partition(":")[0] not in DEVICES:
        raise MibenchError(f"unknown device {name!r} (known: {', '.join(DEVICES)})")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise MibenchError(f"unknown device {name!r} (known: {', '.join(DEVICES)}, cuda:1 ...)") from error
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise MibenchError(f"no such GPU for PyTorch here: {name}", cure="use --device cpu")
    if device.type == "cuda":
        if getattr(torch.cuda, "_is_in_bad_fork", lambda: False)():
            raise MibenchError(
                "this process was forked from one that had used the GPU, which cannot be shared so",
                cure="start it with multiprocessing's 'spawn', or use --device cpu",
            )
        _fix_workspace()
    return device


def _fix_workspace() -> None:
    """cuBLAS reads this when it is first used, which may be long before :func:`deterministic`."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic(device: torch.device, precision: str) -> Iterator[set[str]]:
    """Compute so that the same command gives the same numbers; settings are restored afterwards.

    On the CPU in float32 that holds bit for bit with one thread count. On a GPU, cuBLAS needs its workspace fixed
    before its first use, and TensorFloat-32 is off, so float32 is float32.

    Yields:
        Names of operations that have no deterministic implementation, as they are met: some on a GPU, where their
        numbers then vary in the last digits. torch would warn of every one.
    """
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    _fix_workspace()
    # by settings_kept and not one by one: writing a switch of precision also sets names that it cannot be read from
    with settings_kept():
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # a write to every empty tensor; no result reads one
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            with _collected() as varying, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                yield varying
        finally:
            memory.fill_uninitialized_memory = filled


@contextmanager
def _collected() -> Iterator[set[str]]:
    """Torch's warnings of operations that are not deterministic as a set of names; other warnings are shown as ever."""
    operations: set[str] = set()
    with warnings.catch_warnings():
        warnings.filterwarnings("default", message=VARYING)  # once for each, also where warnings are errors
        show = warnings.showwarning

        def keep(message: Warning | str, *rest: Any, **more: Any) -> None:
            if match := re.match(VARYING, str(message)):
                operations.add(match[1] or match[2])
            else:
                show(message, *rest, **more)

        warnings.showwarning = keep
        yield operations


def total_memory(device: torch.device) -> int | None:
    """Bytes of the GPU, or of the machine and the control group that this process is in; None: the system is silent."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):  # not on Windows
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits, default=None)


def reset_peak_memory(device: torch.device) -> None:
    """Begin to measure :func:`peak_memory` anew, where the system can (CUDA, Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):  # a container may forbid it: the peak is then that of the whole process
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM (proc_pid_clear_refs(5))


def peak_memory(device: torch.device) -> int:
    """Highest memory use in bytes since :func:`reset_peak_memory`: of the GPU's tensors, or of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
