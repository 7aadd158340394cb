"""StyleGAN2-ADA pickles: read bit for bit; other files, cut or damaged ones are refused."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickles import Raw, call, code, file_with, name, network, read, refused, state, tensor, whole
from stylegan_standin import Persistent, dumped, persistent, snapshot
from torch import Tensor

from mibench.api import MibenchError
from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.weights.importing.reader import read_weights
from mibench.weights.importing.stylegan_pickle import read_stylegan_pickle

SHAPE: dict[str, Any] = {"resolution": 8, "channel_base": 64, "channel_max": 8}


@pytest.fixture(scope="module")
def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator, discriminator = Generator(z_dim=8, w_dim=6, mapping_layers=2, **SHAPE), Discriminator(**SHAPE)
    generator.synthesis.freeze()  # adds buffers that no file keeps
    return generator, discriminator


# -- honest files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_those_in_the_file_bit_for_bit(networks: Any, protocol: int, tmp_path: Path) -> None:
    generator, discriminator = networks
    marker = tmp_path / "executed"
    found = read(dumped(snapshot(generator, discriminator, marker=str(marker)), protocol), tmp_path)
    expected = {f"G.{key}": tensor for key, tensor in generator.state_dict().items()}
    expected |= {f"D.{key}": tensor for key, tensor in discriminator.state_dict().items()}
    assert list(found.tensors) == list(expected)
    for key, exact in expected.items():
        assert found.tensors[key].dtype == exact.dtype
        assert found.tensors[key].numpy().tobytes() == exact.contiguous().numpy().tobytes(), key
    assert found.container == "stylegan2-ada"
    assert found.extras["generator"]["synthesis_kwargs"]["conv_clamp"] == 256
    assert found.extras["discriminator"]["img_resolution"] == 8
    assert found.extras["training_set"] == "ffhq-16.zip"  # the folder it lay in is nobody's business
    assert not marker.exists()


def test_the_general_reader_hands_such_files_over(networks: Any, tmp_path: Path) -> None:
    path = tmp_path / "ffhq.pkl"
    path.write_bytes(dumped(snapshot(*networks)))
    found, direct = read_weights(path), read_stylegan_pickle(path)
    assert (found.file, found.container, found.sha256) == ("ffhq.pkl", "stylegan2-ada", direct.sha256)
    assert list(found.tensors) == list(direct.tensors)


def test_old_files_lack_the_discriminator_training_set_and_augmentation(networks: Any, tmp_path: Path) -> None:
    found = read(dumped(snapshot(networks[0], old=True)), tmp_path)
    assert {key[:2] for key in found.tensors} == {"G."}
    assert "discriminator" not in found.extras
    assert "training_set" not in found.extras


def test_the_average_is_read_not_the_generator_in_training(networks: Any, tmp_path: Path) -> None:
    content = snapshot(networks[0])
    torch.manual_seed(9)
    content["G"] = persistent(Generator(z_dim=8, w_dim=6, mapping_layers=2, **SHAPE))
    found = read(dumped(content), tmp_path)
    assert torch.equal(found.tensors["G.mapping.fc0.weight"], networks[0].mapping.fc0.weight)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last),
        torch.randn(6, 4).t(),
        torch.randn(10)[2:5],
        torch.randn(3).half(),
        torch.arange(4),
        torch.empty(0, 3),
        torch.tensor(1.5),
    ],
    ids=["channels last", "transposed", "window", "half", "integers", "empty", "scalar"],
)
def test_strides_offsets_and_types_are_kept(tensor: Tensor, tmp_path: Path) -> None:
    network = Persistent("Generator", {"_parameters": {}, "_buffers": {"x": tensor, "y": None}, "_modules": {}}, "")
    found = read(dumped({"G_ema": network}), tmp_path).tensors
    assert list(found) == ["G.x"]
    assert found["G.x"].dtype == tensor.dtype
    assert torch.equal(found["G.x"], tensor)
    assert found["G.x"].is_contiguous()
    assert found["G.x"].untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_pickles_by_hand_are_read(tmp_path: Path) -> None:
    assert torch.equal(read(file_with(tensor()), tmp_path).tensors["G.x"], torch.arange(6.0))


def test_allowed_names_do_what_files_need(tmp_path: Path) -> None:
    number = state(call("numpy", "dtype", "f8", False, True), (3, "<", None, None, None, -1, -1, 0))
    settings = {
        "scale": call("numpy.core.multiarray", "scalar", number, np.float64(0.25).tobytes()),
        "text": call("numpy._core.multiarray", "scalar", number, call("_codecs", "encode", "\x00" * 7 + "@", "latin1")),
        "flag": call("numpy.core.multiarray", "scalar", call("numpy", "dtype", "b1", False, True), b"\x01"),
        "names": call("__builtin__", "set", ["a"]),
        "more": Raw(name("dnnlib.util", "EasyDict") + b")\x81}b" + b"(" + code("x") + code(1) + b"u"),
        "size": call("torch", "Size", (2, 3)),
        "device": call("torch", "device", "cuda", 0),
    }
    content = whole({"G_ema": network(_buffers={"x": tensor()}, _init_kwargs=settings)})
    assert read(content, tmp_path).extras["generator"] == {
        "scale": 0.25,
        "text": 2.0,
        "flag": True,
        "names": ["a"],
        "more": {"x": 1},
        "size": [2, 3],
        "device": None,
    }


# -- other files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        whole((Raw(b"N"), Raw(b"N"), Raw(b"N"))),
        whole((call("dnnlib.tflib.network", "Network"),) * 3),
        b"\x80\x03" + code(tuple(Raw(name("dnnlib.tflib.network", "Network") + b")\x81}b") for _ in range(3))) + b".",
    ],
    ids=["a tuple of three", "called", "made"],
)
def test_files_of_tensorflow_are_told_apart(content: bytes, tmp_path: Path) -> None:
    line = refused(content, tmp_path)
    assert "TensorFlow" in line
    assert "stylegan2-ada-pytorch" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (whole({"G": network()}), "holds G and no G_ema"),
        (whole({}), "holds nothing and no G_ema"),
        (whole([1, 2]), "holds a list"),
        (whole({"G_ema": Raw(b"N")}), "no G_ema"),
        (whole({"G_ema": network(), "D": 5}), "its D is no network"),
        (whole({"G_ema": network(_buffers=[1])}), "its generator: _buffers is not a mapping"),
        (whole({"G_ema": network(_buffers={"x": 1})}), "not a tensor"),
        (whole({"G_ema": network(_modules={"x": 1})}), "not a network"),
        (b"", "is empty"),
    ],
)
def test_other_contents_are_refused_by_what_they_are(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(content, tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match="cannot read"):
        read_stylegan_pickle(tmp_path / "network.pkl")


def test_a_file_cut_off_anywhere_is_refused(networks: Any, tmp_path: Path) -> None:
    content = dumped(snapshot(networks[0]))
    for share in (0.001, 0.1, 0.5, 0.9, 0.9999):
        assert "cut off or damaged" in refused(content[: int(len(content) * share)], tmp_path)


def test_damage_is_refused_or_harmless(networks: Any, tmp_path: Path) -> None:
    small = file_with(tensor())
    for seed in range(300):
        draw = random.Random(seed)
        broken = bytearray(small)
        for _ in range(draw.choice((1, 1, 2, 8))):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        with contextlib.suppress(MibenchError):  # anything else is a failure
            assert all(key.startswith("G.") for key in read(bytes(broken), tmp_path).tensors)
