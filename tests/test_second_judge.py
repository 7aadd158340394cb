"""A second judge: counted by hand, off unless a protocol names one, trained on pictures that nobody else has seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from test_scoring import PRIVATE_LABELS, SIZE, arguments, images_of, judge, reconstructions

from mibench.api import MibenchError, TrainedWeights, TrainingContext
from mibench.data.datasets.synthfaces import SynthFaces
from mibench.data.split import IdentitySplit, Images
from mibench.metrics.scoring import score
from mibench.runs.draft import read_draft
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.runs.spec import EvalProtocol, Weights
from mibench.targets.training.fresh_judge import TrainFreshJudge
from mibench.weights.training import find_recipe


def test_both_judges_are_asked_and_their_agreement_is_counted() -> None:
    class Shifted(torch.nn.Module):
        """The first judge, which takes person 3 for person 4."""

        def __init__(self) -> None:
            super().__init__()
            self.first = judge()._network

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features, logits = self.first(images)
            return features, logits[:, [0, 1, 2, 5, 3, 4]]

    other = type(judge())(Shifted(), judge().image, name="shifted@toy")
    scores = score(
        reconstructions(),
        **arguments(
            second_judge=other,
            public=images_of(torch.arange(6).repeat(5), SIZE, 0.5, 8, "public"),
            private_test=images_of(PRIVATE_LABELS, SIZE, 0.05, 9),
            metrics=("accuracy", "controls", "second-judge"),
        ),
    )
    table, metrics = scores.samples, scores.metrics
    chosen = table[table["selected"]]
    assert metrics["second_acc1"].value == pytest.approx(chosen["second_hit1"].mean())
    assert metrics["both_judges_acc1"].value == pytest.approx((chosen["hit1"] & chosen["second_hit1"]).mean())
    assert metrics["judges_agree"].value == pytest.approx((chosen["predicted"] == chosen["second_predicted"]).mean())
    assert metrics["second_acc1"].extractor == "shifted@toy (low2high to 16)"
    people = table[table["identity"].isin([3, 4])]
    assert not people["second_hit1"].any() or metrics["second_acc1"].value < metrics["acc1"].value
    assert metrics["second_judge_false_rejection"].value > metrics["judge_false_rejection"].value
    assert metrics["second_judge_false_acceptance_foreign"].params["kind"] == "negative"
    rejected, accepted = metrics["second_judge_false_rejection"], metrics["second_control_private_test_acc1"]
    assert accepted.value == pytest.approx(1 - rejected.value)
    assert accepted.value < metrics["control_private_test_acc1"].value
    assert metrics["second_control_nearest_public_acc1"].extractor == "shifted@toy (low2high to 16)"


def test_a_judge_that_stands_beside_itself_agrees() -> None:
    scores = score(reconstructions(), **arguments(second_judge=judge(), metrics=("accuracy", "second-judge")))
    assert scores.metrics["judges_agree"].value == 1
    assert scores.metrics["second_acc1"].value == scores.metrics["acc1"].value
    assert np.array_equal(scores.samples["second_hit1"], scores.samples["hit1"])


def test_without_one_there_is_the_reason_and_no_column() -> None:
    scores = score(reconstructions(), **arguments(metrics=("accuracy", "second-judge")))
    assert scores.metrics["second_acc1"].reason == "the protocol names no second judge"
    assert not [column for column in scores.samples if column.startswith("second")]


def test_it_changes_no_digest_until_a_protocol_names_it() -> None:
    plan = make_plan(RunRequest(attack="floor", protocol="smoke"))
    assert plan.spec.run_name == "floor-vgg16-synthfaces-6d50770d", "runs made before keep their names"
    assert "second_judge" not in plan.spec.record()
    weights = Weights(card="another", architecture="another", sha256="0" * 64)
    assert dataclasses.replace(plan.spec, second_judge=weights).digest() != plan.spec.digest()
    named = read_draft(RunRequest(protocol="smoke", settings={"protocol": {"second_judge": "facenet112"}})).protocol
    assert isinstance(named, EvalProtocol)
    assert named.digest_fields()["second_judge"] == "facenet112"


def test_a_protocol_that_names_one_brings_its_weights_and_so_does_the_floor() -> None:
    plan = make_plan(RunRequest(attack="ppa", protocol="smoke", settings={"protocol": {"second_judge": "facenet112"}}))
    floor = plan.floor()
    assert floor is not None
    for each in (plan, floor):
        assert each.second_judge is not None
        assert each.spec.second_judge == each.spec.judge
    with pytest.raises(MibenchError, match="resnet18_judgf"):
        make_plan(RunRequest(protocol="smoke", settings={"protocol": {"second_judge": "resnet18_judgf"}}))


def pictures(images: Images) -> set[bytes]:
    return {image.numpy().tobytes() for image in images.pixels}


def test_its_recipe_learns_from_fresh_pictures(tmp_path: object) -> None:
    world = SynthFaces(identities=3, train_images=4, test_images=2, public_identities=4, public_images=4)
    assert find_recipe("judge", "resnet18_judge") is TrainFreshJudge
    settings = {"size": 32, "width": 0.0625, "epochs": 1, "batch_size": 4}
    recipe = TrainFreshJudge(fresh_images=5, fresh_test_images=3, **settings)  # type: ignore[arg-type]
    train, test, classes = recipe.parts(world)
    assert (len(train), len(test), classes) == (15, 9, 3)
    private = pictures(world.private("train", 32)) | pictures(world.private("test", 32))
    assert not pictures(train) & pictures(test)
    assert not private & (pictures(train) | pictures(test))
    trained = recipe.run(world, TrainingContext(device=torch.device("cpu"), checkpoint=Nowhere(), seed=0))
    assert isinstance(trained, TrainedWeights)
    assert trained.measured["test_images"] == 9
    assert trained.architecture == "resnet18_judge"
    with pytest.raises(MibenchError, match="fresh_images must be 1 or more"):
        TrainFreshJudge(fresh_images=0).check()


class Nowhere:
    """A checkpoint that is never there."""

    def load(self) -> None:
        return None

    def save(self, state: object) -> None:
        del state


def test_data_without_further_pictures_says_so() -> None:
    with pytest.raises(MibenchError, match="'synthfaces' has no pictures"):
        IdentitySplit.fresh(SynthFaces(), 16, 1)
