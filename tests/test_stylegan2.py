"""The StyleGAN2 networks against the key lists and reference outputs of the release, and their fast formulations."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.layers import (
    Convolution,
    SynthesisLayer,
    ToRGB,
    low_pass,
    resampling_filter,
    upsample_image,
)

DATA = Path(__file__).parent / "data"


def small_generator(**changes: Any) -> Generator:
    torch.manual_seed(0)
    settings = {"z_dim": 8, "w_dim": 8, "resolution": 16, "channel_base": 128, "channel_max": 12, "mapping_layers": 2}
    return Generator(**(settings | changes))


@pytest.mark.parametrize(
    ("file", "kind", "settings"),
    [
        ("StyleGAN2_G_64_cb16384_map8", Generator, {"conv_clamp": 256.0}),
        ("StyleGAN2_G_1024_cb32768_map8", Generator, {"resolution": 1024, "channel_base": 32768}),
        ("StyleGAN2_D_64_cb16384", Discriminator, {}),
    ],
)
def test_names_shapes_and_order_are_those_of_the_release(file: str, kind: type[nn.Module], settings: Any) -> None:
    expected = json.loads((DATA / f"state_dict_{file}.json").read_text())
    with torch.device("meta"):
        network = kind(**settings)
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected["keys"]
    assert list(network.state_dict()) == list(expected["keys"])
    assert {name for name, _ in network.named_buffers()} == set(expected["buffers"])
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["num_parameters"]


def reference_weights(network: nn.Module) -> dict[str, Tensor]:
    """The deterministic weights of the reference outputs: standard normal by a seed from the key, scaled by kind."""
    filled = {}
    for key, tensor in network.state_dict().items():
        draw = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(tuple(tensor.shape))
        value = torch.as_tensor(draw, dtype=torch.float32)
        if key.endswith("resample_filter"):
            value = tensor
        elif key.startswith("mapping.fc"):
            value = value * (100 if key.endswith("weight") else 10)
        elif key.endswith("affine.bias"):
            value = 1 + 0.1 * value
        elif key.endswith(("w_avg", "bias", "noise_strength")):
            value = 0.1 * value
        filled[key] = value
    return filled


@pytest.fixture(scope="module")
def reference() -> tuple[Generator, Tensor, dict[str, Any]]:
    vectors = json.loads((DATA / "test_vectors.json").read_text())["models"]["StyleGAN2_G_64_cb16384_map8"]
    generator = Generator(conv_clamp=256.0).requires_grad_(False).eval()
    generator.load_state_dict(reference_weights(generator))
    generator.synthesis.freeze()
    seed = zlib.crc32(b"input:StyleGAN2_G_64") & 0xFFFFFFFF
    draw = np.random.RandomState(seed).standard_normal(vectors["input"]["shape"])
    return generator, torch.as_tensor(draw, dtype=torch.float32), vectors


def assert_matches(actual: Tensor, expected: dict[str, Any]) -> None:
    flat = actual.contiguous().flatten()
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * expected["std"]}
    assert list(actual.shape) == expected["shape"]
    torch.testing.assert_close(flat[:8], torch.tensor(expected["first8"]), **tolerance)
    torch.testing.assert_close(flat[-4:], torch.tensor(expected["last4"]), **tolerance)
    for name, value in (("mean", flat.mean()), ("std", flat.std()), ("absmax", flat.abs().max())):
        assert value.item() == pytest.approx(expected[name], rel=1e-4, abs=1e-4 * expected["std"]), name


def test_styles_equal_the_reference(reference: Any) -> None:
    generator, z, expected = reference
    w = generator.mapping(z)
    assert_matches(generator.mapping.broadcast(w, generator.num_ws), expected["w_psi1"])
    truncated = generator.mapping.broadcast(w, generator.num_ws, psi=0.5, cutoff=8)
    assert_matches(truncated, expected["w_psi05_cutoff8"])


@pytest.mark.parametrize(("noise", "name"), [("const", "image_const_noise"), ("none", "image_no_noise")])
def test_images_equal_the_reference(reference: Any, noise: Any, name: str) -> None:
    generator, z, expected = reference
    assert_matches(generator(z, psi=0.5, cutoff=8, noise_mode=noise), expected[name])


def textbook_layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    """Modulation as the paper writes it: weights for each image, one image after another, in float64."""
    layer, x, w = layer.double(), x.double(), w.double()
    images = []
    for pixels, style in zip(x, layer.affine(w), strict=True):
        weight = layer.weight * style[None, :, None, None]
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if layer.up:
            up = functional.conv_transpose2d(pixels[None], weight.transpose(0, 1), stride=2)
            taps = (resampling_filter().double() * 4).expand(up.shape[1], 1, 4, 4)
            out = functional.conv2d(functional.pad(up, (1, 1, 1, 1)), taps, groups=up.shape[1])
        else:
            out = functional.conv2d(pixels[None], weight, padding=1)
        out = out + layer.noise_const * layer.noise_strength + layer.bias[None, :, None, None]
        images.append(functional.leaky_relu(out, 0.2) * math.sqrt(2))
    return torch.cat(images)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("up", [False, True])
def test_scaled_activations_equal_weights_of_each_image(up: bool, frozen: bool) -> None:
    torch.manual_seed(0)
    layer = SynthesisLayer(6, 10, w_dim=4, resolution=16 if up else 8, up=up)
    with torch.no_grad():
        layer.noise_strength.fill_(0.3)
        layer.bias.normal_()
    if frozen:
        layer.freeze()
    x, w = torch.randn(3, 6, 8, 8), torch.randn(3, 4, requires_grad=True)
    fast = layer(x, w)
    (fast_slope,) = torch.autograd.grad(fast.square().sum(), w)
    exact_w = w.detach().double().requires_grad_(True)
    exact = textbook_layer(layer, x, exact_w)
    (exact_slope,) = torch.autograd.grad(exact.square().sum(), exact_w)
    torch.testing.assert_close(fast.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast_slope.double(), exact_slope, rtol=1e-4, atol=1e-4 * float(exact_slope.abs().max()))


def test_to_rgb_is_a_modulated_convolution_without_demodulation() -> None:
    torch.manual_seed(0)
    layer = ToRGB(6, w_dim=4)
    x, w = torch.randn(3, 6, 8, 8), torch.randn(3, 4)
    styles = layer.affine(w) / math.sqrt(6)
    expected = functional.conv2d(x * styles[:, :, None, None], layer.weight, layer.bias)
    torch.testing.assert_close(layer(x, w), expected, rtol=1e-5, atol=1e-5)


def test_upsampling_an_image_is_zero_insertion_and_the_filter() -> None:
    image = torch.randn(2, 3, 5, 5)
    stretched = torch.zeros(2, 3, 10, 10)
    stretched[:, :, ::2, ::2] = image
    taps = (resampling_filter() * 4).expand(3, 1, 4, 4)
    expected = functional.conv2d(functional.pad(stretched, (2, 1, 2, 1)), taps, groups=3)
    torch.testing.assert_close(upsample_image(image), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", [0, 1, 2, 3])
def test_low_pass_has_exact_first_and_second_derivatives(padding: int) -> None:
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    taps = resampling_filter().double()
    assert torch.autograd.gradcheck(lambda value: low_pass(value, taps, padding=padding), (x,))
    assert torch.autograd.gradgradcheck(lambda value: low_pass(value, taps, padding=padding).pow(3), (x,))


@pytest.mark.parametrize("kernel", [1, 3])
def test_downsampling_filters_then_strides(kernel: int) -> None:
    torch.manual_seed(0)
    layer = Convolution(4, 6, kernel, down=True, activate=False, bias=False)
    x = torch.randn(2, 4, 8, 8)
    padding = 1 if kernel == 1 else 2
    taps = resampling_filter().expand(4, 1, 4, 4)
    weight = layer.weight / math.sqrt(4 * kernel * kernel)
    if kernel == 1:
        smaller = functional.conv2d(functional.pad(x, (1,) * 4), taps, groups=4, stride=2)
        expected = functional.conv2d(smaller, weight)
    else:
        expected = functional.conv2d(functional.conv2d(x, taps, padding=padding, groups=4), weight, stride=2)
    assert expected.shape == (2, 6, 4, 4)
    torch.testing.assert_close(layer(x, gain=0.5), expected * 0.5, rtol=1e-5, atol=1e-6)


def test_truncation_stops_at_the_cutoff() -> None:
    generator = small_generator()
    generator.mapping.w_avg.normal_()
    w = torch.randn(2, 8)
    ws = generator.mapping.broadcast(w, generator.num_ws, psi=0.5, cutoff=2)
    torch.testing.assert_close(ws[:, 0], generator.mapping.w_avg + 0.5 * (w - generator.mapping.w_avg))
    torch.testing.assert_close(ws[:, 2:], w[:, None].expand(-1, generator.num_ws - 2, -1))
    everywhere = generator.mapping.broadcast(w, generator.num_ws, psi=0.5)
    torch.testing.assert_close(everywhere, ws[:, :1].expand(-1, generator.num_ws, -1))


def test_noise_modes() -> None:
    generator = small_generator()
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if name.endswith("noise_strength"):
                parameter.fill_(0.5)
    z = torch.randn(2, 8)

    def make(mode: Any, seed: int) -> Tensor:
        images: Tensor = generator(z, noise_mode=mode, generator=torch.Generator().manual_seed(seed))
        return images

    assert torch.equal(make("const", 1), make("const", 2))
    assert not torch.allclose(make("const", 1), make("none", 1))
    assert not torch.allclose(make("random", 1), make("random", 2))
    assert torch.equal(make("random", 1), make("random", 1))


def test_an_image_does_not_depend_on_its_batch() -> None:
    generator = small_generator()
    z = torch.randn(5, 8)
    torch.testing.assert_close(generator(z)[3:4], generator(z[3:4]), rtol=1e-5, atol=1e-5)


def test_half_the_bits_stay_close() -> None:
    generator = small_generator()
    z = torch.randn(4, 8)
    exact, rough = generator(z), generator(z, dtype=torch.bfloat16)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().mean() < 0.03 * exact.std()


def test_clamp_bounds_activations() -> None:
    generator = small_generator(conv_clamp=0.01)
    assert generator(torch.randn(2, 8)).abs().max() <= 0.01 * 3 + 1e-6  # three resolutions add up


def test_discriminator_compares_within_groups() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(resolution=16, channel_base=128, channel_max=12)
    images = torch.randn(8, 3, 16, 16)
    x = torch.randn(8, 12, 4, 4)
    spread = discriminator.b4.spread_of(x)
    members = x[[1, 3, 5, 7]]  # image i is in group i mod 2
    expected = members.var(dim=0, unbiased=False).add(1e-8).sqrt().mean()
    torch.testing.assert_close(spread[[1, 3, 5, 7]], expected.expand(4))
    alone = discriminator(images[:1], spread=torch.tensor(0.5))
    torch.testing.assert_close(discriminator(images, spread=torch.tensor(0.5))[:1], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of the group"):
        discriminator(images[:6])
