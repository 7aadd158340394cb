"""IF-GMI: the released code's vectors, its balls, blocks that are entered, and what it depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from field_vectors import VECTORS, sines
from test_dmmia import LABELS, confidence, context
from test_ppa import attack, same_bits, unbatched
from torch import Tensor, nn

from mibench.api import Access, ClassifierOutput, Context, ImageSpec, MibenchError, Queries, Victim
from mibench.attacks.floor import Floor
from mibench.attacks.if_gmi import IFGMI
from mibench.attacks.l1_ball import into_l1_ball, radii
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.rng import Streams, stream

RUN = VECTORS["ifgmi"]
TOY = RUN["toy"]
TINY = IFGMI(
    unit_size=2,
    pool_size=48,
    candidates=4,
    truncation=1.0,
    steps=6,
    stages=3,
    stage_steps=2,
    learning_rate=0.05,
    feature_learning_rate=0.02,
    radius="share",
    selection_transforms=2,
)


# ---------------------------------------------------------------- vectors


def test_the_ball_is_the_reference_s() -> None:
    given, wanted = sines((3, 6), 0.9, 0.4), RUN["l1_ball"]
    given[2] *= 0.1
    radius, centre = torch.full((3,), wanted["radius"]), torch.zeros_like(given)
    assert torch.allclose(into_l1_ball(given, centre, radius), torch.tensor(wanted["output"]).double(), atol=1e-6)
    assert torch.equal(into_l1_ball(given, centre, radius)[2], given[2]), "a point inside stays"
    edge = into_l1_ball(given[:1], centre[:1], given[:1].abs().sum(dim=1))
    assert torch.allclose(edge, torch.tensor(wanted["radius_equal_to_norm_row0"]).double()[None], atol=1e-6)


def test_the_ball_lies_around_its_centre_and_holds_the_nearest_point() -> None:
    x, centre = (3 * torch.randn(4, 2, 5, generator=stream(0, name)) for name in ("x", "centre"))
    radius = torch.tensor([0.5, 2.0, 5.0, 1e3])
    inside = into_l1_ball(x, centre, radius)
    assert torch.allclose((inside - centre).flatten(1).abs().sum(1)[:3], radius[:3], atol=1e-5)
    assert torch.equal(inside[3], x[3])
    for row in range(3):  # by sorting, as released
        moved = (x - centre).flatten(1)[row].abs().sort(descending=True).values.double()
        excess = (moved.cumsum(0) - radius[row]) / torch.arange(1, 11)
        theta = excess[(moved > excess).nonzero()[-1]]
        difference = (x - centre)[row].double()
        expected = centre[row] + difference.sign() * (difference.abs() - theta).clamp(min=0)
        assert torch.allclose(inside[row].double(), expected, atol=1e-6)
    assert into_l1_ball(x, centre, None) is x


class Raw(StyleGAN2Prior):
    """The vectors' generator: codes are styles, images are what the network puts out, unbounded."""

    def mapping(self, z: Tensor) -> Tensor:
        return z

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        return w

    def synthesis_from(self, stage: int, w: Tensor, features: Tensor | None, colours: Tensor | None) -> Tensor:
        ws = w[:, None].expand(-1, self.num_ws, -1)
        images = self.generator.synthesis.through(ws, features, colours, first=stage)[1]
        assert images is not None
        return images


def raw_prior() -> Raw:
    generator = Generator(z_dim=8, w_dim=8, resolution=16, channel_base=64, channel_max=6, mapping_layers=2)
    state = generator.state_dict()
    for j, key in enumerate(RUN["inputs"]["state_dict_keys_in_order"].split()):
        name = key if key.startswith("mapping.") else f"synthesis.{key}"
        if key.endswith("resample_filter"):
            continue
        s = sines(tuple(state[name].shape), 0.37, 1.3 * j)
        if key.endswith("noise_strength"):
            s = torch.tensor(0.05)
        elif key.startswith("mapping.fc"):
            s = 100 * s if key.endswith("weight") else 10 * s
        elif key.endswith("affine.bias"):
            s = 1 + 0.1 * s
        elif key.endswith(("bias", "w_avg")):
            s = 0.1 * s
        state[name] = s.to(state[name].dtype)
    generator.load_state_dict(state)
    return Raw(generator, None, image=ImageSpec(16), name="raw")


