"""``mibench audit`` of a model that was fed wrongly: the preprocessing or order of classes that would have worked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from audited import COLOURS, SIZE, Pixels, paint

from mibench.api import ImageSpec
from mibench.audits.data import read_material
from mibench.audits.preprocessing import advice, least_accuracy, logits_of, measure
from mibench.audits.request import AuditRequest
from mibench.data.datasets.folder import Folder


def test_a_model_that_works_as_fed_is_not_second_guessed(place: Path) -> None:
    dataset = Folder(root=str(place / "people"), public_root=str(place / "strangers"))
    image = ImageSpec(size=SIZE, std=(1 / 255,))
    logits = logits_of(Pixels(list(COLOURS.values()), [0.0] * 3, [1 / 255] * 3), torch.device("cpu"))
    assert measure(logits, image, dataset).test == 1.0
    assert advice(logits, image, dataset, channel_order="rgb", names=list(COLOURS)) is None


@pytest.mark.parametrize(
    ("mean", "std", "bgr", "order", "flags"),
    [
        ([0.0] * 3, [1 / 255] * 3, False, None, "--range 0,255"),
        ([0.0] * 3, [1 / 255] * 3, True, None, "--range 0,255 --channel-order bgr"),
        (
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
            False,
            None,
            "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
        ),
        ([0.0] * 3, [1.0] * 3, False, [2, 0, 1], "--classes FILE"),
        ([0.0] * 3, [1 / 255] * 3, False, [1, 2, 0], "--range 0,255 --classes FILE"),
    ],
)
def test_the_preprocessing_that_would_have_worked_is_named(
    place: Path, mean: list[float], std: list[float], bgr: bool, order: list[int] | None, flags: str
) -> None:
    colours = list(COLOURS.values())
    if order is not None:
        colours = [colours[index] for index in order]
    dataset = Folder(root=str(place / "people"), public_root=str(place / "strangers"))
    network = Pixels(colours, mean, std, bgr=bgr)
    image = ImageSpec(size=SIZE)
    found = advice(logits_of(network, torch.device("cpu")), image, dataset, channel_order="rgb", names=list(COLOURS))
    assert found == (flags, 1.0)


def test_the_order_of_imagefolder_is_recognised(tmp_path: Path, home: Path) -> None:
    """Trap: torchvision sorts "10" before "2"; a model trained so looks half broken."""
    colours = {str(n): (20 * n, 255 - 20 * n, (67 * n) % 255) for n in range(11)}
    paint(tmp_path / "people", colours, 6)
    paint(tmp_path / "strangers", {"a": (1, 2, 3)}, 2)
    dataset = Folder(root=str(tmp_path / "people"), public_root=str(tmp_path / "strangers"))
    network = Pixels([colours[name] for name in sorted(colours)], [0.0] * 3, [1.0] * 3)
    logits = logits_of(network, torch.device("cpu"))
    names = list(dataset.class_names)
    assert advice(logits, ImageSpec(size=SIZE), dataset, channel_order="rgb", names=names) == (
        "--classes imagefolder",
        1.0,
    )
    ordered = read_material(
        AuditRequest(model="x:y", data=tmp_path / "people", public=tmp_path / "strangers", classes="imagefolder")
    )
    assert measure(logits, ImageSpec(size=SIZE), ordered.dataset).test == 1.0


def test_an_order_of_classes_that_chance_suggests_is_not_believed(place: Path) -> None:
    """A permutation is fitted on train images and measured on test images: noise gains nothing."""
    dataset = Folder(root=str(place / "people"), public_root=str(place / "strangers"))

    def noise(pixels: torch.Tensor, image: ImageSpec) -> Iterator[torch.Tensor]:
        generator = torch.Generator().manual_seed(int(pixels.sum()) % 1000)
        yield torch.rand(len(pixels), 3, generator=generator)

    found = advice(noise, ImageSpec(size=SIZE), dataset, channel_order="rgb", names=list(COLOURS))
    assert found is None or found[1] < 0.9


@pytest.mark.parametrize(("classes", "least"), [(2, 0.75), (3, 2 / 3), (4, 0.5), (1000, 0.002)])
def test_the_least_accuracy_is_twice_chance_and_can_be_reached(classes: int, least: float) -> None:
    assert least_accuracy(classes) == pytest.approx(least)
