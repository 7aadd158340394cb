"""Real trainings on a pretend GPU: nothing mixed, the CPU's bits, no waiting in steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import test_dcgan
import test_plgmi_prior
import test_prior_training
import torch
from powercut import Memory
from pretend_device import CPU, GPU, PretendGPU
from tiny_splits import TinySplit, TruthfulSplit, tiny_target
from torch import nn

from mibench.api import Access, ImageSpec, PriorTrainingData, TrainedWeights, TrainingContext, Victim
from mibench.attacks.priors.stylegan2.training import TrainStyleGAN2
from mibench.targets.networks.prelu import ChannelPReLU
from mibench.targets.training import supervised
from mibench.targets.training.identity_regressor import TrainRegressor
from mibench.targets.training.torchvision_recipe import TrainLargeTarget


def kedmi(steps: int, workshop: TrainingContext) -> TrainedWeights:
    victim = Victim(test_dcgan.TinyClassifier(), image=ImageSpec(size=64), num_classes=4, access=Access.SCORES)
    recipe = replace(test_dcgan.RECIPES["kedmi"], steps=steps, **QUIET)
    return recipe.run(PriorTrainingData(test_dcgan.pictures, victim), workshop)


def plgmi(steps: int, workshop: TrainingContext) -> TrainedWeights:
    recipe = replace(test_plgmi_prior.TINY, steps=steps, **QUIET)
    return recipe.run(PriorTrainingData(test_dcgan.pictures, test_plgmi_prior.victim()), workshop)


QUIET: dict[str, Any] = {"checkpoint_seconds": 1e9, "log_steps": 10**9}
STYLEGAN2 = test_prior_training.TINY | {"checkpoint_seconds": 1e9, "log_images": 10**9, "style_mixing": 0.5}
LARGE: dict[str, Any] = {"architecture": "resnet18", "width": 0.0625, "size": 32, "epochs": 2}
# twice the steps of a training: smaller batches where the number of epochs, which are logged and measured, is to stay
TRAININGS: dict[str, Callable[[int, TrainingContext], TrainedWeights]] = {
    "vgg16": lambda n, shop: tiny_target(
        architecture="vgg16", size=32, augment="light", batch_size=32 // n, width=0.0625
    ).run(TinySplit(), shop),
    "facenet64": lambda n, shop: tiny_target(batch_size=32 // n, optimiser="adamw", augment="shift").run(
        TinySplit(), shop
    ),
    "resnet18": lambda n, shop: TrainLargeTarget(**LARGE, batch_size=32 // n).run(TinySplit(), shop),
    "regressor": lambda n, shop: TrainRegressor(width=0.125, size=16, epochs=1, batch_size=128 // n).run(
        TruthfulSplit(), shop
    ),
    "stylegan2": lambda n, shop: TrainStyleGAN2(**STYLEGAN2, images=40 * n).run(test_prior_training.pictures, shop),
    "gmi": lambda n, shop: replace(test_dcgan.RECIPES["gmi"], steps=4 * n, **QUIET).run(test_dcgan.pictures, shop),
    "kedmi": lambda n, shop: kedmi(4 * n, shop),
    "plgmi": lambda n, shop: plgmi(2 * n, shop),
}
QUICK = ("resnet18", "regressor", "gmi")  # one of each loop; the others are slow tests


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TRAININGS])
def test_a_training_mixes_nothing_gives_the_cpu_s_weights_and_does_not_wait_in_its_steps(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChannelPReLU, "forward", nn.PReLU.forward)  # on the CPU it has a backward pass of its own
    monkeypatch.setattr(supervised, "REPORT_SECONDS", float("inf"))  # a slow machine would report, and wait, in between
    train = TRAININGS[name]
    expected = train(1, TrainingContext(device=CPU, checkpoint=Memory()))
    counts = []
    for times in (1, 2):
        with PretendGPU() as gpu:
            found = train(times, TrainingContext(device=GPU, checkpoint=Memory()))
        counts.append(gpu.waits)
        if times == 1:
            assert found.weights.keys() == expected.weights.keys()
            for key, tensor in found.weights.items():
                assert tensor.device == CPU
                assert torch.equal(tensor, expected.weights[key]), key
    assert counts[0] == counts[1]
