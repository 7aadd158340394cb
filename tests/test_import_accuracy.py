"""Accuracy of imported weights: measured here, reported by their authors, and why the two may differ."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import CLASSES, SMALL_WORLD, bring, save, state
from torch import Tensor, nn

from mibench.api import Accuracy
from mibench.metrics.extractors import JudgeExtractor
from mibench.weights import accuracy
from mibench.weights.importing.reported_accuracy import as_published, doubt
from mibench.weights.importing.requested_name import parse


def test_the_accuracy_is_measured_and_compared(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tar", state("vgg16"))
    done = bring("target:vgg16@synthfaces+x", path, settings=SMALL_WORLD)
    assert done.card.measured is not None
    assert done.card.measured["test_images"] == 5 * 14
    measured = done.card.measured["test_accuracy"]
    assert 0 <= measured <= 1
    assert "agrees_with_reported" not in done.card.measured
    assert done.card.dataset_digest is None, "published weights are not tied to one version of the lists"
    percent = 100 * measured + 50 if measured < 0.5 else 100 * measured - 45
    doubted = bring("target:vgg16@synthfaces+y", path, settings=SMALL_WORLD, reported=percent)
    assert doubted.card.measured is not None
    assert doubted.card.measured["agrees_with_reported"] is False
    assert len(doubted.doubts) == 1
    assert doubted.doubts[0] in str(doubted.card.notes)
    agreed = bring("target:vgg16@synthfaces+z", path, settings=SMALL_WORLD, reported=max(100 * measured, 1.5))
    assert agreed.card.measured is not None
    assert agreed.card.measured["agrees_with_reported"] is True
    assert not agreed.doubts


def test_accuracy_counts_every_image_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from mibench.api import ImageSpec
    from mibench.data.datasets.synthfaces import SynthFaces
    from mibench.system.progress import Reporter

    class Knows(nn.Module):
        """Answers the brightest channel's label: anything that depends on the image alone."""

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            logits = images.mean(dim=(2, 3)) @ torch.eye(3, CLASSES)
            return logits, logits

    monkeypatch.setattr(accuracy, "CHUNK", 16)
    split = SynthFaces(**SMALL_WORLD["dataset"])
    images, device = split.private("test", 16), torch.device("cpu")
    classifier = JudgeExtractor(Knows(), ImageSpec(size=16), name="x", device=device)
    found = accuracy.measure_accuracy(classifier, images, device=device, reporter=Reporter())
    expected = (Knows()(images.floats())[1].argmax(dim=1) == images.labels).sum()
    assert found == Accuracy(right=int(expected), images=70)


def test_the_released_loader_drops_its_last_batch() -> None:
    """drop_last: 3,008 of 3,009 images, so the last image may be the one that was right or wrong."""
    low, high = as_published(Accuracy(right=2743, images=3009))
    assert (low, high) == (2742 / 3008, 2743 / 3008)
    assert as_published(Accuracy(right=10, images=40)) == (0.25, 0.25)
    low, high = as_published(Accuracy(right=64, images=127))
    assert (low, high) == (1 / 64, 1.0)
    assert doubt(Accuracy(right=64, images=127), 1.0, 1000) is None


@pytest.mark.parametrize(
    ("right", "reported", "cause"),
    [
        (2743, 0.9116, None),
        (2720, 0.9116, None),
        (2700, 0.9116, "another version of the data set or of its lists"),
        (300, 0.9116, "another crop, resize or normalisation.*about 10 %"),  # public reports of wrong preprocessing
        (3, 0.9116, "this is chance: the classes are numbered otherwise"),
        (2900, 0.9116, "some of these test images were trained on"),
    ],
)
def test_a_difference_of_more_than_a_point_has_a_likely_cause(right: int, reported: float, cause: str | None) -> None:
    import re

    found = doubt(Accuracy(right=right, images=3009), reported, 1000)
    assert (found is None) if cause is None else (found is not None and re.search(cause, found))


@pytest.mark.parametrize(
    ("file", "wanted", "percent"),
    [
        ("VGG16_88.26.tar", "target:vgg16@celeba", 88.26),
        ("IR152_91.16.tar", "target:ir152@celeba", 91.16),
        ("FaceNet64_88.50.tar", "target:facenet64@celeba", 88.50),
        ("FaceNet_95.88.tar", "judge:facenet112@celeba", 95.88),
        ("VGG16_87.10_allclass.tar", "target:vgg16@celeba", 87.10),
        ("ir152_celeba_93.71.pth", "target:ir152@celeba", 93.71),
        ("IR152_91.16.tar", "target:vgg16@celeba", None),
        ("IR152_91.16.tar", "target:ir152@synthfaces", None),
        ("mine.tar", "target:ir152@celeba", None),
    ],
)
def test_released_names_carry_what_their_authors_report(file: str, wanted: str, percent: float | None) -> None:
    from mibench.weights.importing.released_files import RELEASED, recognise

    found = recognise(file, parse(wanted))
    assert (None if found is None else found.accuracy) == percent
    for release in RELEASED:
        parse(release.name if "kedmi" not in release.name else f"{release.name}+vgg16")


@pytest.mark.parametrize(
    ("file", "wanted", "source"),
    [
        ("celeba_G.tar", "prior:gmi@celeba", "Knowledge-Enriched-DMI"),
        ("improved_celeba_D.tar", "prior:kedmi@celeba+vgg16", "Knowledge-Enriched-DMI"),
        ("backbone_ir50_ms1m_epoch120.pth", "backbone:ir50@ms1m", "face.evoLVe"),
        (
            "Backbone_IR_152_Epoch_112_Batch_2547328_Time_2019-07-13-02-59_checkpoint.pth",
            "backbone:ir152@ms1m",
            "face.evoLVe",
        ),
        ("celeba_G.tar", "prior:kedmi@celeba+vgg16", None),
    ],
)
def test_released_gans_and_backbones_are_recognised_by_name(file: str, wanted: str, source: str | None) -> None:
    from mibench.weights.importing.released_files import recognise

    found = recognise(file, parse(wanted))
    assert (found is None) if source is None else (found is not None and found.source.endswith(source))
