"""LOKT on a pool: the surrogates, their training and storage, and what the attack depends on, asks and notes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from field_vectors import VECTORS
from test_dmmia import CLASSES, LABELS, ROUNDED, SIZE, context
from test_mirror import g, toy_logits
from test_ppa import attack, same_bits

from mibench import settings
from mibench.api import Access, AccessError, Context, MibenchError, Queries
from mibench.api.training import initial_weights
from mibench.attacks.lokt_pool import LOKTPool
from mibench.attacks.losses import max_margin
from mibench.attacks.surrogate_networks import NETWORKS, Surrogates, packed, restored
from mibench.attacks.surrogate_training import apply_training_views, draw_training_views, half_cosine, train
from mibench.rng import Streams, stream

TINY = LOKTPool(
    unit_size=2,
    pool_size=64,
    truncation=1.0,
    surrogates=("small",),
    width=2,
    training_steps=12,
    training_batch=32,
    candidates=4,
    steps=4,
    learning_rate=0.05,
    loss="poincare",
    selection_transforms=3,
)


def labels_only(**options: Any) -> Context:
    return context(Access.LABELS, **options)


def test_lokt_s_loss_is_the_released_one() -> None:
    """Of the vectors' losses the other two are those of LOKT's GAN, which a pool replaces."""
    wanted = VECTORS["lokt"]
    logits = toy_logits(torch.tensor([[g(6 * i + d) for d in range(6)] for i in range(4)]))
    found = max_margin(logits, torch.tensor(wanted["conditioned_on"]))
    assert float(found.mean()) == pytest.approx(wanted["max_margin_of_conditioned"], abs=2e-5)


# ---------------------------------------------------------------- surrogates


def test_several_networks_answer_with_the_mean_of_their_logits() -> None:
    network = initial_weights(Streams(0), "x", build=lambda: Surrogates(("small", "small"), CLASSES, 2)).eval()
    images = torch.rand(3, 3, SIZE, SIZE, generator=stream(0, "images"))
    each = network.each(images)
    assert each.shape == (2, 3, CLASSES)
    assert not torch.allclose(each[0], each[1])
    assert torch.equal(network(images).logits, (each[0] + each[1]) / 2)


@pytest.mark.parametrize("name", ["small", "densenet121"])
def test_every_network_tells_the_classes_apart_that_the_victim_knows(name: str) -> None:
    with torch.no_grad():
        assert NETWORKS[name](7, 2).eval()(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_weights_survive_the_state_of_a_run() -> None:
    built = [initial_weights(Streams(seed), "x", build=lambda: Surrogates(("small",), CLASSES, 2)) for seed in (0, 1)]
    images = torch.rand(3, 3, SIZE, SIZE, generator=stream(0, "images"))
    state = {"latents": torch.zeros(1), **packed(built[0])}
    again = restored(built[1], state, context(), "again")
    assert torch.equal(again.logits(images), built[0].eval()(images).logits)


def test_a_training_lowers_the_loss_and_freezes_the_network() -> None:
    logged: list[dict[str, Any]] = []
    here = context(log=lambda **record: logged.append(record))
    images = torch.randint(256, (24, 3, SIZE, SIZE), generator=stream(0, "images")).to(torch.uint8)
    targets = torch.arange(24) % CLASSES
    network = initial_weights(Streams(0), "x", build=lambda: Surrogates(("small",), CLASSES, 4))
    rows_seen: list[int] = []

    def loss(shown: torch.Tensor, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        assert float(shown.min()) >= 0
        assert float(shown.max()) <= 1
        rows_seen.extend(rows.tolist())
        return torch.nn.functional.cross_entropy(network(shown).logits, targets[rows])

    sgd = torch.optim.SGD(network.parameters(), lr=0.1)
    train(network, sgd, loss, images, steps=20, batch_size=8, schedule=half_cosine, context=here, streams=Streams(0))
    assert sorted(rows_seen[:24]) == list(range(24)), "every image once before any comes again"
    (record,) = logged
    assert record["loss"][-1] < record["loss"][0]
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert 0 < sgd.param_groups[0]["lr"] < 0.01, "at the end of the cosine"


def test_training_views_leave_an_image_where_they_change_nothing_and_stay_in_range() -> None:
    images = torch.rand(4, 3, SIZE, SIZE, generator=stream(0, "images"))
    unchanged = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]]).expand(4, -1)
    assert torch.allclose(apply_training_views(images, unchanged), images, atol=1e-6)
    flipped = torch.tensor([[0.0, 0.0, -1.0, 1.0, 0.0, 1.0, 1.0]]).expand(4, -1)
    assert torch.allclose(apply_training_views(images, flipped), images.flip(3), atol=1e-6)
    grey = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.5, 0.0]]).expand(4, -1)
    assert torch.allclose(
        apply_training_views(images, grey), (images / 2).mean(dim=(1, 2, 3), keepdim=True).expand_as(images), atol=1e-6
    )
    views = draw_training_views(400, stream(0, "views"))
    assert (views[:, 2].abs() == views[:, 3]).all(), "square crops"
    assert float(views[:, 3].min()) >= 0.8**0.5
    assert float(views[:, 4].abs().max()) <= 5 / 180 * 3.1416
    assert 0.4 < float((views[:, 5] == 1).float().mean()) < 0.6, "half of them keep their colours"
    assert float((views[:, 5:] - 1).abs().max()) <= 0.2 + 1e-6
    seen = apply_training_views(images, draw_training_views(4, stream(0, "more")))
    assert float(seen.min()) >= 0
    assert float(seen.max()) <= 1


# ---------------------------------------------------------------- the attack


def test_labels_are_all_that_it_needs_and_all_that_it_uses() -> None:
    """Logits of another scale have the same labels, and give the same bits."""
    here, other = labels_only(), labels_only()
    network: Any = other.victim._network
    with torch.no_grad():
        network.head.weight *= 0.5
        network.head.bias *= 0.5
    result = attack(TINY, here)
    assert same_bits(result, attack(TINY, other))
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert result.images.shape == (8, 3, SIZE, SIZE)
    shares = result.confidence * TINY.selection_transforms
    assert torch.allclose(shares, shares.round(), atol=1e-6), "confidence is a share of views"
    assert TINY.most_access is Access.LABELS
    with pytest.raises(AccessError):
        here.victim.scores(result.images)


def test_it_starts_where_the_victim_names_the_class_and_follows_the_surrogates() -> None:
    here, streams = labels_only(), Streams(7, ("test",))
    state = TINY.prepare(here, streams)
    own = [int((state["labels"] == label).sum()) for label in LABELS.tolist()]
    best = state["confidence"][:, LABELS].topk(4, dim=0).indices.T
    for rows, label, count in zip(best, LABELS.tolist(), own, strict=True):
        assert (state["labels"][rows[: min(count, 4)]] == label).all()
    result = TINY.reconstruct(here, state, LABELS, streams)
    loss = result.curves["loss"]
    assert (loss[:, -1] < loss[:, 0]).all(), "each identity's loss on the surrogates falls"
    turned = {**state, "surrogate.members.0.head.weight": -state["surrogate.members.0.head.weight"]}
    other = TINY.reconstruct(here, turned, LABELS, streams)
    assert not torch.equal(result.images, other.images), "the stored weights are those that are followed"


def test_an_identity_depends_neither_on_the_micro_batch_nor_on_the_others() -> None:
    streams = Streams(7, ("test",))
    state, again = (TINY.prepare(labels_only(micro_batch=size), streams) for size in (256, 7))
    assert torch.equal(state["labels"], again["labels"])
    for name, tensor in state.items():
        assert torch.allclose(tensor.float(), again[name].float(), rtol=0, atol=1e-2), name
    together = TINY.reconstruct(labels_only(), state, LABELS, streams)
    assert same_bits(together, TINY.reconstruct(labels_only(), state, LABELS, streams))
    cut = TINY.reconstruct(labels_only(micro_batch=3), state, LABELS, streams)
    assert torch.allclose(together.images, cut.images, **ROUNDED)
    alone = TINY.reconstruct(labels_only(), state, LABELS[1:], streams)
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, **ROUNDED)


@pytest.mark.parametrize("change", [{}, {"selection_transforms": 0}, {"surrogates": ("small", "small")}], ids=str)
def test_steps_on_the_surrogates_are_no_queries(change: dict[str, Any]) -> None:
    one, here, streams = replace(TINY, **change), labels_only(), Streams(3, ("test",))
    state = one.prepare(here, streams)
    assert here.victim.queries == one.planned_preparation() == Queries(forward=64)
    here.victim.queries = Queries()
    one.reconstruct(here, state, LABELS, streams)
    assert here.victim.queries == one.planned_queries(2) == Queries(forward=2 * 4 * max(one.selection_transforms, 1))
    assert not one.stops_early
    assert one.needs_surrogate is None, "its surrogates are its own work, not another card"


def test_a_class_without_labels_is_noted() -> None:
    here, streams = labels_only(), Streams(3, ("test",))
    state = TINY.prepare(here, streams)
    assert not any("surrogates know nothing" in note for note in TINY.reconstruct(here, state, LABELS, streams).notes)
    state = {**state, "labels": torch.where(state["labels"] == 3, 0, state["labels"])}
    notes = TINY.reconstruct(here, state, LABELS, streams).notes
    assert any("class of 1 of 2 identities" in note for note in notes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"surrogates": ("smal",)}, "unknown surrogate 'smal'; did you mean 'small'"),
        ({"surrogates": ()}, "at least one network"),
        ({"training_batch": 1}, "surrogates normalise batches"),
        ({"candidates": 65}, "chosen from the pool"),
        ({"training_steps": 0}, "training_steps must be at least 1"),
        ({"loss": "hinge"}, "unknown identity loss"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **values)


def test_recommended_fits_the_protocol_equal() -> None:
    kind, presets = LOKTPool, settings.attack_presets("lokt-pool")
    one, _ = settings.resolve(kind, [presets.presets["recommended"]], scope="attack")
    assert one.planned_preparation().forward + 5 * one.planned_queries(10).forward <= 1701 * 50
