"""PPA on the tiny StyleGAN2 and victim of ``test_dmmia.py``: its loop, its equality with DMMIA, what it depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_dmmia import LABELS, SIZE, confidence, context
from test_dmmia import TINY as DMMIA_TINY
from torch import Tensor

from mibench.api import Access, AccessError, Attack, ClassifierOutput, Context, MibenchError, Reconstruction
from mibench.attacks.augment import apply_crops, draw_crops
from mibench.attacks.dmmia import DMMIA
from mibench.attacks.floor import Floor
from mibench.attacks.losses import poincare
from mibench.attacks.ppa import PPA
from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.rng import Streams

TINY = PPA(
    unit_size=2,
    pool_size=48,
    candidates=4,
    epochs=4,
    batch_size=2,
    truncation=1.0,
    learning_rate=0.05,
    selection_transforms=2,
)


def attack(configuration: Attack, where: Context | None = None, labels: Tensor = LABELS) -> Reconstruction:
    where = where or context()
    streams = Streams(7, ("test",))
    return configuration.reconstruct(where, configuration.prepare(where, streams), labels, streams)


def one_by_one(call: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """The same function, computed image by image."""

    def called(batch: Tensor) -> Any:
        parts = [call(batch[k : k + 1]) for k in range(len(batch))]
        if isinstance(parts[0], Tensor):
            return torch.cat(parts)
        return ClassifierOutput(torch.cat([f for f, _ in parts]), torch.cat([o for _, o in parts]))

    return called


def unbatched(**kwargs: Any) -> Context:
    """A context whose networks round an image alike in whatever batch it stands.

    Matrix products and convolutions choose their kernels by the size of a batch, and kernels round differently: on CPUs
    two batches agree to the bit only where both are multiples of the kernels' width. That is no property of an attack.
    """
    where = context(**kwargs)
    prior: Any = where.prior
    prior.mapping, prior.synthesis = one_by_one(prior.mapping), one_by_one(prior.synthesis)
    where.victim._network.forward = one_by_one(where.victim._network.forward)
    return where


def same_bits(one: Reconstruction, other: Reconstruction) -> bool:
    tensors = [
        (one.images, other.images),
        (one.confidence, other.confidence),
        (one.latents, other.latents),
        *((one.curves[name], other.curves[name]) for name in one.curves),
    ]
    return all(torch.equal(a, b) for a, b in tensors)


def test_ppa_raises_the_victim_s_confidence_above_the_floor_s() -> None:
    floor = attack(Floor(pool_size=48, candidates=4, truncation=1.0, selection_transforms=2))
    result = attack(replace(TINY, epochs=8))
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert confidence(result) > confidence(floor) + 0.05


@pytest.mark.parametrize("truncation", [1.0, 0.5])
@pytest.mark.parametrize("loss", ["poincare", "cross_entropy", "max_margin"])
def test_dmmia_without_prototypes_on_w_is_ppa_to_the_bit(loss: str, truncation: float) -> None:
    ppa = replace(TINY, loss=loss, truncation=truncation, batch_size=3)
    dmmia = replace(
        DMMIA_TINY,
        optimise="w",
        lambda_imr=0.0,
        lambda_idr=0.0,
        loss=loss,
        truncation=truncation,
        epochs=ppa.epochs,
        batch_size=3,
        learning_rate=ppa.learning_rate,
    )
    ours, theirs = attack(ppa), attack(dmmia)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.latents, theirs.latents)
    assert torch.equal(ours.confidence, theirs.confidence)
    assert torch.equal(ours.curves["loss"], theirs.curves["L_ce"])
    assert torch.equal(ours.curves["drift"], theirs.curves["drift"])
    assert float(ours.curves["drift"][:, -1].min()) > 0.05, "nothing was compared"


def test_the_rate_is_that_of_truncated_styles() -> None:
    """The released code steps w after truncation. Latents are kept as they were before it."""
    where = context()
    prior: Any = where.prior
    streams = Streams(7, ("test",))
    one = replace(TINY, truncation=0.5, epochs=1, betas=(0.0, 0.0))  # Adam's first step is the rate, everywhere
    state = one.prepare(where, streams)
    result = one.reconstruct(where, state, LABELS, streams)
    best = state["confidence"][:, LABELS].topk(4, dim=0).indices.T
    start = prior.truncate(prior.mapping(state["latents"][best].flatten(0, 1)), 0.5)
    moved = (prior.truncate(result.latents, 0.5) - start).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.05), atol=1e-4)


def test_ppa_is_the_loop_of_the_paper() -> None:
    """Written out: top candidates, Adam on truncated w, Poincare loss of cropped images, final selection."""
    where = unbatched()
    prior: Any = where.prior
    configuration = replace(TINY, truncation=0.5, milestones=(2, 3), decay=0.5)
    result = attack(configuration, where)
    streams = Streams(7, ("test",))
    state = configuration.prepare(where, streams)
    for row, label in enumerate(LABELS.tolist()):
        best = state["confidence"][:, label].topk(4).indices
        w = prior.truncate(prior.mapping(state["latents"][best]), 0.5).clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=0.05, betas=(0.1, 0.1))
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [2, 3], gamma=0.5)
        for epoch in range(4):
            crops = draw_crops(4, streams.generator("identity", label, "crops", epoch), scale=(0.9, 1.0))
            loss = poincare(where.victim.logits(apply_crops(prior.synthesis(w), crops)), torch.full((4,), label)).sum()
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
        own = slice(row * 4, row * 4 + 4)
        assert torch.allclose(prior.truncate(result.latents[own], 0.5), w.detach(), atol=2e-4)
        images = prior.synthesis(w).detach()
        assert torch.allclose(result.images[own], images, atol=1e-3)
        views = draw_crops(
            8, streams.generator("identity", label, "selection"), scale=(0.5, 0.9), ratio=(0.8, 1.2), flip=0.5
        )
        scores = torch.stack([where.victim.scores(apply_crops(images, part))[:, label] for part in views.split(4)])
        assert torch.allclose(result.confidence[own], scores.mean(0), atol=1e-2)


@pytest.mark.parametrize(
    "configuration",
    [
        replace(TINY, candidates=20, batch_size=10),
        pytest.param(replace(TINY, shared_crop=True, batch_size=3), marks=pytest.mark.slow),
        replace(DMMIA_TINY, candidates=20, batch_size=10),
        pytest.param(
            replace(DMMIA_TINY, optimise="w", learning_rate=0.05, objective="ratio", truncation=0.5),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            replace(
                DMMIA_TINY, memory_scope="identity", loss="poincare", prototype_features="after", memory_start="warm"
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["ppa", "ppa-shared-crop", "dmmia", "dmmia-w", "dmmia-own-memory"],
)
@pytest.mark.parametrize("micro_batch", [pytest.param(1, marks=pytest.mark.slow), 7])
def test_the_micro_batch_only_splits_work(configuration: PPA | DMMIA, micro_batch: int) -> None:
    """To the bit where the networks round alike (see ``unbatched``): losses, prototypes and memory are the loop's."""
    configuration = replace(configuration, epochs=2, pool_size=24, selection_transforms=1)
    split = attack(configuration, unbatched(micro_batch=micro_batch))
    assert same_bits(split, attack(configuration, unbatched(micro_batch=64)))


