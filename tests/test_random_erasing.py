"""Random erasing: one square per image, of the sizes and at the places of the published transform."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import RandomErasing as Published

from mibench.targets.defences.random_erasing import FILLS, erase

SIDE = 32
WHITE = (1.0, 1.0, 1.0)


def squares(count: int, **options) -> torch.Tensor:
    """Erased pixels ``(count, S, S)`` of black images that are filled with white."""
    settings = {"probability": 1.0, "smallest": 0.1, "largest": 0.4, "fill": WHITE, **options}
    black = torch.zeros(count, 3, SIDE, SIDE)
    erased = erase(black, torch.Generator().manual_seed(0), **settings)
    assert not black.any(), "the images that were handed over are somebody else's"
    assert torch.equal(erased[:, 0], erased[:, 2])
    return erased[:, 0]


def test_every_image_loses_one_whole_square() -> None:
    for square in squares(200):
        rows, columns = square.any(dim=1), square.any(dim=0)
        assert int(rows.sum()) == int(columns.sum())
        assert int(square.sum()) == int(rows.sum()) * int(columns.sum())  # no hole, nothing outside
        assert 0.08 <= square.mean().item() <= 0.43


def test_sizes_and_places_have_the_published_distribution() -> None:
    count = 4000
    own = squares(count)
    torch.manual_seed(0)
    published = Published(p=1, scale=(0.1, 0.4), ratio=(1, 1), value=1)
    theirs = torch.stack([published(torch.zeros(1, SIDE, SIDE))[0] for _ in range(count)])
    assert (own.mean(dim=0) - theirs.mean(dim=0)).abs().max() < 0.05  # six standard errors of a share
    assert abs(own.mean().item() - theirs.mean().item()) < 0.01
    for edge in (0, SIDE - 1):  # squares touch every border
        assert own[:, edge].any()
        assert own[:, :, edge].any()


def test_the_probability_is_that_of_being_erased() -> None:
    assert not squares(100, probability=0.0).any()
    share = squares(2000, probability=0.3).any(dim=2).any(dim=1).float().mean().item()
    assert share == pytest.approx(0.3, abs=0.06)


def test_the_whole_image_and_nothing_are_allowed_sizes() -> None:
    assert squares(5, smallest=1.0, largest=1.0).all()
    assert not squares(5, smallest=0.0, largest=0.0).any()


def test_the_released_colour_is_the_mean_applied_after_normalisation() -> None:
    for mean, released in zip(FILLS["mean"], FILLS["released"], strict=True):
        assert released == pytest.approx((mean + 1) / 2, abs=1e-3)
