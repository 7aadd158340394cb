"""BiDO: reference vectors of its measures, its layers and batches, and that the chosen measure is the one trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from defended import CLASSES, VECTORS, same_weights, sines, train_tiny
from powercut import Memory, Stopped
from torch import Tensor, nn

import mibench
from mibench import registry
from mibench.api import Batch, ClassifierOutput, Defence, MibenchError, TrainingHooks
from mibench.rng import stream
from mibench.targets.defences.bido import BiDO, hidden_layers, identity_batches
from mibench.targets.defences.dependence import (
    MEASURES,
    dependence,
    gaussian_kernel,
    label_kernel,
    median_distance,
    prepared,
    squared_distances,
)
from mibench.targets.defences.random_erasing import RandomErasing
from mibench.weights.cards import find
from mibench.weights.load import build_network

REFERENCE = VECTORS["bido"]
EXACT = REFERENCE["float64"]
SMALL = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 10, "dataset.train_images": 8}


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels, hidden layer and one-hot labels of the reference."""
    onehot = nn.functional.one_hot(torch.tensor(REFERENCE["inputs"]["labels"]), REFERENCE["inputs"]["classes"])
    return sines(0.5, 0.1, (8, 12), offset=0.5), sines(1.5, 0.37, (8, 6), 0.2), onehot.double()


@pytest.mark.parametrize("measure", ["nhsic", "coco"])
def test_values_and_gradients_are_the_reference_ones(measure: str) -> None:
    expected = EXACT[{"nhsic": "hsic"}.get(measure, measure)]
    pixels, layer, onehot = inputs()
    layer.requires_grad_()
    kernel, on_pixels = (prepared(gaussian_kernel(values, 5.0), measure) for values in (layer, pixels))
    hx = dependence(kernel, on_pixels, measure)
    hy = dependence(kernel, prepared(label_kernel(onehot, "linear", 5.0), measure), measure)
    other = dependence(kernel, prepared(label_kernel(onehot, "gaussian", 5.0), measure), measure)
    assert hx.item() == pytest.approx(expected["hx"], abs=1e-6)
    assert hy.item() == pytest.approx(expected["hy"], abs=1e-6)
    assert other.item() == pytest.approx(expected["hy_gaussian_label_kernel"], abs=1e-6)
    loss = 0.05 * hx - 0.5 * hy
    assert loss.item() == pytest.approx(expected["loss_0p05_0p5"], abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, layer)
    assert gradient.norm().item() == pytest.approx(expected["grad_h_norm"], abs=1e-6)
    assert gradient[0].tolist() == pytest.approx(expected["grad_h_row0"], abs=1e-6)
    terms = BiDO(measure=measure).penalties(pixels.float().view(8, 3, 2, 2), onehot.long(), [layer.float()])
    assert sum(terms.values()).item() == pytest.approx(expected["loss_0p05_0p5"], rel=1e-3)  # float32 inputs


def test_kernel_matrices_are_the_reference_ones() -> None:
    _, layer, onehot = inputs()
    one_sided = gaussian_kernel(layer, 5.0)
    one_sided = one_sided - one_sided.mean(dim=1, keepdim=True)
    assert one_sided[0].tolist() == pytest.approx(EXACT["kernelmat_gauss_h_first_row"], abs=1e-6)
    labels = label_kernel(onehot, "linear", 5.0)
    labels = labels - labels.mean(dim=1, keepdim=True)
    assert labels[0].tolist() == pytest.approx(EXACT["kernelmat_linear_y_first_row"], abs=1e-6)
    both = prepared(gaussian_kernel(layer, 5.0), "coco")
    assert both[0].tolist() == pytest.approx(EXACT["coco_kernel_gauss_h_first_row"], abs=1e-6)
    assert median_distance(layer).item() == pytest.approx(EXACT["sigma_estimation_h"], abs=1e-9)
    expected = (squared_distances(layer) / (-2 * EXACT["sigma_estimation_h"] ** 2)).exp()
    assert torch.allclose(gaussian_kernel(layer, 0.0), expected)
    assert label_kernel(onehot, "imq", 5.0)[0].tolist() == pytest.approx([1, 1] + [3**-0.5] * 6)


