"""How priors take their arguments and weights from a card: nothing unknown, nothing missing, nothing misshapen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mibench.api import MibenchError, StateDictMismatch, load_strictly


def check_arguments(arguments: Mapping[str, Any], known: Iterable[str], name: str) -> None:
    """Refuse an argument that the prior ``name`` does not have."""
    names = list(known)
    unknown = sorted(set(arguments) - set(names))
    if unknown:
        raise MibenchError(f"prior {name!r}: unknown argument {unknown[0]!r}; known are {', '.join(names)}")


def load_parts(parts: Mapping[str, nn.Module], weights: Mapping[str, Tensor], name: str) -> None:
    """Load ``weights`` into networks, strictly: ``parts["G"]`` takes the keys that begin with ``G.``.

    Weights of any floating type are accepted; the networks keep theirs.

    Raises:
        MisfitError: names the first key or shape that does not fit, and has them all.
    """

    def message(mismatch: StateDictMismatch) -> str:
        differing = [(key, "is missing") for key in mismatch.missing]
        differing += [(key, "is unexpected") for key in mismatch.unexpected]
        differing = sorted(differing) or [
            (key, f"is misshapen: expected {expected}, got {got}")
            for key, (expected, got) in mismatch.misshapen.items()
        ]
        key, problem = differing[0]
        return (
            f"prior {name!r}: weight {key} {problem}; the arguments on the card and the weights do not belong together"
        )

    load_strictly(nn.ModuleDict(dict(parts)), weights, message=message)
