"""PPDG-MI: the released code's vectors, projection, tuning, and what it depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_dmmia
import test_gmi
import torch
from field_vectors import VECTORS, sines
from test_dmmia import LABELS, SIZE, confidence
from torch import Tensor

from mibench import registry, settings
from mibench.api import Access, AccessError, Context, ImageSpec, MibenchError, Queries
from mibench.attacks.floor import Floor
from mibench.attacks.generator_tuning import (
    Tuning,
    conditional_transport,
    discriminator_features,
    generator_drift,
    maximum_mean_discrepancy,
    pair_distance,
    projection_noise,
)
from mibench.attacks.mirror_w import ramp
from mibench.attacks.ppdg import PPDG
from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.rng import Streams, stream
from mibench.runs.budget import planned_total
from mibench.runs.protocol import load_protocol

RUN = VECTORS["ppdg"]
TINY = PPDG(
    unit_size=2,
    pool_size=24,
    later_pool_size=12,
    candidates=4,
    steps=4,
    truncation=1.0,
    learning_rate=0.05,
    selection_transforms=2,
    pseudo_private=3,
    project_draws=40,
    project_steps=5,
    tune_steps=4,
    tune_rate=0.01,
)


def context(**options: Any) -> Context:
    """The tiny StyleGAN2 of other tests, with a discriminator."""
    where = test_dmmia.context(**options)
    prior: Any = where.prior
    with torch.random.fork_rng():
        torch.manual_seed(2)
        discriminator = Discriminator(resolution=SIZE, channel_base=64, channel_max=8)
    return replace(where, prior=StyleGAN2Prior(prior.generator, discriminator, image=ImageSpec(SIZE), name="tiny"))


def attack(one: Any, where: Context | None = None, labels: Tensor = LABELS) -> Any:
    where, streams = where or context(), Streams(7, ("test",))
    return one.reconstruct(where, one.prepare(where, streams), labels, streams)


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize(
    ("name", "distance"), [("conditional_transport", conditional_transport), ("mmd", maximum_mean_discrepancy)]
)
def test_the_distances_of_sets_are_the_released_ones(name: str, distance: Any) -> None:
    source, target = sines((4, 5), 0.9, 0.3).requires_grad_(), sines((3, 5), 0.7, 1.2)
    loss = distance(source, target)
    (gradient,) = torch.autograd.grad(loss, source)
    assert float(loss.detach()) == pytest.approx(RUN[name]["loss"], rel=1e-5)
    assert gradient[0].tolist() == pytest.approx(RUN[name]["grad_row0"], rel=1e-4, abs=1e-7)


def test_equal_sets_have_no_discrepancy() -> None:
    assert float(maximum_mean_discrepancy(sines((4, 5), 0.9, 0.3), sines((4, 5), 0.9, 0.3))) == pytest.approx(
        RUN["mmd"]["identical_sets"], abs=1e-12
    )


def test_the_schedule_of_the_projection_is_the_released_one() -> None:
    for step, rate, noise in RUN["projection_schedule_300_steps(step,lr,noise_factor_of_w_std)"]:
        assert 0.01 * ramp(step / 300) == pytest.approx(rate, rel=1e-5, abs=1e-12)
        assert projection_noise(step, 300, 0.05) == pytest.approx(noise, rel=1e-5, abs=1e-12)


# ---------------------------------------------------------------- projection and tuning


def tuning(**changes: Any) -> Tuning:
    usual: dict[str, Any] = {
        "distance": "pairs",
        "project_steps": 15,
        "project_rate": 0.1,
        "project_noise": 0.05,
        "realism_weight": 0.1,
        "tune_steps": 40,
        "tune_rate": 0.003,
    }
    return Tuning(**{**usual, **changes})


def given(where: Context) -> tuple[StyleGAN2Prior, Tensor, Tensor, Tensor]:
    """The prior, three images of it, its mean style and noise."""
    prior: Any = where.prior
    with torch.no_grad():
        images = prior.synthesis(prior.mapping(prior.sample(3, stream(0, "images"))))
        mean = prior.mapping(prior.sample(50, stream(0, "mean"))).mean(dim=0)
    return prior, images, mean, torch.randn(60, 3, 6, generator=stream(0, "noise"))


def apart(prior: StyleGAN2Prior, styles: Tensor, images: Tensor) -> float:
    with torch.no_grad():
        made = discriminator_features(prior, prior.synthesis(styles))
        return float(pair_distance(made, discriminator_features(prior, images)))


@pytest.mark.parametrize("distance", ["pairs", "transport", "mmd"])
def test_images_are_projected_and_the_generator_learns_to_make_them(distance: Any) -> None:
    where = context()
    prior, images, mean, noise = given(where)
    before = {key: value.clone() for key, value in prior.generator.state_dict().items()}
    how = tuning(distance=distance)
    styles = how.project(where, prior, images, mean, noise)
    if distance == "pairs":
        assert apart(prior, styles, images) < apart(prior, mean.expand(3, -1), images)
    tuned, losses = how.tune(where, prior, styles, images)
    assert losses.shape == (40,)
    assert float(losses[-1]) < float(losses[0])
    if distance == "pairs":
        assert apart(tuned, styles, images) < apart(prior, styles, images)
    assert all(torch.equal(value, before[key]) for key, value in prior.generator.state_dict().items())
    changed = {k for k, v in tuned.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert any(key.startswith("synthesis.") for key in changed)
    assert not any(key.startswith("mapping.") for key in changed)
    assert not any(p.requires_grad or p.grad is not None for p in tuned.generator.parameters())


def test_a_tuned_generator_is_as_consistent_as_a_loaded_one() -> None:
    """What is kept of frozen weights is that of the tuned ones."""
    where = context()
    prior, images, mean, _ = given(where)
    tuned, _ = tuning().tune(where, prior, mean.expand(3, -1), images)
    fresh: Any = StyleGAN2Prior(tuned.generator, prior.discriminator, image=ImageSpec(SIZE), name="again")
    assert torch.equal(tuned.synthesis(mean.expand(3, -1)), fresh.synthesis(mean.expand(3, -1)))
    assert float(generator_drift(where, prior, prior, 1.0)) == 0
    assert float(generator_drift(where, prior, tuned, 1.0)) > 0
    assert torch.equal(tuned.w_std, prior.w_std)


def test_a_distance_of_features_is_the_sum_over_blocks_of_mean_squares() -> None:
    prior, images, *_ = given(context())
    assert prior.discriminator is not None
    found = (discriminator_features(prior, images[:1]) - discriminator_features(prior, images[1:2])).square().sum()
    x, expected = images[:2] * 2 - 1, torch.zeros(())
    for size in (16, 8):
        x = getattr(prior.discriminator, f"b{size}")(x)
        expected = expected + (x[0] - x[1]).square().mean()
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_pairs_may_come_in_micro_batches() -> None:
    whole, split = context(), context(micro_batch=2)
    prior, images, mean, noise = given(whole)
    how = tuning(project_steps=8, tune_steps=5)
    styles = [how.project(where, prior, images, mean, noise) for where in (whole, split)]
    assert torch.allclose(*styles, atol=1e-4)
    losses = [how.tune(where, prior, styles[0], images)[1] for where in (whole, split)]
    assert torch.allclose(*losses, rtol=1e-3)


# ---------------------------------------------------------------- the attack


def test_it_raises_the_victim_s_confidence_above_the_floor_s() -> None:
    floor = attack(Floor(pool_size=24, candidates=4, truncation=1.0, selection_transforms=2))
    result = attack(replace(TINY, steps=6))
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert confidence(result) > confidence(floor) + 0.02
    assert {name: tuple(curve.shape) for name, curve in result.curves.items()} == {
        "loss": (2, 12),
        "drift": (2, 12),
        "generator_drift": (2, 2),
        "pool_confidence": (2, 2),
        "L_tuning": (2, 4),
    }
    assert (result.curves["generator_drift"][:, 0] == 0).all()
    assert (result.curves["generator_drift"][:, 1] > 0).all()


def test_one_round_is_ppa() -> None:
    one, where = replace(TINY, rounds=1), context()
    streams = Streams(7, ("test",))
    state = one.base.prepare(where, streams)
    expected = one.base.reconstruct(where, state, LABELS, streams.child("round", 0))
    result = attack(one)
    assert torch.equal(result.images, expected.images)
    assert torch.equal(result.confidence, expected.confidence)
    assert "L_tuning" not in result.curves


@pytest.mark.parametrize("change", [{}, {"rounds": 1}, {"rounds": 3}, {"selection_transforms": 0}], ids=str)
def test_it_asks_what_it_plans(change: dict[str, Any]) -> None:
    one, where, streams = replace(TINY, **change), context(micro_batch=3), Streams(3, ("test",))
    state = one.prepare(where, streams)
    assert where.victim.queries == one.planned_preparation()
    where.victim.queries = Queries()
    one.reconstruct(where, state, LABELS, streams)
    assert where.victim.queries == one.planned_queries(2)


def test_the_published_attack_s_queries() -> None:
    assert PPDG().planned_preparation() == Queries(forward=1000)
    assert PPDG().planned_queries(1) == Queries(forward=2 * (70 * 100 + 100 * 100) + 1000, backward=2 * 70 * 100)


@pytest.mark.parametrize(
    "change",
    [
        {"rounds": 3},
        {"later_pool_size": 5},
        {"pseudo_private": 2},
        {"distance": "transport"},
        {"distance": "mmd"},
        {"project_draws": 20},
        {"project_steps": 6},
        {"project_rate": 0.05},
        {"project_noise": 0.5},
        {"realism_weight": 0.0},
        {"tune_steps": 2},
        {"tune_rate": 0.03},
    ],
    ids=str,
)
def test_every_option_of_the_tuning_changes_the_result(change: dict[str, Any]) -> None:
    result = attack(replace(TINY, **change))
    assert torch.isfinite(result.images).all()
    assert not torch.equal(result.images, attack(TINY).images)


def test_results_depend_on_the_seed_and_on_nothing_else() -> None:
    together = attack(TINY)
    assert torch.equal(together.images, attack(TINY).images)
    split = attack(TINY, context(micro_batch=3))
    assert torch.allclose(together.images, split.images, atol=1e-2)
    alone = attack(TINY, labels=LABELS[1:])
    assert torch.allclose(together.images[4:], alone.images, atol=1e-2)


def test_the_run_s_prior_and_victim_stay_as_they_are() -> None:
    where = context()
    prior: Any = where.prior
    networks = [where.victim._network, prior.generator, prior.discriminator]
    before = [p.clone() for n in networks for p in n.parameters()]
    result = attack(TINY, where)
    after = [p for n in networks for p in n.parameters()]
    assert all(p.grad is None and not p.requires_grad and torch.equal(p, q) for p, q in zip(after, before, strict=True))
    assert not any(t.requires_grad for t in (result.images, result.latents, *result.curves.values()))


def test_what_it_needs() -> None:
    with pytest.raises(AccessError, match="GRADIENTS"):
        attack(TINY, context(access=Access.SCORES))
    with pytest.raises(MibenchError, match="comes without a discriminator"):
        attack(TINY, test_dmmia.context())
    with pytest.raises(MibenchError, match="is no StyleGAN2"):
        attack(TINY, test_gmi.context())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"candidates": 13}, r"raise later_pool_size \(12\)"),
        ({"candidates": 25, "later_pool_size": 30}, r"raise pool_size \(24\)"),
        ({"pseudo_private": 5}, "raise candidates"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"tune_rate": 0.0}, "tune_rate must be positive"),
        ({"betas": (0.1, 1.0)}, "betas must lie in"),
        ({"crop_scale": (0.9, 1.1)}, "crop_scale must be two areas"),
        ({"loss": "hinge"}, "unknown identity loss"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)


def test_presets_and_the_budget_of_equal() -> None:
    presets = settings.attack_presets("ppdg")

    def resolved(*layers: Any) -> Any:
        return settings.resolve(registry.load("attack", "ppdg"), layers, scope="attack")[0]

    assert resolved(presets.presets["paper"]) == PPDG(unit_size=1)
    recommended, protocol = resolved(presets.presets["recommended"]), load_protocol("equal")[0]
    for steps, fits in ((recommended.steps, True), (recommended.steps + 1, False)):
        planned = planned_total(replace(recommended, steps=steps), protocol)
        assert planned is not None
        assert (planned.forward + planned.backward <= protocol.query_budget * protocol.num_identities) is fits
    for variant, shown in (("transport", (10, 150, 25)), ("mmd", (10, 100, 150))):
        one = resolved(presets.presets["paper"], presets.variants[variant])
        assert (one.pseudo_private, one.project_steps, one.tune_steps) == shown