def test_what_the_release_gets_in_float32_is_ours_except_where_it_is_noise() -> None:
    released = REFERENCE["float32"]
    pixels, layer, onehot = inputs()
    layer.requires_grad_()
    kernel = gaussian_kernel(layer, 5.0)
    for found, name in (
        (kernel - kernel.mean(dim=1, keepdim=True), "kernelmat_gauss_h_first_row"),
        (label_kernel(onehot, "linear", 5.0) - 0.25, "kernelmat_linear_y_first_row"),
        (prepared(kernel, "coco"), "coco_kernel_gauss_h_first_row"),
    ):
        assert found[0].tolist() == pytest.approx(released[name], abs=1e-6), name
    assert median_distance(layer).item() == pytest.approx(released["sigma_estimation_h"], rel=1e-6)
    for measure, tolerance in (("coco", 1e-3), ("hsic", 0.03)):
        ours = {"coco": "coco", "hsic": "nhsic"}[measure]
        on_layer, on_pixels = (prepared(gaussian_kernel(values, 5.0), ours) for values in (layer, pixels))
        hx = dependence(on_layer, on_pixels, ours)
        hy, other = (
            dependence(on_layer, prepared(label_kernel(onehot, kind, 5.0), ours), ours)
            for kind in ("linear", "gaussian")
        )
        values = {"hx": hx, "hy": hy, "hy_gaussian_label_kernel": other, "loss_0p05_0p5": 0.05 * hx - 0.5 * hy}
        for name, value in values.items():
            assert value.item() == pytest.approx(released[measure][name], rel=tolerance, abs=1e-7), (measure, name)
        (gradient,) = torch.autograd.grad(values["loss_0p05_0p5"], layer)
        if measure == "coco":
            assert gradient.norm().item() == pytest.approx(released[measure]["grad_h_norm"], rel=tolerance)
            assert gradient[0].tolist() == pytest.approx(released[measure]["grad_h_row0"], rel=tolerance, abs=1e-7)
        else:  # rounding, thirty times as large as the gradient and nowhere near its direction
            rounded = torch.tensor(released[measure]["grad_h_row0"]).double()
            assert released[measure]["grad_h_norm"] > 20 * gradient.norm()
            assert torch.cosine_similarity(gradient[0], rounded, dim=0) < 0.5


