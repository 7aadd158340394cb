"""Soft actor-critic in plain torch (Haarnoja et al., arXiv 1812.05905), one agent for each identity, as in RLB-MI.

All networks of the agents are stacked along a first axis and evaluated by batched products; an agent's losses, moments
of Adam and random numbers are its own.

Legend: U agents, B transitions, Z numbers of a state and of an action alike, H hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

LOG_STD = (-20.0, 2.0)  # released code: bounds
EPSILON = 1e-6  # released code: in the logarithm of tanh's derivative
LAST_LAYER = 3e-3  # released code: bound of the critics' last weights
Layers = list[Tensor]  # weight (U, out, in) and bias (U, out) of each layer in turn


class Batch(NamedTuple):
    """Transitions: states, actions and next states ``(U, B, Z)``, rewards and whether episodes ended ``(U, B)``."""

    states: Tensor
    actions: Tensor
    rewards: Tensor
    following: Tensor
    done: Tensor


class Memory:
    """All transitions of the agents so far, each agent's in its row.

    Args:
        agents: ``U``.
        capacity: the most transitions of an agent.
        width: ``Z``.
        device: where they are kept.
    """

    def __init__(self, agents: int, capacity: int, width: int, device: torch.device) -> None:
        self._vectors = torch.zeros(3, agents, capacity, width, device=device)  # states, actions, next states
        self._numbers = torch.zeros(2, agents, capacity, device=device)  # rewards, ends
        self._filled = 0

    def __len__(self) -> int:
        return self._filled

    def add(self, state: Tensor, action: Tensor, reward: Tensor, following: Tensor, *, done: bool) -> None:
        """Keep one transition of each agent: ``(U, Z)``, rewards ``(U,)``."""
        self._vectors[:, :, self._filled] = torch.stack([state, action, following])
        self._numbers[0, :, self._filled], self._numbers[1, :, self._filled] = reward, float(done)
        self._filled += 1

    def draw(self, count: int, generators: Sequence[torch.Generator]) -> Batch:
        """``count`` different transitions of each agent."""
        drawn = [torch.randperm(self._filled, generator=generator)[:count] for generator in generators]
        rows = torch.stack(drawn).to(self._vectors.device, non_blocking=True)  # (U, B)
        wide = rows[..., None].expand(-1, -1, self._vectors.shape[3])
        states, actions, following = (part.gather(1, wide) for part in self._vectors)
        rewards, done = (part.gather(1, rows) for part in self._numbers)
        return Batch(states, actions, rewards, following, done)


@dataclass(frozen=True, kw_only=True)
class SACSettings:
    """What a learning step takes.

    Attributes:
        learning_rate: of Adam, for actor, critics and temperature.
        discount: of the next state's value.
        mixing: share of the critics that moves into their targets in each step.
        mean_entropy: log pi is the mean over dimensions, not their sum, while the target entropy is -Z (released code).
    """

    learning_rate: float
    discount: float
    mixing: float
    mean_entropy: bool


def initial_layers(
    sizes: Sequence[tuple[int, int]], generators: Sequence[torch.Generator], *, critic: bool = False
) -> Layers:
    """Fresh layers ``(in, out)`` for each agent: torch's default, or the released critics' initialisation.

    Weights of a critic's hidden layers lie within ``1 / sqrt(out)``, those of its last layer within 3e-3.
    """
    agents = []
    for generator in generators:
        layers = []
        for number, (inputs, outputs) in enumerate(sizes):
            default = 1 / math.sqrt(inputs)
            last = number == len(sizes) - 1
            bound = default if not critic else LAST_LAYER if last else 1 / math.sqrt(outputs)
            bias = LAST_LAYER if critic and last else default
            layers.append(bound * (2 * torch.rand(outputs, inputs, generator=generator) - 1))
            layers.append(bias * (2 * torch.rand(outputs, generator=generator) - 1))
        agents.append(layers)
    return [torch.stack(parts) for parts in zip(*agents, strict=True)]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


class SAC:
    """Agents that learn to act.

    Args:
        actor: layers Z-H, H-H, H-Z (mean) and H-Z (log of the standard deviation).
        critics: two of layers 2Z-H, H-H, H-1.
        settings: of a learning step.
    """

    def __init__(self, actor: Layers, critics: tuple[Layers, Layers], settings: SACSettings) -> None:
        self.actor = [tensor.clone().requires_grad_() for tensor in actor]
        self.critics = tuple([tensor.clone().requires_grad_() for tensor in critic] for critic in critics)
        self.targets = tuple([tensor.clone() for tensor in critic] for critic in critics)
        self.settings = settings
        self.log_temperature = torch.zeros(len(actor[0]), device=actor[0].device, requires_grad=True)
        rate = settings.learning_rate
        self._actor_adam = torch.optim.Adam(self.actor, lr=rate)
        self._critic_adam = torch.optim.Adam([*self.critics[0], *self.critics[1]], lr=rate)
        self._temperature_adam = torch.optim.Adam([self.log_temperature], lr=rate)

    def policy(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log of the standard deviation before tanh, ``(U, B, Z)`` each."""
        w1, b1, w2, b2, w_mean, b_mean, w_std, b_std = self.actor
        hidden = _linear(_linear(states, w1, b1).relu(), w2, b2).relu()
        return _linear(hidden, w_mean, b_mean), _linear(hidden, w_std, b_std).clamp(*LOG_STD)

    def evaluate(self, states: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions ``(U, B, Z)``, log pi ``(U, B)``; ``noise`` is standard normal, ``(U, B, Z)`` or ``(U, 1, 1)``."""
        mean, log_std = self.policy(states)
        action = (mean + noise * log_std.exp()).tanh()
        density = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        density = density - (1 - action.square() + EPSILON).log()
        return action, density.mean(dim=2) if self.settings.mean_entropy else density.sum(dim=2)

    @torch.no_grad()
    def act(self, states: Tensor, noise: Tensor) -> Tensor:
        """Actions ``(U, B, Z)`` in (-1, 1)."""
        return self.evaluate(states, noise)[0]

    @staticmethod
    def value(critic: Layers, states: Tensor, actions: Tensor) -> Tensor:
        """A critic's values ``(U, B)``."""
        w1, b1, w2, b2, w3, b3 = critic
        hidden = _linear(_linear(torch.cat([states, actions], dim=2), w1, b1).relu(), w2, b2).relu()
        return _linear(hidden, w3, b3).squeeze(2)

    def learn(self, batch: Batch, noise: Tensor, other_noise: Tensor) -> None:
        """One step of critics, temperature and actor, then of the targets.

        Args:
            batch: transitions.
            noise, other_noise: of the actions in the next and in the present states, as :meth:`evaluate` takes them.
        """
        temperature = self.log_temperature.detach().exp()[:, None]
        with torch.no_grad():
            action, density = self.evaluate(batch.following, noise)
            least = torch.minimum(*(self.value(target, batch.following, action) for target in self.targets))
            wanted = batch.rewards + self.settings.discount * (1 - batch.done) * (least - temperature * density)
        self._critic_adam.zero_grad()
        for critic in self.critics:
            errors = self.value(critic, batch.states, batch.actions) - wanted
            (0.5 * errors.square().mean(dim=1)).sum().backward()
        self._critic_adam.step()

        action, density = self.evaluate(batch.states, other_noise)
        width = batch.states.shape[2]
        self._temperature_adam.zero_grad()
        (-self.log_temperature * (density.detach() - width).mean(dim=1)).sum().backward()
        self._temperature_adam.step()
        gain = (temperature * density - self.value(self.critics[0], batch.states, action)).mean(dim=1).sum()
        for tensor, gradient in zip(self.actor, torch.autograd.grad(gain, self.actor), strict=True):
            tensor.grad = gradient
        self._actor_adam.step()

        with torch.no_grad():
            for critic, target in zip(self.critics, self.targets, strict=True):
                for tensor, kept in zip(critic, target, strict=True):
                    kept.lerp_(tensor, self.settings.mixing)
