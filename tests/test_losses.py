"""Identity losses and DMMIA's prototypes and memory against the reference vectors, and their properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.api import MibenchError
from mibench.attacks import losses
from mibench.attacks.dmmia.memory import MemoryBank
from mibench.attacks.dmmia.prototypes import LikelihoodForm, draw_prototypes, imr_loss
from mibench.rng import Streams

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "test_vectors.json").read_text())["functions"]
DMMIA: dict[str, Any] = VECTORS["dmmia"]
LOGITS = torch.tensor(VECTORS["logits"])
TARGETS = torch.tensor(VECTORS["targets"])


def normalised() -> Tensor:
    return nn.functional.normalize(torch.tensor(DMMIA["h"]), dim=1)


def bank(seen: list[int], **kwargs: Any) -> MemoryBank:
    rows = torch.tensor(DMMIA["M"])
    flags = torch.zeros(len(rows), dtype=torch.bool)
    flags[seen] = True
    return MemoryBank(*rows.shape, momentum=0.7, initial=rows, initial_seen=flags, **kwargs)


def test_identity_losses_match_the_reference() -> None:
    assert losses.poincare(LOGITS, TARGETS).tolist() == pytest.approx(VECTORS["poincare_per_sample"], rel=1e-3)
    assert float(losses.cross_entropy(LOGITS, TARGETS).mean()) == pytest.approx(VECTORS["cross_entropy_mean"], rel=1e-4)
    assert float(losses.max_margin(LOGITS, TARGETS).mean()) == pytest.approx(VECTORS["max_margin_mean"], rel=1e-4)
    reference = VECTORS["logit_loss_nll_on_raw_logits_mean"]
    assert float(losses.logit(LOGITS, TARGETS).mean()) == pytest.approx(reference, rel=1e-4)


@pytest.mark.parametrize("name", sorted(losses.IDENTITY_LOSSES))
def test_a_sample_s_loss_does_not_depend_on_its_batch(name: str) -> None:
    together = losses.identity_loss(name)(LOGITS, TARGETS)
    apart = torch.cat([losses.identity_loss(name)(LOGITS[k : k + 1], TARGETS[k : k + 1]) for k in range(4)])
    assert torch.allclose(together, apart)


def test_an_unknown_loss_names_the_known_ones() -> None:
    with pytest.raises(MibenchError, match="poincare"):
        losses.identity_loss("poincaree")


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_imr_matches_the_reference(temperature: float) -> None:
    expected = DMMIA[f"tau={temperature:g}"]
    features, prototypes = normalised()[None], torch.tensor(DMMIA["W"])[None]
    assert float(imr_loss(features, prototypes, 3, temperature).mean()) == pytest.approx(
        expected["L_imr_sum"], rel=1e-3
    )
    mean = LikelihoodForm(likelihood="mean")
    assert float(imr_loss(features, prototypes, 3, temperature, mean).mean()) == pytest.approx(
        expected["L_imr_mean"], rel=1e-3
    )


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_idr_matches_the_reference(temperature: float) -> None:
    expected = DMMIA[f"tau={temperature:g}"]
    labels = torch.full((3,), 2)
    everything = bank([0, 1, 2, 3, 4])
    assert float(everything.loss(normalised(), labels, temperature).mean()) == pytest.approx(
        expected["L_idr_sum_all"], rel=1e-3
    )
    assert float(bank([0, 2, 3]).loss(normalised(), labels, temperature).mean()) == pytest.approx(
        expected["L_idr_sum_seen_0_2_3"], rel=1e-3
    )
    mean = LikelihoodForm(likelihood="mean")
    assert float(everything.loss(normalised(), labels, temperature, mean).mean()) == pytest.approx(
        expected["L_idr_mean_all"], rel=1e-3
    )


def test_the_memory_update_matches_the_reference() -> None:
    expected = DMMIA["memory_update"]
    memory = bank([0, 2])
    memory.update(normalised(), torch.tensor(expected["pred"]))
    after = torch.tensor(expected["M_after"])
    assert torch.allclose(memory.rows[[0, 2], 0], after[[0, 2]], rtol=1e-3, atol=1e-4)
    assert memory.seen[:, 0].tolist() == [True, False, True, False, False]


def test_imr_starts_at_the_log_of_the_share_of_positives() -> None:
    """L_imr = log(N_w / rho) at small prototypes: every prototype is equally likely."""
    prototypes = draw_prototypes(800, 64, 0.01, [3, 4], Streams(0))
    features = nn.functional.normalize(torch.randn(2, 8, 64), dim=2)
    loss = imr_loss(features, prototypes, 400, 1.0)
    assert loss.shape == (2, 8)
    assert float(loss.mean()) == pytest.approx(0.693, abs=0.01)
    assert torch.equal(prototypes[1], draw_prototypes(800, 64, 0.01, [4], Streams(0))[0])


def test_the_memory_follows_its_recursion() -> None:
    """M_t = r^t M_0 + (1 - r) sum_s r^(t-s) x_s, the closed form of the paper's update."""
    steps = nn.functional.normalize(torch.randn(6, 1, 5), dim=2)
    memory = MemoryBank(3, 5, momentum=0.7)
    for features in steps:
        memory.update(features, torch.tensor([1]))
    weights = torch.tensor([0.7**5] + [0.3 * 0.7 ** (5 - t) for t in range(1, 6)])
    assert torch.allclose(memory.rows[1, 0], (weights[:, None] * steps[:, 0]).sum(0), atol=1e-6)
    assert memory.seen[:, 0].tolist() == [False, True, False]


