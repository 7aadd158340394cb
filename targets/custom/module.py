"""A model in Python code: a factory that builds it, and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn, strided
from torch.nn.parameter import is_lazy

from mibench.api import AccessName, MibenchError, foreign

from .factory import build, code_of
from .network import OwnNetwork
from .outputs import dense


class ModuleNetwork(OwnNetwork):
    """An ``nn.Module`` that ``package.module:build`` returns, in eval mode; it gives gradients.

    Args:
        num_classes, outputs, channel_order: as :class:`~mibench.targets.custom.network.OwnNetwork`.
        factory: ``package.module:build``.
        arguments: keyword arguments of the factory.
        code: what :func:`~mibench.targets.custom.factory.code_of` gave when the model was taken in; "": not checked.
        features: ``NAME`` for what the submodule of that name gives out, ``input:NAME`` for what it is given; "": the
            model returns its features, or has none.

    Raises:
        MibenchError: the factory is not what it was, or does not build a network.
    """

    access: ClassVar[AccessName] = "gradients"

    def __init__(
        self,
        num_classes: int,
        *,
        factory: str,
        arguments: Mapping[str, Any] | None = None,
        code: str = "",
        outputs: Sequence[str] = (),
        features: str = "",
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(num_classes, outputs=outputs, channel_order=channel_order)
        self.called = f"model {factory}"
        self.network = build(factory, arguments or {})
        with foreign(self.called, "when it is built", failing=f"{self.called} cannot be made ready"):
            self.network.float().eval()
            refuse_state(self.network, self.called)
        if code and code_of(factory) != code:
            raise MibenchError(
                f"the code of {factory} has changed since the model was taken in",
                cure="run `mibench audit` again with the same --model and --weights",
            )
        self._inside: list[Tensor] = []
        if features:
            self.watch(features)

    def watch(self, features: str) -> None:
        """Take features from inside the network from now on.

        Raises:
            MibenchError: there is no submodule of that name.
        """
        name = features.removeprefix("input:")
        known = dict(self.network.named_modules())
        if name not in known or not name:
            layers = [n for n, layer in known.items() if n and not list(layer.children())]
            raise MibenchError(f"--features {features}: the model has no layer {name!r} (it has: {_some(layers)})")
        if features.startswith("input:"):
            known[name].register_forward_pre_hook(lambda layer, given: self._keep(given))
        else:
            known[name].register_forward_hook(lambda layer, given, returned: self._keep(returned))

    def _keep(self, value: Any) -> None:
        while isinstance(value, Sequence) and value and not isinstance(value, str):
            value = value[0]
        if isinstance(value, Tensor):
            self._inside = [dense(value).clone()]  # what comes after the layer may write to the tensor itself

    def answer(self, images: Tensor) -> Any:
        """What the network returns."""
        self._inside = []
        return self.network(images)

    def captured(self) -> Tensor | None:
        """What the watched layer saw, handed out once: nothing here keeps a graph alive."""
        return self._inside.pop() if self._inside else None

    # What torch calls on its way through the modules of a network may be theirs.

    def state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As of any module."""
        with foreign(self.called, "when its weights are read", failing=f"the weights of {self.called} cannot be read"):
            return super().state_dict(*arguments, **options)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """As of any module."""
        with foreign(self.called, "when weights are loaded", failing=f"weights cannot be loaded into {self.called}"):
            return super().load_state_dict(*arguments, **options)

    def train(self, mode: bool = True) -> ModuleNetwork:
        """As of any module."""
        with foreign(self.called, "when its mode is set", failing=f"{self.called} cannot be put into eval mode"):
            return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        with foreign(self.called, "when it is moved", failing=f"{self.called} cannot be moved to the device"):
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]


def refuse_state(network: nn.Module, called: str) -> None:
    """Refuse a network whose weights cannot be stored as plain tensors.

    Raises:
        MibenchError: layers that wait for their first image, weights without numbers, quantised ones, other state.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            raise MibenchError(
                f"{called}: {name} has no shape yet (a lazy layer)", cure="show it an image in the factory"
            )
    for name, value in network.state_dict().items():
        if not isinstance(value, Tensor) or value.is_quantized:
            what = "a quantised tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise MibenchError(
                f"{called}: its state holds {name}, {what}, and only plain tensors can be stored",
                cure="export a quantised model as TorchScript (it is attacked by its scores), and keep no extra state",
            )
        if value.is_meta:
            raise MibenchError(
                f"{called}: {name} is on the device 'meta' and holds no numbers", cure="build it on the CPU"
            )
        if value.layout != strided or value.is_nested:
            raise MibenchError(f"{called}: {name} is sparse or nested, and only plain tensors can be stored")


def last_linear(network: nn.Module, classes: int) -> str | None:
    """Name of the last ``nn.Linear`` with ``classes`` outputs; what it is given are the penultimate features."""
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and m.out_features == classes and n]
    return names[-1] if names else None


def _some(names: Sequence[str]) -> str:
    return ", ".join([*names[-6:]]) or "none"
