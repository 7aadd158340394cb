"""Architectures against the published key lists and reference outputs, and as networks of any width."""

from __future__ import annotations

import importlib
import json
import math
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mibench.api import ClassifierOutput, MibenchError
from mibench.targets import CATALOGUE
from mibench.targets.judges.facenet112 import FaceNet112
from mibench.targets.judges.identity_regressor import IdentityRegressor
from mibench.targets.networks.facenet64 import FaceNet64
from mibench.targets.networks.ir import Projection, Subsample
from mibench.targets.networks.ir152 import IR152
from mibench.targets.networks.prelu import ChannelPReLU
from mibench.targets.networks.vgg16 import VGG16
from mibench.targets.networks.width import scaled

DATA = Path(__file__).parent / "data"
MODELS = json.loads((DATA / "test_vectors.json").read_text())["models"]
PUBLISHED = {"VGG16": VGG16, "IR152": IR152, "FaceNet64": FaceNet64, "FaceNet": FaceNet112}
CLASSIFIERS = [VGG16, IR152, FaceNet64, FaceNet112]


def key_list(name):
    return json.loads((DATA / f"state_dict_{name}.json").read_text())


def drawn(key, shape, dist="normal"):
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    return state.random_sample(shape) if dist == "uniform" else state.standard_normal(shape)


def fill(network, gain):
    """The reference vectors' rule for synthetic weights."""
    state = network.state_dict()
    for key, tensor in state.items():
        stem, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        noise = drawn(key, tuple(tensor.shape))
        if leaf == "running_var":
            value = 1 + 0.1 * np.abs(noise)
        elif leaf in ("running_mean", "bias"):
            value = 0.1 * noise
        elif noise.ndim == 1:
            value = 1 + 0.1 * noise if f"{stem}.bias" in state else 0.25 + 0.01 * noise
        else:
            value = gain * noise / math.sqrt(noise[0].size)
        tensor.copy_(torch.from_numpy(value))
    return network.eval()


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request):
    return request.param, PUBLISHED[request.param](1000)


def test_keys_shapes_and_order_are_the_published_ones(published):
    name, network = published
    expected = key_list(name)
    state = network.state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == list(expected["keys"].items())
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["num_parameters"]
    integers = {key for key, value in state.items() if value.dtype == torch.int64}
    assert integers == {key for key in state if key.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    "layout",
    [torch.contiguous_format, pytest.param(torch.channels_last, marks=pytest.mark.slow)],
    ids=["plain", "channels_last"],
)
def test_outputs_are_the_reference_implementations(published, layout):
    name, network = published
    reference = MODELS[name]
    fill(network, reference["gain"])
    images = torch.from_numpy(drawn(f"input:{name}", reference["input"]["shape"], "uniform")).float()
    with torch.no_grad():
        outputs = network.to(memory_format=layout)(images.contiguous(memory_format=layout))
    assert isinstance(outputs, ClassifierOutput)
    for output, expected in zip(outputs, reference["outputs"], strict=True):
        assert list(output.shape) == expected["shape"]
        flat = output.flatten().double().numpy()
        tolerance = 1e-5 * expected["absmax"]
        np.testing.assert_allclose(flat[:8], expected["first8"], rtol=1e-5, atol=tolerance)
        np.testing.assert_allclose(flat[-4:], expected["last4"], rtol=1e-5, atol=tolerance)
        np.testing.assert_allclose(flat.mean(), expected["mean"], rtol=1e-5, atol=tolerance)
        np.testing.assert_allclose(flat.std(ddof=1), expected["std"], rtol=1e-5)
        np.testing.assert_allclose(np.abs(flat).max(), expected["absmax"], rtol=1e-5)


def test_the_bias_of_vgg16s_last_norm_is_frozen():
    network = VGG16(5, 0.125, size=32)
    assert [key for key, parameter in network.named_parameters() if not parameter.requires_grad] == ["bn.bias"]


# ---------------------------------------------------------------- widths and sizes


@pytest.mark.parametrize("width", [0.125, 0.25])
@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_narrow_networks_keep_their_keys_and_train(architecture, width):
    torch.manual_seed(0)
    size = 32 if architecture is VGG16 else 16
    network = architecture(7, width=width, size=size)
    name = next(key for key, value in PUBLISHED.items() if value is architecture)
    assert list(network.state_dict()) == list(key_list(name)["keys"])
    network.to(memory_format=torch.channels_last)
    output = network(torch.rand(3, 3, size, size).contiguous(memory_format=torch.channels_last))
    assert output.features.shape == (3, 512 * width)
    assert output.logits.shape == (3, 7)
    nn.functional.cross_entropy(output.logits, torch.tensor([0, 3, 6])).backward()
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            assert bool(parameter.grad.isfinite().all()), key


@pytest.mark.parametrize("architecture", CLASSIFIERS)
def test_images_carry_gradients_through_a_frozen_network(architecture):
    size = 32 if architecture is VGG16 else 16
    network = architecture(4, width=0.125, size=size).eval().requires_grad_(False)
    images = torch.rand(2, 3, size, size, requires_grad=True)
    network(images).logits[:, 1].sum().backward()
    assert bool((images.grad.abs().flatten(1).sum(dim=1) > 0).all())


