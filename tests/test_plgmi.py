"""PLG-MI's inversion: its search written out, its views, and what it depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import sines
from test_gmi import CLASSES, LABELS, SIZE, attack
from test_plgmi_prior import filled
from torch import Tensor, nn

from mibench import registry, settings
from mibench.api import Access, AccessError, Context, ImageSpec, MibenchError, Queries
from mibench.attacks.class_conditional import classes_of
from mibench.attacks.jittered_views import apply_jittered_views, draw_jittered_views
from mibench.attacks.plgmi import PLGMI
from mibench.attacks.priors.plgmi.networks import Generator
from mibench.attacks.priors.plgmi.prior import PLGMIPrior
from mibench.rng import Streams
from mibench.runs.budget import planned_total
from mibench.runs.protocol import load_protocol
from mibench.weights import cards

TINY = PLGMI(unit_size=2, restarts=3, steps=4, selection_transforms=2)
TOLERANCE = (
    0.02  # Adam turns a gradient near 0 into a whole step, so rounding grows; another seed differs by 10 times this
)
UNCHANGED = torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]])


def prior(num_classes: int = CLASSES) -> PLGMIPrior:
    """A generator with the vectors' weights, made to depend on z, moved up so that half of its pixels are not black."""
    network: Any = filled(Generator(num_classes=num_classes, z_dim=6, features=2))
    with torch.no_grad():
        network.l1.weight.mul_(8)
        network.conv6.bias.fill_(0.5)
    return PLGMIPrior(network, z_dim=6, num_classes=num_classes, image=ImageSpec(64), name="plgmi@test")


def place(**options: Any) -> Context:
    """A victim whose answers to the generator's images differ."""
    where = test_gmi.context(**{"prior": prior(), **options})
    network: Any = where.victim._network
    known: Any = where.prior
    with torch.no_grad():
        images = where.fit(known.decode(known.sample(32, torch.Generator().manual_seed(1))))
        logits = network(images).logits
        network.head.weight.mul_(2 / logits.std(0)[:, None, None, None])
        network.head.bias.mul_(2 / logits.std(0))
        network.head.bias.sub_(network(images).logits.mean(0))
    return where


# ---------------------------------------------------------------- views


def view(**changes: float) -> Tensor:
    names = ("x", "y", "width", "height", "brightness", "contrast", "contrast_first", "cos", "sin")
    row = UNCHANGED.clone()
    for name, value in changes.items():
        row[0, names.index(name)] = value
    return row


IMAGE = (sines((1, 3, 8, 8), 0.7, 0.3, 0.4) + 0.5).float()


def test_a_view_that_changes_nothing_shows_the_image() -> None:
    assert torch.allclose(apply_jittered_views(IMAGE, UNCHANGED), IMAGE, atol=1e-6)
    assert torch.allclose(apply_jittered_views(IMAGE - 0.4, UNCHANGED), (IMAGE - 0.4).clamp(0, 1), atol=1e-6)


def test_brightness_and_contrast_are_applied_in_their_order_and_clamp() -> None:
    def contrasted(x: Tensor) -> Tensor:
        mean = (x[:, 0] * 0.299 + x[:, 1] * 0.587 + x[:, 2] * 0.114).mean()
        return (0.8 * x + 0.2 * mean).clamp(0, 1)

    first = apply_jittered_views(IMAGE, view(brightness=1.2, contrast=0.8, contrast_first=1))
    last = apply_jittered_views(IMAGE, view(brightness=1.2, contrast=0.8))
    assert torch.allclose(first, (contrasted(IMAGE) * 1.2).clamp(0, 1), atol=1e-5)
    assert torch.allclose(last, contrasted((IMAGE * 1.2).clamp(0, 1)), atol=1e-5)
    assert not torch.allclose(first, last, atol=1e-3)


