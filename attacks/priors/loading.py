"""How priors take their arguments and weights from a card: nothing unknown, nothing missing, nothing misshapen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from mibench.api import MibenchError, MisfitError, StateDictMismatch

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
    wanted = {
        f"{part}.{key}": tensor for part, network in parts.items() for key, tensor in network.state_dict().items()
    }
    cure = "the arguments on the card and the weights file do not belong together"
    misfit = StateDictMismatch.between(
        {key: tensor.shape for key, tensor in wanted.items()}, {key: tensor.shape for key, tensor in weights.items()}
    )
    if misfit.missing or misfit.unexpected:
        key = min([*misfit.missing, *misfit.unexpected])
        state = "missing" if key in wanted else "unexpected"
        raise MisfitError(f"prior {name!r}: weight {key} is {state}; {cure}", misfit)
    for key, (expected, got) in misfit.misshapen.items():
        raise MisfitError(f"prior {name!r}: weight {key}: expected {expected}, got {got}; {cure}", misfit)
    for part, network in parts.items():
        network.load_state_dict({key: weights[f"{part}.{key}"] for key in network.state_dict()})
