"""The ceiling: private portraits projected into the prior. It sees private images, so it is a control and no attack.

What an attack recovers is bounded by what its prior can show. The ceiling measures that bound: for each portrait of a
person it looks for the nearest image in the space that attacks search, and is then judged as they are. The victim is
asked nothing.

Legend: U identities of a unit, P portraits of each, R starts of a portrait, W numbers of a style, L layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mibench.api import Access, Attack, Context, MappingPrior, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches
from .initial_selection import pool
from .projection import Descent, pyramid_distance
from .rendering import render_images
from .requirements import check_ranges, require_mapping, require_styles

THUMBNAIL = 16  # pixels a side, at which starts are looked for


@dataclass(frozen=True, kw_only=True)
class Ceiling(Attack):
    """Projections of private portraits, ranked by how near they come."""

    name: ClassVar[str] = "ceiling"
    access: ClassVar[Access] = Access.LABELS
    needs_mapping: ClassVar[bool] = True
    needs_portraits: ClassVar[bool] = True

    unit_size: int = 5  # identities in one batch; no identity depends on another
    portraits: int = 16  # of each identity: as many as the protocols compare
    optimise: Literal["style", "styles"] = "style"  # one for all layers, as PPA and DMMIA; or one for each layer
    pool_size: int = 1000  # images of the prior among which a portrait finds its starts
    truncation: float = 0.7  # psi of these
    restarts: int = 4  # starts of each portrait, the nearest images of the pool
    trial_steps: int = 50  # of every start; then the best one goes on
    steps: int = 1000  # at most, of either stage of the best start
    learning_rate: float = 0.05  # of Adam, on styles
    betas: tuple[float, float] = (0.9, 0.999)
    patience: int = 25  # steps without progress after which the rate falls to a third
    tolerance: float = 0.01  # what counts as progress, as a share of the distance
    falls: int = 3  # of the rate, before a portrait is finished
    edges: float = 1.0  # weight of edges beside pixels in the distance

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "portraits", "pool_size", "restarts", "trial_steps", "steps", "patience"),
            positive=("truncation", "learning_rate"),
            not_negative=("tolerance", "falls", "edges"),
        )
        if self.restarts > self.pool_size:
            raise MibenchError(
                f"ceiling: restarts ({self.restarts}) are chosen from the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"ceiling: betas must lie in [0, 1), got {self.betas}")

    def planned_queries(self, identities: int) -> Queries:
        """None: the victim is shown nothing."""
        return Queries()

    def prepare(self, context: Context, streams: Streams) -> State:
        """Styles of the pool ``(pool_size, W)``, truncated, and thumbnails of their images."""
        prior = self._prior(context)
        with torch.no_grad():
            latents = pool(prior, self.pool_size, streams).to(context.device)
            styles = prior.truncate(prior.mapping(latents), self.truncation).float().cpu()
        images = render_images(context, styles, prior.synthesis)
        return {"styles": styles, "thumbnails": adaptive_avg_pool2d(images, THUMBNAIL)}

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """The nearest image of the prior to each portrait of each identity."""
        if context.portraits is None:
            raise MibenchError("ceiling: the run hands it no portraits of the private people")
        prior = self._prior(context)
        originals = context.portraits(labels, self.portraits).flatten(0, 1)  # (U P, 3, S, S)
        best, distances, taken = [], [], []
        for part in micro_batches(len(originals), context):
            styles, distance, steps = self._nearest(context, prior, state, originals[part], part, len(originals))
            best.append(styles)
            distances.append(distance)
            taken.append(steps)
        styles, distance = torch.cat(best), torch.cat(distances).cpu()
        count = float(torch.cat(taken).float().mean())
        context.log(event=self.name, identities=labels.tolist(), distance=float(distance.mean()), steps=count)
        return Reconstruction(
            images=render_images(context, styles, prior.synthesis),
            labels=labels.repeat_interleave(self.portraits),
            confidence=-distance,
            latents=styles.float().cpu(),
            notes=(f"portraits came as near as {distance.mean():.4f} (mean) after {count:.0f} steps (mean)",),
        )

    def _nearest(
        self, context: Context, prior: MappingPrior, state: State, originals: Tensor, part: slice, portraits: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Styles, distances ``(N,)`` and steps ``(N,)`` of the portraits ``part`` of a unit, ``(N, 3, S, S)``."""
        stages = 2 if self.optimise == "styles" else 1
        whole = self.trial_steps * self.restarts + self.steps * stages  # of one portrait, at most

        def render(styles: Tensor) -> Tensor:
            return context.fit(prior.synthesis(styles))

        def report(before: int, text: str, step: int) -> None:
            context.progress(part.start * whole + (before + step) * len(originals), portraits * whole, text)

        def descent(steps: int) -> Descent:
            return Descent(
                steps=steps,
                learning_rate=self.learning_rate,
                patience=self.patience,
                tolerance=self.tolerance,
                falls=self.falls,
                betas=self.betas,
                edges=self.edges,
            )

        starts = self._starts(state, originals)  # (N, R)
        tried: list[tuple[Tensor, Tensor]] = []
        for number in range(self.restarts):
            styles = state["styles"][starts[:, number]].to(context.device)
            trying = partial(report, number * self.trial_steps, "try starts")
            tried.append(descent(self.trial_steps).project(render, styles, originals, trying)[:2])
        chosen = torch.stack([distance for _, distance in tried]).argmin(dim=0)
        styles = torch.stack([styles for styles, _ in tried])[chosen, torch.arange(len(chosen), device=chosen.device)]
        before = self.restarts * self.trial_steps
        taken = torch.zeros(len(originals), dtype=torch.int64, device=originals.device)
        for stage in range(stages):
            if stage:
                styles = styles[:, None].repeat(1, prior.num_styles, 1)
            going_on = partial(report, before + stage * self.steps, "project portraits")
            styles, distance, steps = descent(self.steps).project(render, styles, originals, going_on)
            taken = taken + steps
        return styles, distance, taken

    def _starts(self, state: State, originals: Tensor) -> Tensor:
        """For each portrait ``(N, 3, S, S)`` the ``restarts`` nearest images of the pool, nearest first ``(N, R)``."""
        images, sought = state["thumbnails"].to(originals.device), adaptive_avg_pool2d(originals, THUMBNAIL)
        distances = torch.stack([pyramid_distance(images, one.expand_as(images), self.edges) for one in sought])
        return distances.sort(dim=1, stable=True).indices[:, : self.restarts].cpu()

    def _prior(self, context: Context) -> MappingPrior:
        prior = require_mapping(context.prior)
        return require_styles(prior, self.name, instead="style") if self.optimise == "styles" else prior