def test_a_rotation_fills_corners_with_black_and_turns_about_the_centre() -> None:
    turned = apply_jittered_views(torch.ones(1, 3, 64, 64), view(cos=0.9962, sin=0.0872))
    assert float(turned[0, :, 0, 0].max()) < 0.5
    assert (turned[0, :, 16:48, 16:48] > 0.999).all()
    quarter = apply_jittered_views(IMAGE, view(cos=0.0, sin=1.0))
    assert torch.allclose(quarter, IMAGE.rot90(1, (2, 3)), atol=1e-5)


def test_views_are_drawn_in_the_released_bounds() -> None:
    views = draw_jittered_views(4000, torch.Generator().manual_seed(0), jitter=0.5)
    areas = (views[:, 2] * views[:, 3]).abs()
    assert 0.8 <= float(areas.min()) < 0.81
    assert 0.99 < float(areas.max()) <= 1.0
    changed = (views[:, 4] != 1) | (views[:, 5] != 1)
    assert float(changed.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert ((views[:, 4:6] >= 0.8) & (views[:, 4:6] <= 1.2)).all()
    degrees = torch.atan2(views[:, 8], views[:, 7]).rad2deg()
    assert float((degrees != 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    assert 4.9 < float(degrees.abs().max()) <= 5.001
    assert float((views[:, 2] < 0).float().mean()) == pytest.approx(0.5, abs=0.05)
    always = draw_jittered_views(100, torch.Generator().manual_seed(0))
    assert (always[:, 4] != 1).all()


def test_no_gradient_comes_back_from_a_pixel_that_is_clamped() -> None:
    image = torch.full((1, 3, 8, 8), 0.5)
    image[:, :, 4] = -0.2
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(apply_jittered_views(image, UNCHANGED).sum(), image)
    assert (gradient[:, :, 4] == 0).all()
    assert (gradient[:, :, 0] > 0).all()


# ---------------------------------------------------------------- the search


def test_the_search_is_adam_on_two_views_max_margin_written_out() -> None:
    """One person alone, in a loop of its own."""
    where, one = place(), replace(TINY, restarts=2)
    result = attack(one, where, LABELS[1:])
    streams, y = Streams(7, ("test",)), torch.tensor([3, 3])
    known: Any = where.prior
    z = torch.randn(2, 6, generator=streams.generator("identity", 3, "start")).requires_grad_()
    adam = torch.optim.Adam([z], lr=0.1)
    for step in range(one.steps):
        images = where.fit(known.generator(z, y).clamp(0, 1))
        views = draw_jittered_views(4, streams.generator("identity", 3, "views", step))
        loss = torch.zeros(())
        for drawn in views.split(2):
            logits = where.victim.logits(apply_jittered_views(images, drawn))
            others = torch.cat([logits[:, :3], logits[:, 4:]], dim=1)
            loss = loss + (others.amax(dim=1) - logits[:, 3]).sum()
        assert float(result.curves["L_id"][0, step]) == pytest.approx(float(loss.detach()) / 2, abs=TOLERANCE)
        adam.zero_grad()
        loss.backward()
        adam.step()
    with torch.no_grad():
        assert torch.allclose(result.latents[:, :-1], z, atol=TOLERANCE)
        assert classes_of(result.latents, CLASSES).tolist() == [3, 3]
        assert torch.allclose(result.images, where.fit(known.decode(result.latents)), atol=1e-5)


def test_the_search_convinces_the_victim_more_than_the_generator_alone() -> None:
    alone, found = attack(replace(TINY, steps=1, learning_rate=1e-6), place()), attack(replace(TINY, steps=60), place())
    assert float(found.confidence.mean()) > float(alone.confidence.mean()) + 0.01
    losses = found.curves["L_id"].mean(dim=0)
    assert float(losses[-20:].mean()) < float(losses[:10].mean()) - 0.3
    assert found.labels.tolist() == [1] * 3 + [3] * 3
    assert found.images.shape == (6, 3, SIZE, SIZE)


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    together = attack(TINY, place())
    for other in (attack(TINY, place(micro_batch=2)), attack(replace(TINY, unit_size=7), place())):
        assert torch.allclose(together.images, other.images, atol=TOLERANCE)
        assert torch.allclose(together.confidence, other.confidence, atol=TOLERANCE)
    alone = attack(TINY, place(), LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=TOLERANCE)
    views = together.latents.view(2, 3, -1)
    assert not torch.allclose(views[:, 0], views[:, 1])


@pytest.mark.parametrize("changes", [{}, {"views": 3, "restarts": 1}, {"selection_transforms": 0}], ids=str)
def test_it_asks_what_it_plans(changes: dict[str, Any]) -> None:
    one, where = replace(TINY, **changes), place(micro_batch=4)
    attack(one, where)
    assert where.victim.queries == one.planned_queries(2)
    assert one.planned_preparation() == Queries()


def test_other_priors_and_weaker_access_are_refused() -> None:
    with pytest.raises(MibenchError, match=r"'toy' does not; .*mibench train prior plgmi --target NAME") as refused:
        attack(TINY, test_gmi.context())
    assert "\n" not in str(refused.value)
    with pytest.raises(MibenchError, match="knows 4 classes, the target has 5"):
        attack(TINY, place(prior=prior(4)))
    with pytest.raises(AccessError):
        attack(TINY, place(access=Access.SCORES))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restarts": 0}, "plgmi: restarts must be at least 1"),
        ({"views": 0}, "plgmi: views must be at least 1"),
        ({"steps": 0}, "plgmi: steps must be at least 1"),
        ({"learning_rate": 0.0}, "plgmi: learning_rate must be positive"),
        ({"betas": (0.9, 1.0)}, "plgmi: betas must lie in"),
        ({"jitter": 2.0}, "plgmi: jitter is a probability"),
        ({"loss": "hinge"}, "unknown identity loss 'hinge'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        PLGMI(**changes)


# ---------------------------------------------------------------- presets, and what a run without a prior is told


def resolved(*layers: Any) -> PLGMI:
    found, _ = settings.resolve(PLGMI, list(layers), scope="attack")
    assert isinstance(found, PLGMI)
    return found


def test_the_preset_paper_is_the_default_and_recommended_is_what_equal_allows() -> None:
    presets = settings.attack_presets("plgmi")
    assert resolved(presets.presets["paper"]) == PLGMI()
    protocol = load_protocol("equal")[0]
    assert protocol.query_budget is not None
    recommended = resolved(presets.presets["recommended"])
    for steps, fits in ((recommended.steps, True), (recommended.steps + 1, False)):
        planned = planned_total(replace(recommended, steps=steps), protocol)
        assert planned is not None
        assert (planned.forward + planned.backward <= protocol.query_budget * protocol.num_identities) is fits
    assert resolved(presets.presets["recommended"], presets.variants["no-search"]).learning_rate == 1e-6


def test_without_a_trained_prior_a_run_says_in_one_line_how_to_train_it() -> None:
    assert registry.load("attack", "plgmi").prior == "plgmi"
    with pytest.raises(MibenchError, match=r"mibench train prior plgmi --target vgg16 --dataset synthfaces") as refused:
        cards.find("prior", "plgmi+vgg16", "synthfaces")
    assert "\n" not in str(refused.value)
    assert "mibench import" not in str(refused.value), "nothing reads released files of this prior"
    assert "did you mean" not in str(refused.value), "another architecture is no other spelling"
    with pytest.raises(
        MibenchError, match=r"mibench import FILE --as prior:kedmi.*did you mean 'kedmi@synthfaces\+vgg16'"
    ):
        cards.find("prior", "kedmi+vgg166", "synthfaces")


def test_other_attacks_work_on_its_prior() -> None:
    floor = registry.load("attack", "floor")(pool_size=16, candidates=2, truncation=1.0, selection_transforms=0)
    result = attack(floor, place())
    assert result.images.shape == (4, 3, SIZE, SIZE)
    assert isinstance(place().prior, PLGMIPrior)
    assert isinstance(prior().generator, nn.Module)
