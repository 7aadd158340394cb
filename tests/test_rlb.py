"""RLB-MI: the released agent and episodes, and what an attack depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import VECTORS
from test_gmi import LABELS
from test_mirror import g, toy_context
from test_ppa import attack, same_bits
from torch import Tensor

from mibench import registry, settings
from mibench.api import Access, AccessError, MibenchError, Queries
from mibench.attacks.rlb import RLB, reward
from mibench.attacks.sac import SAC, Batch, Layers, Memory, SACSettings, initial_layers
from mibench.rng import Streams, stream

AGENT, RUN = VECTORS["sac"], VECTORS["rlb"]
RELEASED = SACSettings(learning_rate=5e-4, discount=0.99, mixing=0.01, mean_entropy=True)
TINY = RLB(unit_size=2, candidates=3, episodes=12, hidden=8, batch_size=4, selection_transforms=2)
CLEAN: dict[str, Any] = {"scalar_noise": False, "mean_entropy": False, "ask_twice": False}


# ---------------------------------------------------------------- vectors


def filled(sizes: list[tuple[int, int]], phase: float) -> Layers:
    """Parameter j of a network is ``0.4 sin(0.7 i + 0.9 j + phase)``, flat i."""
    layers = []
    for inputs, outputs in sizes:
        for shape in ((outputs, inputs), (outputs,)):
            i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
            layers.append((0.4 * (0.7 * i + 0.9 * len(layers) + phase).sin()).float().view(1, *shape))
    return layers


def block(first: int) -> Tensor:
    return torch.tensor([[[g(first + 4 * i + d) for d in range(4)] for i in range(6)]])


def test_the_agent_is_the_released_one() -> None:
    """Its policy, then three learning steps of ended episodes and one of others."""
    critic = [(8, 8), (8, 8), (8, 1)]
    agents = SAC(filled([(4, 8), (8, 8), (8, 4), (8, 4)], 0.0), (filled(critic, 1.0), filled(critic, 2.0)), RELEASED)
    states, actions, following = block(0), block(200).tanh(), block(300)
    rewards = -1 - 0.5 * torch.arange(6.0)[None]
    mean, log_std = agents.policy(states)
    action, density = agents.evaluate(states, torch.full((1, 1, 1), 0.3))
    near: dict[str, Any] = {"abs": 2e-5}
    assert mean[0, 0].tolist() == pytest.approx(AGENT["actor_mu_row0"], **near)
    assert log_std[0, 0].tolist() == pytest.approx(AGENT["actor_log_std_row0"], **near)
    assert action[0, 0].tolist() == pytest.approx(AGENT["evaluate_action_row0"], **near)
    assert density[0].tolist() == pytest.approx(AGENT["evaluate_log_pi"], **near)
    noise = iter([-0.7, 1.1, 0.2, -0.4, 0.9, 0.3, -0.7, 1.1])
    for step in range(1, 5):
        done = torch.full((1, 6), float(step < 4))
        e = [torch.full((1, 1, 1), next(noise)) for _ in range(2)]
        temperature = float(agents.log_temperature.detach().exp())
        agents.learn(Batch(states, actions, rewards, following, done), *e)
        wanted = AGENT[f"after_learn_{step}_{'done' if step < 4 else 'not_done'}"]
        assert float(agents.log_temperature.detach()) == pytest.approx(wanted["log_alpha"], **near)
        assert agents.critics[0][4][0].flatten()[:4].tolist() == pytest.approx(wanted["critic1_fc3_weight"], **near)
        assert agents.actor[5][0].tolist() == pytest.approx(wanted["actor_mu_bias"], **near)
        if step < 4:
            assert temperature == pytest.approx(wanted["alpha_used"], **near)
            target = agents.targets[0][4][0].flatten()[:4].tolist()
            assert target == pytest.approx(wanted["critic1_target_fc3_weight"], **near)
            value = agents.value(agents.critics[0], states, actions)
            assert float(value[0, 0].detach()) == pytest.approx(wanted["q1_row0"], **near)


@pytest.mark.parametrize(("diversity", "length"), [(0.0, 1), (0.5, 2)])
def test_episodes_are_the_released_ones(monkeypatch: pytest.MonkeyPatch, diversity: float, length: int) -> None:
    drawn, acted = iter(range(0, 600, 6)), iter(range(100, 700, 6))
    kept: list[tuple[Any, ...]] = []
    add = Memory.add

    def watched(self: Memory, state: Tensor, action: Tensor, gained: Tensor, following: Tensor, *, done: bool) -> None:
        kept.append((state[0].tolist(), float(gained), done))
        add(self, state, action, gained, following, done=done)

    def next_six(numbers: Any) -> Tensor:
        first = next(numbers)
        return torch.tensor([[g(first + d) for d in range(6)]])

    monkeypatch.setattr(Memory, "add", watched)
    monkeypatch.setattr(RLB, "_normal", lambda *_: next_six(drawn))
    monkeypatch.setattr(RLB, "_act", lambda *_: next_six(acted).tanh())
    one = RLB(episodes=3, length=length, diversity=diversity)
    one.reconstruct(toy_context(), {}, torch.tensor([2]), Streams(0))
    wanted = RUN[f"alpha{diversity}_steps{length}"]
    assert [gained for _, gained, _ in kept] == pytest.approx(wanted["rewards"], abs=2e-4)
    assert [done for *_, done in kept] == wanted["done"]
    for (state, *_), expected in zip(kept, wanted["states"], strict=False):
        assert state == pytest.approx(expected, abs=2e-5)


def test_the_reward_is_the_released_one() -> None:
    for of_state, of_action, other, wanted in RUN["reward_of_p_state_p_action_best_other"]:
        one, two = torch.tensor([[of_state, other]]), torch.tensor([[of_action, 0.0]])
        assert float(reward(one, two, torch.tensor([0]))) == pytest.approx(wanted, abs=2e-4)
    nothing = torch.tensor([[0.0, 1.0]])
    assert torch.isfinite(reward(nothing, nothing, torch.tensor([0]))).all()


# ---------------------------------------------------------------- ours


def test_networks_begin_within_the_released_bounds() -> None:
    generators = [stream(0, name) for name in range(3)]
    layers = initial_layers([(20, 64), (64, 64), (64, 1)], generators, critic=True)
    for tensor, bound in zip(layers, (1 / 8, 20**-0.5, 1 / 8, 1 / 8, 3e-3, 3e-3), strict=True):
        assert len(tensor) == 3
        assert float(tensor.abs().max()) <= bound
        assert tensor.numel() < 100 or float(tensor.abs().max()) > 0.9 * bound


def test_agents_side_by_side_learn_what_each_would_alone() -> None:
    sizes = [(8, 8), (8, 8), (8, 1)]

    def agents(names: list[int]) -> SAC:
        actor = initial_layers([(4, 8), (8, 8), (8, 4), (8, 4)], [stream(n, "actor") for n in names])
        critics = [initial_layers(sizes, [stream(n, "critic", k) for n in names], critic=True) for k in range(2)]
        made = SAC(actor, (critics[0], critics[1]), RELEASED)
        parts = [torch.stack([torch.randn(6, 4, generator=stream(n, part)) for n in names]) for part in range(3)]
        rewards = torch.stack([torch.randn(6, generator=stream(n, "rewards")) for n in names])
        for step in range(3):
            noise = [torch.stack([torch.randn(6, 4, generator=stream(n, step, k)) for n in names]) for k in range(2)]
            made.learn(Batch(parts[0], parts[1].tanh(), rewards, parts[2], torch.zeros_like(rewards)), *noise)
        return made

    both, alone = agents([0, 1]), agents([1])
    for one, other in zip(both.actor, alone.actor, strict=True):
        assert torch.allclose(one[1:], other, atol=1e-5)
    assert torch.allclose(both.log_temperature[1:], alone.log_temperature, atol=1e-6)


def test_an_agent_learns_to_do_what_pays() -> None:
    """A bandit whose reward is the first coordinate of the action."""
    layers = [initial_layers(sizes, [stream(0, k)], critic=k > 0) for k, sizes in enumerate(
        ([(3, 16), (16, 16), (16, 3), (16, 3)], [(6, 16), (16, 16), (16, 1)], [(6, 16), (16, 16), (16, 1)])
    )]  # fmt: skip
    made = SAC(layers[0], (layers[1], layers[2]), replace(RELEASED, learning_rate=5e-3, mean_entropy=False))
    states = torch.zeros(1, 64, 3)
    for step in range(150):
        actions = 2 * torch.rand(1, 64, 3, generator=stream(1, step)) - 1
        noise = [torch.randn(1, 64, 3, generator=stream(2, step, k)) for k in range(2)]
        made.learn(Batch(states, actions, 20 * actions[..., 0], states, torch.ones(1, 64)), *noise)
    action = made.act(states[:, :1], torch.zeros(1, 1, 3))[0, 0]
    assert float(action[0]) > 0.5
    assert float(action[0]) > float(action[1:].abs().max())


def test_transitions_are_drawn_without_repetition() -> None:
    memory = Memory(2, 8, 1, torch.device("cpu"))
    for number in range(6):
        value = torch.full((2, 1), float(number))
        memory.add(value, value, value[:, 0], value, done=number == 5)
    batch = memory.draw(4, [stream(0, "one"), stream(0, "two")])
    assert len(memory) == 6
    for row in batch.states[..., 0].tolist():
        assert len(set(row)) == 4
        assert set(row) <= set(range(6))
    assert torch.equal(batch.states[..., 0], batch.rewards)
    assert torch.equal(batch.done, (batch.rewards == 5).float())


@pytest.mark.parametrize("change", [{}, CLEAN, {"diversity": 0.3, "length": 2}], ids=str)
def test_it_needs_scores_and_asks_what_it_plans(change: dict[str, Any]) -> None:
    one, where = replace(TINY, **change), test_gmi.context(access=Access.SCORES, micro_batch=1)
    result = attack(one, where)
    assert where.victim.queries == one.planned_queries(2)
    assert result.labels.tolist() == [1] * 3 + [3] * 3
    assert result.curves["trial"].shape == (2, 12)
    assert (result.curves["best"].diff(dim=1) >= 0).all()
    with pytest.raises(AccessError):
        attack(one, test_gmi.context(access=Access.LABELS))


def test_the_released_attack_shows_three_images_an_episode_and_the_clean_one_two() -> None:
    assert RLB(episodes=40_000).planned_queries(1).forward == 120_001
    assert RLB(episodes=40_000, ask_twice=False).planned_queries(1).forward == 80_001


def test_the_best_trials_are_returned() -> None:
    where = test_gmi.context()
    result = attack(replace(TINY, selection_transforms=0), where)
    trials = result.curves["trial"].sort(dim=1, descending=True).values[:, :3]
    assert torch.allclose(result.confidence.view(2, 3), trials, atol=1e-4)


@pytest.mark.parametrize("change", [{}, CLEAN], ids=["released", "clean"])
def test_results_depend_on_the_seed_and_on_nothing_else(change: dict[str, Any]) -> None:
    one = replace(TINY, **change)
    together = attack(one, test_gmi.context())
    assert same_bits(together, attack(one, test_gmi.context()))
    assert torch.allclose(together.images, attack(one, test_gmi.context(micro_batch=1)).images, atol=1e-4)
    alone = attack(one, test_gmi.context(), LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=1e-3)


def test_presets_released_and_clean() -> None:
    presets, kind = settings.attack_presets("rlb"), registry.load("attack", "rlb")

    def resolved(name: str) -> Any:
        return settings.resolve(kind, [presets.presets[name]], scope="attack")[0]

    assert resolved("official-code") == RLB()
    for name in ("clean", "recommended", "demo", "smoke"):
        one = resolved(name)
        assert not any((one.scalar_noise, one.mean_entropy, one.ask_twice))
    assert resolved("recommended").planned_queries(50) == Queries(forward=50 * 1700)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"diversity": 1.5}, "diversity is a share"),
        ({"candidates": 13}, "raise episodes"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)
