"""The recipe of the 224-pixel family, against torchvision one image at a time, and at toy size from end to end."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from powercut import Memory, Stopped
from tiny_splits import CLASSES, CPU, ColourSplit, TinySplit, assert_same_bytes, workshop
from torchvision.transforms import functional as reference

from mibench.api import Access, MibenchError, MisfitError, Victim
from mibench.data.split import Images
from mibench.metrics.extractors import JudgeExtractor
from mibench.rng import Streams
from mibench.targets.judges.inception_v3 import INCEPTION_V3
from mibench.targets.networks.torchvision_networks import RESNET18, RESNET34, VIT_B_16
from mibench.targets.training import augment, jitter
from mibench.targets.training.augment import channels_last_store, training_batch
from mibench.targets.training.jitter import Jitter, apply, draw
from mibench.targets.training.recipes import build, normalise_inside
from mibench.targets.training.torchvision_recipe import (
    TrainLargeJudge,
    TrainLargeTarget,
    TrainTimmTarget,
    ramp,
    smoothed_cross_entropy,
    start_whole,
)
from mibench.weights.training import Training, find_recipe, resolve_training

PUBLISHED = Jitter(scale=(0.85, 1.0), brightness=0.2, contrast=0.2, saturation=0.1, hue=0.1)
ADJUST = (reference.adjust_brightness, reference.adjust_contrast, reference.adjust_saturation, reference.adjust_hue)


def pictures(count=12, size=37):
    """Noise, with a grey, a black, a white and a pure red image among it: where hues are undefined or on an edge."""
    images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[0], images[1], images[2] = 0.4, 0.0, 1.0
    images[3] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    images[4, 0] = images[4, 2]
    return images


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def tiny(**settings):
    defaults = {"architecture": "resnet18", "width": 1 / 16, "size": 32, "epochs": 2, "batch_size": 16}
    return TrainLargeTarget(**{**defaults, "milestones": (1,), **settings})


# ---------------------------------------------------------------- the transforms, in order, for every sample its own


def test_crops_are_torchvisions_resized_crops_of_single_images():
    images = pictures()
    drawn = draw(len(images), 37, replace(PUBLISHED, scale=(0.3, 1.0)), generator())
    found = jitter.cropped(images, drawn)
    for row, image in enumerate(images):
        side = int(drawn.side[row])
        box = [int(drawn.top[row]), int(drawn.left[row]), side, side]
        expected = reference.resized_crop(image, *box, [37, 37], antialias=True)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("which", range(4), ids=["brightness", "contrast", "saturation", "hue"])
def test_colours_are_torchvisions_of_single_images_hue_included(which):
    images = pictures()
    for factor in (0.0, 0.07, -0.1, 0.5) if which == 3 else (0.0, 0.8, 1.0, 1.2):
        found = jitter.CHANGES[which](images, torch.full((len(images), 1, 1, 1), factor))
        expected = torch.stack([ADJUST[which](image, factor) for image in images])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_order_is_crop_then_colours_in_a_drawn_order_then_flip():
    images = pictures()
    drawn = draw(len(images), 37, PUBLISHED, generator())
    assert len({tuple(order) for order in drawn.order.tolist()}) > 1
    found = apply(images, drawn, PUBLISHED)
    for row, image in enumerate(images):
        side = int(drawn.side[row])
        box = [int(drawn.top[row]), int(drawn.left[row]), side, side]
        expected = reference.resized_crop(image, *box, [37, 37], antialias=True)
        for which in drawn.order[row].tolist():
            expected = ADJUST[which](expected, float(drawn.factors[row, which]))
        if bool(drawn.mirrored[row]):
            expected = reference.hflip(expected)
        torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-4)


def test_every_sample_has_its_own_numbers():
    """torchvision's transforms on a batch draw once for all of it."""
    count = 400
    drawn = draw(count, 224, PUBLISHED, generator())
    share = drawn.side.double().square() / 224**2
    assert 0.845 < float(share.min()) < 0.86
    assert 0.99 < float(share.max()) <= 1
    assert bool((drawn.top + drawn.side <= 224).all())
    assert bool((drawn.left + drawn.side <= 224).all())
    assert not torch.equal(drawn.top, drawn.left)
    assert len({tuple(order) for order in drawn.order.tolist()}) == 24
    for column, (centre, strength) in enumerate([(1, 0.2), (1, 0.2), (1, 0.1), (0, 0.1)]):
        factors = drawn.factors[:, column]
        assert centre - strength <= float(factors.min()) < centre - 0.9 * strength
        assert centre + 0.9 * strength < float(factors.max()) <= centre + strength
    assert 0.4 < float(drawn.mirrored.float().mean()) < 0.6
    same = apply(pictures()[5:6].repeat(6, 1, 1, 1), draw(6, 37, PUBLISHED, generator()), PUBLISHED)
    assert len({image.numpy().tobytes() for image in same}) == 6


