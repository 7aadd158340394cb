"""A metric that the size of the problem fixes is null with the reason, demanded by nobody, and spends no test."""

from __future__ import annotations

import json
from pathlib import Path

import comparable_runs
import pytest
import torch
from torch import nn

from mibench.api import ClassifierOutput, ImageSpec, MibenchError
from mibench.data.split import Images
from mibench.metrics import DEFAULT_METRICS
from mibench.metrics.accuracy import always_hit
from mibench.metrics.extractors import JudgeExtractor
from mibench.metrics.identity import IdentityTruth
from mibench.metrics.scoring import Reconstructions, Scores, estimate_as_json, score
from mibench.reports.compare import compare
from mibench.reports.table_model import csv_text, markdown_text
from mibench.reports.tables import against_floor, identities
from mibench.results import open_run
from mibench.results.paired import difference, differences, per_identity


class Rule(nn.Module):
    """Logits that depend on the image, for any number of classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(12, classes, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        features = nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        return ClassifierOutput(features, features @ self.weight)


def scored(classes: int, *, foreign: int = 4, people: int = 1) -> Scores:
    """People 0 to ``people - 1`` of a world of ``classes``, judged and attacked by networks that know them."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(people).repeat_interleave(6)

    def images(count: int) -> torch.Tensor:
        return torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)

    network = JudgeExtractor(Rule(classes), ImageSpec(8), name="rule@toy")
    private = Images(images(len(labels)), labels, tuple(f"p{int(label)}" for label in labels))
    return score(
        Reconstructions.of([(0, images(len(labels)), labels, torch.rand(len(labels), generator=generator))]),
        private=private,
        private_test=private,
        judge=network,
        target=network,
        per_identity=5,
        truth=IdentityTruth(
            private=torch.rand(classes, 4, generator=generator),
            foreign=torch.rand(foreign, 4, generator=generator),
            regress=lambda given: given.float().flatten(1)[:, :4] / 255,
        ),
        metrics=DEFAULT_METRICS,
    )


def fixed(found: Scores) -> set[str]:
    return {name for name, each in found.metrics.items() if each.params.get("cannot_differ")}


@pytest.mark.parametrize("classes", [2, 5])
def test_top_five_of_five_classes_is_no_measurement(classes: int) -> None:
    found = scored(classes, people=2)
    acc5 = found.metrics["acc5"]
    assert (acc5.value, acc5.low, acc5.high) == (None, None, None)
    assert acc5.reason == f"judge 'rule@toy' knows {classes} classes, so that every image is among the 5 best"
    assert fixed(found) == {"acc5"}
    assert found.metrics["acc1"].value is not None
    assert found.missing(["acc1", "acc5"]) == {}  # what nobody can measure, no protocol demands
    assert json.loads(json.dumps(found.as_json()))["acc5"]["value"] is None


def test_top_five_of_six_classes_is_one() -> None:
    found = scored(6, people=2)
    assert fixed(found) == set()
    assert found.metrics["acc5"].value is not None
    assert always_hit(5, 6, "a judge") is None


def test_one_class_and_nobody_to_rank_fix_the_others() -> None:
    found = scored(1, foreign=0)
    assert fixed(found) == {
        "acc1", "acc5", "acc1_all", "target_acc1", "target_confidence", "control_private_test_acc1",
        "acc1_std_legacy", "acc1_std_draws", "true_identity_rank", "true_identity_top1",
        "true_identity_rank_private", "true_identity_top1_private", "accepted_true_identity_top1",
        "control_private_test_true_identity_rank", "control_private_test_true_identity_top1",
        "control_private_test_true_identity_rank_private", "control_private_test_true_identity_top1_private",
        "judge_false_rejection",
    }  # fmt: skip
    assert found.metrics["acc1"].reason == "judge 'rule@toy' knows one class, so that every image is the best"
    assert found.metrics["target_acc1"].reason.startswith("the attacked model knows one class")
    assert "nobody else" in found.metrics["true_identity_rank"].reason
    assert found.metrics["true_identity_error"].value is not None
    assert found.metrics["knn_distance"].value is not None


def test_other_reasons_still_miss_what_a_protocol_demands() -> None:
    assert "fid" in scored(5, people=2).missing(["fid", "acc5"])


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs whose judge knows three classes."""
    folder, three = tmp_path_factory.mktemp("three"), scored(3, people=2).metrics["acc5"]
    made = []
    for name, level in (("strong", 0.9), ("weak", 0.2)):
        path = comparable_runs.make(folder / name, name, level)
        metrics = json.loads((path / "metrics.json").read_text())
        metrics["acc5"] = estimate_as_json(three)
        (path / "metrics.json").write_text(json.dumps(metrics))
        made.append(path)
    return made[0], made[1]


def test_a_comparison_spends_no_test_on_it(pair: tuple[Path, Path]) -> None:
    found = compare(pair)
    assert found.family == len(found.tested) - 1
    assert "acc5" not in found.metrics
    untested = [each for each in found.differences if each.p_value is None]
    assert [(each.metric, each.p_holm) for each in untested] == [("acc5", None)]
    assert "3 classes" in untested[0].estimate.reason
    assert "3 classes" in found.render("text")


def test_nor_does_the_table_against_the_floor(pair: tuple[Path, Path]) -> None:
    run, floor = (open_run(path) for path in pair)
    with_it, without = (differences(run, floor, columns) for columns in (["hit1", "hit5"], ["hit1"]))
    assert with_it[0] == without[0]  # the same adjusted p value
    assert with_it[1].value is None
    assert "3 classes" in with_it[1].reason
    rows = comparable_runs.read(csv_text(against_floor([("strong", run)], floor)))
    assert ["3 classes" in row["reason"] for row in rows if row["metric"] == "acc5"] == [True]
    table = identities([("strong", run)])
    assert {row["acc5"] for row in comparable_runs.read(csv_text(table))} == {""}
    assert "– %" not in markdown_text([table], [])


def test_a_metric_may_be_named_where_its_column_may(pair: tuple[Path, Path]) -> None:
    run, other = (open_run(path) for path in pair)
    by_metric, by_column = difference(run, other, "acc1", name="x"), difference(run, other, "hit1", name="x")
    assert by_metric == by_column
    assert by_metric.value > 0
    assert per_identity(run, "true_identity_top1").mean() == pytest.approx(run.metrics["true_identity_top1"].value)
    assert "3 classes" in difference(run, other, "acc5").reason


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("coverage", "has no value for each identity"),
        ("knn_distanse", "did you mean 'knn_distance'?"),
        ("image_sha256", "no column of numbers"),
    ],
)
def test_what_has_no_value_for_each_identity_is_named(pair: tuple[Path, Path], name: str, told: str) -> None:
    with pytest.raises(MibenchError, match=r"known: .*acc1") as caught:
        difference(open_run(pair[0]), open_run(pair[1]), name)
    assert told in str(caught.value)
    assert "score the run again" not in str(caught.value)
