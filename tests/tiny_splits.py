"""Tiny data to train on, and a tiny recipe."""

from __future__ import annotations

from dataclasses import replace

import torch
from powercut import Memory

from mibench.api import TrainingContext
from mibench.data.split import GroundTruth, IdentitySplit, Images, to_uint8
from mibench.targets.training.recipes import TrainTarget

CPU = torch.device("cpu")
CLASSES = 5


class TinySplit(IdentitySplit):
    """Each class is a coarse pattern of colours; an image adds noise."""

    name = "tiny"
    num_classes = CLASSES
    digest = "tiny-1"
    train_images, test_images = 16, 6  # of each class
    noise = 0.2

    def private(self, part, size, labels=None):
        patterns = torch.rand(self.num_classes, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        per_class, seed = (self.train_images, 1) if part == "train" else (self.test_images, 2)
        classes = torch.arange(self.num_classes).repeat_interleave(per_class)
        images = torch.nn.functional.interpolate(patterns, (size, size))[classes]
        images = images + self.noise * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return Images(to_uint8(images), classes, tuple(f"private-{label}" for label in classes.tolist()))

    def public(self, size, count=None):
        raise AssertionError("a target's recipe has no use for public images")


class ColourSplit(TinySplit):
    """Each class is one plain colour, far from the others; an image adds noise."""

    name = "colours"
    digest = "colours-1"

    def private(self, part, size, labels=None):
        low, high = 0.1, 0.9
        colours = torch.tensor([[low] * 3, [high] * 3, [high, low, low], [low, high, low], [low, low, high]])
        images = super().private(part, size, labels)
        seed = 1 if part == "train" else 2
        noise = 0.1 * torch.randn(images.pixels.shape, generator=torch.Generator().manual_seed(seed))
        return replace(images, pixels=to_uint8(colours[images.labels][:, :, None, None] + noise))


class TruthfulSplit(TinySplit, GroundTruth):
    """Public images show their identity vector: six numbers as the colours of an upper and a lower half."""

    identity_dim = 6
    people, per_person = 120, 4

    def public(self, size, count=None):
        vectors = self.public_identity_vectors(count)
        images = torch.empty(len(vectors), 3, size, size)
        images[:, :, : size // 2] = vectors[:, :3, None, None]
        images[:, :, size // 2 :] = vectors[:, 3:, None, None]
        images += 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
        keys = tuple(f"public-{index // self.per_person}" for index in range(len(vectors)))
        return Images(to_uint8(images), torch.full((len(vectors),), -1), keys)

    def private(self, part, size, labels=None):
        raise AssertionError("the regressor must not see private images")

    def identity_vectors(self, labels=None):
        raise AssertionError("the regressor must not see private identities")

    def public_identity_vectors(self, count=None):
        vectors = torch.rand(self.people, 6, generator=torch.Generator().manual_seed(4))
        return vectors.repeat_interleave(self.per_person, dim=0)[:count]

    def foreign_identity_vectors(self, count):
        return torch.rand(count, 6, generator=torch.Generator().manual_seed(5))


def workshop(checkpoint=None, **settings):
    return TrainingContext(device=CPU, checkpoint=checkpoint or Memory(), **settings)


def tiny_target(**settings):
    # Small: 16 pixels, widths of 8 to 64 channels, with dropout and PReLU.
    defaults = {"architecture": "facenet64", "width": 0.125, "size": 16, "epochs": 2, "batch_size": 16}
    return TrainTarget(**{**defaults, "schedule": "cosine", **settings})


def assert_same_bytes(first, second):
    assert list(first) == list(second)
    for key in first:
        assert torch.equal(first[key], second[key]), key
