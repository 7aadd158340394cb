"""Loading weights into a network: every tensor into its place, or none at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from mibench.errors import MisfitError, StateDictMismatch


def mismatch_of(network: nn.Module, weights: Mapping[str, Tensor]) -> StateDictMismatch:
    """How the keys and shapes of ``weights`` differ from those that ``network`` takes; false where they agree."""
    return StateDictMismatch.between(
        {key: tensor.shape for key, tensor in network.state_dict().items()},
        {key: tensor.shape for key, tensor in weights.items()},
    )


def load_strictly(
    network: nn.Module, weights: Mapping[str, Tensor], *, message: Callable[[StateDictMismatch], str]
) -> None:
    """Load ``weights`` into ``network``, whose types and devices stay as they are.

    Args:
        network: several networks are one ``nn.ModuleDict``, whose names begin the keys (``G.``, ``D.``).
        weights: a tensor for every key of the network's state, and no other.
        message: one line for the error: what does not fit, the likely cause, the cure.

    Raises:
        MisfitError: missing, unexpected or misshapen tensors; nothing was loaded.
    """
    if mismatch := mismatch_of(network, weights):
        raise MisfitError(message(mismatch), mismatch)
    network.load_state_dict(dict(weights), strict=True)
