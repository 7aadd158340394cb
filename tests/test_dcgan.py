"""The networks, losses and trainings of the GMI and KEDMI priors against key lists, reference outputs and properties."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mibench.api import Access, ClassifierOutput, ImageSpec, MibenchError, PublicAndVictim, Trained, Victim, Workshop
from mibench.attacks.priors.dcgan import GMIPrior, KEDMIPrior
from mibench.attacks.priors.dcgan_networks import Critic, Generator, MinibatchDiscriminator
from mibench.attacks.priors.dcgan_training import (
    TrainDCGAN,
    TrainGMI,
    TrainKEDMI,
    entropy,
    neg_log_real,
    soft_cross_entropy,
)

DATA = Path(__file__).parent / "data"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "GMI_Generator": Generator,
    "GMI_DGWGAN": Critic,
    "KEDMI_MinibatchDiscriminator": lambda: MinibatchDiscriminator(num_classes=1000),
}
VECTORS = json.loads((DATA / "test_vectors.json").read_text())


def draw(key: str, shape: tuple[int, ...], uniform: bool = False) -> Tensor:
    """The reference's deterministic numbers for a name."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    return torch.as_tensor(state.random_sample(shape) if uniform else state.standard_normal(shape)).float()


def reference_weights(network: nn.Module, gain: float) -> dict[str, Tensor]:
    state = network.state_dict()
    filled = {}
    for key, tensor in state.items():
        n = draw(key, tuple(tensor.shape)) if tensor.is_floating_point() else tensor
        if key.endswith("num_batches_tracked"):
            filled[key] = tensor
        elif key.endswith("running_var"):
            filled[key] = 1 + 0.1 * n.abs()
        elif key.endswith(("running_mean", "bias")):
            filled[key] = 0.1 * n
        elif key == "mbd1.T":
            filled[key] = 0.02 * n
        elif tensor.ndim == 1:
            filled[key] = 1 + 0.1 * n
        else:
            filled[key] = gain * n / tensor[0].numel() ** 0.5
    return filled


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_those_of_the_release(name: str) -> None:
    expected = json.loads((DATA / f"state_dict_{name}.json").read_text())
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == expected["keys"]
    assert list(network.state_dict()) == list(expected["keys"])
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["num_parameters"]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_outputs_are_those_of_the_reference(name: str) -> None:
    wanted = VECTORS["models"][name]
    network = NETWORKS[name]().eval()
    network.load_state_dict(reference_weights(network, wanted["gain"]))
    given = wanted["input"]
    found = network(draw(f"input:{name}", tuple(given["shape"]), given["dist"] == "uniform"))
    outputs = list(found) if isinstance(found, tuple) else [found]
    assert len(outputs) == len(wanted["outputs"])
    for output, expected in zip(outputs, wanted["outputs"], strict=True):
        assert list(output.shape) == expected["shape"]
        torch.testing.assert_close(
            output.flatten()[: len(expected["first8"])], torch.tensor(expected["first8"]), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            output.flatten()[-len(expected["last4"]) :], torch.tensor(expected["last4"]), rtol=1e-4, atol=1e-4
        )
        assert output.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
        assert output.std().item() == pytest.approx(expected["std"], abs=1e-4)