def test_neither_unit_nor_batch_size_changes_a_result() -> None:
    small = replace(TINY, epochs=2, pool_size=24, selection_transforms=1)
    together = attack(small, unbatched())
    for labels in (LABELS[1:], LABELS.flip(0), torch.tensor([3, 0, 4])):
        other = attack(small, unbatched(), labels)
        here = labels.tolist().index(3)
        own = slice(4 * here, 4 * here + 4)
        assert torch.equal(together.images[4:], other.images[own])
        assert torch.equal(together.confidence[4:], other.confidence[own])
        assert torch.equal(together.curves["loss"][1], other.curves["loss"][here])
    for size in (1, 4, 100):  # a division by a power of two rounds nothing: it is felt through Adam's epsilon alone
        other = attack(replace(small, batch_size=size), unbatched())
        assert torch.allclose(together.images, other.images, atol=1e-4)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert same_bits(attack(TINY), attack(TINY))


def test_the_loss_falls_and_the_drift_begins_at_nothing() -> None:
    result = attack(replace(TINY, epochs=10, crop_scale=(1.0, 1.0)))
    assert {name: tuple(curve.shape) for name, curve in result.curves.items()} == {"loss": (2, 20), "drift": (2, 20)}
    by_epoch = result.curves["loss"].view(2, 10, 2).mean(2)
    assert (by_epoch[:, -1] < by_epoch[:, 0]).all()
    assert float(result.curves["drift"][:, :2].max()) < 1e-6
    assert float(result.curves["drift"][:, -1].min()) > 0.1


def test_frozen_networks_get_no_gradient_and_do_not_change() -> None:
    where = context()
    prior: Any = where.prior
    networks = (prior.generator, where.victim._network)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    result = attack(TINY, where)
    for network, weights in zip(networks, before, strict=True):
        assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
        assert not any(p.requires_grad or p.grad is not None for p in network.parameters())
    assert not any(t.requires_grad for t in (result.images, result.latents, result.confidence))


@pytest.mark.parametrize("transforms", [0, 1, 3])
def test_ppa_shows_the_victim_what_it_planned(transforms: int) -> None:
    where = context(micro_batch=3)
    configuration = replace(TINY, batch_size=3, selection_transforms=transforms)
    streams = Streams(7, ("test",))
    state = configuration.prepare(where, streams)
    assert where.victim.queries == configuration.planned_preparation()
    assert where.victim.queries.forward == 2 * 48
    where.victim.queries.forward = 0
    configuration.reconstruct(where, state, LABELS, streams)
    assert where.victim.queries == configuration.planned_queries(2)
    assert where.victim.queries.backward == 2 * 4 * TINY.epochs


