"""Gradients of the attacked model as a metric: closed forms, maskers, and what cannot be measured."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from maskers import CLASSES, SIZE, Cut, Dead, LeaksLess, Plain, Saturated, Shattered, Vanishing
from pretend_device import PretendGPU

from mibench.api import ImageSpec, Measured
from mibench.data.split import Images
from mibench.metrics.extractors import JudgeExtractor
from mibench.metrics.gradients import LEAST, measure
from mibench.metrics.inputs import ScoringInputs
from mibench.metrics.loss_gradients import BATCH, LossGradients

PUBLIC = 5
IDENTITIES = np.array([1, 1, 1, 4, 4, 4])
SELECTED = np.array([True, True, False, True, True, False])


def pixels(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def gradients(
    network: torch.nn.Module, own: torch.Tensor, public: Images | None = None, image: ImageSpec | None = None
) -> LossGradients:
    attacked = JudgeExtractor(network, image or ImageSpec(SIZE), name="attacked@toy")
    return LossGradients(attacked.logits, attacked.device, own, public)


def measured(network: torch.nn.Module, public: bool = True, own: torch.Tensor | None = None) -> Measured:
    images = pixels(len(IDENTITIES), 1) if own is None else own
    others = Images(pixels(PUBLIC, 2), torch.full((PUBLIC,), -1), ("nobody",) * PUBLIC) if public else None
    found = measure(
        ScoringInputs(
            samples=pd.DataFrame({"identity": IDENTITIES, "selected": SELECTED}),
            features=torch.empty(0),
            private_features=torch.empty(0),
            private_labels=torch.empty(0),
            extractor="judge",
            gradients=gradients(network, images, others),
            infos={info.name: info for info in measure.infos},
        )
    )
    assert isinstance(found, Measured)
    return found


def values(network: torch.nn.Module, **options) -> dict[str, float | None]:
    return {each.name: each.value for each in measured(network, **options).estimates}


def by_hand(network: Plain, images: torch.Tensor, label: int, std: float = 1.0, mean: float = 0.0) -> np.ndarray:
    """Norms of the gradient of the cross entropy of a linear classifier, in NumPy."""
    shown = (images.double().numpy().reshape(len(images), -1) / 255 - mean) / std
    weights = network.scale * network.weights.double().numpy()
    logits = shown @ weights.T
    scores = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    scores[:, label] -= 1
    return np.linalg.norm(scores @ weights / std, axis=1)


@pytest.mark.parametrize("network", [Plain(), LeaksLess()], ids=["plain", "leaks less"])
def test_norms_are_those_of_the_closed_form(network):
    columns = measured(network).columns
    for label in (1, 4):
        rows = label == IDENTITIES
        public = np.median(np.log10(by_hand(network, pixels(PUBLIC, 2), label)))
        np.testing.assert_allclose(columns["log_gradient_norm_public"][rows], public, rtol=1e-4)
        own = np.log10(by_hand(network, pixels(len(IDENTITIES), 1)[torch.from_numpy(rows)], label))
        np.testing.assert_allclose(columns["log_gradient_norm"][rows & SELECTED], own[:2], rtol=1e-4)
    assert np.isnan(columns["log_gradient_norm"][~SELECTED]).all()


def test_the_gradient_is_that_of_pixels_in_0_1():
    spec = ImageSpec(SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    found = gradients(Plain(), pixels(3, 1), image=spec)
    norms = found.at_reconstructions(torch.arange(3), torch.full((3,), 2)).norm
    np.testing.assert_allclose(norms, by_hand(Plain(), pixels(3, 1), 2, 0.25, 0.5), rtol=1e-4)


def test_an_honest_network_has_one_gradient_that_is_not_zero():
    for network in (Plain(), LeaksLess()):
        found = values(network)
        assert found["gradient_cosine"] == 1
        assert found["vanished_gradient_public"] == found["vanished_gradient"] == found["flat_confident"] == 0


def test_a_gradient_that_vanishes_is_seen_beside_the_same_scores():
    shown = pixels(3, 1).float() / 255
    torch.testing.assert_close(Vanishing()(shown).logits, Plain()(shown).logits)
    plain, hidden, dead = values(Plain()), values(Vanishing()), values(Dead())
    for name in ("log_gradient_norm_public", "log_gradient_norm"):
        assert hidden[name] == pytest.approx(plain[name] - 9, abs=1e-3)
        assert dead[name] == pytest.approx(math.log10(LEAST))
    assert (hidden["vanished_gradient"], dead["vanished_gradient"], dead["vanished_gradient_public"]) == (0, 1, 1)
    assert dead["gradient_cosine"] == 1


def test_a_saturated_network_is_flat_where_it_is_confident():
    weights = Saturated().weights.view(CLASSES, 3, SIZE, SIZE)
    best = torch.stack([(weights[label] > 0).to(torch.uint8) * 255 for label in IDENTITIES])
    assert values(Saturated(), own=best)["flat_confident"] == 1
    assert values(Saturated(), own=255 - best)["flat_confident"] == 0  # flat nowhere: it answers others
    assert values(LeaksLess(), own=best)["flat_confident"] == 0


def test_repeated_gradients_of_a_network_that_draws_point_elsewhere():
    assert abs(values(Shattered())["gradient_cosine"]) < 0.4
    assert Shattered()(pixels(2, 1) / 255).logits.equal(Plain()(pixels(2, 1) / 255).logits)


def test_draws_are_seeded_and_nobody_elses_are_touched():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    first = values(Shattered())
    assert torch.rand(2).equal(expected)
    assert values(Shattered()) == first


def test_batches_change_nothing():
    count = BATCH + 3
    found = gradients(Plain(), pixels(count, 1))
    labels = torch.arange(count) % CLASSES
    whole = found.at_reconstructions(torch.arange(count), labels).norm
    torch.testing.assert_close(whole[-1:], found.at_reconstructions(torch.tensor([count - 1]), labels[-1:]).norm)


def test_what_cannot_be_measured_is_null_with_the_reason():
    for each in measured(Cut()).estimates:
        assert each.value is None
        assert each.reason == "the attacked model's scores come without a gradient"
    found = {each.name: each for each in measured(Plain(), public=False).estimates}
    assert "public_control" in found["gradient_cosine"].reason
    assert found["log_gradient_norm"].value is not None


def test_on_a_gpu_values_are_the_cpu_s_and_no_batch_waits():
    waits = []
    for count in (BATCH, 4 * BATCH):
        labels = torch.arange(count) % CLASSES
        expected = gradients(Plain(), pixels(count, 1)).at_reconstructions(torch.arange(count), labels)
        with PretendGPU() as gpu:
            attacked = JudgeExtractor(Plain(), ImageSpec(SIZE), name="attacked@toy", device="cuda")
            others = Images(pixels(count, 1), torch.full((count,), -1), ("nobody",) * count)
            found = LossGradients(attacked.logits, attacked.device, pixels(count, 1), others)
            own, public = found.at_reconstructions(torch.arange(count), labels), found.at_public(labels, 1)
        assert own.norm.equal(expected.norm)
        assert public is not None
        assert public.cosine.eq(1).all()
        waits.append(gpu.waits)
    assert waits[0] == waits[1]
