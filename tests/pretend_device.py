"""A pretend GPU: tensors that say ``cuda:0`` and refuse what a GPU would refuse, while the CPU does the arithmetic.

``with PretendGPU() as gpu:`` makes ``cuda`` a device for real code. A tensor that was moved there is a
:class:`OnDevice`: autograd, modules and optimisers take it for one on a device of its own, and every operation on it
comes to :meth:`PretendGPU.__torch_dispatch__`, which computes with the CPU tensor inside. Results are the CPU's to the
bit. What raises as it would on a GPU: operands on two devices (but for CPU numbers, which CUDA kernels take), a CPU
generator for numbers on the device, ``numpy()``. What is counted, in ``gpu.waits`` by the line of our code that caused
it: everything that lets the host wait for the device. That is reading a value (``item``, ``bool``, ``tolist``,
``equal``), copying to the host, results whose size is data (``nonzero``, masks, ``unique``), and also copying to the
device unless ``non_blocking``: PyTorch then waits for the stream.

What it does not show: kernels of its own (cuDNN, deterministic variants), half precision, memory, speed. C++ sees the
device ``meta`` and is kept from initialising CUDA, so this works with and without a GPU, and leaves a real one alone.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, GPU = torch.device("cpu"), torch.device("cuda")
DEVICE = torch.device("cuda", 0)
ROOT = Path(__file__).resolve().parents[1]
INSIDE = torch.device("meta", 1)  # what C++ takes it for
SIZED_BY_DATA = (
    "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc",
)  # fmt: skip
GENERATOR = torch.Generator
PLACED: dict[int, torch.Generator] = {}  # those on the device
INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")  # take indices from the CPU, and bring them over
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({})"


class OnDevice(torch.Tensor):
    """A tensor on the pretend device; ``inner`` has its numbers."""

    inner: Tensor
    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = is_meta = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=INSIDE,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a tensor of a pretend GPU that is no longer there")

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # reading it would count as a wait
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> OnDevice:
        twin = self.detach().clone().requires_grad_(self.requires_grad)
        twin.__dict__ |= {name: value for name, value in self.__dict__.items() if name != "inner"}
        return memo.setdefault(id(self), twin)


class PlacedGenerator(torch.Generator):
    """A generator with a place: the CPU's numbers, on the device for tensors there only."""

    def __new__(cls, device: Any = "cpu") -> PlacedGenerator:
        made = super().__new__(cls, "cpu")
        made.there = torch.device(device).type == "cuda"
        if made.there:
            PLACED[made._cdata] = made  # an operation is handed another Python object for the same generator
        return made

    device = property(lambda self: DEVICE if self.there else torch.device("cpu"))  # type: ignore[assignment]


def host(value: Any) -> Any:
    """Nested tensors as plain CPU tensors, uncounted: for looking at results after the context."""
    return tree_map(lambda leaf: leaf.inner.clone() if isinstance(leaf, OnDevice) else leaf, value)


