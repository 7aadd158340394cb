"""Metrics against the reference vectors, independent implementations, analytic cases and properties."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from mibench.api import MibenchError
from mibench.metrics import DEFAULT_METRICS, METRICS
from mibench.metrics.accuracy import draw_spread, label_confidence, legacy_spread, top_k_hits
from mibench.metrics.distance import centre_distance, nearest, nearest_in_class, unit_features
from mibench.metrics.diversity import mean_pairwise_distance
from mibench.metrics.frechet import frechet_distance
from mibench.metrics.identity import IdentityTruth, identity_error, identity_ranks, true_identity
from mibench.metrics.prdc import prdc

VECTORS = json.loads((Path(__file__).parent / "data" / "test_vectors.json").read_text())["functions"]
# A float64 sum of up to 64 squares, added in whatever order a kernel likes: 64 roundings of 2^-53 each. The product
# that `nearest` must not rely on is off by a billion times as much.
ROUNDED = {"rtol": 64 * 2.0**-53, "atol": 0.0}


def vectors(name: str) -> torch.Tensor:
    return torch.tensor(VECTORS[name], dtype=torch.float32)


def gaussian(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- reference vectors


def test_the_reference_inputs_follow_their_rule():
    def draw(key, shape):
        return np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(shape)

    np.testing.assert_allclose(vectors("prdc_real"), draw("input:real", (20, 5)), rtol=1e-5)
    np.testing.assert_allclose(vectors("prdc_fake"), draw("input:fake", (12, 5)) * 0.8 + 0.3, rtol=1e-5)


@pytest.mark.parametrize(("variant", "key"), [("published", "prdc_package_k3"), ("ppa-legacy", "prdc_ppa_k3")])
def test_prdc_reference(variant, key):
    found = prdc(vectors("prdc_real"), vectors("prdc_fake"), 3, variant)
    for name, value in found._asdict().items():
        assert value == pytest.approx(VECTORS[key][name], abs=1e-6), name


def test_knn_reference():
    labels = torch.zeros(12, dtype=torch.int64)
    found = nearest_in_class(vectors("prdc_fake"), labels, vectors("prdc_real"), torch.zeros(20, dtype=torch.int64))
    assert float(found.distance.mean()) == pytest.approx(VECTORS["knn_sq_l2_min_mean(fake->real)"], rel=1e-5)


def test_frechet_reference():
    found = frechet_distance(vectors("prdc_real"), vectors("prdc_fake"))
    assert found == pytest.approx(VECTORS["frechet(real,fake)"], rel=1e-5)


# ---------------------------------------------------------------- independent implementations


@pytest.mark.parametrize("seed", range(6))
def test_prdc_agrees_with_the_package(seed):
    from prdc import compute_prdc

    n, m, dimensions, k = 8 + 5 * seed, 30 - 4 * seed, 3 + seed, 2 + seed % 3
    real, fake = gaussian(seed, n, dimensions).double(), gaussian(100 + seed, m, dimensions).double() * 0.9 + 0.2
    expected = compute_prdc(real_features=real.numpy(), fake_features=fake.numpy(), nearest_k=k)
    for name, value in prdc(real, fake, k)._asdict().items():
        assert value == pytest.approx(float(expected[name]), abs=1e-12), name


def pytorch_fid_formula(x: np.ndarray, y: np.ndarray) -> float:
    """The formula of pytorch-fid through scipy's matrix square root."""
    from scipy import linalg

    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(first @ second)
    shift = x.mean(axis=0) - y.mean(axis=0)
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * np.trace(np.real(root)))


@pytest.mark.parametrize(("n", "m", "dimensions"), [(60, 45, 6), (40, 300, 30), (33, 31, 30), (200, 200, 12)])
def test_frechet_agrees_with_the_pytorch_fid_formula(n, m, dimensions):
    mixing = gaussian(3, dimensions, dimensions).double()
    x = gaussian(1, n, dimensions).double() @ mixing
    y = gaussian(2, m, dimensions).double() * 1.3 + 0.4
    assert frechet_distance(x, y) == pytest.approx(pytorch_fid_formula(x.numpy(), y.numpy()), rel=1e-7)