def test_published_sizes_are_the_defaults():
    assert VGG16(2, 0.125).fc_layer.in_features == 64 * 4  # 2x2 maps
    assert IR152(2, 0.125).output_layer[3].in_features == 64 * 4**2
    assert FaceNet112(2, 0.125).feature.output_layer[3].in_features == 64 * 7**2


@pytest.mark.parametrize(
    ("channels", "width", "expected"), [(64, 1.0, 64), (64, 0.01, 8), (512, 0.3, 152), (64, 2, 128)]
)
def test_channels_scale_to_multiples_of_eight(channels, width, expected):
    assert scaled(channels, width) == expected


@pytest.mark.parametrize("width", [0, -1, math.nan, math.inf])
def test_a_width_that_is_no_positive_number_is_refused(width):
    with pytest.raises(MibenchError, match="width must be a positive number"):
        VGG16(2, width)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(MibenchError, match="multiple of 32, got 48"):
        VGG16(2, 0.125, size=48)
    with pytest.raises(MibenchError, match="16 pixels or more, got 8"):
        IdentityRegressor(3, size=8)


def test_dropout_is_off_at_rate_zero_and_in_eval_mode():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 16, 16)
    network = FaceNet64(3, 0.125, dropout=0.0, size=16).train()
    torch.testing.assert_close(network(images).logits, network(images).logits)
    network = FaceNet64(3, 0.125, dropout=0.5, size=16).train()
    assert not torch.allclose(network(images).logits, network(images).logits)
    network.eval()
    torch.testing.assert_close(network(images).logits, network(images).logits)


@pytest.mark.parametrize("size", [16, 50, 64])
def test_the_regressor_gives_vectors_between_zero_and_one(size):
    vectors = IdentityRegressor(9, 0.125, size=size)(torch.rand(3, 3, size, size)).detach()
    assert vectors.shape == (3, 9)
    assert 0 <= float(vectors.min()) <= float(vectors.max()) <= 1


# ---------------------------------------------------------------- layers written out for speed


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (4, 3, 5), (4, 3)])
def test_prelu_is_torchs_prelu(shape):
    generator = torch.Generator().manual_seed(0)
    layer = ChannelPReLU(3)
    layer.weight.data = torch.tensor([0.25, -0.5, 1.5])
    inputs = torch.randn(shape, generator=generator).requires_grad_()
    weights = torch.randn(shape, generator=generator)

    def both(function):
        output = function(inputs)
        return output, *torch.autograd.grad((output * weights).sum(), (inputs, layer.weight))

    torch.testing.assert_close(both(layer), both(lambda x: nn.functional.prelu(x, layer.weight)))


def test_prelu_passes_a_gradient_check_and_works_under_vmap():
    layer = ChannelPReLU(2).double()
    inputs = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    assert torch.autograd.gradcheck(layer, (inputs,))
    stacked = torch.stack([inputs.detach(), -inputs.detach()])
    torch.testing.assert_close(torch.vmap(layer)(stacked)[1], layer(-inputs.detach()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [6, 7])
def test_subsampling_and_projection_are_the_layers_they_stand_for(stride, size):
    images = torch.randn(2, 8, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Subsample(stride)(images), nn.MaxPool2d(1, stride)(images))
    projection = Projection(8, 16, stride)
    torch.testing.assert_close(projection(images), nn.functional.conv2d(images, projection.weight, stride=stride))


def test_a_strided_projection_survives_its_backward_pass_in_channels_last():
    # The shape at which torch 2.14's own strided kernel crashed: the first projection of a narrow judge.
    projection = Projection(8, 16, 2).to(memory_format=torch.channels_last)
    images = torch.rand(32, 8, 56, 56).contiguous(memory_format=torch.channels_last).requires_grad_()
    projection(images).sum().backward()
    expected = torch.zeros_like(images)
    expected[:, :, ::2, ::2] = projection.weight.detach().sum(dim=0).view(1, 8, 1, 1)
    torch.testing.assert_close(images.grad, expected)


# ---------------------------------------------------------------- catalogue


def test_the_catalogue_is_read_without_torch():
    code = "import sys, mibench.targets; assert mibench.targets.CATALOGUE; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("kind", "name"), [(k, n) for k, names in CATALOGUE.items() if k not in ("cards", "role") for n in names]
)
def test_every_entry_of_the_catalogue_loads(kind, name):
    module, _, attribute = CATALOGUE[kind][name].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_a_judge_is_no_target():
    assert not set(CATALOGUE["target"]) & set(CATALOGUE["judge"])


@pytest.mark.parametrize("name", ["vgg16", "vgg16_mid"])
def test_vgg16_begins_with_kaiming_weights_and_zero_biases(name: str) -> None:
    """torch's own initial weights are a third as wide: training starts slower and ends 1.4 points lower."""
    torch.manual_seed(0)
    module, _, attribute = CATALOGUE["target"][name].partition(":")
    network = getattr(importlib.import_module(module), attribute)(10, 0.25)
    for layer in network.feature:
        if isinstance(layer, torch.nn.Conv2d):
            fan_out = layer.out_channels * 9
            assert not layer.bias.any()
            assert float(layer.weight.std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
