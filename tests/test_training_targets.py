"""Recipes on a tiny split: they learn, resume exactly, measure what they store, and refuse what makes no sense."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from powercut import Memory, Stopped
from tiny_splits import CLASSES, CPU, TinySplit, assert_same_bytes, tiny_target, workshop

from mibench.api import MibenchError
from mibench.data.split import Images
from mibench.rng import Streams
from mibench.targets.training.augment import channels_last_store
from mibench.targets.training.evaluation import accuracy
from mibench.targets.training.recipes import TrainJudge, build, fewer_images
from mibench.targets.training.supervised import preferred_layout


def test_a_target_learns_its_classes():
    epochs = 20
    recipe = tiny_target(architecture="vgg16", size=32, epochs=epochs, learning_rate=0.01, augment="light", flip=False)
    records, bar = [], []
    trained = recipe.run(
        TinySplit(),
        workshop(log=lambda **record: records.append(record), progress=lambda *step: bar.append(step)),
    )
    # Far from what rounding decides: with eight seeds every image was right from epoch 6 on, and the loss fell to a
    # sixtieth or less. After the first handful of epochs either was anywhere.
    assert trained.measured["test_accuracy"] > 0.9
    assert records[-1]["train_loss"] < 0.1 * records[0]["train_loss"]
    assert trained.measured["test_images"] == 6 * CLASSES
    assert trained.measured["train_images"] == 16 * CLASSES
    assert trained.measured["selection"] == "last epoch"
    assert trained.classes == CLASSES
    assert trained.image.size == 32
    assert [record["epoch"] for record in records] == list(range(1, epochs + 1))
    assert {"train_accuracy", "test_accuracy", "learning_rate"} <= set(records[0])
    done, total, text = bar[-1]
    assert done == total == epochs * 5  # 80 images in batches of 16
    assert text.startswith(f"epoch {epochs}/{epochs}, loss ")


def test_stored_weights_are_rounded_and_measured_after_rounding():
    recipe = tiny_target(storage="float16", epochs=3)
    trained = recipe.run(TinySplit(), workshop())
    floating = {key: value for key, value in trained.weights.items() if value.is_floating_point()}
    assert {value.dtype for value in floating.values()} == {torch.float16}
    assert len(floating) < len(trained.weights)  # the counters of the norms stay integers
    network, _, _ = build(recipe, Streams(0), num_classes=CLASSES)
    network.load_state_dict(trained.weights)
    test = TinySplit().private("test", 16)
    measured = accuracy(network, channels_last_store(test.pixels, CPU), test.labels)
    assert trained.measured["test_accuracy"] == measured


def test_arguments_build_the_network_that_the_weights_fit():
    recipe = TrainJudge(width=0.125, size=16, epochs=1, batch_size=40)
    trained = recipe.run(TinySplit(), workshop())
    assert trained.arguments == {"num_classes": CLASSES, "width": 0.125, "size": 16}
    network, _, _ = build(recipe, Streams(5), num_classes=CLASSES)
    network.load_state_dict(trained.weights)  # strict


def test_seeds_decide_the_weights():
    recipe = tiny_target(epochs=1)
    first, again, other = (recipe.run(TinySplit(), workshop(seed=seed)).weights for seed in (0, 0, 1))
    assert_same_bytes(first, again)
    assert not torch.equal(first["fc_layer.weight"], other["fc_layer.weight"])


def test_training_leaves_the_callers_random_state_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    tiny_target(epochs=1).run(TinySplit(), workshop())
    assert torch.equal(torch.rand(3), expected)


def test_bfloat16_trains_float32_weights():
    trained = tiny_target(epochs=1).run(TinySplit(), workshop(precision="bfloat16"))
    assert trained.weights["fc_layer.weight"].dtype == torch.float32


def test_selection_on_the_test_part_keeps_the_best_epoch_and_says_so():
    recipe = tiny_target(epochs=4, select="best_on_test", learning_rate=0.05)
    records = []
    trained = recipe.run(TinySplit(), workshop(log=lambda **record: records.append(record)))
    accuracies = [record["test_accuracy"] for record in records]
    assert trained.measured["test_accuracy"] == max(accuracies)
    assert trained.measured["epoch"] == 1 + accuracies.index(max(accuracies))
    assert trained.measured["selection"].startswith("test-set selection")


# ---------------------------------------------------------------- fewer images


def test_fewer_images_of_each_class_are_the_first_of_an_order_drawn_from_the_seed():
    train = TinySplit().private("train", 16)
    few, more, other = fewer_images(train, 4, seed=0), fewer_images(train, 9, seed=0), fewer_images(train, 4, seed=1)
    for chosen, count in ((few, 4), (more, 9), (other, 4)):
        assert chosen.labels.tolist() == [label for label in range(CLASSES) for _ in range(count)]
        assert chosen.identities == tuple(f"private-{label}" for label in chosen.labels.tolist())

    def rows(images):
        return [image.tobytes() for image in images.pixels.numpy()]

    order = [rows(train).index(row) for row in rows(few)]
    assert order == sorted(order)  # as they lay
    assert set(rows(few)) < set(rows(more)) < set(rows(train))
    assert rows(fewer_images(train, 4, seed=0)) == rows(few) != rows(other)


def test_classes_with_fewer_images_than_asked_for_keep_them_all():
    train = TinySplit().private("train", 16)
    uneven = Images(train.pixels[10:], train.labels[10:], train.identities[10:])  # 6 of class 0, 16 of the others
    assert fewer_images(uneven, 8, seed=0).labels.bincount().tolist() == [6, 8, 8, 8, 8]


def test_a_target_trained_on_fewer_images_is_measured_on_all_test_images():
    trained = tiny_target(epochs=1, images_per_identity=4).run(TinySplit(), workshop())
    assert trained.measured["train_images"] == 4 * CLASSES
    assert trained.measured["test_images"] == 6 * CLASSES


# ---------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "crash_after", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(7, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
    "settings",
    [
        {"augment": "light", "select": "best_on_test"},
        {"optimiser": "adamw", "learning_rate": 1e-3, "label_smoothing": 0.1},
    ],
    ids=["sgd", "adamw"],
)
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(settings, crash_after):
    recipe = tiny_target(checkpoint_seconds=0.0, **settings)  # a checkpoint after every step
    straight = recipe.run(TinySplit(), workshop())
    interrupted = Memory(stop_after=crash_after)
    with pytest.raises(Stopped):
        recipe.run(TinySplit(), workshop(interrupted))
    torch.manual_seed(99)  # whatever the new process happens to start with
    resumed = recipe.run(TinySplit(), workshop(interrupted))
    assert interrupted.saves == 10  # 2 epochs of 5 steps: none was repeated
    assert_same_bytes(straight.weights, resumed.weights)
    assert straight.measured == resumed.measured


def test_a_finished_training_is_only_measured_again():
    checkpoint = Memory()
    recipe = tiny_target()
    first = recipe.run(TinySplit(), workshop(checkpoint))
    saves = checkpoint.saves
    again = recipe.run(TinySplit(), workshop(checkpoint))
    assert checkpoint.saves == saves
    assert_same_bytes(first.weights, again.weights)


def test_a_checkpoint_of_another_training_is_refused():
    checkpoint = Memory()
    recipe = tiny_target(epochs=1)
    recipe.run(TinySplit(), workshop(checkpoint))
    with pytest.raises(MibenchError, match="other settings") as caught:
        replace(recipe, width=0.25).run(TinySplit(), workshop(checkpoint))
    assert "\n" not in str(caught.value)
    replace(recipe, checkpoint_seconds=1.0).run(TinySplit(), workshop(checkpoint))  # changes no result


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "vgg61"}, "unknown target architecture 'vgg61'; did you mean 'vgg16'"),
        ({"architecture": "facenet112"}, "unknown target architecture 'facenet112'"),  # a judge is no target
        ({"architecture": "vgg16", "size": 32, "dropout": 0.1}, "vgg16 has no dropout"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"schedule": "step"}, "unknown schedule 'step'; choose one of none, cosine"),
        ({"optimiser": "lion"}, "unknown optimiser 'lion'; choose one of sgd, adamw, adam"),
        ({"augment": "heavy"}, "unknown augmentation 'heavy'"),
        ({"select": "best"}, "unknown select 'best'; choose one of last, best_on_test"),
        ({"storage": "int8"}, "unknown storage 'int8'; choose one of float32, float16"),
        ({"images_per_identity": 0}, "images_per_identity must be 1 or more, got 0"),
        ({"images_per_identity": 16}, "images_per_identity=16 leaves nothing out: no identity has more than 16 images"),
        ({"epochs": 0}, "epochs must be 1 or more, got 0"),
        ({"batch_size": 1}, "batch_size must be 2 or more, got 1"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"width": -1.0}, "width must be a positive number"),
        ({"learning_rate": 1e30, "schedule": "none"}, "the training diverged in epoch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(MibenchError, match=message) as caught:
        tiny_target(**settings).run(TinySplit(), workshop())
    assert "\n" not in str(caught.value)


def test_an_unknown_precision_is_refused():
    with pytest.raises(MibenchError, match="unknown precision 'float8'"):
        tiny_target().run(TinySplit(), workshop(precision="float8"))


def test_data_that_contradicts_itself_is_refused():
    class Mislabelled(TinySplit):
        num_classes = CLASSES - 1

        def private(self, part, size, labels=None):
            return TinySplit().private(part, size, labels)

    with pytest.raises(MibenchError, match=r"labels must lie in 0\.\.3"):
        tiny_target().run(Mislabelled(), workshop())


@pytest.mark.parametrize(
    ("architecture", "precision", "expected"),
    [
        ("facenet64", "bfloat16", torch.contiguous_format),
        ("facenet64", "float32", torch.channels_last),
        ("vgg16", "bfloat16", torch.channels_last),
    ],
)
def test_layouts_follow_what_was_measured(architecture, precision, expected):
    network, _, _ = build(tiny_target(architecture=architecture, size=32), Streams(0), num_classes=2)
    assert preferred_layout(network, workshop(precision=precision)) == expected
