"""Scoring end to end with a tiny judge: columns, selection, controls, null reasons, order, determinism, speed."""

from __future__ import annotations

import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from torch import nn

from mibench.api import ClassifierOutput, Estimate, ImageSpec, Measured, Metric, MetricInfo, MibenchError, metric
from mibench.data.split import Images, to_uint8
from mibench.metrics import METRICS
from mibench.metrics.declared import built_in_infos
from mibench.metrics.extractors import JudgeExtractor
from mibench.metrics.gradients import measure as measure_gradients
from mibench.metrics.identity import IdentityTruth
from mibench.metrics.inputs import ScoringInputs
from mibench.metrics.scoring import COLUMNS, Reconstructions, Scores, score

CLASSES, SIZE = 6, 8


class MeanColour(nn.Module):
    """Features: mean colours of the four quadrants; logits: minus the squared distance to a colour per class."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.register_buffer("centres", torch.rand(CLASSES, 3, generator=generator))

    def forward(self, images):
        features = nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        colour = images.mean(dim=(2, 3))
        return ClassifierOutput(features, -100 * torch.cdist(colour, self.centres).square())


def judge(**options) -> JudgeExtractor:
    return JudgeExtractor(MeanColour(), ImageSpec(16), name="colour@toy", **options)


def coloured(labels: torch.Tensor, size: int, noise: float, seed: int) -> torch.Tensor:
    centres = MeanColour().centres
    images = centres[labels][:, :, None, None].expand(-1, -1, size, size)
    tint = noise * torch.randn(len(labels), 3, 2, 2, generator=torch.Generator().manual_seed(seed))
    return to_uint8(images + nn.functional.interpolate(tint, size=size))


def images_of(labels: torch.Tensor, size: int, noise: float, seed: int, prefix: str = "private") -> Images:
    return Images(coloured(labels, size, noise, seed), labels, tuple(f"{prefix}{int(label)}" for label in labels))


ATTACKED = torch.tensor([1, 3, 4])
PRIVATE_LABELS = ATTACKED.repeat_interleave(7)


def reconstructions(per_identity: int = 6, seed: int = 0, noise: float = 0.25) -> Reconstructions:
    labels = ATTACKED.repeat_interleave(per_identity)
    confidence = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed + 5))
    return Reconstructions.of([(0, coloured(labels, SIZE, noise, seed), labels, confidence)])


def arguments(**changes):
    private = images_of(PRIVATE_LABELS, 16, 0.05, 1)
    return {"private": private, "judge": judge(), "per_identity": 5, **changes}


def truth() -> IdentityTruth:
    return IdentityTruth(
        private=MeanColour().centres,
        foreign=torch.rand(50, 3, generator=torch.Generator().manual_seed(3)),
        regress=lambda images: images.float().mean(dim=(2, 3)) / 255,
        regressor="mean@toy",
        error=torch.full((3,), 0.05),
    )


@pytest.fixture(scope="module")
def full() -> Scores:
    return score(
        reconstructions(),
        **arguments(
            second_judge=judge(resize="bilinear"),
            target=judge(),
            truth=truth(),
            public=images_of(torch.arange(CLASSES).repeat(5), SIZE, 0.5, 8, "public"),
            private_test=images_of(PRIVATE_LABELS, SIZE, 0.05, 9),
            portraits=images_of(PRIVATE_LABELS, SIZE, 0.01, 10),
            metrics=tuple(METRICS),
        ),
    )


def test_every_group_yields_the_estimates_that_it_is_said_to_yield(full):
    assert set(full.metrics) == set(built_in_infos()) == {info.name for info in full.infos}
    for info in full.infos:
        assert full.metrics[info.name].higher_is_better is info.higher_is_better, info.name
        assert info.column is None or info.column in full.samples, info.name


def test_the_table(full):
    table = full.samples
    added = [info.column for info in measure_gradients.infos]
    added += ["second_predicted", "second_hit1", "both_hit1", "judges_agree"]
    assert (*table.columns[: len(COLUMNS)], *sorted(table.columns[len(COLUMNS) :])) == (*COLUMNS, *sorted(added))
    assert table[~table["selected"]][["log_gradient_norm", "vanished_gradient", "flat_confident"]].isna().all().all()
    table = table.drop(columns=added)
    assert (len(table), table["identity"].tolist()) == (18, sorted(table["identity"]))
    for _, rows in table.groupby("identity"):
        assert rows["sample"].tolist() == list(range(6))
        assert rows["confidence"].is_monotonic_decreasing
        assert rows["selected"].tolist() == [True] * 5 + [False]
    assert table["image_sha256"].str.fullmatch("[0-9a-f]{64}").all()
    assert not table.isna().any().any()
    assert (table["hit1"] <= table["hit5"]).all()
    assert (table["hit1"] == (table["predicted"] == table["identity"])).all()
    assert table["nearest_private"].between(0, 6).all()
    assert table["feature_distance"].between(0, 4).all()


def test_the_rows_point_at_their_images():
    given = reconstructions()
    table = score(given, **arguments()).samples
    for row in table.itertuples():
        assert int(given.labels[row.index]) == row.identity
        assert float(given.confidence[row.index]) == pytest.approx(row.confidence)


def test_the_estimates_follow_from_the_table(full):
    chosen, metrics = full.samples[full.samples["selected"]], full.metrics
    assert metrics["acc1"].value == pytest.approx(chosen["hit1"].mean())
    assert metrics["acc1_all"].value == pytest.approx(full.samples["hit1"].mean())
    for name in ("knn_distance", "feature_distance", "true_identity_error", "target_confidence"):
        assert metrics[name].value == pytest.approx(chosen[name].mean()), name
    assert metrics["true_identity_rank"].value == chosen["true_identity_rank"].median()
    assert metrics["true_identity_top1"].value == pytest.approx((chosen["true_identity_rank"] == 1).mean())
    assert metrics["true_identity_error"].params["ranked_among"] == CLASSES + 50
    assert metrics["true_identity_error"].params["regressor_rmse"] == pytest.approx(0.05)
    assert 0 < metrics["acc1"].value < 1, "the toy world should discriminate"
    assert metrics["target_acc1"].value == metrics["acc1"].value, "the attacked model is the judge here"


def test_every_number_carries_what_a_reader_needs(full):
    for name, estimate in full.metrics.items():
        assert estimate.name == name
        if estimate.value is None:
            assert estimate.reason, name
            continue
        assert estimate.n >= 3, name
        assert estimate.extractor, name
        if estimate.unit == "identity":
            assert estimate.low <= estimate.value <= estimate.high, name


def test_controls_bound_what_an_attack_can_show(full):
    metrics = full.metrics
    assert metrics["control_private_test_acc1"].value == 1
    assert metrics["control_private_test_knn_distance"].value < metrics["knn_distance"].value
    assert metrics["control_private_test_true_identity_error"].value < metrics["true_identity_error"].value
    assert metrics["control_nearest_public_acc1"].n == 3


def test_perfect_and_hopeless_reconstructions():
    private = images_of(PRIVATE_LABELS, 16, 0.05, 1)
    copies = Reconstructions.of([(0, private.pixels, private.labels, torch.zeros(len(private)))])
    found = score(copies, **arguments()).metrics
    assert found["acc1"].value == 1
    assert found["acc1"].low < 0.5, "three identities cannot prove much"
    assert found["knn_distance"].value == 0
    assert found["feature_distance"].value == 0
    shuffled = dataclasses.replace(copies, labels=torch.tensor([3, 4, 1]).repeat_interleave(7))
    assert score(shuffled, **arguments()).metrics["acc1"].value == 0


def test_what_cannot_be_computed_is_null_with_the_reason():
    found = score(reconstructions(), **arguments(inception_reason="no weights here"))
    assert found.metrics["fid"].value is None
    assert found.metrics["fid"].reason == "no weights here"
    for name in ("true_identity_error", "true_identity_rank", "target_acc1"):
        assert found.metrics[name].value is None
        assert found.metrics[name].reason
    assert set(found.missing(["acc1", "fid", "nonsense"])) == {"fid", "nonsense"}
    few = score(reconstructions(), **arguments(per_identity=3)).metrics
    assert few["coverage"].value is None
    assert "k=3" in few["coverage"].reason
    assert few["coverage"].params["skipped_identities"] == 3
    one = score(reconstructions(), **arguments(per_identity=1)).metrics
    assert one["div_feat"].value is None
    assert one["acc1_std_legacy"].value is None


def test_a_thin_covariance_says_so(full):
    assert full.metrics["frechet_judge"].params["n_fake"] == 15
    assert "warning" not in full.metrics["frechet_judge"].params  # 15 images, 12 dimensions
    thin = score(reconstructions(), **arguments(per_identity=4)).metrics["frechet_judge"]
    assert "singular" in thin.params["warning"]


def test_too_few_reconstructions_are_scored_with_a_note():
    found = score(reconstructions(per_identity=4), **arguments())
    assert "fewer than the 5" in found.notes[0]
    assert found.samples["selected"].all()


def test_the_result_does_not_depend_on_order_or_on_units(full):
    whole = reconstructions()
    order = torch.randperm(18, generator=torch.Generator().manual_seed(2))
    shuffled = Reconstructions(**{f.name: getattr(whole, f.name)[order] for f in dataclasses.fields(whole)})
    first, second = score(whole, **arguments(truth=truth())), score(shuffled, **arguments(truth=truth()))
    assert first.samples.equals(second.samples)
    assert first.metrics == second.metrics


def test_ties_in_confidence_do_not_depend_on_order():
    whole = dataclasses.replace(reconstructions(), confidence=torch.zeros(18))
    flipped = Reconstructions(**{f.name: getattr(whole, f.name).flip(0) for f in dataclasses.fields(whole)})
    assert score(whole, **arguments()).samples.equals(score(flipped, **arguments()).samples)


def test_confidence_that_is_not_a_number_ranks_last():
    confidence = torch.rand(18)
    confidence[2] = float("nan")
    table = score(dataclasses.replace(reconstructions(), confidence=confidence), **arguments()).samples
    row = table[table["index"] == 2].iloc[0]
    assert row["sample"] == 5
    assert not row["selected"]


def test_scoring_again_gives_the_same_bytes(full):
    first = score(reconstructions(), **arguments())
    second = score(reconstructions(), **arguments())
    assert first.samples.to_csv(index=False) == second.samples.to_csv(index=False)
    assert json.dumps(first.as_json(), allow_nan=False) == json.dumps(second.as_json(), allow_nan=False)


def test_features_of_private_images_are_cached(tmp_path):
    first = score(reconstructions(), **arguments(judge=judge(cache=tmp_path)))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert score(reconstructions(), **arguments(judge=judge(cache=tmp_path))).samples.equals(first.samples)


def test_wrong_input_of_scoring_is_one_line():
    private = images_of(PRIVATE_LABELS, 16, 0.05, 1)
    some = Images(private.pixels[:7], private.labels[:7], private.identities[:7])
    with pytest.raises(MibenchError, match="no private image"):
        score(reconstructions(), **arguments(private=some))
    with pytest.raises(MibenchError, match="unknown metric 'fidd'"):
        score(reconstructions(), **arguments(metrics=("fidd",)))
    with pytest.raises(MibenchError, match="uint8"):
        score(dataclasses.replace(reconstructions(), images=torch.zeros(18, 3, 8, 8)), **arguments())
    with pytest.raises(MibenchError, match="another data set"):
        score(dataclasses.replace(reconstructions(), labels=torch.full((18,), 77)), **arguments())
    with pytest.raises(MibenchError, match="confidence of shape"):
        score(dataclasses.replace(reconstructions(), confidence=torch.zeros(3)), **arguments())
    with pytest.raises(MibenchError, match="at least one sample"):
        score(reconstructions(), **arguments(per_identity=0))
    with pytest.raises(MibenchError, match="no unit"):
        Reconstructions.of([])


def test_a_metric_of_a_third_party():
    def brightness(evidence):
        return [Estimate(name="brightness", value=float(evidence.features.mean()), n=len(evidence.samples))]

    found = score(reconstructions(), **arguments(metrics=("brightness",), registry={"brightness": brightness}))
    assert set(found.metrics) == {"brightness"}
    assert found.infos == ()


def darkness(column: str = "darkness", values: object = None) -> Metric[ScoringInputs, Measured]:
    @metric(MetricInfo("darkness", "darkness", higher_is_better=False, column=column))
    def measure(inputs: ScoringInputs) -> Measured:
        own = -inputs.features.mean(dim=1).double().numpy()
        return Measured([inputs.mean_of("darkness", own)], {column: own if values is None else values})

    return measure


def test_a_metric_with_a_value_for_each_sample_adds_its_column():
    options = arguments(metrics=("accuracy", "darkness"), registry={"darkness": darkness()})
    full = score(reconstructions(), **options)
    assert tuple(full.samples.columns) == (*COLUMNS, "darkness")
    selected = full.samples[full.samples["selected"]]
    estimate = full.metrics["darkness"]
    assert estimate.value == pytest.approx(selected["darkness"].mean())
    assert estimate.low < estimate.value < estimate.high
    assert estimate.higher_is_better is False  # as the metric declares it
    assert full.infos[-1].title == "darkness"
    without = score(reconstructions(), **arguments(metrics=("accuracy",)))
    assert without.samples.equals(full.samples[list(COLUMNS)])


@pytest.mark.parametrize(("proportion", "interval"), [(True, "clopper-pearson"), (False, "cluster bootstrap")])
def test_a_metric_that_declares_a_proportion_has_the_interval_of_a_share(proportion, interval):
    @metric(MetricInfo("missed", "missed", proportion=proportion, column="missed"))
    def measure(inputs: ScoringInputs) -> Measured:
        missed = 1 - inputs.samples["hit1"].to_numpy(dtype=float)
        return Measured([inputs.mean_of("missed", missed), inputs.mean("acc1", "hit1")], {"missed": missed})

    found = score(reconstructions(), **arguments(metrics=("missed",), registry={"missed": measure}))
    estimate = found.metrics["missed"]
    assert estimate.params["interval"] == interval
    assert found.metrics["acc1"].params["interval"] == "cluster bootstrap"  # of which this metric says nothing
    known = score(reconstructions(), **arguments(metrics=("accuracy",))).metrics["acc1"]
    if proportion:
        assert (1 - estimate.high, 1 - estimate.low) == pytest.approx((known.low, known.high))


def test_a_proportion_outside_its_range_is_refused():
    @metric(MetricInfo("darkness", "darkness", proportion=True, column="darkness"))
    def measure(inputs: ScoringInputs) -> Measured:
        values = [1.5] * len(inputs.samples)
        return Measured([inputs.mean_of("darkness", values)], {"darkness": values})

    with pytest.raises(MibenchError, match=r"metric 'darkness' declares itself a proportion, .* and has 1\.5"):
        score(reconstructions(), **arguments(metrics=("darkness",), registry={"darkness": measure}))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (darkness("hit1"), "has a column 'hit1' already"),
        (darkness(values=[1.0, 2.0]), "should hold 18 numbers"),
        (darkness(values=["dark"] * 18), "should hold 18 numbers"),
    ],
)
def test_a_column_that_does_not_fit_is_refused(measure, message):
    with pytest.raises(MibenchError, match=f"metric 'darkness': .*{message}"):
        score(reconstructions(), **arguments(metrics=("darkness",), registry={"darkness": measure}))


def test_another_extractor_measures_the_feature_distance():
    found = score(reconstructions(), **arguments(second=judge(resize="bilinear"))).metrics["feature_distance"]
    assert found.extractor == "colour@toy (bilinear to 16)"
    assert found.value == pytest.approx(score(reconstructions(), **arguments()).metrics["knn_distance"].value, rel=0.05)


def test_fid_uses_the_given_extractor():
    class Fake:
        name = "toy pool"

        def __call__(self, images, scaling):
            floats = images.float() / 255
            return nn.functional.adaptive_avg_pool2d(floats * 2 - 1 if scaling == "ppa-legacy" else floats, 2).flatten(
                1
            )

        cached = __call__

    options = arguments(inception=Fake(), private_native=images_of(PRIVATE_LABELS, SIZE, 0.05, 1))
    found = score(reconstructions(), **options, metrics=("fid", "fid-ppa-legacy", "fid-success-only")).metrics
    assert found["fid"].extractor == "toy pool"
    assert found["fid_ppa_legacy"].value == pytest.approx(4 * found["fid"].value)  # distances double, squares fourfold
    assert found["fid_success_only"].params["n_fake"] < found["fid"].params["n_fake"] == 15
    missing = score(reconstructions(), **arguments(inception=Fake()), metrics=("fid",)).metrics["fid"]
    assert "at the size of the reconstructions" in missing.reason


def brute_force(queries: int, references: int, dimensions: int) -> float:
    """Processor seconds that comparing every query with every reference takes here and now, a query at a time."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(n, dimensions, generator=generator).double() for n in (queries, references))
    start = time.process_time()
    for query in first:
        (query - second).square().sum(dim=1)
    return time.process_time() - start


