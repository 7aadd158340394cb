"""What every training shares: steps with exact resume, progress, initial weights by seed, precision and storage.

A recipe keeps its mathematics: what a step computes, and what is logged. :func:`run_steps` does the rest.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from mibench.api.weights import CheckpointState
from mibench.errors import MibenchError
from mibench.rng import Name, Streams, derive

from .weights import TrainingContext

STORAGE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PRECISION_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Built = TypeVar("Built")


@dataclass
class TrainingState:
    """Everything that a training changes, which is what a checkpoint holds.

    Attributes:
        networks, optimisers: by name; they are changed in place.
        values: numbers, text and tensors besides (running sums, the best weights so far).
        step: steps done so far.
    """

    networks: Mapping[str, nn.Module]
    optimisers: Mapping[str, torch.optim.Optimizer]
    values: CheckpointState = field(default_factory=dict)
    step: int = 0

    def content(self) -> CheckpointState:
        """The state as nested dicts of tensors, numbers and text. The tensors are the live ones, not copies."""
        return {
            "step": self.step,
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "optimisers": {name: optimiser_state(optimiser) for name, optimiser in self.optimisers.items()},
            "values": dict(self.values),
        }

    def restore(self, content: CheckpointState) -> None:
        """Take over a saved :meth:`content`.

        Raises:
            MibenchError: it is that of another training.
        """
        try:
            for name, network in self.networks.items():
                network.load_state_dict(content["networks"][name])
            for name, optimiser in self.optimisers.items():
                restore_optimiser(optimiser, content["optimisers"][name])
            self.values = dict(content["values"])
            self.step = int(content["step"])
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise MibenchError(
                "the checkpoint belongs to a training with other settings, or of another version of mibench",
                cure="delete it to start over",
            ) from error


class Monitor(Protocol):
    """What a training says about itself; :func:`run_steps` calls it outside a step's mathematics."""

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Take note of the detached scalars of step ``step`` (from 0), without waiting for the device."""

    def after(self, done: int) -> bool:
        """Log and measure where it is time to, after ``done`` steps. True asks for a checkpoint right away."""

    def text(self, done: int) -> str:
        """What stands beside the progress bar; asked for before every checkpoint, too. It may raise."""


def run_steps(
    context: TrainingContext,
    state: TrainingState,
    *,
    steps: int,
    step: Callable[[int], Mapping[str, Tensor]],
    monitor: Monitor,
    checkpoint_seconds: float,
    report_seconds: float = 0.5,
) -> None:
    """Train to the last step, from the checkpoint when there is one.

    Args:
        context: whose checkpoint and progress bar are used.
        state: restored first, and saved every ``checkpoint_seconds``, when the monitor asks, and at the end.
        steps: of the whole training.
        step: takes the step of that number (from 0), changes what ``state`` holds and returns named scalars. Its
            random numbers come from streams named by the number, so that a resumed training equals an uninterrupted
            one bit for bit.
        monitor: logs and measures.
        checkpoint_seconds, report_seconds: least time between two checkpoints and two updates of the progress bar.
    """
    saved = context.checkpoint.load()
    if saved is not None:
        state.restore(saved)
    saved_at = reported_at = time.monotonic()
    while state.step < steps:
        monitor.add(state.step, step(state.step))
        state.step += 1
        due = monitor.after(state.step) or state.step == steps
        now = time.monotonic()
        saving = due or now - saved_at >= checkpoint_seconds
        if saving or now - reported_at >= report_seconds:  # what cannot be told, a loss that is no number, is not saved
            context.progress(state.step, steps, monitor.text(state.step))
            reported_at = time.monotonic()
        if saving:
            context.checkpoint.save(state.content())
            saved_at = time.monotonic()


class LatestTerms:
    """A :class:`Monitor` that logs the latest value of every term and the speed, every ``log_steps`` steps.

    Args:
        context: whose log is written.
        state: ``state.values["measured"]`` gets the logged values, rounded.
        steps: of the whole training.
        batch_size: real images in a step.
        log_steps: between two records.
    """

    def __init__(
        self, context: TrainingContext, state: TrainingState, *, steps: int, batch_size: int, log_steps: int
    ) -> None:
        self.context, self.state = context, state
        self.steps, self.batch_size, self.log_steps = steps, batch_size, log_steps
        self.terms: dict[str, Tensor] = {}  # not every step has every term
        self.speed = ""
        self.first: int | None = None  # step at which the running interval began
        self.began = time.monotonic()
        state.values.setdefault("measured", {})

    @property
    def measured(self) -> dict[str, float]:
        """The values logged last, for the card."""
        return dict(self.state.values["measured"])

    def add(self, step: int, terms: Mapping[str, Tensor]) -> None:
        if self.first is None:
            self.first = step
        self.terms |= terms

    def after(self, done: int) -> bool:
        if done % self.log_steps and done != self.steps:
            return False
        self.state.values["measured"] |= {name: round(float(term), 4) for name, term in self.terms.items()}
        now = time.monotonic()
        rate = (done - (self.first or 0)) * self.batch_size / max(now - self.began, 1e-9)
        self.speed = f"{rate:.0f} images/s"
        self.context.log(
            event="train", images=done * self.batch_size, images_per_second=round(rate, 1), **self.measured
        )
        self.first, self.began = done, now
        return False

    def text(self, done: int) -> str:
        return self.speed


def initial_weights(streams: Streams, *names: Name, build: Callable[[], Built]) -> Built:
    """What ``build`` makes on the CPU: networks whose initial weights depend on the streams and the names only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(streams.seed, *streams.names, *names))
        return build()


