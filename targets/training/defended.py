"""The hooks of all defences of a training as one: what :mod:`mibench.targets.training.supervised` calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mibench.api import Batch, ClassifierOutput, MibenchError, TrainingContext, TrainingHooks, TrainingTask
from mibench.api.training import autocast
from mibench.rng import Streams


class DefendedTraining:
    """Applies the hooks of ``context.defences`` in their order. Without a defence every method does nothing.

    Args:
        network: the classifier, on its device, before the optimiser is built.
        context: of the training.
        streams: of the training; each defence gets a child of its own.
        labels: int64 ``(N,)`` of the training images.
        epochs, steps_per_epoch, batch_size, num_classes, size: of the training.
        images, fresh_network, public: see :class:`~mibench.api.TrainingTask`.
    """

    def __init__(
        self,
        network: nn.Module,
        context: TrainingContext,
        streams: Streams,
        labels: Tensor,
        *,
        epochs: int,
        steps_per_epoch: int,
        batch_size: int,
        num_classes: int,
        size: int,
        images: Callable[[Tensor], Tensor],
        fresh_network: Callable[..., nn.Module] | None = None,
        public: Callable[[int | None], Tensor] | None = None,
    ) -> None:
        self.steps_per_epoch, self.batch_size = steps_per_epoch, batch_size
        self.hooks: dict[str, TrainingHooks] = {}
        for defence in context.defences:
            task = TrainingTask(
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                batch_size=batch_size,
                num_classes=num_classes,
                labels=labels.cpu(),
                size=size,
                device=context.device,
                streams=streams.child("defence", defence.name),
                initial=context.public.get(defence.name),
                autocast=lambda: autocast(context),
                images=images,
                fresh_network=fresh_network,
                teacher=context.teacher if defence.needs_teacher else None,
                public=public,
            )
            self.hooks[defence.name] = defence.hooks(network, task)
        for decision in ("classification_loss", "batches"):
            deciding = [
                name
                for name, hooks in self.hooks.items()
                if getattr(type(hooks), decision) is not getattr(TrainingHooks, decision)
            ]
            if len(deciding) > 1:
                raise MibenchError(
                    f"the defences {' and '.join(deciding)} both decide on the {decision.replace('_', ' ')}",
                    cure="leave one of them out",
                )
        self._hidden: dict[str, Tensor] = {}
        self._recording = False
        modules = dict(network.named_modules())
        for name in {name for hooks in self.hooks.values() for name in hooks.hidden_layers}:
            if not name or name not in modules:
                raise MibenchError(f"the network has no layer {name!r}; its layers: {', '.join(filter(None, modules))}")
            modules[name].register_forward_hook(self._recorder(name))

    def _recorder(self, name: str) -> Any:
        def record(module: nn.Module, arguments: object, output: Tensor) -> None:
            if not isinstance(output, Tensor):
                raise MibenchError(f"the layer {name!r} gives no single tensor", cure="choose one that does")
            if self._recording:
                self._hidden[name] = output

        return record

    def networks(self) -> dict[str, nn.Module]:
        """The defences' own networks, for the checkpoint."""
        return {f"{name}.{key}": net for name, hooks in self.hooks.items() for key, net in hooks.networks.items()}

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """The defences' own optimisers, for the checkpoint."""
        return {f"{name}.{key}": one for name, hooks in self.hooks.items() for key, one in hooks.optimisers.items()}

    def prepare(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module that takes batches and the optimiser that steps."""
        for hooks in self.hooks.values():
            network, optimiser = hooks.prepare(network, optimiser)
        return network, optimiser

    def train_mode(self, network: nn.Module) -> None:
        """Training mode, apart from what is frozen."""
        network.train()
        for hooks in self.hooks.values():
            hooks.train_mode(network)

    def batches(self, epoch: int) -> Sequence[Tensor] | None:
        """Indices of every step of an epoch, where a defence composes its batches; None: shuffled ones."""
        for name, hooks in self.hooks.items():
            if (batches := hooks.batches(epoch)) is not None:
                if len(batches) != self.steps_per_epoch:
                    raise ValueError(f"{name} made {len(batches)} batches for {self.steps_per_epoch} steps")
                return batches
        return None

    def inputs(self, indices: Tensor) -> Tensor | None:
        """What the module is called with in the place of augmented images; None: those."""
        for hooks in self.hooks.values():
            if (inputs := hooks.inputs(indices)) is not None:
                return inputs
        return None

    def batch(self, batch: Batch) -> Batch:
        """The batch as the defences change it."""
        for hooks in self.hooks.values():
            batch = hooks.batch(batch)
        return batch

    def forward(self, module: nn.Module, images: Tensor) -> Any:
        """The network's output; hidden layers are recorded in this pass only, not in passes of a defence's own."""
        self._hidden.clear()
        self._recording = True
        try:
            return module(images)
        finally:
            self._recording = False

    def classification_loss(self, output: Any, batch: Batch) -> Tensor | None:
        """The mean loss of a batch, where a defence changes it; None where the recipe's own applies."""
        if not self.hooks:
            return None
        logits = output.logits.float()
        for hooks in self.hooks.values():
            losses = hooks.classification_loss(logits, batch.labels, batch.epoch)
            if losses is not None:
                return losses.mean() if batch.weights is None else (batch.weights * losses).mean()
        if batch.weights is None:
            return None
        return (batch.weights * nn.functional.cross_entropy(logits, batch.labels, reduction="none")).mean()

    def penalties(self, output: ClassifierOutput, batch: Batch) -> dict[str, Tensor]:
        """Named terms that are added to the loss."""
        terms: dict[str, Tensor] = {}
        for hooks in self.hooks.values():
            terms |= hooks.penalties(output, self._hidden, batch)
        return terms

    def before_update(self, network: nn.Module, batch: Batch) -> None:
        """Between the backward pass and the optimiser's step."""
        for hooks in self.hooks.values():
            hooks.before_update(network, batch)

    def artefacts(self) -> dict[str, Tensor]:
        """Tensors for analysis, ``defence.name``."""
        return {f"{name}.{key}": one for name, hooks in self.hooks.items() for key, one in hooks.artefacts().items()}

    def in_force(self, epoch: int) -> bool:
        """Whether every defence acts in whole in an epoch (from 0)."""
        return all(hooks.in_force(epoch) for hooks in self.hooks.values())

    def measured(self, network: nn.Module) -> Mapping[str, float | int | str]:
        """Facts of all defences for the card."""
        facts: dict[str, float | int | str] = {}
        for hooks in self.hooks.values():
            facts |= hooks.measured(network)
        return facts
