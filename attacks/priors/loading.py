"""How priors take their arguments and weights from a card: nothing unknown, nothing missing, nothing misshapen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from mibench.api import MibenchError, StateDictMismatch, load_strictly

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Arguments = TypeVar("Arguments", bound="DataclassInstance")


def read_arguments(kind: type[Arguments], arguments: Mapping[str, object], name: str) -> Arguments:
    """The arguments of a prior as its dataclass ``kind``, which has the defaults.

    Raises:
        MibenchError: an argument that ``kind`` does not have.
    """
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise MibenchError(f"prior {name!r}: unknown argument {unknown[0]!r}; known are {', '.join(known)}")
    build: Callable[..., Arguments] = kind
    return build(**arguments)


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
