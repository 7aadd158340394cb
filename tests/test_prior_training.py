"""Training of the StyleGAN2 prior: exact resume, its losses and penalty by hand, that it learns, refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from powercut import Memory, Stopped
from torch import Tensor
from torch.nn import functional

from mibench.api import MibenchError, TrainedWeights, TrainingContext
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.attacks.priors.stylegan2.training import TrainStyleGAN2, _Training

TINY: dict[str, Any] = {
    "resolution": 8,
    "z_dim": 8,
    "w_dim": 8,
    "mapping_layers": 2,
    "channel_base": 64,
    "channel_max": 8,
    "discriminator_base": 64,
    "discriminator_max": 8,
    "batch_size": 8,
    "r1_batch": 4,
    "r1_interval": 4,
    "log_images": 16,
    "storage": "float32",
}


def pictures(size: int) -> Tensor:
    """Uniform squares of random brightness on black, uint8 (40, 3, size, size)."""
    draws = torch.Generator().manual_seed(0)
    images = torch.zeros(40, 3, size, size, dtype=torch.uint8)
    images[:, :, 2:-2, 2:-2] = torch.randint(100, 256, (40, 3, 1, 1), generator=draws, dtype=torch.uint8)
    return images


def workshop(memory: Memory | None = None, **changes: Any) -> TrainingContext:
    return TrainingContext(device=torch.device("cpu"), checkpoint=memory or Memory(), **changes)


def train(*, memory: Memory | None = None, data: Callable[[int], Tensor] = pictures, **changes: Any) -> TrainedWeights:
    return TrainStyleGAN2(**(TINY | changes)).run(data, workshop(memory))


def assert_same(first: TrainedWeights, second: TrainedWeights) -> None:
    assert first.weights.keys() == second.weights.keys()
    for key, tensor in first.weights.items():
        assert torch.equal(tensor, second.weights[key]), key
    assert first.measured == second.measured


@pytest.mark.parametrize(("stop_after", "mixing"), [(1, 0.0), (6, 0.7)])
def test_a_stopped_training_ends_like_an_uninterrupted_one(stop_after: int, mixing: float) -> None:
    settings: dict[str, Any] = {
        "images": 96,
        "checkpoint_seconds": 0.0,
        "style_mixing": mixing,
    }  # 12 steps, 5 in an epoch
    straight = train(**settings)
    memory = Memory(stop_after)
    with pytest.raises(Stopped):
        train(memory=memory, **settings)
    stored = memory.load()
    assert stored is not None
    assert stored["step"] == stop_after
    memory.stop_after = None
    assert_same(train(memory=memory, **settings), straight)


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = train(images=40)
        torch.set_num_threads(2)
        together = train(images=40)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert_same(alone, together)


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(images=16)
    assert torch.equal(torch.rand(1), expected)


def test_seeds_differ() -> None:
    recipe = TrainStyleGAN2(**(TINY | {"images": 16}))
    first, second = (recipe.run(pictures, workshop(seed=seed)) for seed in (0, 1))
    assert not torch.equal(first.weights["G.mapping.fc0.weight"], second.weights["G.mapping.fc0.weight"])


def test_gradients_equal_the_losses_as_written() -> None:
    """One shard against a plain implementation: alternating graphs, the penalty's weight, what each network sees."""
    recipe = TrainStyleGAN2(**(TINY | {"shards": 1, "r1_gamma": 0.7, "r1_batch": 8, "r1_interval": 3}))
    training = _Training(recipe, pictures(8), workshop())
    generator, discriminator = training.generator, training.discriminator
    with torch.no_grad():
        for parameter in [*generator.parameters(), *discriminator.parameters()]:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    draw = training._draw(0, 0, training._real(0))
    shard = training._shard(draw)
    draw = training._draw(0, 0, training._real(0))  # the noise generator starts anew

    w = generator.mapping(draw.latents)
    ws = w[:, None].repeat(1, generator.num_ws, 1)
    fake = generator.synthesis(ws, noise_mode="random", generator=draw.noise)
    generator_loss = -functional.logsigmoid(discriminator(fake)).mean()
    trained = [parameter for parameter in generator.parameters() if parameter.requires_grad]
    expected_generator = torch.autograd.grad(generator_loss, trained, retain_graph=True)
    real = draw.real.clone().requires_grad_(True)
    logits = discriminator(real)
    slopes = torch.autograd.grad(logits.sum(), real, create_graph=True)[0]
    penalty = slopes.flatten(1).norm(dim=1).square().mean()
    loss = -functional.logsigmoid(-discriminator(fake.detach())).mean() - functional.logsigmoid(logits).mean()
    total = loss + 0.7 / 2 * penalty * 3
    expected = [*expected_generator, *torch.autograd.grad(total, list(discriminator.parameters()))]

    assert shard.losses["loss_generator"].item() == pytest.approx(generator_loss.item(), rel=1e-5)
    assert shard.losses["loss_discriminator"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert shard.losses["r1"].item() == pytest.approx(penalty.item(), rel=1e-4)
    torch.testing.assert_close(shard.w_mean, w.mean(dim=0))
    assert len(expected) == len(shard.gradients)
    for actual, wanted in zip(shard.gradients, expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()) + 1e-9)


