"""KEDMI: Knowledge-Enriched Distributional Model Inversion (Chen et al., ICCV 2021, arXiv 2010.04092), the inversion.

For each identity a normal distribution of latents, N(mu, sigma^2), is recovered by one reparametrised sample a step and
the loss ``-log D(G(z)) + lambda CE(T(G(z)), y)``, where D's probability of "real" is ``sigmoid(lse)``, lse being the
logsumexp of its class logits. The reconstructions are draws from what was recovered. The inversion-specific GAN is a
prior of its own (``--prior kedmi``), made against one target; any prior with a discriminator works.

KEDMI's discriminator compares the images of a batch with each other, so the score of one depends on the others: it
sees all samples of a step of the unit together, whatever the micro-batch. No unit depends on another.

Legend: U identities of a unit, S samples of a step, K draws, Z latent dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches, should_report
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .latent_optimisation import Objective, check_settings, identity_objective, stalled
from .losses import negative_log_realness
from .rendering import render_images
from .requirements import require_discriminator, require_prior

_BLOCK = 64  # steps whose noise is drawn at once; part of what a seed means
_NARROW = 1e-3  # draws with a smaller mean sigma are one image


@dataclass(frozen=True, kw_only=True)
class KEDMI(Attack):
    """Distributional recovery. The defaults are the released settings."""

    name: ClassVar[str] = "kedmi"
    access: ClassVar[Access] = Access.GRADIENTS
    prior: ClassVar[str | None] = "kedmi"
    budget_setting: ClassVar[str | None] = "iterations"

    unit_size: int = 60  # released batch size: the discriminator compares the images of 60 identities
    draws: int = 5  # released evaluation
    iterations: int = 2400  # released code; PLG-MI's baseline 1500, BiDO's 5000
    samples_per_step: int = 1  # released code
    learning_rate: float = 0.02  # released code (Adam)
    betas: tuple[float, float] = (0.9, 0.999)  # released code: Adam's own
    logvar_start: float = 1.0  # released code; BiDO: 0
    clip_z: bool = False  # released code; True: z in [-1, 1] in the loss and in the draws (LOMMA)
    identity_weight: float = 100.0  # lambda, released code
    realism_weight: float = 1.0  # of -log D(G(z)); 0 leaves the discriminator out
    loss: str = "cross_entropy"  # paper, section 3.3
    selection_transforms: int = 0  # random views behind the confidence; 0: the image as it is (the paper does not rank)

    def __post_init__(self) -> None:
        check_settings(self, at_least_one=("unit_size", "draws", "iterations", "samples_per_step"))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"{self.name}: betas must lie in [0, 1), got {self.betas}")
        if not math.isfinite(self.logvar_start):
            raise MibenchError(f"{self.name}: logvar_start must be finite, got {self.logvar_start}")

    def planned_queries(self, identities: int) -> Queries:
        """Every sample of every step forwards and backwards, then the ranking of the draws."""
        optimised = identities * self.samples_per_step * self.iterations
        ranked = identities * self.draws * max(self.selection_transforms, 1)
        return Queries(forward=optimised + ranked, backward=optimised)

    def objective(self, context: Context, state: State, labels: Tensor, each: int, streams: Streams) -> Objective:
        """The identity loss of ``each`` images of every identity; an attack on top of this one has its own."""
        return identity_objective(context, self.loss, labels, each)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Recover the distributions of all identities of the unit together, then draw from each."""
        prior = require_prior(context.prior)
        if self.realism_weight:
            require_discriminator(prior, self.name, "realism_weight")
        objective = self.objective(context, state, labels, self.samples_per_step, streams)
        mu = torch.zeros(len(labels), prior.latent_dim, device=context.device, requires_grad=True)
        logvar = torch.full_like(mu, self.logvar_start, requires_grad=True)
        adam = torch.optim.Adam([mu, logvar], lr=self.learning_rate, betas=self.betas)  # its moments are per element
        history: dict[str, list[Tensor]] = {}
        for step, noise in enumerate(self._noise(context, prior.latent_dim, labels, streams), start=1):
            sigma = (0.5 * logvar).exp()
            history.setdefault("sigma", []).append(sigma.detach().mean(dim=1))
            history.setdefault("mu_rms", []).append(mu.detach().square().mean(dim=1).sqrt())
            z = self._bounded(mu[:, None] + sigma[:, None] * noise).flatten(0, 1)  # (U S, Z)
            images = prior.decode(z)
            gradient, terms = self._image_gradient(context, images.detach(), objective, step)
            adam.zero_grad(set_to_none=True)
            images.backward(gradient / self.samples_per_step)
            adam.step()
            for name, values in terms.items():
                history.setdefault(name, []).append(values.view(len(labels), -1).mean(dim=1))
            if should_report(step, self.iterations):
                context.progress(step, self.iterations, "recover distributions")
        curves = stacked(history)
        context.log(event=self.name, identities=labels.tolist(), **by_twentieth(curves))
        return self._result(context, mu.detach(), (0.5 * logvar.detach()).exp(), labels, streams, curves)

    def _noise(self, context: Context, dimension: int, labels: Tensor, streams: Streams) -> Iterator[Tensor]:
        """Standard normal ``(U, S, Z)`` for every step: a stream for each identity, drawn a block of steps ahead."""
        names = labels.tolist()
        for start in range(0, self.iterations, _BLOCK):
            drawn = [
                torch.randn(
                    _BLOCK,
                    self.samples_per_step,
                    dimension,
                    generator=streams.generator("identity", name, "noise", start),
                )
                for name in names
            ]
            block = torch.stack(drawn, dim=1).to(context.device, non_blocking=True)  # (steps, U, S, Z)
            yield from block[: self.iterations - start]

    def _image_gradient(
        self, context: Context, images: Tensor, objective: Objective, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradient of the summed losses with respect to images ``(U S, 3, H, W)``, and the terms, ``(U S,)`` each.

        The discriminator sees all images at once, the victim in micro-batches.
        """
        prior = require_prior(context.prior)
        gradient = torch.zeros_like(images)
        terms: dict[str, Tensor] = {}
        if self.realism_weight:
            leaf = images.detach().requires_grad_()
            terms["L_prior"] = negative_log_realness(prior.realism(leaf).float())
            gradient += torch.autograd.grad(self.realism_weight * terms["L_prior"].sum(), leaf)[0]
        identity: dict[str, list[Tensor]] = {}
        for part in micro_batches(images.shape[0], context):
            leaf = images[part].detach().requires_grad_()
            losses = objective(context.fit(leaf), part, step)
            gradient[part] += torch.autograd.grad(self.identity_weight * losses["L_id"].sum(), leaf)[0]
            for name, values in losses.items():
                identity.setdefault(name, []).append(values.detach())
        terms |= {name: torch.cat(values) for name, values in identity.items()}
        return gradient, {name: values.detach() for name, values in terms.items()}

    def _bounded(self, z: Tensor) -> Tensor:
        return z.clamp(-1, 1) if self.clip_z else z

    @torch.no_grad()
    def _result(
        self,
        context: Context,
        mu: Tensor,
        sigma: Tensor,
        labels: Tensor,
        streams: Streams,
        curves: dict[str, Tensor],
    ) -> Reconstruction:
        """Draws from the distributions ``(U, Z)``, ranked by the victim's confidence."""
        noise = torch.stack(
            [
                torch.randn(mu.shape[1], generator=streams.generator("identity", label, "draw", draw))
                for label in labels.tolist()
                for draw in range(self.draws)
            ]
        ).view(len(labels), self.draws, -1)
        latents = self._bounded(mu.cpu()[:, None] + sigma.cpu()[:, None] * noise).flatten(0, 1)
        images = render_images(context, latents, require_prior(context.prior).decode)
        grouped = images.view(len(labels), self.draws, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.draws),
            confidence=confidence.flatten(),
            latents=latents,
            curves=curves,
            notes=(*stalled(self, curves), *_narrow(sigma)),
        )


def _narrow(sigma: Tensor) -> Iterator[str]:
    """A note when a distribution collapsed to a point: its draws are one image."""
    closed = int((sigma.mean(dim=1) < _NARROW).sum())
    if closed:
        yield f"the distributions of {closed} of {len(sigma)} people closed to a mean sigma below {_NARROW}"