def test_a_jitter_of_nothing_changes_nothing():
    nothing = Jitter(scale=(1.0, 1.0), brightness=0, contrast=0, saturation=0, hue=0, flip=False)
    images = pictures()
    torch.testing.assert_close(apply(images, draw(12, 37, nothing, generator()), nothing), images, rtol=0, atol=1e-5)


# ---------------------------------------------------------------- the published values


def test_the_defaults_are_the_published_recipe():
    for architecture in ("resnet18", "resnet152", "densenet169", "vit_b_16"):
        recipe = resolve_training(Training(kind="target", architecture=architecture)).recipe
        assert recipe == TrainLargeTarget(architecture=architecture)
    assert (recipe.size, recipe.optimiser, recipe.learning_rate, recipe.momentum, recipe.weight_decay) == (
        224, "adam", 1e-3, 0.9, 0.0,
    )  # fmt: skip
    assert (recipe.batch_size, recipe.epochs, recipe.milestones, recipe.decay) == (128, 100, (75, 90), 0.1)
    assert recipe.jitter == PUBLISHED
    assert recipe.image.mean == recipe.image.std == (0.5, 0.5, 0.5)
    judge = resolve_training(Training(kind="judge", architecture="inception_v3")).recipe
    assert judge == TrainLargeJudge()
    assert (judge.size, judge.milestones) == (299, (80,))
    assert find_recipe("target", "timm") is TrainTimmTarget


@pytest.mark.parametrize("recipe", [TrainLargeTarget(), TrainLargeJudge()])
def test_the_rate_falls_as_torchs_multistep(recipe):
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, list(recipe.milestones), gamma=recipe.decay)
    for epoch in range(recipe.epochs):
        assert recipe.rate(7 * epoch, 7) == pytest.approx(optimiser.param_groups[0]["lr"])
        assert recipe.rate(7 * epoch + 6, 7) == recipe.rate(7 * epoch, 7)
        optimiser.step()
        schedule.step()


def test_smoothing_is_torchs_and_may_be_negative():
    logits, labels = torch.randn(9, 5, generator=generator()), torch.arange(9) % 5
    for smoothing in (0.0, 0.1, -0.05, -0.5):
        goal = torch.full((9, 5), smoothing / 5)
        goal[torch.arange(9), labels] += 1 - smoothing
        expected = -(goal * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing), expected)


def test_negative_smoothing_sets_in_at_half_time():
    shares = [ramp(epoch, 100) for epoch in range(100)]
    assert shares[:51] == [0.0] * 51
    assert shares[60] == pytest.approx(0.4)
    assert shares[75:] == [1.0] * 25
    recipe = TrainLargeTarget(label_smoothing=-0.05)
    logits, labels = torch.randn(9, 5, generator=generator()), torch.arange(9) % 5
    output = torch.nn.Module()
    output.logits = logits
    values = [float(recipe.loss(output, labels, epoch)["loss"]) for epoch in (10, 49, 60, 80)]
    assert values[0] == values[1] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)))
    assert values[2] == pytest.approx(float(smoothed_cross_entropy(logits, labels, -0.02)))
    assert values[3] == pytest.approx(float(smoothed_cross_entropy(logits, labels, -0.05)))


def test_the_auxiliary_loss_of_inception_has_weight_one():
    """torchvision's own recipe takes 0.4."""
    recipe = TrainLargeJudge(width=1 / 16)
    network, _, arguments = build(recipe, Streams(0), num_classes=CLASSES)
    assert arguments == {"num_classes": CLASSES, "width": 1 / 16, "size": 299}
    labels = torch.tensor([1, 3])
    output = network.train()(torch.rand(2, 3, 299, 299, generator=generator()))
    main, auxiliary = output.logits.logits, output.aux_logits
    expected = sum(torch.nn.functional.cross_entropy(logits, labels) for logits in (main, auxiliary))
    torch.testing.assert_close(recipe.loss(output, labels, 0)["loss"], expected)
    assert network.eval()(torch.rand(2, 3, 299, 299)).features.shape == (2, 128)


