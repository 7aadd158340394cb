"""The allocator setting: taken where glibc is, harmless elsewhere, and never a number changed."""

from __future__ import annotations

import ctypes
import sys

import pytest
import torch

from mibench.system.malloc import keep_freed_memory


@pytest.fixture(autouse=True)
def _afresh() -> None:
    keep_freed_memory.cache_clear()


def test_numbers_do_not_change() -> None:
    images, weight = torch.rand(4, 3, 32, 32), torch.rand(8, 3, 3, 3)
    before = torch.nn.functional.conv2d(images, weight)
    keep_freed_memory()
    assert torch.equal(torch.nn.functional.conv2d(images, weight), before)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_glibc_listens() -> None:
    if not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        pytest.skip("another libc")
    assert keep_freed_memory()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
