"""Somebody's own model in a file as a target: ONNX and TorchScript."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from accelerator import an_accelerator  # noqa: F401
from onnx import numpy_helper
from own_files import Flat, flat_onnx, onnx_file, script_file
from own_models import CLASSES, CPU, SIZE, as_file, network_of, stored
from torch import nn

from mibench.api import Access, AccessError, ImageSpec, MibenchError
from mibench.targets.custom.importing import import_onnx, import_torchscript
from mibench.weights import load


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("softmax", [False, True])
def test_an_onnx_file_is_a_victim_at_scores(
    own_models: Path, batch: int | str, channels_last: bool, softmax: bool
) -> None:
    content = onnx_file(batch=batch, channels_last=channels_last, softmax=softmax)
    trained = import_onnx("onnx", [as_file(content)], {"classes": CLASSES, "mean": [0.5], "std": [0.5]})
    assert trained.image == ImageSpec(size=SIZE, mean=(0.5,), std=(0.5,))
    victim = load.build_victim(stored(own_models, trained, access="scores"), Access.SCORES, CPU)
    images = torch.rand(5, 3, SIZE, SIZE)
    weights = numpy_helper.to_array(onnx.load_from_string(content).graph.initializer[0]).copy()
    expected = (((images - 0.5) / 0.5).mean(dim=(2, 3)) @ torch.from_numpy(weights)).softmax(1)
    assert torch.allclose(victim.scores(images), expected, atol=1e-5)
    assert torch.equal(victim.labels(images), expected.argmax(1))
    assert victim.queries.forward == 10
    with pytest.raises(AccessError, match="grants SCORES"):
        victim.logits(images)


def test_a_torchscript_file_is_a_victim_at_scores(own_models: Path) -> None:
    network = Flat()
    trained = import_torchscript("torchscript", [as_file(script_file(network))], {"classes": CLASSES, "size": SIZE})
    victim = load.build_victim(stored(own_models, trained, access="scores"), Access.SCORES, CPU)
    images = torch.rand(5, 3, SIZE, SIZE)
    assert torch.allclose(victim.scores(images), network(images).softmax(1), atol=1e-6)
    assert len({tuple(victim.scores(images).flatten().tolist()) for _ in range(5)}) == 1


class InPlace(Flat):
    """Its first layers write to the images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(torch.relu_(images.sub_(0.5).mul_(2)))


def relu_first(content: bytes) -> bytes:
    """The same graph behind a ReLU, and with its input as a second output."""
    model = onnx.load_from_string(content)
    model.graph.node[0].input[0] = "bright"
    model.graph.node.insert(0, onnx.helper.make_node("Relu", ["x"], ["bright"]))
    return bytes(model.SerializeToString())


def test_files_that_work_in_place_leave_images_alone(own_models: Path) -> None:
    script, graph = as_file(script_file(InPlace())), as_file(relu_first(onnx_file()))
    settings = {"classes": CLASSES, "size": SIZE}
    for trained in (import_torchscript("torchscript", [script], settings), import_onnx("onnx", [graph], settings)):
        assert trained.image == ImageSpec(size=SIZE), "nothing is computed between the images and the network"
        victim = load.build_victim(stored(own_models, trained, access="scores"), Access.SCORES, CPU)
        images = torch.rand(5, 3, SIZE, SIZE)
        before, first = images.clone(), victim.scores(images)
        assert torch.equal(victim.scores(images), first)
        assert torch.equal(images, before)


@pytest.mark.gpu
def test_files_answer_where_the_images_are(accelerator: torch.device) -> None:
    device = accelerator
    for trained in (
        import_torchscript("torchscript", [as_file(script_file(Flat()))], {"classes": CLASSES, "size": SIZE}),
        import_onnx("onnx", [as_file(onnx_file())], {"classes": CLASSES}),
    ):
        network = network_of(trained)
        images = torch.rand(3, 3, SIZE, SIZE)
        expected = network(images).logits
        found = network.to(device)(images.to(device)).logits
        assert found.device.type == device.type
        assert torch.allclose(found.cpu(), expected, atol=1e-4)


def external(folder: Path) -> bytes:
    path = folder / "outside.onnx"
    model = onnx.load_from_string(onnx_file())
    onnx.save_model(model, path, save_as_external_data=True, location="outside.bin", size_threshold=0)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (lambda folder: b"<html>quota</html>", {}, "no ONNX model that onnxruntime can open"),
        (lambda folder: onnx_file()[:90], {}, "no ONNX model that onnxruntime can open"),
        (external, {}, "keeps its weights in another file"),
        (lambda folder: flat_onnx(), {}, "2 axes; expected images (N, 3, H, W)"),
        (lambda folder: onnx_file(channels=1), {}, "3 channels"),
        (lambda folder: onnx_file(shape=["N", 3, SIZE, 2 * SIZE]), {}, "square images"),
        (lambda folder: onnx_file(classes=3), {}, "the data has 5 identities"),
        (lambda folder: onnx_file(size="H"), {}, "add --size"),
        (lambda folder: onnx_file(), {"size": 32}, "--size 32: the model's file says 8"),
        (lambda folder: onnx_file(), {"features": "fc"}, "--features and --set model.* belong to a model in code"),
        (lambda folder: script_file(Flat()), {}, "no ONNX model that onnxruntime can open"),
    ],
)
def test_an_onnx_file_that_does_not_fit_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: Callable[[Path], bytes],
    settings: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # trap: onnxruntime reads external data from the working directory
    with pytest.raises(MibenchError) as refused:
        import_onnx("onnx", [as_file(content(tmp_path))], {"classes": CLASSES, **settings})
    assert message.lower() in str(refused.value).lower()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        (b"no script", SIZE, "no TorchScript model"),
        (None, 2 * SIZE, "cannot run on images (2, 3, 16, 16)"),
        (None, None, "add --size"),
    ],
)
def test_a_torchscript_file_that_does_not_fit_is_one_line(
    content: bytes | None, size: int | None, message: str
) -> None:
    with pytest.raises(MibenchError) as refused:
        import_torchscript("torchscript", [as_file(content or script_file(Flat()))], {"classes": CLASSES, "size": size})
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_onnxruntime_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MibenchError, match=r'pip install "mibench\[onnx\]"'):
        import_onnx("onnx", [as_file(onnx_file())], {"classes": CLASSES})


def test_a_script_in_training_mode_is_noticed() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), Flat())
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.trace(network.train(), torch.rand(4, 3, SIZE, SIZE))
        torch.jit.save(scripted, buffer)
    settings = {"classes": CLASSES, "size": SIZE}
    trained = import_torchscript("torchscript", [as_file(buffer.getvalue())], settings)
    assert "training mode" in str(trained.notes)
    assert import_torchscript("torchscript", [as_file(script_file(network))], settings).notes == ()
