"""Pickles as StyleGAN2-ADA writes them, from our own networks: a stand-in for the reference classes.

A reference network pickles itself as a call of ``torch_utils.persistence._reconstruct_persistent_obj`` on a dictionary
with its source and its ``__dict__``. The modules of that name exist here only while something is pickled.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

SOURCE = "import os\nopen({marker!r}, 'w').close()\nclass Generator: pass\n"  # the real reader would execute it


class EasyDict(dict[str, Any]):
    """What the release passes settings in."""

    __module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta: Any) -> None:
    raise AssertionError("the source of a network was about to be executed")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """A network, as the pickler sees it."""

    def __init__(self, class_name: str, state: Mapping[str, Any], marker: str) -> None:
        self.meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE.format(marker=marker),
            "class_name": class_name,
            "state": dict(state),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return _reconstruct_persistent_obj, (self.meta,)


def persistent(network: nn.Module, marker: str = "", **init_kwargs: Any) -> Persistent:
    """A network of ours and all its modules, with the attributes that reference modules have."""
    state = dict(vars(network))
    state["_modules"] = {name: persistent(child, marker) for name, child in network.named_children()}
    if "weight_gain" in state:
        state["weight_gain"] = np.float64(state["weight_gain"])
    state |= {"_init_args": (), "_init_kwargs": EasyDict(init_kwargs), "num_fp16_res": 4}
    return Persistent(type(network).__name__, state, marker)


@contextmanager
def reference_modules() -> Iterator[None]:
    """``torch_utils.persistence`` and ``dnnlib.util`` exist, with the names that a pickle looks up."""
    fakes = {name: ModuleType(name) for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")}
    fakes["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    fakes["dnnlib.util"].EasyDict = EasyDict  # type: ignore[attr-defined]
    before = {name: sys.modules.get(name) for name in fakes}
    sys.modules.update(fakes)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def dumped(content: Any, protocol: int = 4) -> bytes:
    """The bytes of a pickle that looks up the reference's names."""
    with reference_modules():
        return pickle.dumps(content, protocol=protocol)


def generator_settings(generator: Any, **changes: Any) -> dict[str, Any]:
    """The keyword arguments that the release would have built this generator with."""
    widths = {int(name[1:]): block.conv1.weight.shape[0] for name, block in generator.synthesis.named_children()}
    return {
        "z_dim": generator.z_dim,
        "c_dim": 0,
        "w_dim": generator.w_dim,
        "mapping_kwargs": EasyDict(num_layers=generator.mapping.num_layers),
        "synthesis_kwargs": EasyDict(
            channel_base=generator.resolution * widths[generator.resolution],
            channel_max=max(widths.values()),
            num_fp16_res=4,
            conv_clamp=256,
        ),
        "img_resolution": generator.resolution,
        "img_channels": 3,
    } | changes


def snapshot(
    generator: nn.Module, discriminator: nn.Module | None = None, *, marker: str = "", old: bool = False, **changes: Any
) -> dict[str, Any]:
    """What ``network-snapshot.pkl`` holds; ``old`` leaves out what the files of 2020 lack."""
    made = persistent(generator, marker, **generator_settings(generator, **changes))
    content: dict[str, Any] = {"G": made, "D": None, "G_ema": made}
    if discriminator is not None:
        first = discriminator.resolutions[0]
        widths = [module.weight.shape[0] for module in discriminator.modules() if hasattr(module, "kernel")]
        settings = EasyDict(
            c_dim=0,
            img_resolution=first,
            img_channels=3,
            channel_base=first * discriminator.get_submodule(f"b{first}").conv0.weight.shape[0],
            channel_max=max(widths),
            num_fp16_res=4,
            conv_clamp=256,
            epilogue_kwargs=EasyDict(mbstd_group_size=4),
        )
        content["D"] = persistent(discriminator, marker, **settings)
    if not old:
        content["training_set_kwargs"] = EasyDict(
            class_name="training.dataset.ImageFolderDataset", path="/data/people/ffhq-16.zip", resolution=16
        )
        content["augment_pipe"] = Persistent("AugmentPipe", {"p": torch.zeros([]), "_buffers": {}}, marker)
    return content
