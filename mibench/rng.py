"""Named streams of random numbers, independent of batching, of order and of the number of workers.

``stream(seed, "dmmia", "identity", 7, "latents")`` always gives the same generator state; two different names give
independent streams. The state is the first 8 bytes of SHA-256 over an unambiguous encoding of the names.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

Name = str | int


def derive(seed: int, *names: Name) -> int:
    """A 63-bit seed from a seed and names. Strings and integers of equal text differ (``"7"`` is not ``7``)."""
    digest = hashlib.sha256()
    for name in (int(seed), *names):
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(f"a stream is named by str and int, got {type(name).__name__}")
        text = f"{type(name).__name__[0]}{name}".encode()
        digest.update(len(text).to_bytes(4, "big") + text)
    return int.from_bytes(digest.digest()[:8], "big") >> 1


def stream(seed: int, *names: Name) -> torch.Generator:
    """A CPU generator for this seed and these names. Draw on the CPU and move: devices then agree on the draws."""
    return torch.Generator(device="cpu").manual_seed(derive(seed, *names))


@dataclass(frozen=True)
class Streams:
    """A seed and a prefix of names; what an attack is handed instead of a global seed."""

    seed: int
    names: tuple[Name, ...] = ()

    def child(self, *names: Name) -> Streams:
        """The same seed with more names."""
        return Streams(self.seed, (*self.names, *names))

    def generator(self, *names: Name) -> torch.Generator:
        """The generator of this prefix and these names."""
        return stream(self.seed, *self.names, *names)
