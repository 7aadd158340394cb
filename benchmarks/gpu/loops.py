"""The attacks' own loops, timed step by step, and other ways to run the frozen networks inside them.

An attack reports its progress after each step. That is where the clock is read, so what is timed is the code that
attacks, and nothing of the search before or of the ranking after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from stage import synchronise
from stage_environment import arithmetic
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mibench import registry
from mibench.api import Access, Attack, Context, ImageSpec, Prior, Victim
from mibench.rng import Streams
from mibench.system.devices import deterministic
from mibench.weights import cards, load

CLASSES = 300
STEPS = 100  # an attack reports each of so many
WARM = 3  # steps that are not timed: kernels are chosen, graphs captured, programs compiled
PROBE = 3  # steps whose time decides how many more are taken
WHOLE = 2**30  # a micro-batch that holds every step
MODES = ("eager", "varying", "graphs", "compiled")
FULL_STYLEGAN2: dict[str, Any] = {  # the published 64-pixel configuration
    "z_dim": 512,
    "w_dim": 512,
    "resolution": 64,
    "channel_base": 16384,
    "channel_max": 512,
    "mapping_layers": 8,
}


class _EnoughError(Exception):
    """Ends a loop that has been timed."""


@dataclass(frozen=True)
class Timing:
    """Seconds of a step, images in it, and the highest memory use of the device so far."""

    seconds: float
    images: int
    steps: int
    peak_memory_bytes: int | None

    @property
    def rate(self) -> float:
        """Image-steps per second."""
        return self.images / self.seconds


def configuration(attack: str, batch: int) -> tuple[Attack, Tensor]:
    """An attack whose steps take ``batch`` images, and its unit: eight classes, or one for each image (KEDMI)."""
    kind: Any = registry.load("attack", attack)
    if attack == "kedmi":
        return kind(iterations=STEPS, draws=1), torch.arange(batch) % CLASSES
    identities = min(8, batch)
    each = batch // identities
    labels = torch.arange(identities)
    if attack == "gmi":
        return kind(iterations=STEPS, restarts=each), labels
    search = {"pool_size": 2 * each, "candidates": each, "batch_size": each, "epochs": STEPS, "truncation": 1.0}
    return kind(**search, selection_transforms=1), labels


def workbench(attack: str, target: str, width: str, device: torch.device) -> Context:
    """Victim and prior of an attack: the shipped ones, or published width and random weights."""
    kind = registry.load("attack", attack).prior or "stylegan2"
    if width == "shipped":
        victim = load.build_victim(cards.find("target", target, "synthfaces"), Access.GRADIENTS, device)
        file = cards.find("prior", f"kedmi@synthfaces+{target}" if kind == "kedmi" else kind, "synthfaces")
        return Context(victim=victim, prior=load.build_prior(file, file.card().arguments, device), device=device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = registry.load("target", target)(num_classes=CLASSES, size=64)
        victim = Victim(
            network.to(device), image=ImageSpec(64), num_classes=CLASSES, access=Access.GRADIENTS, name=target
        )
        return Context(victim=victim, prior=full_prior(kind, device), device=device)


def full_prior(kind: str, device: torch.device) -> Prior:
    """A prior at published width with random weights."""
    module: Any = registry.load("prior", kind)
    arguments: dict[str, Any] = {"width": 1.0}
    if kind == "stylegan2":
        from mibench.attacks.priors.stylegan2.prior import StyleGAN2Arguments

        arguments = FULL_STYLEGAN2
        parts = {"G": StyleGAN2Arguments(**arguments).generator()}
    else:
        from mibench.attacks.priors.dcgan import networks

        critic: Any = networks.Critic(width=1.0)
        if kind == "kedmi":
            arguments = {"width": 1.0, "num_classes": CLASSES}
            critic = networks.MinibatchDiscriminator(num_classes=CLASSES, width=1.0)
        parts = {"G": networks.Generator(width=1.0), "D": critic}
    weights = {f"{part}.{key}": value for part, network in parts.items() for key, value in network.state_dict().items()}
    made: Any = module.build(arguments, weights, ImageSpec(64), name=f"{kind}, random weights")
    prior: Prior = made.to(device)
    return prior


def timed(
    attack: Attack,
    labels: Tensor,
    context: Context,
    *,
    precision: str = "float32",
    seconds: float = 0.4,
    micro_batch: int = WHOLE,
    repeatable: bool = True,
) -> Timing:
    """Seconds of a step: an idle device before the first and after the last of as many as fit ``seconds``.

    Args:
        attack: it must take more than ``WARM + PROBE`` steps.
        repeatable: by deterministic algorithms, as runs are.

    Raises:
        torch.OutOfMemoryError: the batch does not fit.
    """
    clock = _Clock(context.device, seconds)
    with torch.random.fork_rng(devices=[]), computing(context.device, precision):
        torch.use_deterministic_algorithms(repeatable, warn_only=True)  # `computing` puts it back
        _loop(attack, labels, replace(context, micro_batch=micro_batch, progress=clock))
    images = attack.planned_queries(len(labels))
    assert images is not None
    return Timing(clock.seconds, images.backward // clock.total, clock.last - WARM, clock.peak)


def step_flops(attack: Attack, labels: Tensor, context: Context) -> float:
    """Floating-point operations of one step, as torch counts them: products and convolutions."""
    totals: list[int] = []
    with _FlopCounter() as counter:

        def progress(done: int, total: int, text: str) -> None:
            totals.append(counter.total)
            if done == 2:
                raise _EnoughError

        _loop(attack, labels, replace(context, micro_batch=WHOLE, progress=progress))
    return float(totals[1] - totals[0])


class _FlopCounter(TorchDispatchMode):
    """Adds up what torch's table says of each operation. torch's own counter also follows modules, by hooks that do
    not go with ``torch.autograd.grad``."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def first_images(attack: Attack, labels: Tensor, context: Context, steps: int = 3) -> Tensor:
    """Means of the images that the first ``steps`` steps show the victim, ``(steps,)``: each follows from the gradients
    of the steps before, so they tell whether two ways to run the networks do the same."""
    means: list[Tensor] = []
    network = context.victim._network

    def watching(images: Tensor) -> Any:
        if torch.is_grad_enabled() and images.requires_grad:
            means.append(images.detach().float().mean())
        return network(images)

    def progress(done: int, total: int, text: str) -> None:
        if done == steps:
            raise _EnoughError

    context.victim._network = watching
    try:
        with deterministic(context.device, "float32"):
            _loop(attack, labels, replace(context, micro_batch=WHOLE, progress=progress))
    finally:
        context.victim._network = network
    return torch.stack(means).cpu()