def test_a_growing_memory_moves_every_class_it_knows_towards_the_mean_of_all_it_ever_got() -> None:
    """``M[c].append(f); M[c] = r M[c] + (1 - r) Mean(M[c])`` for every c, with the appended features as the list."""
    steps = nn.functional.normalize(torch.randn(6, 2, 5, generator=torch.Generator().manual_seed(0)), dim=2)
    classes = [[1, 1], [0, 1], [0, 0], [1, 2], [2, 2], [2, 0]]
    memory = MemoryBank(4, 5, momentum=0.7, growing=True)
    appended: dict[int, list[Tensor]] = {}
    rows: dict[int, Tensor] = {}
    for features, own in zip(steps, classes, strict=True):
        memory.update(features, torch.tensor(own))
        for feature, c in zip(features, own, strict=True):
            appended.setdefault(c, []).append(feature)
        for c, every in appended.items():
            mean = torch.stack(every).mean(dim=0)
            rows[c] = 0.7 * rows[c] + 0.3 * mean if c in rows else mean
    assert torch.allclose(memory.rows[:3, 0], torch.stack([rows[c] for c in range(3)]), atol=1e-6)
    assert memory.seen[:, 0].tolist() == [True, True, True, False]


def test_an_unseen_class_has_no_loss_and_no_gradient() -> None:
    features = normalised().requires_grad_()
    loss = bank([0, 1]).loss(features, torch.tensor([2, 0, 4]), 0.1)
    loss.sum().backward()
    assert features.grad is not None
    assert loss[0] == 0
    assert loss[2] == 0
    assert loss[1] > 0
    assert torch.isfinite(features.grad).all()
    assert float(features.grad[0].abs().sum()) == 0
    assert float(features.grad[1].abs().sum()) > 0


def test_an_empty_memory_is_silent() -> None:
    features = normalised().requires_grad_()
    loss = MemoryBank(5, 4, momentum=0.7).loss(features, torch.tensor([0, 1, 2]), 1.0)
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert features.grad is not None
    assert float(features.grad.abs().sum()) == 0


def test_sequential_update_equals_the_mean_for_one_sample_each() -> None:
    one, other = bank([0, 2]), bank([0, 2], sequential=True)
    for memory in (one, other):
        memory.update(normalised(), torch.tensor([2, 0, 3]))
    assert torch.allclose(one.rows, other.rows)
    other.update(normalised(), torch.tensor([2, 2, 2]))
    one.update(normalised(), torch.tensor([2, 2, 2]))
    assert not torch.allclose(one.rows, other.rows)


def test_memory_slots_fill_in_turn_and_samples_can_be_left_out() -> None:
    memory = MemoryBank(3, 4, momentum=0.5, slots=2)
    a, b, c = normalised()
    memory.update(a[None], torch.tensor([1]))
    memory.update(b[None], torch.tensor([1]))
    assert torch.allclose(memory.rows[1], torch.stack([a, b]))
    memory.update(c[None], torch.tensor([1]), use=torch.tensor([False]))
    assert torch.allclose(memory.rows[1], torch.stack([a, b]))
    memory.update(c[None], torch.tensor([1]))
    assert torch.allclose(memory.rows[1], torch.stack([0.5 * a + 0.5 * c, b]))


def test_the_released_objective_is_the_likelihood_itself() -> None:
    features, prototypes = normalised()[None], torch.tensor(DMMIA["W"])[None]
    p = imr_loss(features, prototypes, 3, 1.0, LikelihoodForm(objective="ratio"))
    assert torch.allclose(-p.log(), imr_loss(features, prototypes, 3, 1.0), atol=1e-5)
