"""Recipes on a tiny split: they learn, resume exactly, measure what they store, and refuse what makes no sense."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import torch

from mibench.api import MibenchError, TrainingContext
from mibench.data.split import GroundTruth, IdentitySplit, Images, to_uint8
from mibench.rng import Streams
from mibench.targets.training.augment import channels_last_store, plain_batch, training_batch
from mibench.targets.training.evaluation import accuracy, explained_variance, identity_ranks
from mibench.targets.training.identity_regressor import TrainRegressor, coordinate_weights, held_out_images
from mibench.targets.training.optimisation import learning_rate_at
from mibench.targets.training.recipes import TrainJudge, TrainTarget, build
from mibench.targets.training.supervised import preferred_layout

CPU = torch.device("cpu")
CLASSES = 5


class TinySplit(IdentitySplit):
    """Each class is a coarse pattern of colours; an image adds noise."""

    name = "tiny"
    num_classes = CLASSES
    digest = "tiny-1"

    def private(self, part, size, labels=None):
        patterns = torch.rand(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        per_class, seed = (16, 1) if part == "train" else (6, 2)
        classes = torch.arange(CLASSES).repeat_interleave(per_class)
        images = torch.nn.functional.interpolate(patterns, (size, size))[classes]
        images = images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return Images(to_uint8(images), classes, tuple(f"private-{label}" for label in classes.tolist()))

    def public(self, size, count=None):
        raise AssertionError("a target's recipe has no use for public images")


class ColourSplit(TinySplit):
    """Each class is one plain colour, far from the others; an image adds noise."""

    name = "colours"
    digest = "colours-1"

    def private(self, part, size, labels=None):
        low, high = 0.1, 0.9
        colours = torch.tensor([[low] * 3, [high] * 3, [high, low, low], [low, high, low], [low, low, high]])
        images = super().private(part, size, labels)
        seed = 1 if part == "train" else 2
        noise = 0.1 * torch.randn(images.pixels.shape, generator=torch.Generator().manual_seed(seed))
        return replace(images, pixels=to_uint8(colours[images.labels][:, :, None, None] + noise))


class TruthfulSplit(TinySplit, GroundTruth):
    """Public images show their identity vector: six numbers as the colours of an upper and a lower half."""

    identity_dim = 6
    people, per_person = 120, 4

    def public(self, size, count=None):
        vectors = self.public_identity_vectors(count)
        images = torch.empty(len(vectors), 3, size, size)
        images[:, :, : size // 2] = vectors[:, :3, None, None]
        images[:, :, size // 2 :] = vectors[:, 3:, None, None]
        images += 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(3))
        keys = tuple(f"public-{index // self.per_person}" for index in range(len(vectors)))
        return Images(to_uint8(images), torch.full((len(vectors),), -1), keys)

    def private(self, part, size, labels=None):
        raise AssertionError("the regressor must not see private images")

    def identity_vectors(self, labels=None):
        raise AssertionError("the regressor must not see private identities")

    def public_identity_vectors(self, count=None):
        vectors = torch.rand(self.people, 6, generator=torch.Generator().manual_seed(4))
        return vectors.repeat_interleave(self.per_person, dim=0)[:count]

    def foreign_identity_vectors(self, count):
        return torch.rand(count, 6, generator=torch.Generator().manual_seed(5))


def without_layouts(state):
    """The state as a format without strides (safetensors, say) gives it back."""
    if isinstance(state, dict):
        return {key: without_layouts(value) for key, value in state.items()}
    return state.contiguous() if isinstance(state, torch.Tensor) else state


class Memory:
    """A checkpoint that goes through bytes, forgets memory layouts, and can pull the plug after some saves."""

    def __init__(self, saves_until_crash=None):
        self.content = None
        self.left = saves_until_crash
        self.saves = 0

    def load(self):
        return None if self.content is None else torch.load(io.BytesIO(self.content), weights_only=True)

    def save(self, state):
        buffer = io.BytesIO()
        torch.save(without_layouts(state), buffer)
        self.content = buffer.getvalue()
        self.saves += 1
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def workshop(checkpoint=None, **settings):
    return TrainingContext(device=CPU, checkpoint=checkpoint or Memory(), **settings)


def tiny_target(**settings):
    # Small: 16 pixels, widths of 8 to 64 channels, with dropout and PReLU.
    defaults = {"architecture": "facenet64", "width": 0.125, "size": 16, "epochs": 2, "batch_size": 16}
    return TrainTarget(**{**defaults, "schedule": "cosine", **settings})


def assert_same_bytes(first, second):
    assert list(first) == list(second)
    for key in first:
        assert torch.equal(first[key], second[key]), key


# ---------------------------------------------------------------- learning and measuring


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
    interrupted = Memory(saves_until_crash=crash_after)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(TinySplit(), workshop(interrupted))
    interrupted.left = None
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

    with pytest.raises(MibenchError, match=r"labels must lie in 0\.\.3"):
        tiny_target().run(Mislabelled(), workshop())


# ---------------------------------------------------------------- identity regressor


def tiny_regressor(**settings):
    defaults = {"width": 0.125, "size": 16, "epochs": 8, "batch_size": 32, "augment": "none"}
    return TrainRegressor(**{**defaults, **settings})


def test_the_regressor_reads_held_out_identities():
    trained = tiny_regressor().run(TruthfulSplit(), workshop())
    measured = trained.measured
    assert trained.arguments == {"identity_dim": 6, "width": 0.125, "size": 16}
    assert measured["r2"] > 0.7
    assert len(measured["rmse_per_coordinate"]) == len(measured["r2_per_coordinate"]) == 6
    # each number is rounded to five digits: half a digit of the one and half a digit of the others' mean
    assert measured["rmse"] == pytest.approx(sum(measured["rmse_per_coordinate"]) / 6, abs=1.01e-5)
    assert measured["held_out_images"] == 4 * measured["held_out_identities"]
    assert measured["held_out_images"] + measured["train_images"] == 480
    assert measured["identification"]["candidates"] == measured["held_out_identities"] + 1000
    for distance in ("euclidean", "error_weighted"):
        assert measured["identification"][distance]["among_first_10"] > 0.5  # chance is about 0.01


def test_the_regressor_resumes_bit_for_bit():
    recipe = tiny_regressor(epochs=2, checkpoint_seconds=0.0, images=200)
    straight = recipe.run(TruthfulSplit(), workshop())
    interrupted = Memory(saves_until_crash=3)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(TruthfulSplit(), workshop(interrupted))
    interrupted.left = None
    assert_same_bytes(straight.weights, recipe.run(TruthfulSplit(), workshop(interrupted)).weights)


def test_the_regressor_needs_the_truth():
    with pytest.raises(MibenchError, match="'tiny' does not know the truth"):
        tiny_regressor().run(TinySplit(), workshop())


def test_identities_are_held_out_whole():
    keys = tuple(f"person-{index // 3}" for index in range(600))
    held = held_out_images(keys, 0.2, seed=0)
    assert bool((held.view(200, 3) == held.view(200, 3)[:, :1]).all())
    assert 0.12 < float(held.float().mean()) < 0.28
    assert torch.equal(held[:300], held_out_images(keys[:300], 0.2, seed=0))  # more people move nobody


def test_coordinates_weigh_by_their_spread():
    vectors = torch.tensor([[0.0, 0.4, 0.5], [1.0, 0.6, 0.5]])
    torch.testing.assert_close(coordinate_weights(vectors), torch.tensor([4.0, 100.0, 0.0]) / 2)
    with pytest.raises(MibenchError, match="nothing to learn"):
        coordinate_weights(torch.ones(3, 2))


def test_explained_variance_against_scikit_learn():
    from sklearn.metrics import r2_score

    generator = torch.Generator().manual_seed(0)
    truth, noise = torch.rand(50, 4, generator=generator), 0.2 * torch.randn(50, 4, generator=generator)
    expected = r2_score(truth.numpy(), (truth + noise).numpy(), multioutput="raw_values")
    torch.testing.assert_close(explained_variance(truth + noise, truth).numpy(), expected, rtol=1e-5, atol=1e-6)


def test_ranks_count_the_identities_that_are_nearer():
    candidates = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.3, 1.0]])
    predicted, own = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.1, 0.0]]), torch.tensor([0, 1, 2])
    assert identity_ranks(predicted, own, candidates).tolist() == [1, 2, 3]
    blind_to_second = torch.tensor([0.1, 100.0])
    assert identity_ranks(predicted, own, candidates, blind_to_second).tolist() == [1, 3, 2]


# ---------------------------------------------------------------- batches and schedules


def coordinates(count=6, side=16):
    """Images whose red is the row and whose green the column, blue the image: what a gather did can be read off."""
    store = torch.empty(count, side, side, 3, dtype=torch.uint8)
    store[..., 0] = torch.arange(side).view(1, side, 1)
    store[..., 1] = torch.arange(side)
    store[..., 2] = torch.arange(count).view(count, 1, 1)
    return store


def test_a_plain_batch_is_the_stored_images_in_channels_last():
    pixels = torch.randint(256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    store = channels_last_store(pixels, CPU)
    indices = torch.tensor([4, 0])
    for batch in (
        plain_batch(store, indices),
        training_batch(store, indices, torch.Generator(), flip=False, augmentation="none"),
    ):
        torch.testing.assert_close(batch, pixels[indices].float() / 255)
        assert batch.is_contiguous(memory_format=torch.channels_last)


def test_flips_mirror_whole_images_and_about_half_of_them():
    store = coordinates(1)
    batch = training_batch(
        store, torch.zeros(200, dtype=torch.int64), torch.Generator(), flip=True, augmentation="none"
    )
    original = plain_batch(store, torch.zeros(1, dtype=torch.int64))
    mirrored = (batch == original.flip(3)).flatten(1).all(dim=1)
    assert bool((mirrored | (batch == original).flatten(1).all(dim=1)).all())
    assert 70 < int(mirrored.sum()) < 130


def test_shifts_move_each_image_by_its_own_offset_and_repeat_the_edge():
    store = coordinates(1, side=32)
    batch = training_batch(
        store, torch.zeros(100, dtype=torch.int64), torch.Generator(), flip=False, augmentation="shift"
    )
    rows, columns = (batch[:, :2] * 255).round().long().unbind(1)
    down, right = rows[:, 16, 16] - 16, columns[:, 16, 16] - 16
    assert set(down.tolist()) == set(right.tolist()) == {-2, -1, 0, 1, 2}  # a sixteenth of 32
    expected = (torch.arange(32) + down[:, None]).clamp(0, 31)
    assert torch.equal(rows, expected[:, :, None].expand_as(rows))


def test_colours_change_per_image_and_stay_in_range():
    store = torch.full((1, 16, 16, 3), 128, dtype=torch.uint8)
    store[:, :8] = 250
    batch = training_batch(
        store, torch.zeros(64, dtype=torch.int64), torch.Generator(), flip=False, augmentation="light"
    )
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1
    means = batch.mean(dim=(2, 3))
    assert bool((means.std(dim=0) > 0.02).all())  # brightness
    assert float((means[:, 0] - means[:, 2]).std()) > 0.01  # colour


def test_cosine_warms_up_and_ends_at_zero():
    rates = [learning_rate_at(step, 100, peak=0.1, schedule="cosine", warmup=10) for step in range(101)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert learning_rate_at(70, 100, peak=0.1, schedule="none", warmup=10) == 0.1


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