def test_frechet_agrees_with_pytorch_fid_itself():
    from pytorch_fid.fid_score import calculate_frechet_distance

    x, y = gaussian(1, 80, 7).double().numpy(), gaussian(2, 90, 7).double().numpy() + 0.5
    moments = [(v.mean(axis=0), np.cov(v, rowvar=False)) for v in (x, y)]
    try:
        expected = calculate_frechet_distance(*moments[0], *moments[1])
    except (TypeError, ValueError):
        pytest.skip("pytorch-fid 0.3.0's own function does not work with this scipy; its formula is tested above")
    assert frechet_distance(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(float(expected), rel=1e-7)


def test_both_ways_to_the_frechet_distance_agree():
    """Few samples take singular values, many take eigenvalues; padding dimensions with zeros switches the way."""
    x, y = gaussian(4, 20, 5), gaussian(5, 24, 5) + 1
    padding = 40
    wide = [torch.nn.functional.pad(v, (0, padding)) for v in (x, y)]
    assert frechet_distance(*wide) == pytest.approx(frechet_distance(x, y), rel=1e-9)


# ---------------------------------------------------------------- analytic cases and properties


def test_frechet_analytic():
    x = gaussian(0, 50, 4).double()
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([3.0, 0, 4, 0])) == pytest.approx(25)
    # scaling by s leaves (1 - s)^2 of the trace when the means are equal
    centred = x - x.mean(dim=0)
    trace = float(centred.square().sum()) / 49
    assert frechet_distance(centred, centred * 3) == pytest.approx(4 * trace)


def test_frechet_is_symmetric_and_refuses_what_it_cannot_compare():
    x, y = gaussian(1, 9, 20), gaussian(2, 15, 20)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x))
    with pytest.raises(MibenchError, match="two images"):
        frechet_distance(x[:1], y)
    with pytest.raises(MibenchError, match="compared"):
        frechet_distance(x, y[:, :3])
    with pytest.raises(MibenchError, match="finite"):
        frechet_distance(x, y * float("nan"))


def test_nearest_is_exact_where_a_matrix_product_is_not():
    references = gaussian(0, 40, 64) * 1e-2 + 1000
    queries = references[[7, 3]] + 1e-3
    found = nearest(queries, references)
    assert found.position.tolist() == [7, 3]
    exact = (queries.double() - references[[7, 3]].double()).square().sum(dim=1)
    torch.testing.assert_close(found.distance, exact, **ROUNDED)


@pytest.mark.parametrize("seed", range(4))
def test_nearest_agrees_with_brute_force(seed):
    queries, references = gaussian(seed, 50, 16), gaussian(seed + 50, 70, 16)
    everything = (queries[:, None].double() - references[None].double()).square().sum(dim=2)
    found = nearest(queries, references, block=13)
    assert torch.equal(found.position, everything.argmin(dim=1))
    torch.testing.assert_close(found.distance, everything.min(dim=1).values, **ROUNDED)


def test_nearest_in_class_never_leaves_the_class():
    references = torch.tensor([[0.0], [10.0], [1.0], [11.0]])
    reference_labels = torch.tensor([0, 1, 0, 1])
    found = nearest_in_class(torch.tensor([[0.9], [0.9]]), torch.tensor([0, 1]), references, reference_labels)
    assert found.position.tolist() == [1, 0]  # positions count inside the class
    assert found.distance.tolist() == pytest.approx([0.01, 9.1**2], rel=1e-5)
    with pytest.raises(MibenchError, match="class 5"):
        nearest_in_class(torch.zeros(1, 1), torch.tensor([5]), references, reference_labels)


