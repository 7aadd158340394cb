"""What adapts PPA to defences that hide gradients: draws, mean answers, losses, logit scale, views, a surrogate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from test_dmmia import CLASSES, LABELS, SIZE, Classifier, context
from test_ppa import TINY, attack
from torch import Tensor, nn

from mibench.api import Access, AccessError, ClassifierOutput, Context, ImageSpec, MibenchError, Network, Victim
from mibench.attacks.logit_scale import MEDIAN, unsaturating
from mibench.attacks.losses import logit, max_margin
from mibench.attacks.strong_views import COARSER, apply_strong_views, draw_strong_views
from mibench.rng import Streams

TRANSFER = replace(TINY, surrogate="another")
NOISE = 3.0


class Drawing(Network, nn.Module):
    """A classifier that adds noise to its logits, in evaluation as well, unless it is told not to."""

    def __init__(self, classifier: nn.Module, noise: float = NOISE) -> None:
        super().__init__()
        self.classifier, self.noise = classifier, noise

    def deterministic(self) -> nn.Module | None:
        return self.classifier if self.noise else None

    def forward(self, images: Tensor) -> ClassifierOutput:
        features, logits = self.classifier(images)
        return ClassifierOutput(features, logits + self.noise * torch.randn_like(logits))


def drawing(access: Access = Access.GRADIENTS, noise: float = NOISE) -> Context:
    where = context(access)
    network = Drawing(where.victim._network, noise)
    victim = Victim(network, image=ImageSpec(SIZE), num_classes=CLASSES, access=access)
    return replace(where, victim=victim)


def transferring(access: Access = Access.SCORES) -> Context:
    """The victim of ``context`` and, as the surrogate, another network of its kind."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        other = Classifier()
    surrogate = Victim(other, image=ImageSpec(SIZE), num_classes=CLASSES, access=Access.GRADIENTS, name="another")
    return replace(context(access), surrogate=surrogate)


# ---------------------------------------------------------------- random answers


def test_draws_of_a_victim_that_draws_nothing_change_its_queries_and_nothing_else() -> None:
    where = context()
    configuration = replace(TINY, draws=3)
    state = configuration.prepare(where, Streams(7, ("test",)))
    where.victim.queries.forward = 0
    result = configuration.reconstruct(where, state, LABELS, Streams(7, ("test",)))
    assert where.victim.queries == configuration.planned_queries(2)
    assert where.victim.queries.backward == 3 * TINY.planned_queries(2).backward
    once = attack(TINY)
    assert torch.allclose(result.images, once.images, atol=1e-3)
    assert torch.allclose(result.curves["loss"], once.curves["loss"], atol=1e-3)


def step_gradients(configuration: Any, where: Context, repeats: int) -> Tensor:
    """Gradients ``(repeats, numbers)`` of one step at the same styles."""
    prior: Any = where.prior
    w = prior.mapping(prior.sample(4, torch.Generator().manual_seed(3))).detach().view(2, 2, -1)
    views = configuration._views(LABELS, torch.arange(4).expand(2, 4), 0, Streams(7))[:, :2]
    gradients = []
    for _ in range(repeats):
        leaf = w.clone().requires_grad_()
        configuration._backward(where, leaf, LABELS, views, torch.zeros(2, 2, 0), 1.0)
        assert leaf.grad is not None
        gradients.append(leaf.grad.flatten())
    return torch.stack(gradients)


def test_more_draws_bring_repeated_gradients_together() -> None:
    where = drawing()
    spreads = []
    for draws in (1, 16):
        torch.manual_seed(0)
        gradients = step_gradients(replace(TINY, loss="cross_entropy", draws=draws), where, 24)
        spreads.append(float(gradients.var(dim=0).sum()))
    assert spreads[1] < spreads[0] / 4  # a sixteenth but for chance


def test_mean_answers_are_those_of_the_network_without_its_draws() -> None:
    where = drawing()
    result = attack(replace(TINY, mean_answers=True), where)
    plain = context()
    assert torch.equal(result.images, attack(TINY, plain).images)
    assert where.victim.queries == plain.victim.queries
    assert not torch.equal(attack(TINY, drawing()).images, result.images)