def test_ten_identities_take_seconds():
    """10 identities, 16 samples, 20 private images each, 512 features: under a second where this was written."""

    class Random(nn.Module):
        def forward(self, images):
            flat = images.flatten(1)
            generator = torch.Generator().manual_seed(0)
            return ClassifierOutput(
                flat @ torch.randn(flat.shape[1], 512, generator=generator),
                flat @ torch.randn(flat.shape[1], 100, generator=generator),
            )

    def some(count, seed):
        return torch.randint(256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))

    labels = torch.arange(10).repeat_interleave(16)
    given = Reconstructions.of([(0, some(160, 0), labels, torch.rand(160))])
    train = torch.arange(10).repeat_interleave(20)
    everyone = {
        "private": Images(some(200, 1), train, ("x",) * 200),
        "private_test": Images(some(200, 2), train, ("x",) * 200),
        "public": Images(some(1000, 3), torch.full((1000,), -1), ("y",) * 1000),
    }
    network = JudgeExtractor(Random(), ImageSpec(16), name="random")
    yardstick = brute_force(160, 1400, 512)  # 0.1 to 0.25 s there: how fast this machine is counts on both sides
    start = time.process_time()
    found = score(given, judge=network, per_identity=16, **everyone)
    assert time.process_time() - start < 50 * yardstick  # 2 to 8 times it there
    assert np.isfinite(found.metrics["frechet_judge"].value)
