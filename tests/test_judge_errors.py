"""The judge's errors and the scale of the true identity: counted by hand where the answer is known."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from test_scoring import PRIVATE_LABELS, SIZE, arguments, images_of, reconstructions, truth

from mibench.api import ClassifierOutput
from mibench.data.datasets.synthfaces import SynthFaces
from mibench.data.split import Images, first_of_each
from mibench.metrics.identity import IdentityTruth, no_information
from mibench.metrics.inputs import ScoringInputs
from mibench.metrics.judge_errors import FOREIGN, NEAREST, PRIVATE, REJECTION, control_pairs, judge_errors
from mibench.metrics.scoring import Reconstructions, score

PEOPLE = torch.tensor([1, 3])


def logits_of(classes: list[int]) -> ClassifierOutput:
    return ClassifierOutput(torch.zeros(len(classes), 2), torch.eye(6)[torch.tensor(classes)])


def table(identities: list[int], predicted: list[int]) -> pd.DataFrame:
    hits = [a == b for a, b in zip(identities, predicted, strict=True)]
    return pd.DataFrame({"identity": identities, "predicted": predicted, "hit1": hits})


@pytest.fixture
def pairs() -> dict[str, pd.DataFrame]:
    controls = {
        "private_test": table([1, 1, 1, 3, 3, 3], [1, 1, 3, 3, 5, 5]),
        "nearest_public": table([1, 1, 3, 3], [1, 2, 3, 3]),
    }
    return control_pairs(PEOPLE, logits_of([0, 0, 1, 1, 1, 2, 3, 4, 5, 5]), controls)


def test_every_control_pair_is_counted_once(pairs: dict[str, pd.DataFrame]) -> None:
    counted = {name: rows[["pairs", "accepted"]].to_numpy().tolist() for name, rows in pairs.items()}
    assert counted == {
        REJECTION: [[3, 2], [3, 1]],
        NEAREST: [[2, 1], [2, 2]],
        FOREIGN: [[10, 3], [10, 1]],
        PRIVATE: [[3, 0], [3, 1]],  # a picture of 1 is taken for 3; those taken for 5 are nobody's who is attacked
    }


def test_the_rates_are_shares_over_people(pairs: dict[str, pd.DataFrame]) -> None:
    nothing = torch.zeros(0)
    inputs = ScoringInputs(
        samples=table([1], [1]),
        features=nothing,
        private_features=nothing,
        private_labels=nothing,
        extractor="toy",
        control_pairs=pairs,
    )
    measured = {estimate.name: estimate for estimate in judge_errors(inputs)}
    values = {name: estimate.value for name, estimate in measured.items()}
    assert values == pytest.approx({REJECTION: 3 / 6, NEAREST: 3 / 4, FOREIGN: 4 / 20, PRIVATE: 1 / 6})
    for estimate in measured.values():
        assert estimate.n == 2
        assert estimate.low is not None
        assert estimate.high is not None
        assert 0 <= estimate.low < estimate.high <= 1
        assert estimate.params["interval"] == "clopper-pearson"
    assert measured[FOREIGN].params["pairs"] == 20


def test_without_images_there_are_no_pairs() -> None:
    assert control_pairs(PEOPLE, None, {}) == {}


def test_no_information_is_the_mean_vector() -> None:
    truth = IdentityTruth(
        private=torch.tensor([[0.0, 1.0], [0.5, 0.5]]),
        foreign=torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
        regress=lambda images: torch.zeros(len(images), 2),
    )
    guess = no_information(torch.tensor([0, 1]), truth)
    assert guess is not None
    assert guess.error.tolist() == pytest.approx([0.5, 0.0])
    assert guess.rank.tolist() == [2, 1]
    assert guess.rank_private.tolist() == [2, 1]


def pictures(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.pixels}


def test_portraits_show_private_people_as_the_public_camera_does_and_are_other_pictures() -> None:
    world = SynthFaces(identities=4, train_images=3, test_images=2, public_identities=6, public_images=6)
    portraits, fresh = world.portraits(16, 3, [1, 2]), world.fresh(16, 3, [1, 2])
    assert portraits.labels.tolist() == fresh.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert portraits.identities == fresh.identities
    known = pictures(world.private("train", 16)) | pictures(world.private("test", 16))
    for images in (portraits, fresh):
        assert len(pictures(images)) == 6
        assert not known & pictures(images)
    again = world.fresh(16, 1, [2], first=2).pixels
    assert torch.equal(again, fresh.pixels[5:]), "a picture is a function of its number"
    faces = [images.floats()[..., 5:11, 5:11] for images in (world.portraits(16, 40, [1]), world.fresh(16, 40, [1]))]
    calm, wild = (float(face.std(dim=0).mean()) for face in faces)
    assert calm < 0.6 * wild, "scenes of portraits are as calm as public ones"


def test_the_first_images_of_each_label() -> None:
    world = SynthFaces(identities=3, train_images=3, test_images=2)
    images = world.private("train", 16)
    assert first_of_each(images, 2).labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(first_of_each(images, 5).pixels, images.pixels)


def test_the_true_identity_on_a_scale_from_no_information_to_portraits() -> None:
    full = score(
        reconstructions(),
        **arguments(
            truth=truth(),
            public=images_of(torch.arange(6).repeat(5), SIZE, 0.5, 8, "public"),
            private_test=images_of(PRIVATE_LABELS, SIZE, 0.05, 9),
            portraits=images_of(PRIVATE_LABELS, SIZE, 0.01, 10),
        ),
    )
    metrics, chosen = full.metrics, full.samples[full.samples["selected"]]
    assert metrics["control_no_information_true_identity_recovery"].value == 0
    assert metrics["control_private_portraits_true_identity_recovery"].value == 1
    least, most = (
        metrics[f"control_{control}_true_identity_error"].value for control in ("no_information", "private_portraits")
    )
    expected = (least - metrics["true_identity_error"].value) / (least - most)
    assert metrics["true_identity_recovery"].value == pytest.approx(expected)
    accepted = chosen[chosen["hit1"]]
    right = (accepted["true_identity_rank"] == 1).mean()
    assert metrics["accepted_true_identity_top1"].value == pytest.approx(right)
    assert (full.samples["true_identity_rank_private"] <= full.samples["true_identity_rank"]).all()
    assert metrics["judge_false_rejection"].value == 1 - metrics["control_private_test_acc1"].value
    assert metrics["judge_false_acceptance_nearest"].value == metrics["control_nearest_public_acc1"].value


def test_no_scale_without_portraits_and_nothing_right_of_nothing_accepted() -> None:
    metrics = score(reconstructions(), **arguments(truth=truth())).metrics
    assert "portraits" in metrics["true_identity_recovery"].reason
    private = images_of(PRIVATE_LABELS, 16, 0.05, 1)
    shuffled = torch.tensor([3, 4, 1]).repeat_interleave(7)
    wrong = Reconstructions.of([(0, private.pixels, shuffled, torch.zeros(len(private)))])
    metrics = score(wrong, **arguments(truth=truth())).metrics
    assert metrics["accepted_true_identity_top1"].reason == "the judge accepts no sample"
