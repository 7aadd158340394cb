"""VMI: Variational Model Inversion (Wang et al., NeurIPS 2021), a distribution for each layer's latent.

What is recovered for a person is a distribution q of latents, one for each layer of StyleGAN2's synthesis network. It
descends ``E CE(T(G(z)), y) + gamma KL(q | N(0, I))``: likely for the target, and not far from where the prior's latents
are. The reconstructions are draws from q. All layers share the noise that they are drawn by.

q is a normalising flow for each layer (the released family), or N(mu, diag(sigma^2)), whose KL is a formula.

Legend: U identities of a unit, S samples of a step, L layers, N samples in all, Z latent and W style dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MappingPrior, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches, should_report
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .latent_distributions import FlowLatents, LatentDistributions, NormalLatents
from .losses import IDENTITY_LOSSES, identity_loss
from .rendering import render_images
from .requirements import check_ranges, require_mapping


@dataclass(frozen=True, kw_only=True)
class VMI(Attack):
    """VMI. The defaults are the released settings, of flows with one level."""

    name: ClassVar[str] = "vmi"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    family: Literal["flow", "diag"] = "flow"  # released; diag (ours): normal distributions
    flow_steps: int = 10  # released: couplings of a flow
    flow_hidden: int = 100  # released: hidden units of a coupling
    draws: int = 50  # released evaluation
    steps: int = 3140  # released: 20 epochs of 157
    samples_per_step: int = 64  # released
    optimiser: Literal["sgd", "adam"] = "sgd"  # released; adam (ours): for fewer steps
    learning_rate: float = 1e-4  # released
    momentum: float = 0.9  # released, of SGD
    kl_weight: float = 1e-3  # gamma, released
    layers: Literal["own", "shared"] = "own"  # released layeredflow: a distribution for each layer; shared: one for all
    loss: str = "cross_entropy"  # paper
    selection_transforms: int = 0  # released: no ranking; random views of it, as PPA

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "flow_steps", "flow_hidden", "draws", "steps", "samples_per_step"),
            positive=("learning_rate",),
            not_negative=("kl_weight", "selection_transforms"),
        )
        if not 0 <= self.momentum < 1:
            raise MibenchError(f"vmi: momentum must lie in [0, 1), got {self.momentum}")

    def planned_queries(self, identities: int) -> Queries:
        """Every sample of every step forwards and backwards, then the ranking of the draws."""
        recovered = identities * self.samples_per_step * self.steps
        ranked = identities * self.draws * max(self.selection_transforms, 1)
        return Queries(forward=recovered + ranked, backward=recovered)

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Recover the distributions of all identities of the unit at once, then draw from each."""
        prior = self._prior(context)
        names, layers = labels.tolist(), prior.num_styles if self.layers == "own" else 1
        q = self._distributions(names, layers, prior.latent_dim, context.device, streams)
        targets = labels.to(context.device).repeat_interleave(self.samples_per_step)
        optimiser = self._optimiser(q.parameters)
        history: dict[str, list[Tensor]] = {}
        for step in range(self.steps):
            noise = self._noise(self.samples_per_step, prior.latent_dim, names, streams, step)
            z, kl = q.draw(noise.to(context.device, non_blocking=True))  # (U, L, S, Z), (U, L)
            gradient, losses = self._gradient(context, by_sample(z.detach()), targets)
            optimiser.zero_grad(set_to_none=True)
            identity = (by_sample(z) * gradient).sum() / self.samples_per_step  # has the gradient of the mean losses
            (identity + self.kl_weight * kl.mean(dim=1).sum()).backward()
            history.setdefault("L_id", []).append(losses.view(len(names), -1).mean(dim=1))
            history.setdefault("kl", []).append(kl.detach().mean(dim=1))
            optimiser.step()
            if should_report(step + 1, self.steps):
                context.progress(step + 1, self.steps, "recover distributions")
        curves = stacked(history)
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        drawn = self._noise(self.draws, prior.latent_dim, names, streams, "draws")
        with torch.no_grad():
            z = by_sample(q.draw(drawn.to(context.device))[0])
            styles = torch.cat([styles_of(prior, z[part]) for part in micro_batches(len(z), context)])
        images = render_images(context, styles.float().cpu(), prior.synthesis)
        grouped = images.view(len(names), self.draws, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.draws),
            confidence=confidence.flatten(),
            latents=styles.float().cpu(),
            curves=curves,
        )

    def _prior(self, context: Context) -> MappingPrior:
        prior = require_mapping(context.prior)
        if prior.num_styles < 2 and self.layers == "own":
            raise MibenchError(
                f"vmi: prior {prior.name!r} takes one style for all layers",
                cure="set attack.layers=shared, or name another prior with --prior",
            )
        return prior

    def _distributions(
        self, names: list[int], layers: int, dimension: int, device: torch.device, streams: Streams
    ) -> LatentDistributions:
        """One for each identity and layer."""
        if self.family == "diag":
            return NormalLatents(len(names), layers, dimension, device)
        if dimension % 2:
            raise MibenchError(
                f"vmi: a flow halves its latents, the prior's have {dimension} numbers", cure="set attack.family=diag"
            )
        return FlowLatents(names, layers, dimension, device, streams, steps=self.flow_steps, hidden=self.flow_hidden)

    def _optimiser(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        if self.optimiser == "sgd":
            return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.Adam(parameters, lr=self.learning_rate)

    def _noise(self, count: int, dimension: int, names: list[int], streams: Streams, step: int | str) -> Tensor:
        """Standard normal ``(U, count, Z)``, of each identity its own."""
        draws = [streams.generator("identity", y, "noise", step) for y in names]
        return torch.stack([torch.randn(count, dimension, generator=each) for each in draws])

    def _gradient(self, context: Context, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of every sample's own loss with respect to its latents ``(N, L, Z)``, and the losses ``(N,)``."""
        prior, gradients, losses = self._prior(context), [], []
        for part in micro_batches(len(z), context):
            leaf = z[part].requires_grad_()
            images = context.fit(prior.synthesis(styles_of(prior, leaf)))
            loss = IDENTITY_LOSSES[self.loss](context.victim.logits(images).float(), targets[part])
            gradients.append(torch.autograd.grad(loss.sum(), leaf)[0])
            losses.append(loss.detach())
        return torch.cat(gradients), torch.cat(losses)


def by_sample(z: Tensor) -> Tensor:
    """Latents ``(U, L, S, Z)`` as ``(U S, L, Z)``."""
    return z.transpose(1, 2).flatten(0, 1)


def styles_of(prior: MappingPrior, z: Tensor) -> Tensor:
    """Styles ``(N, num_styles, W)`` without truncation, from latents ``(N, L, Z)`` of each layer, or of all (L = 1)."""
    w = prior.mapping(z.flatten(0, 1)).view(*z.shape[:2], -1)
    return w.expand(-1, prior.num_styles, -1) if prior.num_styles > 1 else w[:, 0]
