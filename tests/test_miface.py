"""MIFace: the specification's descents, its ends, and what it depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import VECTORS, sines
from test_gmi import LABELS, SIZE
from test_ppa import attack, same_bits
from torch import Tensor, nn

from mibench.api import Access, AccessError, ClassifierOutput, Context, ImageSpec, MibenchError, Queries, Victim
from mibench.attacks.miface import MIFace
from mibench.rng import Streams

RUN = VECTORS["no_prior"]["miface_own"]
TINY = MIFace(
    unit_size=2,
    restarts=3,
    steps=12,
    patience=None,
    threshold=None,
    start="uniform",
    cost="cross_entropy",
    selection_transforms=2,
)


class Linear(nn.Module):
    """``softmax(W x)`` of the 16 numbers of an image of 4 x 4 pixels and one channel."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight.float()

    def forward(self, images: Tensor) -> ClassifierOutput:
        x = images.flatten(1)
        return ClassifierOutput(x, x @ self.weight.T)


def toy(weight: Tensor) -> Context:
    spec = ImageSpec(4, channels=1)
    victim = Victim(Linear(weight), image=spec, num_classes=len(weight), access=Access.GRADIENTS)
    return Context(victim=victim, prior=None, device=torch.device("cpu"))


def descended(weight: Tensor, label: int, **settings: Any) -> Any:
    where = toy(weight)
    result = MIFace(**settings).reconstruct(where, {}, torch.tensor([label]), Streams(0))
    return result, where.victim.queries


TEN, FOUR = sines((10, 16), 1.7, 0.3, 2.0), sines((4, 16), 1.7, 0.3, 3.0)


def test_ten_classes_until_the_steps_are_used_up() -> None:
    wanted = RUN["alpha60_beta10_gamma0.05_lambda0.5"]
    result, queries = descended(TEN, 3, steps=60, patience=10, threshold=0.95, learning_rate=0.5)
    cost = result.curves["cost"][0]
    assert cost[1:5].tolist() == pytest.approx(wanted["costs_first4"], rel=1e-4)
    assert float(cost.min()) == pytest.approx(wanted["best_cost"], rel=1e-4)
    assert result.images.flatten()[:6].tolist() == pytest.approx(wanted["best_x_first6"], abs=1e-4)
    assert queries == Queries(forward=62, backward=60), "the start, 60 steps and the ranking"
    assert wanted["steps"] == 60


@pytest.mark.parametrize(
    ("name", "threshold", "rate"),
    [("4_classes_y1_same_settings", 0.95, 0.5), ("4_classes_y1_gamma0_lambda4", None, 4.0)],
)
def test_four_classes_until_the_cost_is_small_or_falls_no_further(
    name: str, threshold: float | None, rate: float
) -> None:
    result, queries = descended(FOUR, 1, steps=60, patience=10, threshold=threshold, learning_rate=rate)
    steps, cost = RUN[name]["steps"], result.curves["cost"][0]
    assert queries.forward == steps + 2
    last = RUN[name]["costs_last2"]
    assert cost[steps + 1 - len(last) : steps + 1].tolist() == pytest.approx(last, rel=1e-3, abs=1e-7)
    assert (cost[steps:] == cost[steps]).all(), "what has ended is frozen"
    assert any("stopped early" in note for note in result.notes)


def test_it_needs_no_prior_and_convinces_the_victim() -> None:
    where = replace(test_gmi.context(), prior=None)
    result = attack(replace(TINY, steps=60, learning_rate=1.0), where)
    assert result.images.shape == (6, 3, SIZE, SIZE)
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    assert result.labels.tolist() == [1] * 3 + [3] * 3
    confidence = result.curves["confidence"]
    assert (confidence[:, -1] > confidence[:, 0] + 0.1).all()
    with pytest.raises(AccessError):
        attack(TINY, test_gmi.context(access=Access.SCORES))


def test_from_zero_an_identity_is_descended_once_and_all_its_results_are_alike() -> None:
    one = replace(TINY, start="zero")
    where = test_gmi.context()
    result = attack(one, where)
    assert where.victim.queries == one.planned_queries(2) == Queries(forward=2 * 13 + 2 * 3 * 2, backward=2 * 12)
    images = result.images.view(2, 3, *result.images.shape[1:])
    assert (images == images[:, :1]).all()
    uniform = attack(TINY).images.view(2, 3, -1)
    assert not torch.equal(uniform[:, 0], uniform[:, 1])


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    together = attack(TINY, test_gmi.context())
    assert same_bits(together, attack(TINY, test_gmi.context(micro_batch=2)))
    alone = attack(TINY, test_gmi.context(), LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=1e-5)


def test_it_returns_the_best_moment_and_an_ended_descent_does_not_change_the_others() -> None:
    one = replace(TINY, steps=40, threshold=0.6, learning_rate=1.0)
    assert one.stops_early
    where = test_gmi.context()
    together = attack(one, where)
    assert where.victim.queries.forward < one.planned_queries(2).forward
    for label in LABELS:
        alone = attack(one, test_gmi.context(), label[None])
        assert torch.allclose(together.images[together.labels == label], alone.images, atol=1e-5)
    wild = attack(replace(TINY, learning_rate=30.0, restarts=1), test_gmi.context())
    scores = test_gmi.context().victim.scores(wild.images).gather(1, wild.labels[:, None]).log().neg().squeeze(1)
    assert scores.tolist() == pytest.approx(wild.curves["cost"].amin(dim=1).tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("values", "words"),
    [({"patience": 0}, "patience must be at least 1"), ({"threshold": 1.0}, "threshold must lie between"),
     ({"learning_rate": 0.0}, "learning_rate must be positive")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)