# ---------------------------------------------------------------- training, at toy size


def test_a_trained_target_is_attacked_behind_the_normalisation_it_was_trained_behind():
    """A wrong preprocessing leaves about 10 % accuracy: what training measured, victim and judge must see as well."""
    recipe = tiny(epochs=16, learning_rate=5e-3, milestones=(12,))
    trained = recipe.run(ColourSplit(), workshop())
    assert trained.measured["test_accuracy"] > 0.9
    assert trained.image.mean == trained.image.std == (0.5, 0.5, 0.5)
    test = ColourSplit().private("test", 32)
    network, _, _ = build(recipe, Streams(0), num_classes=CLASSES)
    network.load_state_dict(trained.weights)
    victim = Victim(network, image=trained.image, num_classes=CLASSES, access=Access.SCORES)
    judge = JudgeExtractor(network, trained.image, name="judge", resize="antialias")
    right = round(trained.measured["test_accuracy"] * len(test))
    logits = judge(test.pixels).logits
    first, second = logits.topk(2, dim=1).values.unbind(1)
    assert float((first - second).min()) > 0.1, "counts can be compared: no answer hangs on rounding, about 1e-5 here"
    assert int((logits.argmax(dim=1) == test.labels).sum()) == right
    assert int((victim.labels(test.floats()) == test.labels).sum()) == right


def test_the_normalisation_of_a_training_is_that_of_the_wrappers():
    recipe = tiny()
    network, _, _ = build(recipe, Streams(0), num_classes=CLASSES)
    keys, images = list(network.state_dict()), pictures(6, 32)
    expected = network.eval()(2 * images - 1).logits
    normalise_inside(network, recipe.image)
    torch.testing.assert_close(network(images).logits, expected)
    assert list(network.state_dict()) == keys


@pytest.mark.parametrize("crash_after", [2, 6])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(crash_after):
    recipe = tiny(checkpoint_seconds=0.0)
    straight = recipe.run(TinySplit(), workshop())
    interrupted = Memory(stop_after=crash_after)
    with pytest.raises(Stopped):
        recipe.run(TinySplit(), workshop(interrupted))
    assert_same_bytes(straight.weights, recipe.run(TinySplit(), workshop(interrupted)).weights)


def test_a_judge_trains_with_its_auxiliary_classifier():
    class Few(TinySplit):
        def private(self, part, size, labels=None):
            images = super().private(part, size, labels)
            return Images(images.pixels[::6], images.labels[::6], images.identities[::6])

    recipe = TrainLargeJudge(width=1 / 16, epochs=1, batch_size=8, milestones=(1,))
    records = []
    trained = recipe.run(Few(), workshop(log=lambda **record: records.append(record)))
    assert "AuxLogits.fc.weight" in trained.weights
    assert trained.image.size == 299
    assert records[0]["train_loss"] > 1.5 * torch.tensor(float(CLASSES)).log()  # two entropies near chance


