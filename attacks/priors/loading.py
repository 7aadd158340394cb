"""How priors take their arguments and weights from a card: nothing unknown, nothing missing, nothing misshapen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from mibench.api import MibenchError, MisfitError, StateDictMismatch


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