def test_centre_distance_and_unit_features():
    references, labels = torch.tensor([[0.0, 0], [2, 0], [9, 9]]), torch.tensor([0, 0, 1])
    distance = centre_distance(torch.tensor([[1.0, 2]]), torch.tensor([0]), references, labels)
    assert distance.tolist() == [4.0]
    lengths = unit_features(gaussian(0, 5, 8)).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(5, dtype=torch.float64))
    assert unit_features(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


def test_top_k_hits():
    logits = torch.tensor([[3.0, 2, 1, 0], [3, 2, 1, 0], [0, 0, 0, 0], [float("nan"), 1, 0, 0]])
    labels = torch.tensor([0, 1, 1, 1])
    assert top_k_hits(logits, labels, 1).tolist() == [True, False, False, False]
    assert top_k_hits(logits, labels, 2).tolist() == [True, True, True, False]
    assert top_k_hits(logits, labels, 5).tolist() == [True, True, True, False]


@pytest.mark.parametrize("seed", range(3))
def test_top_k_agrees_with_topk_and_argmax(seed):
    logits = gaussian(seed, 64, 9)
    labels = torch.randint(9, (64,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(top_k_hits(logits, labels, 1), logits.argmax(dim=1) == labels)
    assert torch.equal(top_k_hits(logits, labels, 5), (logits.topk(5).indices == labels[:, None]).any(dim=1))
    assert bool(((label_confidence(logits, labels) > 0.5) <= top_k_hits(logits, labels, 1)).all())


def test_spreads():
    hits = np.array([[1, 0], [1, 0], [1, 1]])
    assert draw_spread(hits) == pytest.approx(np.std([1, 1 / 3], ddof=1))
    assert legacy_spread(hits, batch=2) == pytest.approx(np.mean([np.std([1, 0], ddof=1), 0]))


def test_prdc_properties():
    x = gaussian(0, 30, 6)
    same = prdc(x, x)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    far = prdc(x, x + 1000)
    assert far == (0, 0, 0, 0)
    legacy, published = prdc(x, x[:12] + 0.4, variant="ppa-legacy"), prdc(x, x[:12] + 0.4)
    assert legacy.precision <= published.precision
    assert legacy.recall <= published.recall
    assert legacy.density == pytest.approx(published.density * 12 / 30)  # off by n_fake / n_real
    with pytest.raises(ValueError, match="more than 3"):
        prdc(x[:3], x)


def test_prdc_and_diversity_do_not_depend_on_order():
    real, fake = gaussian(0, 17, 4), gaussian(1, 11, 4)
    for variant in ("published", "ppa-legacy"):
        assert prdc(real, fake, 3, variant) == pytest.approx(prdc(real.flip(0), fake.flip(0), 3, variant))
    assert mean_pairwise_distance(fake) == pytest.approx(mean_pairwise_distance(fake.flip(0)))


def test_mean_pairwise_distance():
    assert mean_pairwise_distance(torch.tensor([[0.0, 0], [3, 4]])) == 5
    assert mean_pairwise_distance(torch.zeros(4, 2)) == 0
    assert np.isnan(mean_pairwise_distance(torch.zeros(1, 2)))


# ---------------------------------------------------------------- true identity


def test_identity_error_and_rank():
    private = torch.tensor([[0.0, 0], [1, 1], [0.5, 0.5]])
    foreign = torch.tensor([[0.1, 0.1], [0.9, 0.9]])
    estimated = torch.tensor([[0.0, 0.0], [0.85, 0.85], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 2])
    assert identity_error(estimated, private).tolist() == pytest.approx([0, 0.15, 0.5])
    among_all, among_private = identity_ranks(estimated, labels, private, foreign)
    assert among_all.tolist() == [1, 2, 1]
    assert among_private.tolist() == [1, 1, 1]


def test_identity_rank_ignores_what_the_regressor_cannot_see():
    private = torch.tensor([[0.0, 0.0], [0.2, 1.0]])
    estimated, labels, nobody = torch.tensor([[0.0, 0.9]]), torch.tensor([0]), torch.empty(0, 2)
    assert identity_ranks(estimated, labels, private, nobody)[0].tolist() == [2]
    assert identity_ranks(estimated, labels, private, nobody, torch.tensor([0.01, 10.0]))[0].tolist() == [1]


def test_true_identity_checks_the_regressor():
    private = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([1, 3])
    perfect = IdentityTruth(private=private, foreign=private + 0.5, regress=lambda images: private[labels])
    found = true_identity(images, labels, perfect)
    assert found.error.tolist() == [0, 0]
    assert found.rank.tolist() == [1, 1]
    wrong = IdentityTruth(private=private, foreign=private, regress=lambda images: torch.zeros(2, 7))
    with pytest.raises(MibenchError, match="another data set"):
        true_identity(images, labels, wrong)
    with pytest.raises(MibenchError, match="class 9"):
        true_identity(images, torch.tensor([1, 9]), perfect)


# ---------------------------------------------------------------- registry


def test_every_metric_name_resolves():
    import importlib

    for reference in METRICS.values():
        module, attribute = reference.split(":")
        assert callable(getattr(importlib.import_module(module), attribute))
    assert set(DEFAULT_METRICS) <= set(METRICS)


def test_names_of_metrics_can_be_listed_without_torch():
    import subprocess
    import sys

    program = "import sys, mibench.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
