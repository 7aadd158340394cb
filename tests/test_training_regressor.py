"""The identity regressor: it reads people it never saw, resumes exactly, and is measured by known formulas."""

from __future__ import annotations

import pytest
import torch
from powercut import Memory, Stopped
from tiny_splits import TinySplit, TruthfulSplit, assert_same_bytes, workshop

from mibench.api import MibenchError
from mibench.targets.training.evaluation import explained_variance, identity_ranks
from mibench.targets.training.identity_regressor import TrainRegressor, coordinate_weights, held_out_images


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
    interrupted = Memory(stop_after=3)
    with pytest.raises(Stopped):
        recipe.run(TruthfulSplit(), workshop(interrupted))
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
