"""IF-GMI: intermediate features of the generator are optimised as well (Qiu et al., ECCV 2024, released code).

Stage 0 moves the styles w of PPA's best candidates. Each later stage enters the synthesis network one block further on,
at the features that the last stage's w leads to, and moves w and these features, each kept in an L1 ball around where
the stage began.

Legend: U identities of a unit, K candidates of each, N = U K, W dimension of w, F numbers of the features of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .augment import apply_crops, draw_crops
from .batching import blocks, scatter_into_step
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .initial_selection import choose, pool, pool_confidence
from .l1_ball import into_l1_ball, radii
from .losses import IDENTITY_LOSSES, identity_loss
from .rendering import render_images
from .requirements import check_ranges, require_mapping
from .staged_synthesis import Entered, require_stages


@dataclass(frozen=True, kw_only=True)
class IFGMI(Attack):
    """IF-GMI. The defaults are the released configuration for CelebA with FFHQ, with the earlier blocks' image kept."""

    name: ClassVar[str] = "if-gmi"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str | None] = "steps"

    unit_size: int = 10  # ours: identities in one batch; no identity depends on another
    pool_size: int = 5000  # released configuration, as PPA
    candidates: int = 50  # released configuration: the best of the pool, all of them results
    truncation: float = 0.5  # released configuration: psi; here at all layers, released at the first 8
    steps: int = 170  # released configuration: of all stages together, 70 + 4 x 25
    stages: int = 5  # released configuration: stage 0 for w alone, then one for each block that is entered
    stage_steps: int = 25  # released configuration: of each stage but the first, which has the rest
    learning_rate: float = 0.005  # released configuration, of w
    feature_learning_rate: float = 0.005  # released configuration
    betas: tuple[float, float] = (0.1, 0.1)  # released configuration; Adam begins anew in each stage
    loss: str = "poincare"  # released configuration
    crop_scale: tuple[float, float] = (0.9, 1.0)  # released configuration: area of a square crop in each step
    shared_crop: bool = False  # ours, as PPA: a crop for each image; True: one for an identity's batch (released)
    rgb_skip: Literal["keep", "drop"] = "keep"  # ours: the image of earlier blocks stays; drop: it is lost (released)
    # released: the table's radii; elements (ours): the same for each number, for priors of other sizes; share (ours):
    # radius_share of the L1 norm where the stage begins, features only
    radius: Literal["released", "elements", "share"] = "released"
    radius_share: float = 0.05  # ours
    result: Literal["after", "before"] = "after"  # ours: the last step counts; before: images before it (released)
    selection_transforms: int = 0  # released: none; random views of the final ranking, as PPA

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        check_ranges(
            self,
            at_least_one=("unit_size", "pool_size", "candidates", "steps", "stages", "stage_steps"),
            positive=("truncation", "learning_rate", "feature_learning_rate", "radius_share"),
            not_negative=("selection_transforms",),
        )
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"if-gmi: candidates ({self.candidates}) are chosen from the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )
        later = (self.stages - 1) * self.stage_steps
        if self.steps <= later:
            raise MibenchError(
                f"if-gmi: steps ({self.steps}) leave none for the first stage, the others take {later}",
                cure="raise steps, or lower stages or stage_steps",
            )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise MibenchError(
                f"if-gmi: crop_scale must be two areas in (0, 1], the smaller first, got {self.crop_scale}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"if-gmi: betas must lie in [0, 1), got {self.betas}")

    @property
    def schedule(self) -> tuple[int, ...]:
        """Steps of each stage."""
        return self.steps - (self.stages - 1) * self.stage_steps, *(self.stage_steps,) * (self.stages - 1)

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image."""
        return Queries(forward=2 * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """Every candidate forwards and backwards in every step, then its views in the final ranking."""
        optimised = identities * self.candidates * self.steps
        ranked = identities * self.candidates * max(self.selection_transforms, 1)
        return Queries(forward=optimised + ranked, backward=optimised)

    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool of latents and the victim's confidence in every class for each."""
        prior = require_mapping(context.prior)
        require_stages(prior, self.stages)
        latents = pool(prior, self.pool_size, streams)
        return {
            "latents": latents,
            "confidence": pool_confidence(context, latents, self.truncation, text="search candidates"),
        }

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise w, then w and the features that enter each block in turn."""
        prior = require_stages(require_mapping(context.prior), self.stages)
        names = labels.tolist()
        latents = choose(state, labels, self.candidates).to(context.device).flatten(0, 1)
        with torch.no_grad():
            entered = Entered(0, prior.truncate(prior.mapping(latents), self.truncation).float())
        losses: list[Tensor] = []
        for steps in self.schedule:
            if losses:
                entered = entered.next(prior, context, keep_colours=self.rgb_skip == "keep")
            entered = self._stage(context, entered, steps, labels.to(context.device), losses, names, streams)
        curves = stacked({"loss": losses})
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        rows = torch.arange(len(latents))
        images = render_images(context, rows, lambda part: entered.part(part).decode(prior))
        grouped = images.view(len(labels), self.candidates, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.candidates),
            confidence=confidence.flatten(),
            latents=prior.truncate(entered.w, 1 / self.truncation).float().cpu(),  # features are not among them
            curves=curves,
        )

    def _stage(
        self,
        context: Context,
        entered: Entered,
        steps: int,
        labels: Tensor,
        losses: list[Tensor],
        names: list[int],
        streams: Streams,
    ) -> Entered:
        """``steps`` steps of w and of the features that enter the stage's block; appends their losses ``(U,)``."""
        start = entered
        around_w, around_features = radii(self.radius, self.radius_share, start.stage, start.w, start.features)
        moved = start.leaves()
        groups = [{"params": [moved.w], "lr": self.learning_rate}]
        if moved.features is not None:
            groups.append({"params": [moved.features], "lr": self.feature_learning_rate})
        adam = torch.optim.Adam(groups, betas=self.betas)
        for step in range(1, steps + 1):
            adam.zero_grad()
            crops = self._crops(names, len(losses), streams).to(context.device, non_blocking=True)
            losses.append(self._backward(context, moved, labels, crops))
            last = step == steps and start.stage == self.stages - 1
            if last and self.result == "before":
                break
            adam.step()
            with torch.no_grad():
                moved.w.copy_(into_l1_ball(moved.w, start.w, around_w))
                if moved.features is not None and start.features is not None:
                    moved.features.copy_(into_l1_ball(moved.features, start.features, around_features))
            context.progress(len(losses), self.steps, f"stage {start.stage + 1}/{self.stages}")
        return moved.detached()

    def _backward(self, context: Context, moved: Entered, labels: Tensor, crops: Tensor) -> Tensor:
        """Leave the gradient of every candidate's own loss at w and features; mean losses ``(U,)``."""
        prior = require_stages(require_mapping(context.prior), self.stages)
        shape, losses = crops.shape[:2], []
        targets = labels.repeat_interleave(shape[1])
        rows = torch.arange(shape.numel(), device=labels.device).view(shape)
        for identities, block in blocks(shape, context):
            images = context.fit(moved.part(rows[identities, block].flatten()).decode(prior))
            shown = apply_crops(images, crops[identities, block].flatten(0, 1))
            logits = scatter_into_step(context.victim.logits(shown).float(), shape, identities, block)
            loss = IDENTITY_LOSSES[self.loss](logits.flatten(0, 1), targets).view(shape)[identities, block]
            (loss.sum() / shape[1]).backward()
            losses.append(loss.detach().flatten())
        return torch.cat(losses).view(shape).mean(dim=1)

    def _crops(self, names: list[int], step: int, streams: Streams) -> Tensor:
        """Crops ``(U, K, 4)`` of a step: each image's own, or one for an identity."""
        drawn = 1 if self.shared_crop else self.candidates
        own = [draw_crops(drawn, streams.generator("identity", y, "crops", step), scale=self.crop_scale) for y in names]
        return torch.stack(own).expand(len(names), self.candidates, 4)
