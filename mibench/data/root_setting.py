"""The setting that messages name for the folder of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_NAME: ContextVar[str] = ContextVar("mibench_root_setting", default="dataset.root")


def root_setting() -> str:
    """``dataset.root``, or what it is called on the data set that takes this one's images."""
    return _NAME.get()


@contextmanager
def public_settings() -> Iterator[None]:
    """A data set that is made inside serves another one for its public images: its root is ``dataset.public_root``."""
    before = _NAME.set("dataset.public_root")
    try:
        yield
    finally:
        _NAME.reset(before)