def test_hsic_is_its_definition_and_coco_is_not_hsic() -> None:
    pixels, layer, _ = inputs()
    centre = torch.eye(8, dtype=torch.float64) - 1 / 8
    one, other = gaussian_kernel(layer, 5.0), gaussian_kernel(pixels, 5.0)
    expected = (one @ centre @ other @ centre).trace() / 49
    values = {m: dependence(prepared(one, m), prepared(other, m), m).item() for m in MEASURES}
    assert values["hsic"] == pytest.approx(expected.item(), rel=1e-9)
    assert values["hsic"] == pytest.approx(EXACT["plain_biased_hsic_hx_definition"], rel=1e-4)
    assert values["nhsic"] > 100 * values["coco"] > 10000 * values["hsic"]
    spectral = dependence(prepared(one, "coco"), prepared(other, "coco"), "coco", "spectral")
    singular = torch.linalg.svdvals(centre @ one @ centre @ other @ centre).max()
    assert spectral.item() == pytest.approx(singular.sqrt().item() / 8, rel=1e-9)
    assert spectral.item() < values["coco"]


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("coco_norm", ["fro", "spectral"])
def test_a_batch_of_one_class_gives_nothing_and_no_gradient(measure: str, coco_norm: str) -> None:
    pixels, layer, _ = inputs()
    layer = layer.requires_grad_()
    onehot = nn.functional.one_hot(torch.zeros(8, dtype=torch.long), 5)
    defence = BiDO(lambda_x=0.0, lambda_y=1.0, measure=measure, coco_norm=coco_norm)
    loss = torch.stack([*defence.penalties(pixels.view(8, 3, 2, 2), onehot, [layer]).values()]).sum()
    assert loss.item() == pytest.approx(REFERENCE["single_class_batch_hy_linear"], abs=1e-12)
    (gradient,) = torch.autograd.grad(loss, layer)
    assert gradient.abs().max() < 1e-9


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_of_a_batch_does_not_matter(measure: str) -> None:
    pixels, layer, onehot = inputs()
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    defence = BiDO(measure=measure)
    one = defence.penalties(pixels, onehot, [layer])
    other = defence.penalties(pixels[order], onehot[order], [layer[order]])
    for name, value in one.items():
        assert other[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_nhsic_of_labels_is_bounded_by_the_identities_in_the_batch() -> None:
    layer = 10 * torch.randn(64, 200, generator=torch.Generator().manual_seed(0))
    for identities in (16, 64):
        onehot = nn.functional.one_hot(torch.arange(64) % identities, 100)
        terms = BiDO(lambda_y=1.0).penalties(layer, onehot, [layer])
        assert identities / 2 < -terms["dependence_on_labels"].item() < identities - 1


def test_kernels_are_float64_whatever_the_network_computes_in() -> None:
    pixels, layer, onehot = inputs()
    rounded = layer.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        inside = BiDO().penalties(pixels, onehot, [rounded])
    outside = BiDO().penalties(pixels, onehot, [rounded.double()])
    assert inside == outside


@pytest.mark.parametrize("architecture", ["vgg16", "vgg16_mid", "ir152", "facenet64", "resnet18"])
def test_the_layers_are_the_declared_ones(architecture: str) -> None:
    network = registry.load("target", architecture)(num_classes=5, width=0.0625, size=64).eval()
    names = hidden_layers(network)
    expected = {
        "vgg16": ("feature.6", "feature.13", "feature.23", "feature.33", "bn"),
        "vgg16_mid": ("feature.6", "feature.13", "feature.23", "feature.33", "feature"),
        "ir152": ("feature.body.2", "feature.body.10", "feature.body.46", "feature.body.49"),
        "facenet64": ("feature.body.2", "feature.body.6", "feature.body.20", "feature.body.23"),
        "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    }
    assert names == expected[architecture]
    sides: list[int] = []
    modules = dict(network.named_modules())
    for name in names:
        modules[name].register_forward_hook(lambda module, inputs, output: sides.append(output.shape[-1]))
    features = network(torch.rand(2, 3, 64, 64)).features
    last = {"vgg16": [features.shape[1]], "vgg16_mid": [2], "resnet18": [2]}.get(architecture, [4])
    first = [16, 8, 4] if architecture == "resnet18" else [32, 16, 8] + [4] * architecture.startswith("vgg")
    assert sides == first + last


def test_a_network_of_other_layers_wants_them_named() -> None:
    with pytest.raises(MibenchError, match=r"no published choice of layers exists for Linear; name them"):
        hidden_layers(nn.Linear(2, 2))


def test_a_batch_has_a_few_images_each_of_different_identities() -> None:
    counts = [12, 10, 9, 3, 12, 8]  # the fourth fills no group of 4
    ends = torch.tensor(counts).cumsum(0).tolist()
    images_of = [torch.arange(end - count, end) for count, end in zip(counts, ends, strict=True)]
    labels = torch.arange(6).repeat_interleave(torch.tensor(counts))
    batches = identity_batches(images_of, stream(0, "a"), steps=4, identities=3, images=4)
    assert [len(batch) for batch in batches] == [12] * 4
    for batch in batches:
        assert labels[batch].unique(return_counts=True)[1].tolist() == [4, 4, 4]
    whole = [torch.arange(12 * label, 12 * label + 12) for label in range(6)]
    shown = torch.cat(identity_batches(whole, stream(0, "b"), steps=6, identities=3, images=4))
    assert shown.sort().values.tolist() == list(range(72)), "an epoch shows every image once where groups fill"


def test_a_sampler_never_runs_out_of_identities() -> None:
    images_of = [torch.arange(40), torch.tensor([40, 41]), torch.tensor([42])]
    for batch in identity_batches(images_of, stream(0, "a"), steps=20, identities=2, images=2):
        assert len(batch) == 4
        assert len({int(image >= 40) + int(image >= 42) for image in batch}) == 2


class Watching(TrainingHooks):
    """Looks at the labels of every batch."""

    def __init__(self, seen: list[Tensor]) -> None:
        super().__init__()
        self.seen = seen

    def batch(self, batch: Batch) -> Batch:
        self.seen.append(batch.labels)
        return batch


class Watch(Defence):
    """Of :class:`Watching`."""

    name = "watch"
    seen: list[Tensor] = []  # noqa: RUF012 - looked at by the test

    def hooks(self, network: nn.Module, task: object) -> TrainingHooks:
        self.seen.clear()
        return Watching(self.seen)


def test_training_batches_follow_the_sampler() -> None:
    train_tiny(BiDO(), Watch())
    assert all(labels.unique(return_counts=True)[1].tolist() == [4, 4, 4] for labels in Watch.seen)
    train_tiny(BiDO(sampler="shuffle"), Watch())
    assert not all(len(labels.unique()) == 3 for labels in Watch.seen)
    train_tiny(BiDO(images_per_identity=2), Watch())
    assert all(labels.unique(return_counts=True)[1].tolist() == [2] * 6 for labels in Watch.seen)


def test_every_choice_reaches_the_training() -> None:
    choices: list[dict[str, object]] = [
        {},
        {"measure": "coco"},
        {"measure": "coco", "coco_norm": "spectral"},
        {"measure": "hsic"},
        {"label_kernel": "imq"},
        {"sigma": 0.0},
        {"sampler": "shuffle"},
        {"layers": ("feature.13", "bn")},
        {"lambda_x": 0.0, "lambda_y": 0.0},  # the batches alone
    ]
    trained = [train_tiny(epochs=1)] + [train_tiny(BiDO(**choice), epochs=1) for choice in choices]
    for index, one in enumerate(trained):
        assert not any(same_weights(one, other) for other in trained[:index]), index


def test_the_terms_are_logged_beside_the_loss() -> None:
    records: list[dict[str, float]] = []
    train_tiny(BiDO(lambda_x=0.0, lambda_y=1.0), log=lambda **record: records.append(record))
    assert records[0]["train_dependence_on_pixels"] == 0
    bound = 5 * (3 - 1)  # layers, identities in a batch less one
    assert all(-bound <= record["train_dependence_on_labels"] < 0 for record in records)
    assert records[0]["train_loss"] < 0


@pytest.mark.parametrize(("weights", "rises"), [((1.0, 0.0), False), ((0.0, 1.0), True)])
def test_layers_are_pulled_from_the_pixels_and_to_the_labels(weights: tuple[float, float], rises: bool) -> None:
    pixels, layer, onehot = inputs()
    defence = BiDO(lambda_x=weights[0], lambda_y=weights[1], measure="coco")
    values = []
    for _ in range(20):
        layer = layer.detach().requires_grad_()
        loss = torch.stack([*defence.penalties(pixels, onehot, [layer]).values()]).sum()
        values.append(loss.item())
        layer = layer - 10 * torch.autograd.grad(loss, layer)[0]
    assert values[-1] < 0.95 * values[0] if not rises else values[-1] < 1.05 * values[0] < 0


def test_only_training_images_under_their_own_labels_count() -> None:
    network = registry.load("target", "vgg16")(num_classes=CLASSES, width=1 / 16, size=32)
    shown: list[int] = []
    hooks = BiDO().hooks(network, _task())
    original = BiDO.penalties

    def watched(self: BiDO, images: Tensor, onehot: Tensor, layers: list[Tensor]) -> dict[str, Tensor]:
        shown.extend([len(images), len(onehot), *(len(layer) for layer in layers)])
        return original(self, images, onehot, layers)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BiDO, "penalties", watched)
        images = torch.rand(6, 3, 32, 32)
        hidden = {name: torch.rand(6, 4) for name in hooks.hidden_layers}
        batch = Batch(images=images, labels=torch.arange(6) % 2, step=0, epoch=0, plain=4)
        hooks.penalties(ClassifierOutput(images, images), hidden, batch)
    assert shown == [4] * 7


def _task(batch_size: int = 12, identities: int = CLASSES):
    from mibench.api import TrainingTask
    from mibench.rng import Streams

    return TrainingTask(
        epochs=1,
        steps_per_epoch=1,
        batch_size=batch_size,
        num_classes=CLASSES,
        labels=torch.arange(identities).repeat_interleave(12),
        size=32,
        device=torch.device("cpu"),
        streams=Streams(0, ("t",)),
        images=lambda indices: torch.rand(len(indices), 3, 32, 32),
        autocast=torch.no_grad,
    )


def test_batches_that_cannot_be_made_are_refused() -> None:
    network = registry.load("target", "vgg16")(num_classes=CLASSES, width=1 / 16, size=32)
    with pytest.raises(MibenchError, match=r"a batch of 13 images is no multiple of the 4 of each identity"):
        BiDO().hooks(network, _task(13))
    with pytest.raises(MibenchError, match=r"4 images each of 7 identities, the data has 6; lower train.batch_size"):
        BiDO().hooks(network, _task(28))


def test_a_resumed_training_equals_an_uninterrupted_one() -> None:
    whole = train_tiny(BiDO(), RandomErasing())
    stopped = Memory(stop_after=1)
    with pytest.raises(Stopped):
        train_tiny(BiDO(), RandomErasing(), checkpoint=stopped)
    assert same_weights(whole, train_tiny(BiDO(), RandomErasing(), checkpoint=stopped))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"lambda_x": -0.1}, "lambda_x must be finite and not negative"),
        ({"sigma": float("nan")}, "sigma must be finite"),
        ({"measure": "hsics"}, "unknown defence.measure 'hsics'; choose one of nhsic, coco, hsic"),
        ({"coco_norm": "nuclear"}, "choose one of fro, spectral"),
        ({"label_kernel": "cubic"}, "choose one of linear, gaussian, imq"),
        ({"sampler": "random"}, "choose one of identity, shuffle"),
        ({"layers": ()}, "names no layer"),
        ({"images_per_identity": 0}, "must be 1 or more"),
    ],
)
def test_nonsense_is_refused(settings: dict[str, object], line: str) -> None:
    with pytest.raises(MibenchError, match=line):
        BiDO(**settings).check()


def test_a_defence_that_was_not_asked_to_be_off_is_on() -> None:
    for preset in (None, *mibench.settings.presets_of("defence", "bido").presets.values()):
        layers = [preset] if preset else []
        defence, _ = mibench.settings.resolve(BiDO, layers, scope="defence")
        assert defence.lambda_x > 0
        assert defence.lambda_y > 0


def test_the_card_has_every_setting_and_the_network_loads(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    settings = {**SMALL, "train.batch_size": 32, "defence.layers": ["feature.13", "bn"]}
    card = mibench.train(
        "target", "vgg16", defences="bido", twin="none", tag="again", settings=settings, device="cpu"
    ).card
    assert card.defence is not None
    given = card.defence.settings["bido"]
    assert (given["lambda_x"], given["lambda_y"], given["measure"], given["sampler"]) == (
        0.05,
        0.5,
        "nhsic",
        "identity",
    )
    assert given["layers"] == ["feature.13", "bn"]
    network, _ = build_network(find("target", "vgg16+again", "synthfaces"))
    assert network(torch.rand(1, 3, 64, 64)).logits.shape == (1, 10)
