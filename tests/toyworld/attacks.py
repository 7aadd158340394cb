"""Attacks of the toy world: one that works, one that only draws, one that misbehaves as told."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, Queries, Reconstruction, State
from mibench.rng import Streams

KILLED_AT = "TOYATTACK_KILLED_AT"  # environment: the label at which the process gets SIGKILL; no setting of a run
ONCE = "TOYATTACK_KILLED_ONCE"  # environment: a file that is made at the first such kill, after which there is none


def starts(context: Context, labels: Tensor, samples: int, streams: Streams) -> tuple[Tensor, Tensor]:
    """Latents ``(U * samples, 4)`` and their labels, each identity from a stream of its own."""
    assert context.prior is not None
    drawn = [
        context.prior.sample(samples, streams.generator("identity", label, "latents")) for label in labels.tolist()
    ]
    return torch.cat(drawn).to(context.device), labels.repeat_interleave(samples)


@dataclass(frozen=True, kw_only=True)
class ToyAttack(Attack):
    """Gradient ascent on the victim's logit."""

    name: ClassVar[str] = "toyattack"
    access: ClassVar[Access] = Access.GRADIENTS
    budget_setting: ClassVar[str] = "steps"

    unit_size: int = 2
    steps: int = 20
    learning_rate: float = 0.5
    samples: int = 3

    def planned_queries(self, identities: int) -> Queries:
        images = identities * self.samples
        return Queries(images * (self.steps + 1), images * self.steps)

    def prepare(self, context: Context, streams: Streams) -> State:
        """A point to pull towards: the mean public brightness."""
        assert context.public is not None
        return {"centre": context.public(8).mean(dim=(0, 1, 2, 3)).reshape(1)}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        assert context.prior is not None
        if os.environ.get(KILLED_AT) in map(str, labels.tolist()):
            once = Path(os.environ.get(ONCE, os.devnull))
            if once == Path(os.devnull) or not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        latents, wanted = starts(context, labels, self.samples, streams)
        latents.requires_grad_(True)
        curve = []
        for step in range(self.steps):
            images = context.fit(context.prior.decode(latents))
            losses = torch.nn.functional.cross_entropy(context.victim.logits(images), wanted, reduction="none")
            losses = losses + 0.001 * (images.mean(dim=(1, 2, 3)) - state["centre"]).square()
            (gradient,) = torch.autograd.grad(losses.sum(), latents)
            with torch.no_grad():
                latents -= self.learning_rate * gradient
            curve.append(losses.detach())
            context.progress(step + 1, self.steps, "ascending")
        with torch.no_grad():
            images = context.fit(context.prior.decode(latents))
            confidence = context.victim.scores(images).gather(1, wanted[:, None]).squeeze(1)
        context.log(loss=float(curve[-1].mean()))
        curves = torch.stack(curve, dim=1).view(len(labels), self.samples, -1).mean(dim=1)
        return Reconstruction(images, wanted, confidence, latents.detach(), {"loss": curves})


@dataclass(frozen=True, kw_only=True)
class ToyFloor(Attack):
    """The draws of the prior that the victim likes best."""

    name: ClassVar[str] = "floor"
    access: ClassVar[Access] = Access.SCORES

    samples: int = 3

    def planned_queries(self, identities: int) -> Queries:
        return Queries(identities * self.samples)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        assert context.prior is not None
        latents, wanted = starts(context, labels, self.samples, streams)
        with torch.no_grad():
            images = context.fit(context.prior.decode(latents))
        confidence = context.victim.scores(images).gather(1, wanted[:, None]).squeeze(1)
        return Reconstruction(images, wanted, confidence, latents)


@dataclass(frozen=True, kw_only=True)
class BadAttack(Attack):
    """Does what it should not, as ``fault`` says."""

    name: ClassVar[str] = "badattack"
    access: ClassVar[Access] = Access.LABELS

    fault: str = "access"
    most: int = 4  # images that fit into memory, for the fault "memory"

    def planned_queries(self, identities: int) -> Queries | None:
        return Queries(2 * identities) if self.fault in ("memory", "greed") else None

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        assert context.prior is not None
        latents, wanted = starts(context, labels, 2, streams)
        images = context.fit(context.prior.decode(latents))
        confidence = torch.arange(len(wanted), dtype=torch.float32)
        if self.fault == "access":
            context.victim.logits(images)
        elif self.fault == "shape":
            images = images[:, :, :4, :4]
        elif self.fault == "labels":
            wanted = wanted + 100
        elif self.fault == "nan":
            images = images * float("nan")
        elif self.fault == "few":
            images, wanted, confidence = images[:-1], wanted[:-1], confidence[:-1]
        elif self.fault == "memory":
            for part in images.split(context.micro_batch):
                context.victim.labels(part)
            if context.micro_batch > self.most:
                raise torch.OutOfMemoryError("pretended")
        elif self.fault == "greed":
            context.victim.labels(images)
            context.victim.labels(images[:1])
        elif self.fault == "bug":
            raise ValueError("a bug in the attack")
        return Reconstruction(images, wanted, confidence)
