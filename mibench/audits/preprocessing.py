"""Does the model work at all on these images? If not, which preprocessing or order of classes would have?

A model fed wrongly is attacked to no purpose: its accuracy is measured first. Nine of ten times a low one is a matter
of mean, std, range, BGR or the order of classes, and a sample of images is enough to try them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from mibench.api import Accuracy, ImageSpec
from mibench.data.split import IdentitySplit, Images
from mibench.errors import MibenchError
from mibench.metrics.extractors import JudgeExtractor
from mibench.weights.minimum_accuracy import least_accuracy as least_accuracy

SAMPLE = 256  # images of each part on which hypotheses are tried
TRAIN_SAMPLE = 5000  # train images that are measured at most
BETTER = 0.1  # a hypothesis is worth a word from so much more accuracy on
MUCH_BETTER = 0.2  # and from so much on the model is surely fed wrongly
DOUBTFUL = 0.9  # below this accuracy hypotheses are tried
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Logits = Callable[[Tensor, ImageSpec], Iterator[Tensor]]


@dataclass(frozen=True)
class ModelAccuracy:
    """What a model reaches, shares of images."""

    test: float
    test_images: int
    train: float
    train_images: int

    def measured(self) -> dict[str, float | int]:
        """For a card."""
        return {
            "test_accuracy": self.test,
            "test_images": self.test_images,
            "train_accuracy": self.train,
            "train_images": self.train_images,
        }

    def as_json(self) -> dict[str, float | int]:
        """For audit.json."""
        return asdict(self)


@dataclass(frozen=True)
class Hypothesis:
    """One way to feed a model: the flags that say it, the normalisation of RGB images, whether channels turn."""

    flags: str
    image: ImageSpec
    turned: bool


def spread(images: Images, most: int) -> Images:
    """At most so many images, evenly over the whole."""
    if len(images) <= most:
        return images
    rows = torch.linspace(0, len(images) - 1, most).round().long()
    return Images(images.pixels[rows], images.labels[rows], tuple(images.identities[row] for row in rows.tolist()))


def logits_of(network: nn.Module, device: torch.device) -> Logits:
    """``logits(pixels, image)``: stored images through the network under a normalisation, as the referee shows them.

    A batch at a time: of many images and many people they do not fit into memory.
    """

    def logits(pixels: Tensor, image: ImageSpec) -> Iterator[Tensor]:
        for output in JudgeExtractor(network, image, name="the model", device=device).batches(pixels):
            if not bool(torch.isfinite(output.logits).all()):
                raise MibenchError(
                    "the model gives numbers that are not finite on these images; are its weights whole?"
                )
            yield output.logits

    return logits


def measure(
    logits: Logits,
    image: ImageSpec,
    dataset: IdentitySplit,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ModelAccuracy:
    """Accuracy on the held-out images and on (some of) the train images; ``progress`` counts images."""
    test = dataset.private("test", image.size)
    train = spread(dataset.private("train", image.size), TRAIN_SAMPLE)
    shown = 0

    def counted(part: Images) -> Iterator[Tensor]:
        nonlocal shown
        for answers in logits(part.pixels, image):
            shown += len(answers)
            progress(shown, len(test) + len(train))
            yield answers

    return ModelAccuracy(
        share_right(counted(test), test.labels),
        len(test),
        share_right(counted(train), train.labels),
        len(train),
    )


def advice(
    logits: Logits, image: ImageSpec, dataset: IdentitySplit, *, channel_order: str, names: list[str]
) -> tuple[str, float] | None:
    """The flags that make the model best on a sample, and its accuracy then; None when no other way is much better."""
    test, train = (spread(dataset.private(part, image.size), SAMPLE) for part in ("test", "train"))
    declared = Hypothesis("", image, turned=False)
    before, best, flags = share_right(logits(test.pixels, image), test.labels), 0.0, ""
    for way in (declared, *_ways(image.size, channel_order)):
        seen, learnt = (torch.cat([*logits(_turned(part.pixels, way), _spec(way))]) for part in (test, train))
        for order, share in (
            ("", _share(seen, test.labels)),
            (_order_flags(names), _share(seen[:, _text_order(names)], test.labels)),
            ("--classes FILE", _reordered(learnt, train.labels, seen, test.labels)),
        ):
            if share > best + 1e-9:  # the first of equals is the simplest
                best, flags = share, " ".join(filter(None, (way.flags, order)))
    return (flags, best) if flags and best >= before + BETTER else None


def _ways(size: int, channel_order: str) -> Iterator[Hypothesis]:
    """Usual normalisations with the channels as declared, then turned."""
    turned_order = "bgr" if channel_order == "rgb" else "rgb"
    for turned in (False, True):
        reverse = (turned_order if turned else channel_order) == "bgr"
        mean, std = (",".join(map(str, values[::-1] if reverse else values)) for values in IMAGENET)
        order = f"--channel-order {turned_order}" if turned else ""
        for flags, m, s in (
            ("--range 0,1", (0.0,), (1.0,)),
            ("--range -1,1", (0.5,), (0.5,)),
            ("--range 0,255", (0.0,), (1 / 255,)),
            (f"--mean {mean} --std {std}", *IMAGENET),
        ):
            yield Hypothesis(" ".join(filter(None, (flags, order))), ImageSpec(size=size, mean=m, std=s), turned)


def _turned(pixels: Tensor, way: Hypothesis) -> Tensor:
    return pixels.flip(1) if way.turned else pixels


def _spec(way: Hypothesis) -> ImageSpec:
    """The normalisation of pixels as :func:`_turned` leaves them."""
    image = way.image
    return ImageSpec(size=image.size, mean=image.mean[::-1], std=image.std[::-1]) if way.turned else image


def _text_order(names: list[str]) -> list[int]:
    listed = sorted(names)
    return [listed.index(name) for name in names]


def _order_flags(names: list[str]) -> str:
    return "--classes imagefolder" if _text_order(names) != list(range(len(names))) else ""


def _reordered(learnt: Tensor, learnt_labels: Tensor, seen: Tensor, labels: Tensor) -> float:
    """Accuracy on one set of images under the order of classes that suits another set best: chance is no advantage."""
    from scipy.optimize import linear_sum_assignment

    people, row = learnt_labels.unique(return_inverse=True)
    answers, column = learnt.argmax(dim=1).unique(return_inverse=True)
    counts = torch.zeros(len(people), len(answers))  # of the classes that occur: all of them may be thousands
    counts.index_put_((row, column), torch.ones(len(row)), accumulate=True)
    rows, columns = map(torch.from_numpy, linear_sum_assignment(counts.numpy(), maximize=True))
    agreed = counts[rows, columns] > 0
    order = torch.full((seen.shape[1],), -1)
    order[people[rows[agreed]]] = answers[columns[agreed]]
    free = torch.ones(len(order), dtype=torch.bool)
    free[order[order >= 0]] = False
    own = (order < 0) & free  # of the others the images say nothing: they are as they are numbered, where that is free
    order[own] = own.nonzero()[:, 0]
    order[order < 0] = (free & ~own).nonzero()[:, 0]
    return _share(seen[:, order], labels)


def share_right(logits: Iterable[Tensor], labels: Tensor) -> float:
    """Share of images whose largest logit is their label, of logits batch by batch."""
    predicted = torch.cat([part.argmax(dim=1) for part in logits])
    return float((predicted == labels).float().mean())


def _share(logits: Tensor, labels: Tensor) -> float:
    return Accuracy.of([(logits, labels)]).value
