"""Targets and judge of the 224-pixel family: torchvision's networks key for key, narrow ones, and imported ones."""

from __future__ import annotations

import sys

import pytest
import torch
import torchvision
from torch import nn

from mibench import registry
from mibench.api import Access, ClassifierOutput, ImageSpec, MibenchError, Victim, WeightsContents
from mibench.targets import LARGE
from mibench.targets.importing.torchvision import import_backbone, import_inception, import_target, import_timm
from mibench.targets.judges.inception_v3 import INCEPTION_V3
from mibench.targets.networks.timm_networks import TIMM
from mibench.targets.networks.torchvision_networks import RESNET18, VIT_B_16, Head

TINY = 1 / 16


def on_meta(build, *arguments, **options):
    with torch.device("meta"):
        return build(*arguments, **options)


def shapes(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def weights_file(tensors, **fields):
    return WeightsContents(file="w.pth", sha256="0" * 64, container="model_state_dict", tensors=tensors, **fields)


# ---------------------------------------------------------------- the networks


@pytest.mark.parametrize("name", LARGE)
def test_keys_and_shapes_are_torchvisions(name):
    ours = on_meta(registry.load("target", name), 530)
    theirs = on_meta(getattr(torchvision.models, name), weights=None, num_classes=530)
    assert shapes(ours) == shapes(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "densenet121", "vit_b_16"])
def test_features_are_the_input_of_the_final_layer(name):
    network = registry.load("target", name)(7, TINY, size=64).eval()
    (head,) = [module for module in network.modules() if isinstance(module, Head)]
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
        output = network(torch.rand(3, 3, 64, 64))
        torch.testing.assert_close(output.logits, output.features @ head.weight.T + head.bias)
    assert output.logits.shape == (3, 7)


def test_logits_are_torchvisions_with_the_same_weights():
    theirs = torchvision.models.resnet18(weights=None, num_classes=7).eval()
    ours = RESNET18(7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images).logits, theirs(images), rtol=0, atol=0)
        assert ours(images).features.shape == (2, 512)


def test_a_victim_normalises_and_hands_gradients_to_images():
    network = RESNET18(7, TINY)
    image = ImageSpec(size=64, mean=(0.5,) * 3, std=(0.5,) * 3)
    victim = Victim(network, image=image, num_classes=7, access=Access.GRADIENTS)
    images = torch.rand(2, 3, 64, 64, requires_grad=True)
    victim.logits(images).sum().backward()
    assert bool(images.grad.abs().flatten(1).sum(dim=1).gt(0).all())
    torch.testing.assert_close(victim.logits(images), network(2 * images - 1).logits)


@pytest.mark.parametrize("name", [*LARGE, "inception_v3"])
def test_a_width_scales_every_channel_count_and_no_key(name):
    kind = "judge" if name == "inception_v3" else "target"
    build = registry.load(kind, name)
    whole, half = shapes(on_meta(build, 7)), shapes(on_meta(build, 7, 0.5))
    assert list(whole) == list(half)
    for key, shape in half.items():
        for have, published in zip(shape, whole[key], strict=True):
            assert have in (published, published / 2), key
    numbers = [sum(torch.Size(s).numel() for s in found.values()) for found in (whole, half)]
    assert numbers[1] < 0.3 * numbers[0]


def test_widths_are_rounded_to_sixteenths_and_one_at_least():
    for width, channels in ((0.01, 4), (0.05, 4), (0.13, 8), (1.0, 64)):
        assert RESNET18(7, width).conv1.out_channels == channels
    for width in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(MibenchError, match="width must be a positive number"):
            RESNET18(7, width)


def test_narrow_resnets_have_no_strided_projection_and_the_same_numbers():
    """Torch's CPU kernel for one writes outside its memory where channels are few: at 224 pixels a crash."""
    network = RESNET18(7, TINY)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.stride == (1, 1) for module in convolutions if module.kernel_size == (1, 1))
    theirs = nn.Conv2d(4, 8, 1, stride=2, bias=False)
    ours = network.layer2[0].downsample[0]
    theirs.load_state_dict(ours.state_dict())
    for side in (8, 9):
        images = torch.rand(2, 4, side, side)
        torch.testing.assert_close(ours(images), theirs(images))


def test_a_vit_belongs_to_its_image_size():
    assert shapes(VIT_B_16(7, TINY, size=64))["encoder.pos_embedding"] == (1, 17, 48)
    with pytest.raises(MibenchError, match="size must be a multiple, got 100"):
        VIT_B_16(7, size=100)