def test_timm_needs_a_model_and_keeps_its_name():
    pytest.importorskip("timm")
    with pytest.raises(MibenchError, match=r"which of timm's models\? --set train.model=NAME"):
        TrainTimmTarget(size=32, epochs=1).run(TinySplit(), workshop())
    recipe = TrainTimmTarget(model="test_resnet", size=32, epochs=1, batch_size=40)
    trained = recipe.run(TinySplit(), workshop())
    assert trained.arguments == {"num_classes": CLASSES, "width": 1.0, "size": 32, "model": "test_resnet"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_scale": (0.9, 0.5)}, "crop_scale must be two areas"),
        ({"hue": 0.6}, r"hue must lie in \[0, 0.5\], got 0.6"),
        ({"augment": "light"}, "unknown augmentation 'light'; choose one of none, jitter"),
        ({"schedule": "step"}, "unknown schedule 'step'; choose one of none, cosine, steps"),
        ({"milestones": (0,)}, "milestones are numbers of epochs"),
        ({"decay": 0.0}, "decay must be a positive number"),
        ({"label_smoothing": 1.5}, "label_smoothing must be 1 at most"),
        ({"std": 0.0}, "std must be a positive number"),
        ({"width": -1.0}, "width must be a positive number"),
        ({"size": 16}, "size must be at least 32, got 16"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(MibenchError, match=message) as caught:
        tiny(**settings).run(TinySplit(), workshop())
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- starting from ImageNet


def backbone(build, classes, **options):
    torch.manual_seed(3)
    return build(classes, 1 / 16, **options).state_dict()


def test_a_start_keeps_everything_but_a_final_layer_of_other_classes():
    given = backbone(RESNET18, 1000)
    network = RESNET18(CLASSES, 1 / 16)
    fresh = network.fc.weight.clone()
    start_whole(network, given, backbone="resnet18@imagenet", architecture="resnet18")
    assert torch.equal(network.conv1.weight, given["conv1.weight"])
    assert torch.equal(network.fc.weight, fresh)
    same = RESNET18(1000, 1 / 16)
    start_whole(same, given, backbone="resnet18@imagenet", architecture="resnet18")
    assert torch.equal(same.fc.weight, given["fc.weight"])


@pytest.mark.parametrize("size", [75, 299])
def test_both_final_layers_of_inception_stay_fresh(size):
    given = backbone(INCEPTION_V3, 1000)
    network = INCEPTION_V3(CLASSES, 1 / 16, size=size)
    start_whole(network, given, backbone="inception_v3@imagenet", architecture="inception_v3")
    assert torch.equal(network.Mixed_5b.branch1x1.conv.weight, given["Mixed_5b.branch1x1.conv.weight"])
    if size == 299:
        assert network.AuxLogits.fc.out_features == CLASSES
        assert torch.equal(network.AuxLogits.conv0.conv.weight, given["AuxLogits.conv0.conv.weight"])


def test_a_recipe_starts_from_what_it_is_handed():
    given = backbone(RESNET18, 1000)
    recipe = tiny(init="resnet18@imagenet", epochs=1, learning_rate=1e-9)
    trained = recipe.run(TinySplit(), workshop(initial=given))
    torch.testing.assert_close(trained.weights["conv1.weight"], given["conv1.weight"], rtol=0, atol=1e-6)
    with pytest.raises(MibenchError, match="'resnet18@imagenet' were not handed over"):
        recipe.run(TinySplit(), workshop())


@pytest.mark.parametrize(
    ("build", "options"),
    [(RESNET34, {}), (VIT_B_16, {"size": 64}), (RESNET18, {"width": 0.5})],
    ids=["another network", "another size", "another width"],
)
def test_a_start_from_another_network_is_refused(build, options):
    goal = VIT_B_16(CLASSES, 1 / 16, size=96) if build is VIT_B_16 else RESNET18(CLASSES, 1 / 16)
    given = build(1000, options.pop("width", 1 / 16), **options).state_dict()
    with pytest.raises(
        MisfitError, match=r"backbone 'b@imagenet' is not n as it is trained here: .*at the same train\.width"
    ):
        start_whole(goal, given, backbone="b@imagenet", architecture="n")


# ---------------------------------------------------------------- memory


def test_a_store_beyond_the_bound_stays_where_it_is(monkeypatch):
    """27,000 images of 224 pixels are 4 GB: they are mapped, and neither copied nor moved as a whole."""
    stored = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8, generator=generator())
    pixels = stored.permute(0, 3, 1, 2)  # as the data sets hand them over
    assert channels_last_store(pixels, CPU).data_ptr() == stored.data_ptr()
    monkeypatch.setattr(augment, "RESIDENT_BYTES", stored.numel() - 1)
    assert channels_last_store(pixels, torch.device("meta")).data_ptr() == stored.data_ptr()


@pytest.mark.parametrize("augmentation", ["none", "shift", "light"])
def test_batches_fetched_from_a_store_elsewhere_are_the_same(augmentation):
    plain = torch.randint(256, (9, 3, 16, 16), dtype=torch.uint8, generator=generator())
    resident = plain.permute(0, 2, 3, 1).contiguous()
    elsewhere = plain.permute(0, 2, 3, 1)  # not contiguous: what a store that was not copied may be
    indices = torch.tensor([8, 0, 3, 3])
    batches = [
        training_batch(store, indices, generator(), flip=True, augmentation=augmentation)
        for store in (resident, elsewhere)
    ]
    assert torch.equal(*batches)


def test_a_training_from_a_store_elsewhere_ends_with_the_same_bytes(monkeypatch):
    recipe = tiny(epochs=1)
    expected = recipe.run(TinySplit(), workshop()).weights
    monkeypatch.setattr(augment, "RESIDENT_BYTES", 0)
    assert_same_bytes(expected, recipe.run(TinySplit(), workshop()).weights)