def test_an_epoch_shows_each_image_at_most_once() -> None:
    data = pictures(8)
    data[:, 0, 0, 0] = torch.arange(40, dtype=torch.uint8)  # the number of the image
    training = _Training(TrainStyleGAN2(**(TINY | {"mirror": False})), data, workshop())
    orders = []
    for epoch in range(2):
        seen = []
        for place in range(5):
            seen += ((training._real(epoch * 5 + place)[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert sorted(seen) == list(range(40))
        orders.append(seen)
    assert orders[0] != orders[1]


def test_the_average_follows_the_generator() -> None:
    training = _Training(TrainStyleGAN2(**(TINY | {"ema_images": 16.0, "ema_rampup": 1e9})), pictures(8), workshop())
    average, current = (network.mapping.layers()[0].weight for network in (training.average, training.generator))
    start = average.clone()
    training._advance(0)
    torch.testing.assert_close(average, start + (1 - 0.5**0.5) * (current - start))  # 8 images of a half-life of 16
    assert torch.equal(training.average.mapping.w_avg, training.generator.mapping.w_avg)


@pytest.mark.parametrize("layers", [0, 1, 9])
def test_noise_enters_the_last_layers_only(layers: int) -> None:
    trained = train(images=24, noise_layers=layers)
    strengths = [float(value) for key, value in trained.weights.items() if key.endswith("noise_strength")]
    assert len(strengths) == 3  # one at 4, two at 8 pixels, in the order of the synthesis
    quiet = max(0, 3 - layers)
    assert strengths[:quiet] == [0.0] * quiet
    assert all(strength != 0 for strength in strengths[quiet:])


def test_trained_weights_build_a_prior() -> None:
    trained = train(images=16, storage="float16")
    assert trained.architecture == "stylegan2"
    assert {tensor.dtype for tensor in trained.weights.values()} == {torch.float16}
    assert trained.measured["images_shown"] == 16
    assert {"loss_generator", "loss_discriminator", "r1"} < set(trained.measured)
    prior = StyleGAN2Prior.build(trained.arguments, trained.weights, trained.image, name="toy")
    images = prior.decode(prior.sample(3, torch.Generator().manual_seed(0)))
    assert images.shape == (3, 3, 8, 8)
    assert prior.realism(images).isfinite().all()


def test_training_learns_where_the_light_is() -> None:
    trained = train(images=1_200, batch_size=16, learning_rate=0.02, ema_images=50.0)
    prior = StyleGAN2Prior.build(trained.arguments, trained.weights, trained.image, name="toy")
    mean = prior.synthesis(prior.mapping(prior.sample(32, torch.Generator().manual_seed(0)))).mean(dim=(0, 1))
    inside = mean[2:-2, 2:-2].mean()
    border = (mean.sum() - mean[2:-2, 2:-2].sum()) / (64 - 16)
    assert inside - border > 0.3  # 0.7 in the data, about 0 before training


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"storage": "int8"}, "unknown storage 'int8'"),
        ({"resolution": 12}, "resolution=12"),
        ({"r1_batch": 9}, "r1_batch=9"),
        ({"batch_size": 12, "r1_batch": 12}, "batch_size=12 in shards=2"),
        ({"batch_size": 64}, "40 public images"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        train(**changes)


def test_only_bytes_of_the_right_size_are_taken() -> None:
    with pytest.raises(MibenchError, match="trains on uint8"):
        train(data=lambda size: pictures(size).float())
    with pytest.raises(MibenchError, match="trains on uint8"):
        train(data=lambda size: pictures(2 * size))