# ---------------------------------------------------------------- the judge


def test_inception_is_torchvisions_with_2048_features_in_eval_mode():
    ours = on_meta(INCEPTION_V3, 530)
    theirs = on_meta(torchvision.models.inception_v3, weights=None, num_classes=530, init_weights=False)
    assert shapes(ours) == shapes(theirs)
    assert ours.fc.in_features == 2048
    network = INCEPTION_V3(7, TINY).eval()
    output = network(torch.rand(2, 3, 299, 299))
    assert isinstance(output, ClassifierOutput)
    assert output.features.shape == (2, 128)


def test_a_small_inception_has_no_auxiliary_classifier():
    """It needs 299 pixels: below, its 5x5 convolution meets fewer pixels than that, in training only."""
    assert "AuxLogits.fc.weight" in shapes(INCEPTION_V3(7, TINY))
    small = INCEPTION_V3(7, TINY, size=75)
    assert not any(key.startswith("AuxLogits") for key in shapes(small))
    assert isinstance(small.train()(torch.rand(2, 3, 75, 75)), ClassifierOutput)
    with pytest.raises(MibenchError, match="at least 75 pixels, got 64"):
        INCEPTION_V3(7, size=64)


def test_the_judge_is_never_a_target():
    assert "inception_v3" in registry.names("judge")
    assert "inception_v3" not in registry.names("target")


# ---------------------------------------------------------------- timm


def test_timm_is_found_by_name_and_measured_at_any_size():
    pytest.importorskip("timm")
    for model, features in (("test_resnet", 96), ("test_resnet.r160_in1k", 96), ("test_vit", 64)):
        network = TIMM(7, model=model, size=64).eval()
        with torch.no_grad():
            output = network(torch.rand(2, 3, 64, 64))
        assert isinstance(output, ClassifierOutput)
        assert output.features.shape == (2, features)
        assert output.logits.shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "resnett18"}, "has no model 'resnett18'; did you mean 'resnet18'"),
        ({"model": "hf-hub:somebody/model"}, "has no model"),  # never a download
        ({"model": "deit_tiny_distilled_patch16_224"}, "ends in head, head_dist; one linear layer is needed"),
        ({"model": "test_vit", "size": 65}, "cannot take images of 65 pixels"),
        ({"model": "test_resnet", "width": 0.5}, "timm's networks have no width"),
    ],
)
def test_what_timm_cannot_give_is_one_line(options, message):
    pytest.importorskip("timm")
    with pytest.raises(MibenchError, match=message) as caught:
        TIMM(7, **options)
    assert "\n" not in str(caught.value)


def test_without_timm_the_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MibenchError, match=r'pip install "mibench\[timm\]"'):
        TIMM(7, model="resnet18")


# ---------------------------------------------------------------- importers


def built_from(kind, trained):
    arguments = dict(trained.arguments) | {"num_classes": trained.classes}
    network = registry.load(kind, trained.architecture)(**arguments)
    network.load_state_dict(trained.weights)  # strict
    return network.eval()


@pytest.mark.parametrize(("name", "size"), [("resnet18", 64), ("densenet121", 64), ("vit_b_16", 64)])
def test_a_target_comes_back_as_it_was_saved(name, size):
    network = registry.load("target", name)(13, 2 * TINY, size=size).eval()
    trained = import_target(name, [weights_file(network.state_dict())], {"size": size})
    assert trained.classes == 13
    assert trained.arguments == {"width": 2 * TINY, "size": size}
    assert trained.image == ImageSpec(size=size, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.rand(2, 3, size, size)
    assert torch.equal(built_from("target", trained)(images).logits, network(images).logits)


def test_the_size_of_a_vit_is_read_off_its_positions():
    tensors = VIT_B_16(7, TINY, size=96).state_dict()
    assert import_target("vit_b_16", [weights_file(tensors)], {}).image.size == 96
    with pytest.raises(MibenchError, match=r"positions for images of 96 pixels, import\.size says 224"):
        import_target("vit_b_16", [weights_file(tensors)], {"size": 224})


def test_keys_in_the_spelling_of_older_torchvision_are_understood():
    """The files that torchvision downloads for DenseNet and ViT are older than its keys, and count no batches."""
    dense = registry.load("target", "densenet121")(7, TINY).state_dict()
    old = {}
    for key, value in dense.items():
        for part in ("norm1", "conv1", "norm2", "conv2"):
            if "denselayer" in key:
                key = key.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        if not key.endswith("num_batches_tracked"):
            old[key] = value
    assert not set(old) <= set(dense)
    trained = import_target("densenet121", [weights_file(old)], {})
    assert set(trained.weights) == set(dense)
    assert "did not count batches" in str(trained.notes)
    built_from("target", trained)
    vit = VIT_B_16(7, TINY).state_dict()
    old = {key.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): v for key, v in vit.items()}
    assert set(import_target("vit_b_16", [weights_file(old)], {}).weights) == set(vit)