class ToyVictim(nn.Module):
    def forward(self, images: Tensor) -> ClassifierOutput:
        x = images.flatten(1)
        weight, bias = sines((5, 768), 0.13, 0.2, 0.05), sines((5,), 1.0, 0.5, 0.1)
        return ClassifierOutput(x, x @ weight.to(x).T + bias.to(x))


def ran(monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    """The vectors' run: two identities with one candidate each, no crops."""
    victim = Victim(ToyVictim(), image=ImageSpec(16), num_classes=5, access=Access.GRADIENTS)
    where = Context(victim=victim, prior=raw_prior(), device=torch.device("cpu"))
    start = sines((2, 1, 8), 0.6, 0.3, 0.8).float()
    monkeypatch.setattr("mibench.attacks.if_gmi.choose", lambda *_: start)

    def fixed(rule: str, share: float, stage: int, w: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return torch.full((2,), 0.3), None if features is None else torch.full((2,), 2.0)

    monkeypatch.setattr("mibench.attacks.if_gmi.radii", fixed)
    one = IFGMI(
        candidates=1,
        truncation=1.0,
        learning_rate=0.05,
        feature_learning_rate=0.05,
        stage_steps=3,
        crop_scale=(1.0, 1.0),
        rgb_skip="drop",
        **settings,
    )
    return one.reconstruct(where, {}, torch.tensor([3, 1]), Streams(0))


def pixels(images: Tensor, wanted: dict[str, float]) -> None:
    for where, value in wanted.items():
        index = tuple(int(part) for part in where.strip("[]").split(","))
        assert float(images[index]) == pytest.approx(value, rel=2e-3, abs=2e-3)


def test_the_released_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of w, then three of w and of what enters block 1, whose image starts there."""
    first = ran(monkeypatch, stages=1, steps=3)
    assert first.curves["loss"][:, 0].tolist() == pytest.approx(TOY["initial_poincare_per_sample"], rel=2e-3)
    assert torch.allclose(first.latents, torch.tensor(TOY["stage0"]["w_after"]), rtol=2e-3, atol=2e-3)
    pixels(first.images, TOY["stage0"]["image_of_w_after_pixels"])
    before = ran(monkeypatch, stages=1, steps=3, result="before")
    pixels(before.images, TOY["stage0"]["returned_image_pixels_(state_before_last_step)"])
    both = ran(monkeypatch, stages=2, steps=6)
    assert torch.allclose(both.latents, torch.tensor(TOY["stage1"]["w_after"]), rtol=2e-3, atol=2e-3)
    returned = ran(monkeypatch, stages=2, steps=6, result="before")
    pixels(returned.images, TOY["stage1"]["returned_image_pixels"])
    assert float(returned.images.mean()) == pytest.approx(TOY["stage1"]["mean_image"], rel=2e-3)


def test_the_features_that_enter_a_block_are_the_reference_s() -> None:
    prior, w = raw_prior(), torch.tensor(TOY["stage0"]["w_after"])
    features, _ = prior.entering(1, w, None, None)
    wanted = TOY["feature_entering_block1"]
    assert list(features.shape) == wanted["shape"]
    assert features.flatten(1).abs().sum(1).tolist() == pytest.approx(wanted["l1_per_sample"], rel=2e-3)
    assert features.flatten()[:4].tolist() == pytest.approx(wanted["first4"], rel=5e-3, abs=2e-3)
    pixels(prior.synthesis_from(1, w, features, None), TOY["image_without_block0_rgb_pixels"])


# ---------------------------------------------------------------- ours


def test_entering_a_block_with_its_image_changes_nothing_and_without_it_something() -> None:
    prior: Any = context().prior
    w = prior.mapping(prior.sample(3, stream(0, "w")))
    whole, entered = prior.synthesis(w), (None, None)
    for stage in range(1, prior.stages):
        entered = prior.entering(stage, w, *entered)
        assert torch.equal(prior.synthesis_from(stage, w, *entered), whole)
        assert not torch.allclose(prior.synthesis_from(stage, w, entered[0], None), whole, atol=1e-3)


def test_radii() -> None:
    w, features = torch.ones(2, 512), torch.ones(2, 512, 4, 4)
    full = torch.ones(2, dtype=torch.float64)
    assert torch.equal(radii("released", 0.1, 1, w, features)[1], 2000 * full)  # type: ignore[arg-type]
    for one, other in zip(radii("released", 0.1, 1, w, features), radii("elements", 0.1, 1, w, features), strict=True):
        assert one is not None
        assert other is not None
        assert torch.allclose(one, other), "the published generator's own numbers"
    small = radii("elements", 0.1, 2, w[:, :128], features[:, :128])
    assert small[0] is not None
    assert small[1] is not None
    assert float(small[0][0]) == pytest.approx(750)
    assert float(small[1][0]) == pytest.approx(3000 / 32768 * 2048)
    share = radii("share", 0.1, 2, w, features)
    assert share[0] is None
    assert torch.allclose(share[1], 819.2 * full)  # type: ignore[arg-type]
    assert radii("released", 0.1, 0, w, None)[1] is None


def test_it_raises_the_victim_s_confidence_above_the_floor_s() -> None:
    floor = attack(Floor(pool_size=48, candidates=4, truncation=1.0, selection_transforms=2))
    result = attack(replace(TINY, steps=12, stage_steps=3))
    assert result.images.shape[0] == 8
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert confidence(result) > confidence(floor) + 0.02
    assert result.curves["loss"].shape == (2, 12)


def image_by_image(**options: Any) -> Context:
    """A context whose networks round an image alike in whatever batch it stands."""
    where = unbatched(**options)
    prior: Any = where.prior
    inside, entering = prior.synthesis_from, prior.entering

    def rows(*parts: Tensor | None) -> list[Any]:
        count = next(len(part) for part in parts if part is not None)
        return [[None if part is None else part[k : k + 1] for part in parts] for k in range(count)]

    prior.synthesis_from = lambda stage, *parts: torch.cat([inside(stage, *row) for row in rows(*parts)])
    prior.entering = lambda stage, *parts: tuple(
        torch.cat(each) for each in zip(*(entering(stage, *row) for row in rows(*parts)), strict=True)
    )
    return where


@pytest.mark.parametrize("change", [{}, {"rgb_skip": "drop", "shared_crop": True, "radius": "elements"}], ids=str)
def test_results_depend_on_the_seed_and_on_nothing_else(change: dict[str, Any]) -> None:
    one = replace(TINY, **change)
    together = attack(one, image_by_image())
    assert same_bits(together, attack(one, image_by_image(micro_batch=3)))
    alone = attack(one, image_by_image(), LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=1e-5)


def test_it_asks_what_it_plans() -> None:
    where, streams = context(micro_batch=3), Streams(3, ("test",))
    state = TINY.prepare(where, streams)
    assert where.victim.queries == TINY.planned_preparation()
    where.victim.queries = Queries()
    TINY.reconstruct(where, state, LABELS, streams)
    assert where.victim.queries == TINY.planned_queries(2)


def test_a_prior_that_cannot_be_entered_is_refused() -> None:
    with pytest.raises(MibenchError, match="mapping network"):
        TINY.prepare(test_gmi.context(), Streams(0))
    with pytest.raises(MibenchError, match=r"has 3 blocks, stages is 4"):
        replace(TINY, stages=4, steps=9).prepare(context(), Streams(0))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"steps": 4}, "leave none for the first stage"),
        ({"betas": (0.1, 1.0)}, "betas must lie in"),
        ({"crop_scale": (0.9, 1.1)}, "crop_scale must be two areas"),
        ({"candidates": 49}, "raise pool_size"),
        ({"loss": "hinge"}, "unknown identity loss"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)