def test_a_network_that_draws_nothing_is_its_own_mean() -> None:
    victim = context().victim
    assert victim.deterministic() is victim
    assert drawing(noise=0.0).victim.deterministic()._network.noise == 0
    with pytest.raises(AccessError, match="SCORES"):
        drawing(Access.SCORES).victim.deterministic()


@pytest.mark.parametrize("name", ["vgg16_mid", "facenet64_mid"])
def test_the_bottleneck_that_draws_offers_its_mean_code_without_a_copy(name: str) -> None:
    from mibench import registry

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.load("target", name)(num_classes=3, width=0.05, sample=True).eval()
    mean = network.deterministic()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(mean(images).logits, mean(images).logits)
        assert not torch.equal(network(images).logits, network(images).logits)
    assert network.sample
    assert [p.data_ptr() for p in mean.parameters()] == [p.data_ptr() for p in network.parameters()]
    assert mean.deterministic() is None


# ---------------------------------------------------------------- losses and the scale of logits


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_margin_and_logit_do_not_saturate(scale: float) -> None:
    logits = (scale * torch.tensor([[9.0, 1.0, 4.0], [0.0, 2.0, -1.0]])).requires_grad_()
    labels = torch.tensor([0, 2])
    (margin,) = torch.autograd.grad(max_margin(logits, labels).sum(), logits)
    assert torch.equal(margin, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]))
    assert torch.equal(margin.sum(dim=1), torch.zeros(2))
    (own,) = torch.autograd.grad(logit(logits, labels).sum(), logits)
    assert torch.equal(own, torch.tensor([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]]))


def test_the_scale_brings_the_median_of_the_largest_probability_to_its_value() -> None:
    logits = 500 * torch.randn(201, 7, generator=torch.Generator().manual_seed(2))
    scale = unsaturating(logits)
    assert float((logits.double() / scale).softmax(1).amax(1).median()) == pytest.approx(MEDIAN)
    assert unsaturating(3 * logits) == pytest.approx(3 * scale)
    with pytest.raises(MibenchError, match="no constant"):
        unsaturating(torch.zeros(5, 4))


def test_the_scale_comes_from_the_pool_s_own_queries_and_undoes_a_saturation() -> None:
    """Logits a thousand times as large leave the cross entropy no gradient; divided by the scale they are the same."""

    def saturated(factor: float) -> Context:
        where = context()
        with torch.no_grad():
            for parameter in where.victim._network.head.parameters():  # type: ignore[union-attr]
                parameter.mul_(factor)
        return where

    adapted = replace(TINY, loss="cross_entropy", logit_scale="auto")
    where = saturated(4096.0)
    state = adapted.prepare(where, Streams(7, ("test",)))
    assert where.victim.queries == adapted.planned_preparation()
    result, plain = attack(adapted, where), attack(adapted, saturated(1.0))
    assert torch.allclose(result.curves["loss"], plain.curves["loss"], atol=1e-2)
    assert torch.allclose(result.confidence, plain.confidence, atol=1e-2)
    ratio = state["logit_scale"] / adapted.prepare(saturated(1.0), Streams(7, ("test",)))["logit_scale"]
    assert float(ratio) == pytest.approx(4096, rel=1e-3)
    assert any("divided by" in note for note in result.notes)
    blind = attack(replace(TINY, loss="cross_entropy"), saturated(4096.0))
    assert float((blind.curves["loss"] == 0).float().mean()) > float((result.curves["loss"] == 0).float().mean())


# ---------------------------------------------------------------- views


def test_strong_views_are_drawn_for_each_image_and_depend_on_nothing_else() -> None:
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1), requires_grad=False)
    views = draw_strong_views(6, torch.Generator().manual_seed(4))
    assert set(views[:, 5].tolist()) <= set(torch.tensor(COARSER).tolist())
    whole = apply_strong_views(images, views)
    assert whole.shape == images.shape
    assert 0 <= float(whole.min()) <= float(whole.max()) <= 1
    assert torch.allclose(whole[4:], apply_strong_views(images[4:], views[4:]), atol=1e-6)
    assert torch.equal(whole, apply_strong_views(images, views))
    assert not torch.equal(views, draw_strong_views(6, torch.Generator().manual_seed(5)))


