"""PPA: Plug & Play Attacks (Struppek et al., ICML 2022, arXiv 2201.12179).

The attack takes any StyleGAN2 and any victim as they are. From a pool of latents the best candidates of each identity
are chosen; Adam optimises their styles w on the Poincaré loss of randomly cropped images; the finished images are
ranked by the victim's mean confidence under stronger random views. A candidate has its own loss, its own crops and its
own moments of Adam, so no result depends on how candidates are batched.

Legend: U identities of a unit, K candidates of each, B of them in a step, W dimension of w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .augment import apply_crops, draw_crops
from .batching import blocks, scatter_into_step, shuffled_candidates
from .diagnostics import by_epoch, stacked, stray_note
from .final_ranking import robust_confidence
from .initial_selection import choose, pool, pool_confidence
from .losses import IDENTITY_LOSSES, identity_loss, negative_log_realness
from .parameterisation import DirectStyles, gather_rows
from .rendering import render_images
from .requirements import check_ranges, require_discriminator, require_mapping


@dataclass(frozen=True, kw_only=True)
class PPA(Attack):
    """Plug & Play Attack. The defaults are the released configuration for CelebA with FFHQ."""

    name: ClassVar[str] = "ppa"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "epochs"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 5000  # released configuration; paper, section 3.2: sampling before the attack
    candidates: int = 200  # released configuration
    epochs: int = 70  # released configuration: steps of every candidate
    batch_size: int = 25  # released configuration: candidates of one identity in a step
    truncation: float = 0.5  # released configuration: psi of the candidates (single w: all layers alike)
    crop_scale: tuple[float, float] = (0.9, 1.0)  # released configuration: area of a square crop in each step
    shared_crop: bool = False  # paper: a crop for each image; True: one for a batch (released, torchvision on a batch)
    learning_rate: float = 0.005  # released configuration, on the truncated w
    betas: tuple[float, float] = (0.1, 0.1)  # released configuration
    milestones: tuple[int, ...] = ()  # epochs after which the rate falls; default_attacking.yaml: 30, 40
    decay: float = 0.1  # default_attacking.yaml: by this factor
    loss: str = "poincare"  # paper, section 3.3
    discriminator_weight: float = 0.0  # released code: weight of softplus(-D(image)), 0 in every configuration
    selection_transforms: int = 100  # released configuration; paper, section 3.4: random views of the final selection

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "candidates", "epochs", "batch_size"),
            positive=("learning_rate", "truncation", "decay"),
            not_negative=("discriminator_weight", "selection_transforms"),
        )
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"ppa: candidates ({self.candidates}) are chosen from the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise MibenchError(f"ppa: crop_scale must be two areas in (0, 1], the smaller first, got {self.crop_scale}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"ppa: betas must lie in [0, 1), got {self.betas}")
        if any(milestone < 1 for milestone in self.milestones):
            raise MibenchError(f"ppa: milestones are numbers of epochs, at least 1, got {self.milestones}")

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image."""
        return Queries(forward=2 * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """Every candidate forwards and backwards in every epoch, then its views in the final selection."""
        optimised = identities * self.candidates * self.epochs
        ranked = identities * self.candidates * max(self.selection_transforms, 1)
        return Queries(forward=optimised + ranked, backward=optimised)

    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool of latents and the victim's confidence in every class for each."""
        prior = require_mapping(context.prior)
        if self.discriminator_weight:
            require_discriminator(prior, self.name, "discriminator_weight")
        latents = pool(prior, self.pool_size, streams)
        confidence = pool_confidence(context, latents, self.truncation, text="search candidates")
        return {"latents": latents, "confidence": confidence}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise the candidates of every identity, then render and rank them."""
        prior, own = require_mapping(context.prior), labels.to(context.device)
        latents = choose(state, labels, self.candidates).to(context.device)  # (U, K, Z)
        styles = DirectStyles(prior, latents, self.learning_rate, self.betas, psi=self.truncation)
        history: dict[str, list[Tensor]] = {"loss": [], "drift": []}
        done, steps = 0, self.epochs * -(-self.candidates // self.batch_size)
        names = labels.cpu()  # streams are named on the CPU
        for epoch in range(self.epochs):
            styles.learning_rate = self._rate(epoch)
            order = shuffled_candidates(self.candidates, names.tolist(), epoch, streams)  # DMMIA's: the two compare
            crops = self._crops(names, order, epoch, streams).to(context.device, non_blocking=True)
            order = order.to(context.device, non_blocking=True)
            for start in range(0, self.candidates, self.batch_size):
                batch = slice(start, start + self.batch_size)
                rows = order[:, batch]  # (U, B)
                w = styles.w(rows)  # (U, B, W)
                history["drift"].append(styles.drift(w, rows))
                history["loss"].append(self._backward(context, w, own, crops[:, batch]))
                styles.step(rows)
                done += 1
                context.progress(done, steps, f"epoch {epoch + 1}/{self.epochs}")
        curves = stacked(history)
        context.log(event=self.name, identities=names.tolist(), **by_epoch(curves, self.epochs))
        finished = styles.finished().detach().flatten(0, 1)
        images = render_images(context, finished, prior.synthesis)
        grouped = images.view(len(labels), self.candidates, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.candidates),
            confidence=confidence.flatten(),
            latents=styles.untruncated(finished).float().cpu(),
            curves=curves,
            notes=tuple(stray_note(curves["drift"])),
        )

    def _backward(self, context: Context, w: Tensor, labels: Tensor, crops: Tensor) -> Tensor:
        """Leave the gradient of every candidate's own loss at ``w`` ``(U, B, W)``; mean losses ``(U,)``.

        Losses of an identity are summed and divided by its batch, as in DMMIA: the released code takes the mean, and
        Adam's step, which has no scale, feels a division through its epsilon only.
        """
        losses = []
        targets = labels.repeat_interleave(w.shape[1])
        for identities, block in blocks(w.shape[:2], context):
            logits, realism = self._shown(context, w[identities, block].flatten(0, 1), crops[identities, block])
            position = (w.shape[:2], identities, block)
            step = IDENTITY_LOSSES[self.loss](scatter_into_step(logits.float(), *position).flatten(0, 1), targets)
            if realism is not None:
                scores = scatter_into_step(realism, *position).flatten()
                step = step + self.discriminator_weight * negative_log_realness(scores)
            loss = step.view(w.shape[:2])[identities, block]
            (loss.sum() / w.shape[1]).backward()
            losses.append(loss.detach().flatten())
        return torch.cat(losses).view(w.shape[:2]).mean(dim=1)

    def _shown(self, context: Context, w: Tensor, crops: Tensor) -> tuple[Tensor, Tensor | None]:
        """The victim's logits ``(N, C)`` for the cropped image of each style ``(N, W)``; its realism ``(N, 1)``."""
        prior = require_mapping(context.prior)
        images = prior.synthesis(w)
        logits = context.victim.logits(apply_crops(context.fit(images), crops.flatten(0, 1)))
        return logits, prior.realism(images).float()[:, None] if self.discriminator_weight else None

    def _rate(self, epoch: int) -> float:
        """Adam's rate in an epoch (from 0)."""
        return self.learning_rate * self.decay ** sum(epoch >= milestone for milestone in self.milestones)

    def _crops(self, labels: Tensor, order: Tensor, epoch: int, streams: Streams) -> Tensor:
        """Crops ``(U, K, 4)`` in that order: a candidate's own, or one for all of a batch."""
        count, size = self.candidates, self.batch_size
        if not self.shared_crop:
            own = [
                draw_crops(count, streams.generator("identity", int(label), "crops", epoch), scale=self.crop_scale)
                for label in labels
            ]
            return gather_rows(torch.stack(own), order)
        batches = range(-(-count // size))
        shared = [
            torch.cat(
                [
                    draw_crops(
                        1, streams.generator("identity", int(label), "crops", epoch, batch), scale=self.crop_scale
                    )
                    for batch in batches
                ]
            ).repeat_interleave(size, dim=0)[:count]
            for label in labels
        ]
        return torch.stack(shared)
