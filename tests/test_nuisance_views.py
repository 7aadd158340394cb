"""Views that vary what a photograph has beside the person: their bounds, geometry, colour, noise and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mibench.attacks import nuisance_views as nv
from mibench.attacks.nuisance_views import UNCHANGED, apply_nuisance_views, draw_nuisance_views
from mibench.attacks.views import Views, apply_views, draw_views
from mibench.rng import Streams, stream


def images(count: int = 2, size: int = 8) -> Tensor:
    return torch.rand(count, 3, size, size, generator=stream(0, "images"))


def view(count: int = 1, **changes: float) -> Tensor:
    """The view that changes nothing, but for some numbers by their names."""
    names = ("a", "b", "x", "c", "d", "y", "red", "green", "blue", "offset", "noise", "seed")
    row = list(UNCHANGED)
    for name, value in changes.items():
        row[names.index(name)] = value
    return torch.tensor(row).expand(count, -1)


def test_the_unchanged_view_leaves_an_image_as_it_is() -> None:
    shown = images()
    assert torch.allclose(apply_nuisance_views(shown, view(2)), shown, atol=1e-5)


def test_a_view_turns_flips_scales_and_shifts() -> None:
    shown = images(1)
    turned = view(a=0.0, b=-1.0, c=1.0, d=0.0)
    assert torch.allclose(apply_nuisance_views(shown, turned), shown.rot90(1, (2, 3)), atol=1e-5)
    assert torch.allclose(apply_nuisance_views(shown, view(a=-1.0)), shown.flip(3), atol=1e-5)
    moved = apply_nuisance_views(shown, view(x=2 / 8, y=-4 / 8))  # by a pixel and by two, in units of half an image
    assert torch.allclose(moved[..., 2:, :7], shown[..., :6, 1:], atol=1e-5)
    larger = apply_nuisance_views(shown, view(a=0.5, d=0.5))
    centre = torch.nn.functional.interpolate(shown[..., 2:6, 2:6], size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(larger[..., 1:-1, 1:-1], centre[..., 1:-1, 1:-1], atol=1e-5)


def test_a_view_colours_an_image_and_stays_in_range() -> None:
    grey = torch.full((1, 3, 8, 8), 0.5)
    seen = apply_nuisance_views(grey, view(red=0.5, green=1.2, blue=3.0, offset=-0.1))
    expected = torch.tensor([0.15, 0.5, 1.0]).view(1, 3, 1, 1).expand_as(grey)
    assert torch.allclose(seen, expected, atol=1e-5)


def test_noise_is_that_of_its_seed() -> None:
    grey = torch.full((2, 3, 32, 32), 0.5)
    seen = apply_nuisance_views(grey, view(2, noise=0.05, seed=7.0))
    noise = torch.randn(3, 32, 32, generator=stream(7, "noise"))
    assert torch.allclose(seen[1], 0.5 + 0.05 * noise, atol=1e-5)
    assert torch.equal(seen[0], seen[1])


def test_draws_keep_their_bounds_and_reach_towards_them() -> None:
    drawn = draw_nuisance_views(4000, torch.Generator().manual_seed(1))
    a, b, x, c, d, y, *gains, offset, noise, seed = drawn.unbind(dim=1)
    size = 1 / (b.square() + d.square()).sqrt()
    turn = torch.atan2(-b, d)
    overall = torch.stack(gains).amin(0), torch.stack(gains).amax(0)
    for values, low, high in (
        (size, *nv.SCALE),
        (turn, -nv.TURN, nv.TURN),
        (x, -nv.SHIFT, nv.SHIFT),
        (y, -nv.SHIFT, nv.SHIFT),
        (offset, -nv.OFFSET, nv.OFFSET),
    ):
        slack = 0.01 * (high - low)
        assert low - 1e-5 <= float(values.min()) < low + slack
        assert high - slack < float(values.max()) <= high + 1e-5
    assert float(overall[0].min()) >= nv.GAIN[0] * nv.EXPOSURE[0]
    assert float(overall[1].max()) <= nv.GAIN[1] * nv.EXPOSURE[1]
    assert bool((overall[1] / overall[0] <= nv.GAIN[1] / nv.GAIN[0] + 1e-5).all()), "one exposure for all channels"
    assert torch.equal(noise, torch.full_like(noise, nv.NOISE))
    assert torch.allclose(a.square() + c.square(), b.square() + d.square(), atol=1e-5)
    flipped = a * d - b * c < 0
    assert 0.4 < float(flipped.float().mean()) < 0.6
    assert len(seed.unique()) > 3900


def test_gradients_reach_every_image() -> None:
    shown = torch.full((4, 3, 16, 16), 0.4, requires_grad=True)
    apply_nuisance_views(shown, draw_nuisance_views(4, torch.Generator().manual_seed(0))).sum().backward()
    assert shown.grad is not None
    assert bool((shown.grad.flatten(1).abs().sum(dim=1) > 0).all())


@pytest.mark.parametrize("size", [7, 16])
def test_an_image_looks_alike_to_the_byte_in_any_batch(size: int) -> None:
    shown, views = images(6, size), draw_nuisance_views(6, torch.Generator().manual_seed(3))
    together = apply_nuisance_views(shown, views)
    assert 0 <= float(together.min()) <= float(together.max()) <= 1
    for part in (slice(0, 1), slice(1, 4), slice(4, 6)):
        assert torch.equal(together[part], apply_nuisance_views(shown[part], views[part]))


@pytest.mark.parametrize(("kind", "numbers"), [("crops", 4), ("strong", 8), ("nuisance", 12)])
def test_an_identity_s_views_depend_on_nothing_else(kind: Views, numbers: int) -> None:
    streams = Streams(3)
    drawn = draw_views(kind, [4, 2], 3, 7, streams, (0.9, 1.0))
    assert drawn.shape == (2, 3, numbers)
    assert torch.equal(drawn[1:], draw_views(kind, [2], 3, 7, streams, (0.9, 1.0)))
    assert not torch.equal(drawn, draw_views(kind, [4, 2], 3, 8, streams, (0.9, 1.0)))
    assert len(drawn.flatten(0, 1).unique(dim=0)) == 6
    shown = images(3)
    assert apply_views(kind, shown, drawn[0]).shape == shown.shape


def test_a_turn_is_by_the_angle_that_was_drawn() -> None:
    """The map of a view without flip is a rotation over the size of the face."""
    drawn = draw_nuisance_views(200, torch.Generator().manual_seed(5))
    plain = drawn[(drawn[:, 0] > 0)]
    angle, size = torch.atan2(plain[:, 3], plain[:, 0]), 1 / (plain[:, 0].square() + plain[:, 3].square()).sqrt()
    assert torch.allclose(plain[:, 1], -angle.sin() / size, atol=1e-5)
    assert float(angle.abs().max()) <= nv.TURN + 1e-5 < math.pi