def _loop(attack: Attack, labels: Tensor, context: Context) -> None:
    """The attack's optimisation, until the context's ``progress`` has seen enough."""
    with suppress(_EnoughError):
        attack.reconstruct(context, state_of(attack, context), labels, Streams(0, ("benchmark",)))


def state_of(attack: Attack, context: Context) -> dict[str, Tensor]:
    """What the search would leave: latents, and a confidence that chance decides."""
    if not (size := getattr(attack, "pool_size", 0)):
        return {}
    assert context.prior is not None
    generator = torch.Generator().manual_seed(0)
    latents = context.prior.sample(size, generator)
    confidence = torch.rand(size, context.victim.num_classes, generator=generator)
    return {"latents": latents.to(context.device), "confidence": confidence.to(context.device)}


class _Clock:
    """Reads the time after the warm steps, after a few more, and after as many as fit."""

    def __init__(self, device: torch.device, wanted: float) -> None:
        self.device, self.wanted = device, wanted
        self.last = self.total = STEPS
        self.seconds = math.nan
        self.peak: int | None = None
        self._started = 0.0

    def __call__(self, done: int, total: int, text: str) -> None:
        self.total = total
        if done not in (WARM, WARM + PROBE, self.last):
            return
        synchronise(self.device)
        now = time.perf_counter()
        if done == WARM:
            self._started = now
        elif done == WARM + PROBE:
            each = max((now - self._started) / PROBE, 1e-6)
            self.last = min(STEPS, total, done + math.ceil(max(self.wanted - (now - self._started), 0) / each))
        if done == self.last:
            self.seconds = (now - self._started) / (done - WARM)
            if self.device.type == "cuda":
                self.peak = int(torch.cuda.max_memory_allocated(self.device))
            raise _EnoughError


@contextmanager
def computing(device: torch.device, precision: str) -> Iterator[None]:
    """As a run computes, in float32, tf32 (which runs do not offer) or bfloat16."""
    with deterministic(device, "bfloat16" if precision == "bfloat16" else "float32"), arithmetic(precision):
        yield


# -- other ways to run the frozen networks --------------------------------------------------------------------------


def in_mode(context: Context, mode: str) -> Context:
    """A context whose networks run as compiled programs, as captured graphs, or as they are. Changes its networks."""
    if mode in ("eager", "varying"):
        return context
    wrap: Callable[..., Any] = compiled if mode == "compiled" else Graphed
    prior: Any = context.prior
    for name in ("synthesis", "decode", "realism"):
        if hasattr(prior, name) and (name != "realism" or not hasattr(prior, "synthesis")):
            setattr(prior, name, wrap(getattr(prior, name), context.device))
    context.victim._network = wrap(context.victim._network, context.device)
    return context


def compiled(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """``torch.compile``; on a CPU without its compiler, the same tracing without code."""
    backend = "inductor" if device.type == "cuda" else "aot_eager"
    program: Callable[..., Any] = torch.compile(function, dynamic=False, backend=backend)
    return program


class Graphed:
    """A function of one tensor, captured as CUDA graphs (forward and backward) at its first call with a shape.

    What it returns is overwritten by its next call: right for a loop that takes its step before it looks again.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self._function = lambda images: function(images)  # a module itself would be changed in place for one shape
        self._graphs: dict[tuple[int, ...], Callable[..., Any]] = {}
        self._capture = torch.cuda.make_graphed_callables if device.type == "cuda" else _no_capture

    def __call__(self, images: Tensor) -> Any:
        if not (torch.is_grad_enabled() and images.requires_grad):
            return self._function(images)
        shape = tuple(images.shape)
        if shape not in self._graphs:
            sample = images.detach().clone().requires_grad_()
            self._graphs[shape] = self._capture(self._function, (sample,))
        return self._graphs[shape](images)


def _no_capture(function: Callable[..., Any], sample: tuple[Tensor, ...]) -> Callable[..., Any]:
    """There are no graphs on a CPU: the rehearsal takes the same path without them."""
    return function