def precision_dtype(context: TrainingContext) -> torch.dtype:
    """The type that convolutions and products are computed in.

    Raises:
        MibenchError: an unknown precision.
    """
    if context.precision not in PRECISION_DTYPES:
        raise MibenchError(
            f"unknown precision {context.precision!r}", cure=f"choose one of {', '.join(PRECISION_DTYPES)}"
        )
    return PRECISION_DTYPES[context.precision]


def autocast(context: TrainingContext) -> contextlib.AbstractContextManager[object]:
    """The context's precision around forward passes: bfloat16 autocast, or nothing for float32."""
    dtype = precision_dtype(context)
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(context.device.type, dtype)


def copied_weights(network: nn.Module) -> dict[str, Tensor]:
    """The network's state as contiguous copies that later steps leave alone."""
    return {
        key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in network.state_dict().items()
    }


def check_storage(storage: str) -> None:
    """Refuse an unknown type of stored weights, before the training rather than after it."""
    if storage not in STORAGE_DTYPES:
        raise MibenchError(f"unknown storage {storage!r}", cure=f"choose one of {', '.join(STORAGE_DTYPES)}")


def stored_weights(
    network: nn.Module, storage: str, prefix: str = "", *, cure: str = "train again at a lower rate"
) -> dict[str, Tensor]:
    """The state as it will be stored: ``prefix`` and key -> tensor on the CPU, floating-point ones in ``storage``.

    ``cure`` is what helps against weights that grow too large.

    Raises:
        MibenchError: a weight is too large for ``storage``, or not finite at all.
    """
    dtype = STORAGE_DTYPES[storage]
    weights = {
        prefix + key: (value.to(dtype) if value.is_floating_point() else value).cpu()
        for key, value in copied_weights(network).items()
    }
    for key, value in weights.items():
        if not value.isfinite().all():
            raise MibenchError(f"{key} is not finite in {storage}", cure=f"store float32, or {cure}")
    return weights


def optimiser_state(optimiser: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    """The optimiser's tensors by parameter index; its settings belong to the recipe and are not repeated."""
    return {
        str(index): {name: value for name, value in entry.items() if isinstance(value, Tensor)}
        for index, entry in optimiser.state_dict()["state"].items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Undo :func:`optimiser_state`.

    Each tensor takes the memory layout of its parameter: the fused kernels walk through memory and pair elements by
    address, and a checkpoint does not remember channels_last.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for index, entry in state.items():
        parameter = parameters[int(index)]
        entries[int(index)] = {
            name: torch.empty_like(parameter, requires_grad=False).copy_(value)
            if value.shape == parameter.shape
            else value
            for name, value in entry.items()
        }
    optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