def test_blur_and_coarser_pixels_remove_what_is_fine_and_keep_what_is_not() -> None:
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 1.0
    images = torch.stack([board.expand(3, 32, 32), torch.full((3, 32, 32), 0.25)])
    whole = torch.tensor([0.0, 0.0, 1.0, 1.0])  # the crop that leaves an image as it is
    for blur, coarser in ((1.5 / 64, 1.0), (0.0, 0.5)):
        view = torch.cat([whole, torch.tensor([blur, coarser, 0.0, 0.0])]).expand(2, 8)
        seen = apply_strong_views(images, view)
        assert float(seen[0, :, 4:-4, 4:-4].std()) < 0.5 * float(images[0].std())
        assert torch.allclose(seen[1], images[1], atol=1e-5)
    nothing = torch.cat([whole, torch.tensor([0.0, 1.0, 0.0, 0.0])]).expand(2, 8)
    assert torch.allclose(apply_strong_views(images, nothing), images, atol=1e-5)


def test_gradients_pass_strong_views_and_the_attack_uses_them() -> None:
    images = torch.full((3, 3, 16, 16), 0.5, requires_grad=True)
    apply_strong_views(images, draw_strong_views(3, torch.Generator().manual_seed(0))).sum().backward()
    assert images.grad is not None
    assert bool((images.grad.flatten(1).abs().sum(dim=1) > 0).all())
    strong = replace(TINY, views="strong")
    where = context()
    result = attack(strong, where)
    assert not torch.equal(result.images, attack(TINY).images)
    assert where.victim.queries.backward == strong.planned_queries(2).backward


# ---------------------------------------------------------------- a surrogate


@pytest.mark.parametrize("access", [Access.SCORES, Access.LABELS])
def test_a_transfer_gets_no_gradient_of_the_victim_and_shows_it_what_was_planned(access: Access) -> None:
    where, configuration = transferring(access), replace(TRANSFER, draws=2)
    assert (configuration.least_access, configuration.most_access) == (Access.LABELS, Access.SCORES)
    surrogate: Any = where.surrogate
    state = configuration.prepare(where, Streams(7, ("test",)))
    assert where.victim.queries == configuration.planned_preparation()
    assert surrogate.queries.forward == 0
    where.victim.queries.forward = 0
    result = configuration.reconstruct(where, state, LABELS, Streams(7, ("test",)))
    assert where.victim.queries == configuration.planned_queries(2)
    assert where.victim.queries.backward == 0
    assert surrogate.queries == configuration.planned_surrogate_queries(2)
    assert surrogate.queries.backward == replace(TINY, draws=2).planned_queries(2).backward
    assert any("another" in note for note in result.notes)


def test_a_transfer_from_the_victim_itself_is_the_white_box() -> None:
    where = context()
    result = attack(TRANSFER, replace(where, surrogate=where.victim))
    assert torch.equal(result.images, attack(TINY).images)
    assert torch.equal(result.confidence, attack(TINY).confidence)


def test_without_its_surrogate_a_transfer_does_not_fall_back_on_the_victim() -> None:
    with pytest.raises(MibenchError, match="no network of the surrogate"):
        attack(TRANSFER, context())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draws": 0}, "draws"),
        ({"logit_scale": 2.0}, "changes nothing"),
        ({"logit_scale": -1.0, "loss": "cross_entropy"}, "logit_scale"),
        ({"views": "strong", "shared_crop": True}, "shared_crop"),
        ({"surrogate": "twin", "mean_answers": True}, "mean_answers"),
        ({"surrogate": "twin", "logit_scale": "auto", "loss": "cross_entropy"}, "logit_scale=auto"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **change)


def test_settings_that_came_later_are_recorded_only_where_they_say_something() -> None:
    assert not set(TINY.later_settings) & set(TINY.recorded_settings())
    assert replace(TINY, draws=8).recorded_settings() == {**TINY.recorded_settings(), "draws": 8}
    assert set(TINY.later_settings) <= set(vars(TINY))
