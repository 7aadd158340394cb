"""DeepInversion: the released code's terms, the batch that it matches, and what it depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import VECTORS, sines
from test_ppa import attack, same_bits
from torch import Tensor, nn

from mibench.api import (
    Access,
    AccessError,
    BatchStatistics,
    ClassifierOutput,
    Context,
    ImageSpec,
    MibenchError,
    Queries,
    Victim,
)
from mibench.attacks.deepinversion import (
    DeepInversion,
    cosine_rate,
    statistics_distance,
    total_variation,
    total_variation_l1,
)
from mibench.rng import Streams

RUN = VECTORS["no_prior"]
X = sines((2, 3, 8, 8), 0.21, 0.4, 1.5)
LABELS, SIZE, CLASSES = torch.tensor([1, 3]), 16, 5
TINY = DeepInversion(unit_size=2, restarts=3, steps=12, learning_rate=0.05, warmup=2, jitter=1, space="pixels")


class Normed(nn.Module):
    """A network with two batch normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.Tanh(), nn.Conv2d(8, 6, 2), nn.BatchNorm2d(6), nn.Flatten()
        )
        self.head = nn.Linear(6 * 9, CLASSES)

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = self.body(images)
        return ClassifierOutput(features, self.head(features))


def context(access: Access = Access.GRADIENTS, **options: Any) -> Context:
    """A victim whose running statistics are those of bright images."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Normed()
        network.train()
        for _ in range(60):
            network(0.6 + 0.2 * torch.rand(32, 3, SIZE, SIZE))
    victim = Victim(network, image=ImageSpec(SIZE), num_classes=CLASSES, access=access)
    return Context(victim=victim, prior=None, device=torch.device("cpu"), **options)


# ---------------------------------------------------------------- vectors


def test_the_distance_of_statistics_is_the_released_one() -> None:
    norm = nn.BatchNorm2d(3).double()
    norm.running_mean = sines((3,), 1.0, 0.2, 0.3)
    norm.running_var = 1 + 0.2 * sines((3,), 1.0, 0.9)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, images: Tensor) -> ClassifierOutput:
            features = self.norm(images).flatten(1)
            return ClassifierOutput(features, features[:, :2])

    victim = Victim(Layer(), image=ImageSpec(8), num_classes=2, access=Access.GRADIENTS)
    images = X.clone().requires_grad_()
    logits, layers = victim.batch_statistics(images)
    assert logits.shape == (2, 2)
    value = statistics_distance(layers, 1.0)
    wanted = RUN["bn_feature_term"]
    assert float(value.detach()) == pytest.approx(wanted["value"], rel=1e-5)
    (gradient,) = torch.autograd.grad(value, images)
    assert gradient[0, 1, 2, :4].tolist() == pytest.approx(wanted["grad_0_1_2_first4"], rel=1e-4)
    assert not norm._forward_pre_hooks, "nothing stays behind on the network"


def test_the_priors_of_images_are_the_released_ones() -> None:
    assert float(total_variation(X, "batch")) == pytest.approx(RUN["image_prior"]["tv_l2"], rel=1e-5)
    assert float(total_variation_l1(X)) == pytest.approx(RUN["image_prior"]["tv_l1"], rel=1e-5)
    norms = torch.linalg.vector_norm(X.flatten(1), dim=1)
    assert float(norms.mean()) == pytest.approx(RUN["l2_term"], rel=1e-5)
    alone = torch.stack([total_variation(X[k : k + 1], "batch") for k in range(2)])
    assert float(total_variation(X, "image")) == pytest.approx(float(alone.mean()), rel=1e-6)


def test_the_rate_is_the_released_one() -> None:
    for step, rate in RUN["lr_cosine_base0.25_warm100_of2000"]:
        assert 0.25 * cosine_rate(step, 2000, 100) == pytest.approx(rate, rel=1e-5)


def test_pixels_stay_in_the_normalised_range() -> None:
    spec = ImageSpec(SIZE, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    victim = Victim(Normed(), image=spec, num_classes=CLASSES, access=Access.GRADIENTS)
    where = Context(victim=victim, prior=None, device=torch.device("cpu"))
    result = DeepInversion(steps=4, restarts=2, space="normalised", jitter=0, learning_rate=3.0).reconstruct(
        where, {}, LABELS, Streams(0)
    )
    assert float(result.images.min()) == 0
    assert float(result.images.max()) == 1


def test_the_first_layer_weighs_more() -> None:
    one = BatchStatistics(torch.zeros(2), torch.ones(2), torch.tensor([3.0, 4.0]), torch.ones(2))
    assert float(statistics_distance([one, one], 10.0)) == pytest.approx(55)


# ---------------------------------------------------------------- ours


def test_statistics_are_matched_and_the_victim_is_convinced() -> None:
    without, with_ = (attack(replace(TINY, steps=60, statistics_weight=weight), context()) for weight in (0.0, 1.0))
    assert float(with_.curves["L_statistics"][0, -1]) < 0.8 * float(without.curves["L_statistics"][0, -1])
    first, last = without.curves["L_id"][:, 0], without.curves["L_id"][:, -1]
    assert (last < first).all()
    assert with_.images.shape == (6, 3, SIZE, SIZE)
    assert with_.labels.tolist() == [1] * 3 + [3] * 3
    assert "statistics are those of 6 images" in with_.notes[0]


def test_equal_seeds_give_equal_bits_and_asks_are_as_planned() -> None:
    where = context()
    one = attack(TINY, where)
    assert where.victim.queries == TINY.planned_queries(2) == Queries(forward=6 * 13, backward=6 * 12)
    assert same_bits(one, attack(TINY, context(micro_batch=6)))
    assert not torch.equal(one.images, TINY.reconstruct(context(), {}, LABELS, Streams(8)).images)


def test_a_unit_that_does_not_fit_one_pass_is_refused() -> None:
    with pytest.raises(MibenchError, match="6 images of a unit are one batch") as refused:
        attack(TINY, context(micro_batch=5))
    assert "lower attack.unit_size" in str(refused.value)


def test_a_victim_without_batch_normalisation_or_gradients_is_refused() -> None:
    with pytest.raises(MibenchError, match="has no batch normalisation"):
        attack(TINY, test_gmi.context())
    with pytest.raises(AccessError):
        attack(TINY, context(Access.SCORES))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"betas": (1.0, 0.9)}, "betas must lie in"),
        ({"flip": 2.0}, "flip is a probability"),
        ({"jitter": -1}, "jitter must be finite and not negative"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)