def test_its_plan_grows_with_the_setting_that_a_budget_decides() -> None:
    plans = [replace(TINY, epochs=epochs).planned_queries(3) for epochs in (1, 2, 5)]
    assert PPA.budget_setting == "epochs"
    assert plans[0].forward < plans[1].forward < plans[2].forward
    assert plans[0].backward < plans[1].backward < plans[2].backward


@pytest.mark.parametrize(
    "change",
    [
        {"loss": "cross_entropy"},
        {"crop_scale": (0.5, 1.0)},
        {"shared_crop": True},
        {"milestones": (2,)},
        {"betas": (0.9, 0.999)},
        {"truncation": 0.5},
        {"epochs": 2},
    ],
    ids=lambda change: ",".join(f"{k}={v}" for k, v in change.items()),
)
def test_every_option_changes_the_result_and_keeps_it_sane(change: dict[str, Any]) -> None:
    result = attack(replace(TINY, **change))
    assert torch.isfinite(result.images).all()
    assert torch.isfinite(result.confidence).all()
    assert not torch.equal(result.images, attack(TINY).images)


def test_a_shared_crop_is_one_for_each_batch_of_an_identity() -> None:
    configuration = replace(TINY, shared_crop=True, batch_size=3)
    order = torch.tensor([[2, 0, 3, 1], [0, 1, 2, 3]])
    crops = configuration._views(LABELS, order, 1, Streams(7))
    assert crops.shape == (2, 4, 4)
    for row in crops:
        assert torch.equal(row[:3], row[:1].expand(3, 4))
        assert not torch.equal(row[0], row[3])
    assert not torch.equal(crops[0], crops[1])
    assert not torch.equal(crops, configuration._views(LABELS, order, 2, Streams(7)))
    assert torch.equal(crops[1:], configuration._views(LABELS[1:], order[1:], 1, Streams(7)))


def test_the_discriminator_s_term_makes_images_more_real_to_it() -> None:
    def where(**kwargs: Any) -> Context:
        made = context(**kwargs)
        prior: Any = made.prior
        with torch.random.fork_rng():
            torch.manual_seed(1)
            prior.discriminator = Discriminator(resolution=SIZE, channel_base=64, channel_max=8).eval()
        prior.discriminator.requires_grad_(False)
        return made

    plain, real = attack(TINY, where()), attack(replace(TINY, discriminator_weight=100.0), where())
    prior: Any = where().prior
    assert float(prior.realism(real.images).mean()) > float(prior.realism(plain.images).mean())
    split = attack(replace(TINY, discriminator_weight=100.0), where(micro_batch=1))
    assert torch.allclose(split.images, real.images, atol=1e-3)
    blind = context()
    with pytest.raises(MibenchError, match="discriminator"):
        replace(TINY, discriminator_weight=1.0).prepare(blind, Streams(7))
    assert blind.victim.queries.forward == 0


def test_ppa_logs_by_epoch_and_notes_candidates_that_left_the_prior() -> None:
    records: list[dict[str, Any]] = []
    calm = attack(TINY, context(log=lambda **record: records.append(record)))
    (record,) = records
    assert record["event"] == "ppa"
    assert record["identities"] == [1, 3]
    assert len(record["loss"]) == len(record["drift"]) == TINY.epochs
    assert not calm.notes
    assert any("standard deviations" in note for note in attack(replace(TINY, learning_rate=3.0)).notes)


def test_ppa_needs_gradients_and_a_prior() -> None:
    with pytest.raises(AccessError, match="GRADIENTS"):
        attack(TINY, context(Access.SCORES))
    with pytest.raises(MibenchError, match="needs a prior"):
        TINY.prepare(replace(context(), prior=None), Streams(7))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidates": 99}, "pool_size"),
        ({"loss": "hinge"}, "hinge"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"truncation": 0.0}, "truncation"),
        ({"decay": -1.0}, "decay"),
        ({"discriminator_weight": -1.0}, "discriminator_weight"),
        ({"selection_transforms": -1}, "selection_transforms"),
        ({"crop_scale": (1.0, 0.9)}, "crop_scale"),
        ({"crop_scale": (0.5, 1.5)}, "crop_scale"),
        ({"betas": (0.1, 1.0)}, "betas"),
        ({"milestones": (0,)}, "milestones"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **change)


def test_no_gradient_pushes_an_image_further_out_of_its_range() -> None:
    """The prior clamps its images: what the released code calls clip, which is why there is no such option."""
    prior: Any = context().prior
    w = (prior.mapping(prior.sample(4, torch.Generator().manual_seed(0))) * 50).requires_grad_()
    images = prior.synthesis(w)
    outside = (images == 0) | (images == 1)
    assert outside.any()
    images[outside].sum().backward()
    assert w.grad is not None
    assert float(w.grad.abs().max()) == 0
