"""GMI: Generative Model Inversion (Zhang et al., CVPR 2020, arXiv 1911.07135), the inversion.

Latents descend ``-D(G(z)) + lambda CE(T(G(z)), y)`` by momentum with Nesterov's look-ahead, clamped to a cube; each
restart of an identity is a sample. The GAN is a prior of its own (``--prior gmi``); any prior with a discriminator
works.

Legend: U identities of a unit, R restarts, N = U R latents, Z latent dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches, should_report
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .latent_optimisation import Objective, check_settings, compares_its_batch, identity_objective, stalled
from .rendering import render_images
from .requirements import require_discriminator, require_prior


def momentum_step(
    z: Tensor,
    velocity: Tensor,
    gradient: Tensor,
    *,
    rate: float,
    momentum: float,
    nesterov: bool = True,
    clip: float | None = 1.0,
) -> tuple[Tensor, Tensor]:
    """One update of latents: ``v' = mu v - eta g``, then ``z' = clamp(z - mu v + (1 + mu) v')`` (GMI, released code).

    Args:
        z: latents ``(N, Z)``.
        velocity: ``v``, of the same shape.
        gradient: ``g``, of the same shape.
        rate: ``eta``.
        momentum: ``mu``.
        nesterov: False: ``z' = clamp(z + v')``, the momentum of ``torch.optim.SGD``.
        clip: bound of every coordinate of ``z'``; None: no bound.

    Returns:
        ``z'`` and ``v'``.
    """
    moved = momentum * velocity - rate * gradient
    z = z - momentum * velocity + (1 + momentum) * moved if nesterov else z + moved
    return (z if clip is None else z.clamp(-clip, clip)), moved


@dataclass(frozen=True, kw_only=True)
class GMI(Attack):
    """Generative Model Inversion. The defaults are the released settings; ``best_of=5`` keeps one restart of five."""

    name: ClassVar[str] = "gmi"
    access: ClassVar[Access] = Access.GRADIENTS
    prior: ClassVar[str | None] = "gmi"
    budget_setting: ClassVar[str | None] = "iterations"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    restarts: int = 5  # released code, seeds 0 to 4
    best_of: int = 1  # of every best_of restarts the one of the highest target logit is kept; released GMI: 5
    iterations: int = 1500  # released code; KEDMI's, LOMMA's 2400, BiDO's 2000
    learning_rate: float = 0.02  # released code
    momentum: float = 0.9  # released code
    nesterov: bool = True  # released code; False: plain momentum (MIBench toolbox)
    clip: float | None = 1.0  # released code; None: no clamp (MIBench toolbox)
    batch_scale: float = 60.0  # a sample's gradient is divided by it: the batch of KEDMI, LOMMA, PLG-MI; GMI's is 100
    identity_weight: float = 100.0  # lambda, released code
    realism_weight: float = 1.0  # of -D(G(z)); 0 leaves the discriminator out
    loss: str = "cross_entropy"  # paper, eq. 4
    selection_transforms: int = 0  # random views behind the confidence; 0: the image as it is (the papers do not rank)

    def __post_init__(self) -> None:
        check_settings(self, at_least_one=("unit_size", "restarts", "best_of", "iterations"))
        if self.restarts % self.best_of:
            raise MibenchError(
                f"{self.name}: restarts ({self.restarts}) must be a multiple of best_of ({self.best_of}): each group "
                "keeps one"
            )
        if not 0 <= self.momentum < 1:
            raise MibenchError(f"{self.name}: momentum must lie in [0, 1), got {self.momentum}")
        if not 0 < self.batch_scale < math.inf:
            raise MibenchError(f"{self.name}: batch_scale must be positive and finite, got {self.batch_scale}")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise MibenchError(f"{self.name}: clip must be positive and finite, or null for no clamp, got {self.clip}")

    @property
    def kept(self) -> int:
        """Reconstructions handed back for each identity."""
        return self.restarts // self.best_of

    def planned_queries(self, identities: int) -> Queries:
        """Every restart forwards and backwards in every iteration, then the choice among restarts and the ranking."""
        optimised = identities * self.restarts * self.iterations
        compared = identities * self.restarts if self.best_of > 1 else 0
        ranked = identities * self.kept * max(self.selection_transforms, 1)
        return Queries(forward=optimised + compared + ranked, backward=optimised)

    def objective(self, context: Context, state: State, labels: Tensor, each: int, streams: Streams) -> Objective:
        """The identity loss of ``each`` images of every identity; an attack on top of this one has its own."""
        return identity_objective(context, self.loss, labels, each)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Descend from every restart of every identity at once."""
        prior = require_prior(context.prior)
        if self.realism_weight:
            require_discriminator(prior, self.name, "realism_weight")
            if compares_its_batch(prior, context.device):
                raise MibenchError(
                    f"{self.name}: prior {prior.name!r} scores an image by its batch, so that a result would depend on "
                    "the micro-batch",
                    cure="run with --prior gmi, or --set attack.realism_weight=0",
                )
        objective = self.objective(context, state, labels, self.restarts, streams)
        starts = [
            prior.sample(1, streams.generator("identity", label, "restart", restart))
            for label in labels.tolist()
            for restart in range(self.restarts)
        ]
        first = z = torch.cat(starts).to(context.device)  # not clamped before the first step, as released
        velocity = torch.zeros_like(z)
        history: dict[str, list[Tensor]] = {}
        for step in range(1, self.iterations + 1):
            gradient, terms = self._gradient(context, z, objective, step)
            z, velocity = momentum_step(
                z,
                velocity,
                gradient / self.batch_scale,
                rate=self.learning_rate,
                momentum=self.momentum,
                nesterov=self.nesterov,
                clip=self.clip,
            )
            terms["drift"] = (z - first).square().mean(dim=1).sqrt()  # of standard normal latents: in their own std
            for name, values in terms.items():
                history.setdefault(name, []).append(values.view(len(labels), self.restarts).mean(dim=1))
            if should_report(step, self.iterations):
                context.progress(step, self.iterations, "descend")
        curves = stacked(history)
        context.log(event=self.name, identities=labels.tolist(), **by_twentieth(curves))
        return self._result(context, z, labels, streams, curves)

    def _gradient(
        self, context: Context, z: Tensor, objective: Objective, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient ``(N, Z)`` of each latent's own loss, and the terms of the losses, ``(N,)`` each."""
        prior = require_prior(context.prior)
        gradients: list[Tensor] = []
        terms: dict[str, list[Tensor]] = {}
        for part in micro_batches(z.shape[0], context):
            latents = z[part].detach().requires_grad_()
            images = prior.decode(latents)
            identity = objective(context.fit(images), part, step)
            total = self.identity_weight * identity["L_id"]
            for name, values in identity.items():
                terms.setdefault(name, []).append(values.detach())
            if self.realism_weight:
                realism = -prior.realism(images).float()
                total = total + self.realism_weight * realism
                terms.setdefault("L_prior", []).append(realism.detach())
            gradients += torch.autograd.grad(total.sum(), latents)
        return torch.cat(gradients), {name: torch.cat(values) for name, values in terms.items()}

    @torch.no_grad()
    def _result(
        self, context: Context, z: Tensor, labels: Tensor, streams: Streams, curves: dict[str, Tensor]
    ) -> Reconstruction:
        """Images of the final latents: the best of each group of restarts, ranked by the victim's confidence."""
        images = render_images(context, z, require_prior(context.prior).decode)
        if self.best_of > 1:
            best = self._best(context, images, labels.to(context.device).repeat_interleave(self.restarts))
            images, z = images[best], z[best.to(z.device)]
        grouped = images.view(len(labels), self.kept, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.kept),
            confidence=confidence.flatten(),
            latents=z.float().cpu(),
            curves=curves,
            notes=tuple(stalled(self, curves)),
        )

    def _best(self, context: Context, images: Tensor, targets: Tensor) -> Tensor:
        """Rows ``(U kept,)`` of the images with the highest target logit among ``best_of`` consecutive restarts."""
        logits = [
            context.victim.logits(images[part].to(context.device)).float().gather(1, targets[part, None])
            for part in micro_batches(images.shape[0], context)
        ]
        winners = torch.cat(logits).view(-1, self.best_of).argmax(dim=1).cpu()
        return torch.arange(len(winners)) * self.best_of + winners
