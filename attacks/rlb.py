"""RLB-MI: reinforcement learning by scores (Han et al., CVPR 2023, arXiv 2304.04625).

An agent for each identity learns where the prior's latents show it. An episode draws a state z, the agent answers with
an action a in (-1, 1), the state becomes ``alpha z + (1 - alpha) a``, and the victim's scores of the images of state
and action are the reward. After each episode the agent is tried once; what the victim is most sure of is kept.

Legend: U identities of a unit, K results of each, Z latent dimension, B transitions of a learning step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.rng import Streams

from .batching import micro_batches, should_report
from .diagnostics import by_twentieth, stacked
from .final_ranking import robust_confidence
from .rendering import decoder, render_images
from .requirements import check_ranges, require_prior
from .sac import SAC, Memory, SACSettings, initial_layers

LEAST = 1e-30  # of a probability before its logarithm; the released code takes that of 0
MARGIN = 1e-7  # released code: least margin before its logarithm
STATE, ACTION, EXCESS = 2.0, 2.0, 8.0  # released code: weights of the rewards


def reward(state_scores: Tensor, action_scores: Tensor, targets: Tensor) -> Tensor:
    """``2 log p_y(s) + 2 log p_y(a) + 8 log max(1e-7, p_y(s) - max_{c != y} p_c(s))``.

    Args:
        state_scores, action_scores: the victim's ``(U, C)``.
        targets: ``(U,)``.
    """
    own, of_action = (scores.gather(1, targets[:, None]).squeeze(1) for scores in (state_scores, action_scores))
    margin = own - state_scores.scatter(1, targets[:, None], -1.0).amax(dim=1)
    logs = STATE * own.clamp(min=LEAST).log() + ACTION * of_action.clamp(min=LEAST).log()
    return logs + EXCESS * margin.clamp(min=MARGIN).log()


@dataclass(frozen=True, kw_only=True)
class RLB(Attack):
    """RLB-MI. The defaults are the released code's."""

    name: ClassVar[str] = "rlb"
    access: ClassVar[Access] = Access.SCORES
    prior: ClassVar[str | None] = "gmi"
    budget_setting: ClassVar[str | None] = "episodes"

    unit_size: int = 10  # ours: agents trained side by side; no agent depends on another
    candidates: int = 1  # released: the best trial; more (ours): the best trials
    episodes: int = 40_000  # released code
    length: int = 1  # released code: steps of an episode
    diversity: float = 0.0  # released code: alpha, the state's share of the next state
    hidden: int = 256  # released code: units of the actor's and the critics' hidden layers
    batch_size: int = 256  # released code: transitions of a learning step, which begin once there are more
    learning_rate: float = 5e-4  # released code
    discount: float = 0.99  # released code; without effect at length 1
    mixing: float = 0.01  # released code: tau of the target critics; without effect at length 1
    scalar_noise: bool = True  # released code: one number for all dimensions and transitions; False: one for each
    mean_entropy: bool = True  # released code: log pi is a mean over dimensions, its target -Z; False: a sum
    ask_twice: bool = True  # released code: at alpha 0 state and action are one image, shown twice; False: once
    truncation: float = 1.0  # ours: psi at rendering, of priors with a mapping network
    selection_transforms: int = 0  # released: none; random views of the final ranking, as PPA

    def __post_init__(self) -> None:
        check_ranges(
            self,
            at_least_one=("unit_size", "candidates", "episodes", "length", "hidden", "batch_size"),
            positive=("learning_rate", "truncation"),
            not_negative=("selection_transforms",),
        )
        for name in ("diversity", "discount", "mixing"):
            if not 0 <= getattr(self, name) <= 1:
                raise MibenchError(f"rlb: {name} is a share in [0, 1], got {getattr(self, name)}")
        if self.candidates > self.episodes:
            raise MibenchError(
                f"rlb: candidates ({self.candidates}) are trials, one after each episode",
                cure=f"raise episodes ({self.episodes})",
            )

    @property
    def _images(self) -> int:
        """Images of a step: of state and action, unless they are one and shown once."""
        return 1 if self.diversity == 0 and not self.ask_twice else 2

    def planned_queries(self, identities: int) -> Queries:
        """Every step of every episode, one trial after each, then the views of the ranking."""
        played = self.episodes * (self.length * self._images + 1)
        return Queries(forward=identities * (played + self.candidates * max(self.selection_transforms, 1)))

    @torch.no_grad()
    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Train the agents of all identities side by side and keep their best trials."""
        prior, names, targets = require_prior(context.prior), labels.tolist(), labels.to(context.device)
        own = [streams.child("identity", name) for name in names]
        agents = self._agents(own, prior.latent_dim, context.device)
        memory = Memory(len(names), self.episodes * self.length, prior.latent_dim, context.device)
        best = torch.empty(len(names), 0, prior.latent_dim, device=context.device)
        sure = torch.empty(len(names), 0, device=context.device)
        history: dict[str, list[Tensor]] = {"reward": [], "trial": [], "best": []}
        for episode in range(self.episodes):
            noises = [one.generator("episode", episode) for one in own]
            z = self._normal(noises, prior.latent_dim).to(context.device, non_blocking=True)
            total = torch.zeros(len(names), device=context.device)
            for step in range(self.length):
                action = self._act(agents, z, noises)
                following = self.diversity * z + (1 - self.diversity) * action
                of_state = self._scores(context, following)
                of_action = of_state if self._images == 1 else self._scores(context, action)
                gained = reward(of_state, of_action, targets)
                memory.add(z, action, gained, following, done=step == self.length - 1)
                z, total = following, total + gained
                if len(memory) > self.batch_size:
                    self._learn(agents, memory, noises)
            z = self._normal(noises, prior.latent_dim).to(context.device, non_blocking=True)
            for _ in range(self.length):
                z = self.diversity * z + (1 - self.diversity) * self._act(agents, z, noises)
            trial = self._scores(context, z).gather(1, targets[:, None])
            sure, order = torch.cat([sure, trial], dim=1).sort(dim=1, descending=True, stable=True)
            best = torch.cat([best, z[:, None]], dim=1).take_along_dim(order[..., None], dim=1)[:, : self.candidates]
            sure = sure[:, : self.candidates]
            for name, values in (("reward", total), ("trial", trial[:, 0]), ("best", sure[:, 0])):
                history[name].append(values)
            if should_report(episode + 1, self.episodes):
                context.progress(episode + 1, self.episodes, "episodes")
        curves = stacked(history)
        context.log(event=self.name, identities=names, **by_twentieth(curves))
        latents = best.flatten(0, 1)
        images = render_images(context, latents, decoder(prior, self.truncation))
        grouped = images.view(len(names), self.candidates, *images.shape[1:])
        confidence = robust_confidence(context, grouped, labels, streams, transforms=self.selection_transforms)
        return Reconstruction(
            images=images,
            labels=labels.repeat_interleave(self.candidates),
            confidence=confidence.flatten(),
            latents=latents.float().cpu(),
            curves=curves,
        )

    def _agents(self, own: list[Streams], width: int, device: torch.device) -> SAC:
        """Fresh agents, each from streams of its own."""
        h = self.hidden
        actor = initial_layers([(width, h), (h, h), (h, width), (h, width)], [one.generator("actor") for one in own])
        first, second = (
            initial_layers([(2 * width, h), (h, h), (h, 1)], [one.generator("critic", k) for one in own], critic=True)
            for k in range(2)
        )
        settings = SACSettings(
            learning_rate=self.learning_rate,
            discount=self.discount,
            mixing=self.mixing,
            mean_entropy=self.mean_entropy,
        )
        there = [[tensor.to(device) for tensor in layers] for layers in (actor, first, second)]
        return SAC(there[0], (there[1], there[2]), settings)

    @staticmethod
    def _normal(generators: list[torch.Generator], *shape: int) -> Tensor:
        return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])

    def _noise(self, generators: list[torch.Generator], count: int, width: int) -> Tensor:
        return self._normal(generators, 1, 1) if self.scalar_noise else self._normal(generators, count, width)

    def _act(self, agents: SAC, z: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Actions ``(U, Z)`` of states ``(U, Z)``."""
        return agents.act(z[:, None], self._noise(generators, 1, z.shape[1]).to(z.device, non_blocking=True))[:, 0]

    def _learn(self, agents: SAC, memory: Memory, generators: list[torch.Generator]) -> None:
        batch = memory.draw(self.batch_size, generators)
        width = batch.states.shape[2]
        noise = [
            self._noise(generators, self.batch_size, width).to(batch.states.device, non_blocking=True) for _ in range(2)
        ]
        with torch.enable_grad():
            agents.learn(batch, *noise)

    def _scores(self, context: Context, z: Tensor) -> Tensor:
        """The victim's scores ``(U, C)`` of the images of latents ``(U, Z)``."""
        decode = decoder(require_prior(context.prior), self.truncation)
        parts = [context.victim.scores(context.fit(decode(z[part]))).float() for part in micro_batches(len(z), context)]
        return torch.cat(parts)
