"""Any classifier of timm (PyTorch Image Models) as a target: ``timm`` with the argument ``model``. An extra.

timm is imported when a network is built. Nothing is ever downloaded: weights come from a card.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mibench.api import ClassifierOutput, MibenchError, suggest

from .torchvision_networks import SIZE, with_head


@dataclass(frozen=True)
class Timm:
    """A classifier of timm by its name there. Calling it builds the network with fresh weights.

    Images ``(N, 3, size, size)``, normalised as the card says, give features ``(N, D)``, the input of the final linear
    layer, and raw logits ``(N, num_classes)``. Keys of the state are timm's.
    """

    def __call__(self, num_classes: int, width: float = 1.0, *, model: str, size: int = SIZE) -> nn.Module:
        """Build it.

        Args:
            num_classes: number of logits.
            width: 1; timm has smaller networks under names of their own.
            model: timm's name, ``vit_small_patch16_224`` say (a tag after a dot names weights and is ignored).
            size: side of the images in pixels.

        Raises:
            MibenchError: timm is not installed, the model is unknown, or it does not end in one linear layer.
        """
        timm = _timm()
        if width != 1.0:
            raise MibenchError(f"timm's networks have no width, got {width}", cure="choose a smaller one by its name")
        architecture = model.partition(".")[0]
        if not timm.is_model(architecture):
            hint = suggest(architecture, timm.list_models())
            raise MibenchError(f"timm {timm.__version__} has no model {model!r}{hint} (timm.list_models() lists them)")
        arguments: dict[str, object] = {"num_classes": num_classes}
        if getattr(timm.get_pretrained_cfg(architecture), "fixed_input_size", False):
            arguments["img_size"] = size
        try:
            with torch.device("meta"):  # a rehearsal without numbers: is it what it has to be?
                rehearsed = _headed(timm.create_model(architecture, **arguments)).eval()
                output = rehearsed(torch.empty(1, 3, size, size))
        except (RuntimeError, ValueError, TypeError, AssertionError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200]
            raise MibenchError(f"timm's {model!r} cannot take images of {size} pixels: {reason}") from error
        if not isinstance(output, ClassifierOutput):
            raise MibenchError(
                f"timm's {model!r} does more to its images after its final layer", cure="choose another model"
            )
        return _headed(timm.create_model(architecture, **arguments))


def _headed(network: nn.Module) -> nn.Module:
    final = getattr(network, "default_cfg", {}).get("classifier")
    if not isinstance(final, str):
        names = ", ".join(final) if isinstance(final, tuple) else final
        raise MibenchError(
            f"timm's {type(network).__name__} ends in {names or 'no classifier'}; one linear layer is needed"
        )
    return with_head(network, final)


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise MibenchError("the target timm needs timm", cure='pip install "mibench[timm]"') from error
    return timm


TIMM = Timm()
