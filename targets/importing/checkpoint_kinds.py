"""Tells the field's released classifiers apart by their keys alone.

Module names: ``feature``, ``output_layer`` and ``fc_layer`` are of the GMI and KEDMI protocol, which the networks of
this party keep.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

UNITS = {24: "ir50", 50: "ir152"}


class Kind(NamedTuple):
    """What a file is: our name of it, a phrase for messages, and what to do with it instead (or None)."""

    name: str
    text: str
    cure: str | None = None


def kind_of(tensors: Mapping[str, Tensor]) -> Kind | None:
    """The network whose weights these are; None: not one that this field releases."""
    keys = set(tensors)
    if {"l1.0.weight", "l2_5.3.weight"} <= keys:
        return Kind("generator", "the generator of GMI or KEDMI", "give it with its critic: --as prior:gmi@celeba")
    if "mbd1.T" in keys:
        return Kind("kedmi critic", "the critic of KEDMI", "give it with its generator: --as prior:kedmi@celeba+vgg16")
    if "ls.0.weight" in keys:
        return Kind("gmi critic", "the critic of GMI", "give it with its generator: --as prior:gmi@celeba")
    if any(key.startswith(("mapping.fc", "synthesis.b4.")) for key in keys):
        return Kind("stylegan2", "a StyleGAN2", "--as prior:stylegan2@ffhq")
    if "fc_layer.0.weight" in keys:
        return Kind(
            "softmax",
            "the older FaceNet of GMI (facenet.py) with a softmax inside fc_layer, which is not what the released "
            "checkpoints hold",
            "take FaceNet64_88.50.tar or FaceNet_95.88.tar of KEDMI",
        )
    if any(key.startswith("body.") for key in keys) and "input_layer.0.weight" in keys:
        name = UNITS.get(units(keys, "body."), "unknown")
        return Kind(
            f"{name} backbone",
            f"a face.evoLVe backbone ({name}), no classifier",
            f"--as backbone:{name}@ms1m, then train from it with --set train.init={name}@ms1m",
        )
    if any(key.startswith("feature.body.") for key in keys):
        return _ir(keys)
    if {"layer1.0.weight", "layer5.0.weight", "fc_layer.weight"} <= keys:
        return Kind("bido", "the VGG16 of BiDO", "--as target:vgg16@celeba+bido")
    if "st_layer.weight" in keys:
        return Kind("vgg16_mid", "the VGG16 of MID, with a bottleneck", "--as target:vgg16_mid@celeba")
    if "feature.40.weight" in keys:
        return Kind("vgg16", "VGG16", "--as target:vgg16@celeba")
    if {"features.0.weight", "features.40.weight"} <= keys:
        return Kind("vgg16_bn backbone", "torchvision's vgg16_bn", "--as backbone:vgg16_bn@imagenet")
    if {"conv1.weight", "layer1.0.conv1.weight"} <= keys:
        return Kind("resnet", "a torchvision ResNet", "--as target:resnet18@..., or the depth that it has")
    if "Mixed_5b.branch1x1.conv.weight" in keys:
        return Kind("inception_v3", "torchvision's Inception-v3", "--as judge:inception_v3@...")
    return None


def _ir(keys: set[str]) -> Kind:
    depth = UNITS.get(units(keys, "feature.body."), "unknown")
    inside = any(key.startswith("feature.output_layer.") for key in keys)
    outside = any(key.startswith("output_layer.") for key in keys)
    if inside and not outside:
        return Kind("facenet112", "the judge FaceNet at 112 pixels", "--as judge:facenet112@celeba")
    if inside:
        return Kind(
            "two output layers",
            "the older 64-pixel FaceNet of GMI (facenet.py), whose backbone carries an output layer (512*14*14) that "
            "nothing uses",
            "take FaceNet64_88.50.tar of KEDMI",
        )
    name = {"ir50": "facenet64", "ir152": "ir152"}.get(depth, "unknown")
    return Kind(name, f"{name} at 64 pixels", f"--as target:{name}@celeba")


def units(keys: set[str], prefix: str) -> int:
    """How many residual units a body has, by the highest number."""
    pattern = re.compile(rf"{re.escape(prefix)}(\d+)\.")
    return 1 + max((int(match[1]) for key in keys if (match := pattern.match(key))), default=-1)
