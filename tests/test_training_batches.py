"""Batches and schedules of a training: what an augmentation does to each image, what a schedule does to a rate."""

from __future__ import annotations

import pytest
import torch
from tiny_splits import CPU

from mibench.targets.training.augment import channels_last_store, plain_batch, training_batch
from mibench.targets.training.optimisation import learning_rate_at


def coordinates(count=6, side=16):
    """Images whose red is the row and whose green the column, blue the image: what a gather did can be read off."""
    store = torch.empty(count, side, side, 3, dtype=torch.uint8)
    store[..., 0] = torch.arange(side).view(1, side, 1)
    store[..., 1] = torch.arange(side)
    store[..., 2] = torch.arange(count).view(count, 1, 1)
    return store


def test_a_plain_batch_is_the_stored_images_in_channels_last():
    pixels = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    store = channels_last_store(pixels, CPU)
    indices = torch.tensor([4, 0])
    for batch in (
        plain_batch(store, indices),
        training_batch(store, indices, torch.Generator(), flip=False, augmentation="none"),
    ):
        torch.testing.assert_close(batch, pixels[indices].float() / 255)
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_flips_mirror_whole_images_and_about_half_of_them():
    store = coordinates(1)
    batch = training_batch(
        store, torch.zeros(200, dtype=torch.int64), torch.Generator(), flip=True, augmentation="none"
    )
    original = plain_batch(store, torch.zeros(1, dtype=torch.int64))
    mirrored = (batch == original.flip(3)).flatten(1).all(dim=1)
    assert bool((mirrored | (batch == original).flatten(1).all(dim=1)).all())
    assert 70 < int(mirrored.sum()) < 130


def test_shifts_move_each_image_by_its_own_offset_and_repeat_the_edge():
    store = coordinates(1, side=32)
    batch = training_batch(
        store, torch.zeros(100, dtype=torch.int64), torch.Generator(), flip=False, augmentation="shift"
    )
    rows, columns = (batch[:, :2] * 255).round().long().unbind(1)
    down, right = rows[:, 16, 16] - 16, columns[:, 16, 16] - 16
    assert set(down.tolist()) == set(right.tolist()) == {-2, -1, 0, 1, 2}  # a sixteenth of 32
    expected = (torch.arange(32) + down[:, None]).clamp(0, 31)
    assert torch.equal(rows, expected[:, :, None].expand_as(rows))


def test_colours_change_per_image_and_stay_in_range():
    store = torch.full((1, 16, 16, 3), 128, dtype=torch.uint8)
    store[:, :8] = 250
    batch = training_batch(
        store, torch.zeros(64, dtype=torch.int64), torch.Generator(), flip=False, augmentation="light"
    )
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1
    means = batch.mean(dim=(2, 3))
    assert bool((means.std(dim=0) > 0.02).all())  # brightness
    assert float((means[:, 0] - means[:, 2]).std()) > 0.01  # colour


def test_cosine_warms_up_and_ends_at_zero():
    rates = [learning_rate_at(step, 100, peak=0.1, schedule="cosine", warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate_at(70, 100, peak=0.1, schedule="none", warmup=10) == 0.1
