"""How priors take their arguments and weights from a card: nothing unknown, nothing missing, nothing misshapen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mibench.api import MibenchError


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
        MibenchError: names the first key or shape that does not fit.
    """
    wanted = {
        f"{part}.{key}": tensor for part, network in parts.items() for key, tensor in network.state_dict().items()
    }
    cure = "the arguments on the card and the weights file do not belong together"
    for key in sorted(set(wanted) ^ set(weights)):
        state = "missing" if key in wanted else "unexpected"
        raise MibenchError(f"prior {name!r}: weight {key} is {state}; {cure}")
    for key, tensor in weights.items():
        if tensor.shape != wanted[key].shape:
            shapes = f"expected {tuple(wanted[key].shape)}, got {tuple(tensor.shape)}"
            raise MibenchError(f"prior {name!r}: weight {key}: {shapes}; {cure}")
    for part, network in parts.items():
        network.load_state_dict({key: weights[f"{part}.{key}"] for key in network.state_dict()})
