"""StyleGAN2 as a prior: the contract, stacked mapping networks, statistics of styles, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerator import TOLERANCE, an_accelerator, relative  # noqa: F401
from torch import Tensor

from mibench.api import ImageSpec, MibenchError, Prior
from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.system.devices import deterministic

SHAPE: dict[str, Any] = {"resolution": 16, "channel_base": 128, "channel_max": 12}
ARGUMENTS: dict[str, Any] = {**SHAPE, "z_dim": 8, "w_dim": 6, "mapping_layers": 3}
IMAGE = ImageSpec(size=16)


def some_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    generator, discriminator = Generator(**ARGUMENTS), Discriminator(**SHAPE)
    generator.mapping.w_avg.normal_()
    weights = {f"G.{key}": tensor for key, tensor in generator.state_dict().items()}
    return weights | {f"D.{key}": tensor for key, tensor in discriminator.state_dict().items()}


def build(weights: dict[str, Tensor] | None = None, **changes: Any) -> StyleGAN2Prior:
    return StyleGAN2Prior.build(
        ARGUMENTS | changes, some_weights() if weights is None else weights, IMAGE, name="stylegan2@toy"
    )


@pytest.fixture(scope="module")
def prior() -> StyleGAN2Prior:
    return build()


def test_stylegan2_keeps_the_contract_of_a_prior(prior: StyleGAN2Prior) -> None:
    assert isinstance(prior, Prior)
    latents = prior.sample(4, torch.Generator().manual_seed(1))
    assert torch.equal(latents, prior.sample(4, torch.Generator().manual_seed(1)))
    assert latents.shape == (4, prior.latent_dim)
    images = prior.decode(latents)
    assert images.shape == (4, 3, 16, 16)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert prior.realism(images).shape == (4,)


def test_realism_of_an_image_does_not_depend_on_the_others(prior: StyleGAN2Prior) -> None:
    images = torch.rand(5, 3, 16, 16)
    torch.testing.assert_close(prior.realism(images)[2:3], prior.realism(images[2:3]), rtol=1e-4, atol=1e-4)


def test_decode_truncates(prior: StyleGAN2Prior) -> None:
    latents = prior.sample(3, torch.Generator().manual_seed(2))
    by_hand = prior.synthesis(prior.truncate(prior.mapping(latents), 0.7))
    assert torch.equal(prior.decode(latents), by_hand)
    mean_face = build(truncation=0.0).decode(latents)
    torch.testing.assert_close(mean_face, prior.synthesis(prior.w_avg.expand(3, -1)))
    torch.testing.assert_close(prior.truncate(latents[:, :6], 0.0), prior.w_avg.expand(3, -1))


def test_one_style_for_each_layer(prior: StyleGAN2Prior) -> None:
    w = prior.mapping(prior.sample(2, torch.Generator().manual_seed(3)))
    same = w[:, None].repeat(1, prior.num_ws, 1)
    torch.testing.assert_close(prior.synthesis(same), prior.synthesis(w), rtol=1e-5, atol=1e-5)
    same[:, -1] += 1
    assert (prior.synthesis(same) - prior.synthesis(w)).abs().max() > 0.01


def test_gradients_reach_styles_and_images_but_no_weights(prior: StyleGAN2Prior) -> None:
    w = prior.mapping(torch.randn(2, 8)).requires_grad_(True)
    images = prior.synthesis(w)
    prior.realism(images).sum().backward()
    assert w.grad is not None
    assert w.grad.abs().max() > 0
    assert prior.discriminator is not None
    for network in (prior.generator, prior.discriminator):
        assert not network.training
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())


def stack(prior: StyleGAN2Prior, copies: int) -> list[tuple[Tensor, Tensor]]:
    return [
        (weight.expand(copies, -1, -1).clone(), bias.expand(copies, -1).clone())
        for weight, bias in prior.mapping_parameters()
    ]


def test_stacked_copies_equal_the_mapping_network(prior: StyleGAN2Prior) -> None:
    z = torch.randn(3, 5, 8)
    stacked = prior.stacked_mapping(stack(prior, 3), z)
    assert stacked.shape == (3, 5, prior.w_dim)
    torch.testing.assert_close(stacked, prior.mapping(z.flatten(0, 1)).view(3, 5, -1), rtol=1e-5, atol=1e-6)


def test_stacked_identities_are_independent(prior: StyleGAN2Prior) -> None:
    parameters = stack(prior, 2)
    for weight, bias in parameters:
        weight.requires_grad_(True)
        bias.requires_grad_(True)
    prior.stacked_mapping(parameters, torch.randn(2, 4, 8))[1].square().sum().backward()
    assert len(parameters) == prior.num_mapping_layers == 3
    for weight, bias in parameters:
        assert weight.grad is not None
        assert bias.grad is not None
        assert weight.grad[0].abs().max() == bias.grad[0].abs().max() == 0
        assert weight.grad[1].abs().max() > 0
        assert bias.grad[1].abs().max() > 0


def test_mapping_parameters_are_raw_copies(prior: StyleGAN2Prior) -> None:
    weight, bias = prior.mapping_parameters()[0]
    assert weight.std() == pytest.approx(100, rel=0.3)  # the released multiplier is 0.01
    before = prior.mapping(torch.ones(1, 8))
    weight.zero_()
    bias.zero_()
    assert torch.equal(prior.mapping(torch.ones(1, 8)), before)
    with pytest.raises(ValueError, match="3 mapping layers, got 1"):
        prior.stacked_mapping(stack(prior, 1)[:1], torch.randn(1, 1, 8))


def test_spread_of_styles_is_fixed_and_right(prior: StyleGAN2Prior) -> None:
    assert torch.equal(prior.w_std, build().w_std)
    w = prior.mapping(prior.sample(20_000, torch.Generator().manual_seed(5)))
    torch.testing.assert_close(prior.w_std, w.std(dim=0), rtol=0.05, atol=0)


def test_noise_can_be_left_out() -> None:
    weights = some_weights()
    for key in weights:
        if key.endswith("noise_strength"):
            weights[key] = torch.tensor(0.5)
    latents = torch.randn(2, 8)
    grained, clean = build(weights).decode(latents), build(weights, noise="none").decode(latents)
    assert not torch.equal(grained, clean)
    for key in weights:
        if key.endswith("noise_const"):
            weights[key] = torch.zeros_like(weights[key])
    torch.testing.assert_close(build(weights).decode(latents), clean)


def test_half_precision_weights_are_computed_with_in_float32() -> None:
    halves = {key: tensor.half() for key, tensor in some_weights().items()}
    images = build(halves).decode(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    assert images.dtype == torch.float32
    exact = build().decode(torch.randn(2, 8, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(images, exact, rtol=0, atol=0.02)


def test_without_a_discriminator() -> None:
    only_generator = {key: tensor for key, tensor in some_weights().items() if key.startswith("G.")}
    prior = build(only_generator)
    prior.decode(torch.randn(1, 8))
    with pytest.raises(MibenchError, match="without a discriminator"):
        prior.realism(torch.rand(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("changes", "weights", "message"),
    [
        ({"depth": 3}, {}, "unknown argument 'depth'"),
        ({"noise": "random"}, {}, "noise='random'"),
        ({"mapping_layers": 2}, {}, r"weight G\.mapping\.fc2\.bias is unexpected"),
        ({"mapping_layers": 4}, {}, r"weight G\.mapping\.fc3\.bias is missing"),
        ({"channel_max": 10}, {}, r"weight [GD]\..*expected .* got"),
        ({}, {"E.weight": torch.zeros(1)}, "neither of G. nor of D."),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(
    changes: dict[str, Any], weights: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(MibenchError, match=message) as refusal:
        build(some_weights() | weights, **changes)
    assert "\n" not in str(refusal.value)


def test_a_card_with_another_size_is_refused() -> None:
    with pytest.raises(MibenchError, match="its card says 3x32x32"):
        StyleGAN2Prior.build(ARGUMENTS, some_weights(), ImageSpec(size=32), name="toy")


@pytest.mark.gpu
def test_a_gpu_agrees(accelerator: torch.device, prior: StyleGAN2Prior) -> None:
    latents = prior.sample(4, torch.Generator().manual_seed(1))
    with deterministic(accelerator, "float32"):  # else convolutions round to TensorFloat-32
        found = build().to(accelerator).decode(latents.to(accelerator)).cpu()
    assert relative(found, prior.decode(latents)) < TOLERANCE["forward"]