def test_an_evaluator_of_ppa_whose_auxiliary_classifier_kept_1000_classes_is_taken():
    """PPA replaces the final layer only: a file for 530 people has an auxiliary classifier of ImageNet's classes."""
    tensors = INCEPTION_V3(13, TINY).state_dict()
    tensors["AuxLogits.fc.weight"] = torch.zeros(1000, 48)
    tensors["AuxLogits.fc.bias"] = torch.zeros(1000)
    trained = import_inception("inception_v3", [weights_file(tensors)], {})
    assert trained.classes == 13
    assert trained.notes == ("without AuxLogits, which serves training only",)
    assert not any(key.startswith("AuxLogits") for key in trained.weights)
    assert built_from("judge", trained)(torch.rand(1, 3, 299, 299)).logits.shape == (1, 13)


def test_an_evaluator_may_stand_behind_torchvisions_input_transform():
    network = INCEPTION_V3(13, TINY, transform_input=True).eval()
    trained = import_inception("inception_v3", [weights_file(network.state_dict())], {"transform_input": True})
    images = torch.rand(1, 3, 299, 299)
    with torch.no_grad():
        torch.testing.assert_close(built_from("judge", trained)(images).logits, network(images).logits)
        other = import_inception("inception_v3", [weights_file(network.state_dict())], {})
        assert not torch.allclose(built_from("judge", other)(images).logits, network(images).logits)


def test_a_backbone_keeps_all_it_has():
    tensors = INCEPTION_V3(1000, TINY).state_dict()
    trained = import_backbone("inception_v3", [weights_file(tensors)], {"mean": [0.485, 0.456, 0.406], "std": 0.2})
    assert set(trained.weights) == set(tensors)
    assert trained.image == ImageSpec(size=299, mean=(0.485, 0.456, 0.406), std=(0.2,) * 3)
    built_from("backbone", trained)


def test_timms_weights_are_taken_by_its_name_for_the_network():
    pytest.importorskip("timm")
    network = TIMM(13, model="test_resnet", size=64).eval()
    given = {"model": "test_resnet", "size": 64}
    trained = import_timm("timm", [weights_file(network.state_dict())], given)
    assert trained.classes == 13
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(built_from("target", trained)(images).logits, network(images).logits)
    with pytest.raises(MibenchError, match=r"which of timm's models\? --set import\.model=NAME"):
        import_timm("timm", [weights_file(network.state_dict())], {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sise": 64}, "unknown setting 'import.sise'; did you mean 'size'"),
        ({"size": "large"}, "import.size takes a whole number, got 'large'"),
        ({"mean": [0.1, 0.2]}, "import.mean takes one number or three"),
        ({"std": 0.0}, "import.std must be positive"),
        ({"mean": "grey"}, "import.mean takes one number or three, got 'grey'"),
    ],
)
def test_a_mistake_in_an_import_is_one_line(settings, message):
    tensors = RESNET18(7, TINY).state_dict()
    with pytest.raises(MibenchError, match=message) as caught:
        import_target("resnet18", [weights_file(tensors)], settings)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused_by_their_final_layer():
    tensors = registry.load("target", "densenet121")(7, TINY).state_dict()
    with pytest.raises(MibenchError, match=r"this is no resnet18: its final layer fc\.weight is missing"):
        import_target("resnet18", [weights_file(tensors)], {})
    with pytest.raises(MibenchError, match="a classifier is one file, got 2"):
        import_target("resnet18", [weights_file(tensors), weights_file(tensors)], {})


def test_the_networks_are_modules_with_their_own_random_weights():
    torch.manual_seed(0)
    first, second = RESNET18(7, TINY), RESNET18(7, TINY)
    assert isinstance(first, nn.Module)
    assert not torch.equal(first.conv1.weight, second.conv1.weight)
    assert not any(parameter.is_meta for parameter in first.parameters())