class PretendGPU(TorchDispatchMode):
    """The device, while its context lasts. ``waits``: (what, where in our code) -> how often the host waited."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # there is no compiler to hide from, and asking for it loads one: seconds

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = torch._C._TorchDispatchModeKey.FAKE  # under this key C++ does not initialise CUDA
        self.waits: Counter[tuple[str, str]] = Counter()
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> PretendGPU:
        for patch in patches():
            self._patches.enter_context(patch)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()
        PLACED.clear()

    def wait(self, what: str) -> None:
        """The host waits: remember for which line of ours."""
        frame = sys._getframe(1)
        while frame.f_back is not None and not _ours(frame.f_code.co_filename):
            frame = frame.f_back
        path = Path(frame.f_code.co_filename).resolve()
        where = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
        self.waits[what, f"{where}:{frame.f_lineno}"] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        there = [leaf for leaf in tree_leaves((args, kwargs)) if _there(leaf)]
        wanted = kwargs.get("device")
        if name == "_to_copy" and wanted is not None:
            return self._moved(func, args, kwargs, there)
        if name == "copy_" and _there(args[0]) != _there(args[1]):
            if not _there(args[0]) or not any(args[2:]):  # args[2]: non_blocking
                self.wait(f"copy to the {'device' if _there(args[0]) else 'host'}")
            func(*map(_inner, args), **kwargs)
            return args[0]
        if not there and not _means_there(wanted):
            self._check_generators(args, kwargs, there=False)
            return func(*args, **kwargs)
        if wanted is not None and not _means_there(wanted):  # made like a tensor of the device, but on the CPU
            return func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        kwargs |= {} if wanted is None else {"device": torch.device("cpu")}
        self._check(name, args, kwargs, there)
        result = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if any(not isinstance(leaf, Tensor) for leaf in tree_leaves(result) if leaf is not None):
            self.wait(f"value of {name}")
        known = {id(tensor.inner): tensor for tensor in there}
        return tree_map(lambda leaf: _outer(leaf, known, name), result)

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any], there: list[OnDevice]) -> Any:
        """``to`` another device, type or layout."""
        onto = _means_there(kwargs.pop("device"))
        blocking = not kwargs.pop("non_blocking", False)
        made = func(_inner(args[0]), device=torch.device("cpu"), **kwargs)
        if there and not onto:
            if not blocking:
                raise RuntimeError("non_blocking copy to the host: its numbers are read before they are there")
            self.wait("copy to the host")
        elif onto and not there and blocking:
            self.wait("copy to the device")
        return OnDevice(made) if onto else made

    def _check_generators(self, args: Any, kwargs: Mapping[str, Any], *, there: bool) -> None:
        for generator in (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, GENERATOR)):
            if (generator._cdata in PLACED) != there:
                kinds = ("cuda", "cpu") if there else ("cpu", "cuda")
                raise RuntimeError("Expected a '{}' device type for generator but found '{}'".format(*kinds))

    def _check(self, name: str, args: Any, kwargs: Mapping[str, Any], there: list[OnDevice]) -> None:
        """Raise as CUDA would; count operations that wait by themselves."""
        self._check_generators(args, kwargs, there=True)
        if name in INDEXED and _there(args[0]):
            indices = [index for index in args[1] if index is not None]
            if not all(map(_there, indices)):
                self.wait("copy to the device")
            fills = name != "index" and args[2].numel() == 1  # a masked fill
            if not fills and any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                self.wait(f"mask in {name}")
            args = (args[0], *args[2:])
        if name in SIZED_BY_DATA or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            self.wait(f"size of {name}")
        here = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and not _there(leaf)]
        changed = name.endswith("_") and isinstance(args[0], Tensor) and not _there(args[0])
        if there and (changed or any(tensor.dim() or name in ("stack", "cat") for tensor in here)):
            raise RuntimeError(MIXED.format(name))


@cache
def _ours(file: str) -> bool:
    """Whether a source file is of this repository, or of mibench as it is installed (and not this one)."""
    path = Path(file).resolve()
    if "site-packages" in path.parts:  # an environment may lie in the checkout, and all its libraries with it
        return path.parts[path.parts.index("site-packages") + 1] == "mibench"
    return path.is_relative_to(ROOT) and path != Path(__file__).resolve()


def _means_there(device: torch.device | None) -> bool:
    return device is not None and (device.type == "cuda" or device == INSIDE)


def _there(value: Any) -> bool:
    return isinstance(value, OnDevice)


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, OnDevice) else value


def _outer(value: Any, known: Mapping[int, OnDevice], name: str) -> Any:
    if not isinstance(value, Tensor):
        return value
    if id(value) in known:
        made = known[id(value)]
    else:
        with torch.inference_mode(value.is_inference()):  # a view of an ordinary tensor is one, also in that mode
            made = OnDevice(value)
    assert made.shape == value.shape, f"{name} changed a shape in place"
    return made


def patches() -> Iterator[Any]:
    """What has to be told of the device beyond operations: places where C++ would ask CUDA itself."""
    to, tensor = torch.Tensor.to, torch.tensor

    def moved(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        args, kwargs = tree_map(_numbered, args), tree_map(_numbered, kwargs)
        if isinstance(self, OnDevice) and not kwargs.get("copy"):
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
            if (device is None or _means_there(device)) and dtype in (None, self.dtype) and layout is None:
                return self
        return to(self, *args, **kwargs)

    def made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        return tensor(data, **kwargs) if device is None else moved(tensor(data, **kwargs), device)

    yield mock.patch.object(torch.Tensor, "to", moved)
    yield mock.patch.object(torch, "tensor", made)
    yield mock.patch.object(torch, "Generator", PlacedGenerator)
    answers: dict[str, Any] = {
        "is_available": True,
        "device_count": 1,
        "synchronize": None,
        "empty_cache": None,
        "is_current_stream_capturing": False,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 1,
        "get_device_name": "a pretend GPU",
        "get_device_properties": SimpleNamespace(total_memory=1 << 34, name="a pretend GPU"),
        "get_rng_state": torch.get_rng_state(),
        "set_rng_state": None,
    }
    for name, answer in answers.items():
        yield mock.patch.object(torch.cuda, name, return_value=answer)
    yield mock.patch.object(torch.accelerator, "current_accelerator", return_value=None)  # optimisers ask for graphs


def _numbered(value: Any) -> Any:
    """``cuda`` as ``cuda:0``: C++ would ask CUDA for the number."""
    return DEVICE if isinstance(value, str | torch.device) and torch.device(value).type == "cuda" else value
