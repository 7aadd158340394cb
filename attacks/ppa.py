"""PPA: Plug & Play Attacks (Struppek et al., ICML 2022, arXiv 2201.12179).

The attack takes any StyleGAN2 and any victim as they are. From a pool of latents the best candidates of each identity
are chosen; Adam optimises their styles w on the Poincaré loss of randomly cropped images; the finished images are
ranked by the victim's mean confidence under stronger random views. A candidate has its own loss, its own crops and its
own moments of Adam, so no result depends on how candidates are batched.

Settings below ``selection_transforms`` are not PPA's, and leave it as it is by default. They adapt it to a defence that
merely hides gradients (docs/defences.md, adaptive attacks), or are steps of other attacks that it may have as well.

Legend: U identities of a unit, K candidates of each, B of them in a step, W dimension of w, which has an axis of layers
before it where each has a style of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State, Victim
from mibench.rng import Streams

from .alignment import Alignment, copied, draw_copies
from .answers import Answered, confidence_in_classes
from .batching import blocks, scatter_into_step, shuffled_candidates
from .candidate_subsets import draw_subsets, require_subset_size
from .diagnostics import by_epoch, stacked, stray_note
from .final_ranking import robust_confidence
from .initial_selection import choose, pool, pool_confidence
from .logit_scale import pool_confidence_and_scale, scaled_answers
from .losses import IDENTITY_LOSSES, identity_loss, negative_log_realness
from .parameterisation import DirectStyles, LayerStyles, gather_rows
from .rendering import render_images
from .requirements import check_ranges, require_discriminator, require_mapping, require_styles
from .views import Views, apply_views, draw_shared_crops, draw_views


@dataclass(frozen=True, kw_only=True)
class PPA(Attack):
    """Plug & Play Attack. The defaults are the released configuration for CelebA with FFHQ."""

    name: ClassVar[str] = "ppa"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "epochs"
    later_settings: ClassVar[tuple[str, ...]] = (
        "draws",
        "mean_answers",
        "logit_scale",
        "views",
        "surrogate",
        "align",
        "align_strength",
        "optimise",
        "consensus_after",
        "consensus_subset",
    )

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

    # Athalye et al., ICML 2018 (arXiv 1802.00420), section 4.2: gradients of a network that draws random numbers,
    # averaged over so many answers to the same images in each step
    draws: int = 1
    mean_answers: bool = False  # ask the victim's network without its random draws: who has gradients can
    # logits are divided by it in the loss (only the cross entropy feels it) and in both selections; auto: so that the
    # median of the largest probability over the pool is 0.9
    logit_scale: float | Literal["auto"] = 1.0
    views: Views = "crops"  # in each step; strong: crop, flip, coarser pixels, blur, noise; nuisance: as consensus
    surrogate: str | None = None  # the target whose gradients are followed, twin: the undefended twin; the victim ranks
    align: Alignment = (
        "none"  # AlignMI (arXiv 2509.20177): each draw sees a copy, with noise (paa) or transformed (taa)
    )
    align_strength: float = 0.06  # AlignMI's for PPA: noise of paa, in the range of an image

    # steps of our attack consensus (docs/consensus.md)
    optimise: Literal["style", "styles"] = "style"  # one for all layers, or one for each layer
    consensus_after: tuple[int, ...] = ()  # epochs after which every candidate becomes the mean of others
    consensus_subset: int = 6  # how many others

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "candidates", "epochs", "batch_size", "draws"),
            positive=(
                "learning_rate",
                "truncation",
                "decay",
                *(("logit_scale",) if self.logit_scale != "auto" else ()),
            ),
            not_negative=("discriminator_weight", "selection_transforms", "align_strength"),
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
        if self.logit_scale != 1 and self.loss != "cross_entropy":
            raise MibenchError(
                f"ppa: logit_scale changes nothing for the loss {self.loss!r}, whose gradient has one direction at any "
                "scale",
                cure="choose the loss cross_entropy, or leave logit_scale at 1",
            )
        if any(epoch < 1 for epoch in self.consensus_after):
            raise MibenchError(f"ppa: consensus_after are numbers of epochs, at least 1, got {self.consensus_after}")
        if self.consensus_after:
            require_subset_size("ppa", "consensus_subset", self.consensus_subset, self.candidates)
        if self.views != "crops" and self.shared_crop:
            raise MibenchError(
                f"ppa: {self.views} views are each image's own",
                cure="leave shared_crop out",
            )
        if self.surrogate is not None and (self.mean_answers or self.logit_scale == "auto"):
            setting = "mean_answers" if self.mean_answers else "logit_scale=auto"
            raise MibenchError(
                f"ppa: {setting} needs the victim's own network, which an attack with a surrogate does not have",
                cure="leave one of them out",
            )

    @property
    def least_access(self) -> Access:
        """With a surrogate the victim only selects and ranks, by votes where it grants labels alone."""
        return self.access if self.surrogate is None else Access.LABELS

    @property
    def most_access(self) -> Access:
        """Scores with a surrogate."""
        return self.access if self.surrogate is None else Access.SCORES

    @property
    def needs_surrogate(self) -> str | None:
        """Another target, or ``twin``."""
        return self.surrogate

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image."""
        return Queries(forward=2 * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """Every candidate forwards and backwards in every draw of every epoch, then its views in the final selection.

        With a surrogate the victim is shown the views of the final selection alone.
        """
        optimised = 0 if self.surrogate is not None else self._optimised(identities)
        ranked = identities * self.candidates * max(self.selection_transforms, 1)
        return Queries(forward=optimised + ranked, backward=optimised)

    def planned_surrogate_queries(self, identities: int) -> Queries:
        """With a surrogate: every candidate forwards and backwards in every draw of every epoch."""
        optimised = self._optimised(identities) if self.surrogate is not None else 0
        return Queries(forward=optimised, backward=optimised)

    def _optimised(self, identities: int) -> int:
        return identities * self.candidates * self.epochs * self.draws

    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool of latents and the victim's confidence in every class for each."""
        context, prior = self._informed(context), require_mapping(context.prior)
        if self.discriminator_weight:
            require_discriminator(prior, self.name, "discriminator_weight")
        if self.optimise == "styles":
            require_styles(prior, self.name, instead="style")
        latents, text = pool(prior, self.pool_size, streams), "search candidates"
        if self.logit_scale == "auto":
            confidence, scale = pool_confidence_and_scale(context, latents, self.truncation, text=text)
            return {"latents": latents, "confidence": confidence, "logit_scale": torch.tensor(scale)}
        confidence = pool_confidence(context, latents, self.truncation, text=text, answer=self._answers())
        return {"latents": latents, "confidence": confidence}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise the candidates of every identity, then render and rank them."""
        context = self._informed(context)
        prior, own = require_mapping(context.prior), labels.to(context.device)
        votes = context.victim.access < Access.SCORES
        latents = choose(state, labels, self.candidates, stable=votes).to(context.device)  # (U, K, Z)
        scale = float(state["logit_scale"] if self.logit_scale == "auto" else self.logit_scale)
        kind = LayerStyles if self.optimise == "styles" else DirectStyles
        styles = kind(prior, latents, self.learning_rate, self.betas, psi=self.truncation)
        history: dict[str, list[Tensor]] = {"loss": [], "drift": []}
        done, steps = 0, self.epochs * -(-self.candidates // self.batch_size)
        names = labels.cpu()  # streams are named on the CPU
        for epoch in range(self.epochs):
            styles.learning_rate = self._rate(epoch)
            order = shuffled_candidates(self.candidates, names.tolist(), epoch, streams)  # DMMIA's: the two compare
            views = self._views(names, order, epoch, streams)
            copies = draw_copies(self.align, names.tolist(), self.candidates, self.draws, epoch, streams)
            copies = gather_rows(copies, order)
            order = order.to(context.device, non_blocking=True)
            for start in range(0, self.candidates, self.batch_size):
                batch = slice(start, start + self.batch_size)
                rows = order[:, batch]  # (U, B)
                w = styles.w(rows)  # (U, B, ...)
                history["drift"].append(styles.drift(w, rows))
                history["loss"].append(self._backward(context, w, own, views[:, batch], copies[:, batch], scale))
                styles.step(rows)
                done += 1
                context.progress(done, steps, f"epoch {epoch + 1}/{self.epochs}")
            if epoch + 1 in self.consensus_after:
                count, size = self.candidates, self.consensus_subset
                subsets = draw_subsets(names.tolist(), count, size, epoch + 1, streams)
                styles.replace_by_means(subsets.to(context.device, non_blocking=True))
        curves = stacked(history)
        context.log(event=self.name, identities=names.tolist(), **by_epoch(curves, self.epochs))
        finished = styles.finished().detach().flatten(0, 1)
        images = render_images(context, finished, prior.synthesis)
        grouped = images.view(len(labels), self.candidates, *images.shape[1:])
        confidence = robust_confidence(
            context, grouped, labels, streams, transforms=self.selection_transforms, answer=self._answers(scale)
        )
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.candidates),
            confidence=confidence.flatten(),
            latents=styles.untruncated(finished).float().cpu(),
            curves=curves,
            notes=(*stray_note(curves["drift"]), *self._notes(context, scale)),
        )

    def _informed(self, context: Context) -> Context:
        """The context with the victim that is asked: with ``mean_answers`` the one that draws no random numbers."""
        return replace(context, victim=context.victim.deterministic()) if self.mean_answers else context

    def _answers(self, scale: float | None = None) -> Answered:
        """How the victim's confidence is read in selections: at ``scale``, by default the setting, where it has one."""
        scaled = self.logit_scale != 1 and self.surrogate is None
        return scaled_answers(float(scale or self.logit_scale)) if scaled else confidence_in_classes

    def _notes(self, context: Context, scale: float) -> list[str]:
        notes = []
        if self.logit_scale == "auto":
            notes.append(f"logits were divided by {scale:.4g}, which the pool's answers gave")
        if self.surrogate is not None:
            notes.append(f"gradients are those of {self._followed(context).name}")
        return notes

    def _followed(self, context: Context) -> Victim:
        """The network whose gradients are followed.

        Raises:
            MibenchError: a surrogate is asked for and the run has none.
        """
        if self.surrogate is None:
            return context.victim
        if context.surrogate is None:
            raise MibenchError(f"ppa: there is no network of the surrogate {self.surrogate!r}")
        return context.surrogate

    def _backward(
        self, context: Context, w: Tensor, labels: Tensor, views: Tensor, copies: Tensor, scale: float
    ) -> Tensor:
        """Leave the gradient of every candidate's own loss at ``w`` ``(U, B, ...)``; mean losses ``(U,)``.

        Losses of an identity are summed and divided by its batch, as in DMMIA: the released code takes the mean, and
        Adam's step, which has no scale, feels a division through its epsilon only.
        """
        losses, prior, network = [], require_mapping(context.prior), self._followed(context)
        targets = labels.repeat_interleave(w.shape[1])
        for identities, block in blocks(w.shape[:2], context):
            position = (w.shape[:2], identities, block)
            images = prior.synthesis(w[identities, block].flatten(0, 1))
            shown = apply_views(self.views, context.fit(images), views[identities, block].flatten(0, 1))
            seen = shown.detach().requires_grad_()  # gradients of the draws meet here, then pass the prior once
            total = w.new_zeros(w.shape[:2], dtype=torch.float32)[identities, block]
            own = copies[identities, block].flatten(0, 1)
            for draw in range(self.draws):
                answered = network.logits(copied(seen, own, draw, self.align, self.align_strength))
                logits = scatter_into_step(answered.float() / scale, *position).flatten(0, 1)
                step = IDENTITY_LOSSES[self.loss](logits, targets).view(w.shape[:2])
                loss = step[identities, block] / self.draws
                (loss.sum() / w.shape[1]).backward()
                total = total + loss.detach()
            if self.discriminator_weight:
                scores = scatter_into_step(prior.realism(images).float()[:, None], *position).view(w.shape[:2])
                unreal = self.discriminator_weight * negative_log_realness(scores)[identities, block]
                torch.autograd.backward([shown, unreal.sum() / w.shape[1]], [seen.grad, None])
                total = total + unreal.detach()
            else:
                shown.backward(seen.grad)
            losses.append(total.flatten())
        return torch.cat(losses).view(w.shape[:2]).mean(dim=1)

    def _rate(self, epoch: int) -> float:
        """Adam's rate in an epoch (from 0)."""
        return self.learning_rate * self.decay ** sum(epoch >= milestone for milestone in self.milestones)

    def _views(self, labels: Tensor, order: Tensor, epoch: int, streams: Streams) -> Tensor:
        """Views ``(U, K, X)`` in that order, on the CPU: each image's own, or one crop for a batch."""
        count, names = self.candidates, labels.tolist()
        if self.shared_crop:
            return draw_shared_crops(names, count, self.batch_size, epoch, streams, self.crop_scale)
        return gather_rows(draw_views(self.views, names, count, epoch, streams, self.crop_scale), order)
