"""DMMIA on a tiny StyleGAN2 and a tiny victim: gradients, updates, options, and independence from batching."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench.api import Access, AccessError, ClassifierOutput, Context, ImageSpec, MibenchError, Reconstruction, Victim
from mibench.attacks.augment import apply_crops, draw_crops
from mibench.attacks.dmmia import DMMIA
from mibench.attacks.dmmia.memory import MemoryBank
from mibench.attacks.dmmia.optimisation import DMMIAOptimisation
from mibench.attacks.floor import Floor
from mibench.attacks.losses import poincare
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.rng import Streams

SIZE, CLASSES = 16, 5
TINY = DMMIA(
    unit_size=2,
    pool_size=48,
    candidates=4,
    epochs=3,
    batch_size=2,
    truncation=1.0,
    learning_rate=2.0,
    temperature=0.1,
    prototypes=12,
    positives=5,
    prototype_rate=1e-3,
    selection_transforms=2,
)
LABELS = torch.tensor([1, 3])
# Kernels round otherwise in another batch, by 1e-7, and the steps of an attack carry that on: to 1e-5 of a pixel on the
# processors tried. What one identity's images owe to another is 0.2.
ROUNDED = {"rtol": 0.0, "atol": 1e-3}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = self.body(images)
        return ClassifierOutput(features, self.head(features) * 8)


def context(access: Access = Access.GRADIENTS, **kwargs: Any) -> Context:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(z_dim=6, w_dim=6, resolution=SIZE, channel_base=64, channel_max=8, mapping_layers=2)
        victim = Classifier()
    prior = StyleGAN2Prior(generator, None, image=ImageSpec(SIZE), name="tiny")
    with torch.no_grad():  # standardise the logits over the prior, so that every class is predicted for some images
        drawn = prior.decode(prior.sample(256, torch.Generator().manual_seed(1)))
        features = victim.body(drawn)
        victim.body[3].bias -= features.mean(0)
        scale = 3 / victim(drawn).logits.std(0)
        victim.head.weight *= scale[:, None]
        victim.head.bias -= victim(drawn).logits.mean(0) / 8
    return Context(
        victim=Victim(victim, image=ImageSpec(SIZE), num_classes=CLASSES, access=access),
        prior=prior,
        device=torch.device("cpu"),
        **kwargs,
    )


def attack(configuration: DMMIA | Floor, where: Context | None = None, labels: Tensor = LABELS) -> Reconstruction:
    where = where or context()
    streams = Streams(7, ("test",))
    return configuration.reconstruct(where, configuration.prepare(where, streams), labels, streams)


def run(configuration: DMMIA, where: Context | None = None) -> DMMIAOptimisation:
    where = where or context()
    streams = Streams(7, ("test",))
    unit = DMMIAOptimisation(configuration, where, configuration.prepare(where, streams), LABELS, streams)
    unit.optimise()
    return unit


def confidence(result: Reconstruction, where: Context | None = None) -> float:
    where = where or context()
    return float(where.victim.scores(result.images).gather(1, result.labels[:, None]).mean())


def test_dmmia_raises_the_victim_s_confidence_above_the_floor_s() -> None:
    floor = attack(Floor(pool_size=48, candidates=4, truncation=1.0, selection_transforms=2))
    result = attack(TINY)
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert float(result.images.min()) >= 0
    assert float(result.images.max()) <= 1
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert confidence(result) > confidence(floor) + 0.05


def test_gradients_reach_every_layer_of_phi_and_every_prototype_and_nothing_frozen() -> None:
    where = context()
    prior: Any = where.prior
    before = {k: v.clone() for k, v in prior.generator.state_dict().items()}
    network = {k: v.clone() for k, v in where.victim._network.state_dict().items()}
    unit = run(TINY, where)
    for layer, pretrained in zip(unit.variable.parameters, prior.mapping_parameters(), strict=True):  # type: ignore[attr-defined]
        for stacked, original in zip(layer, pretrained, strict=True):
            for mine in stacked:
                assert (mine != original).all()
    assert unit.prototypes is not None
    assert unit.first_prototypes is not None
    assert (unit.prototypes != unit.first_prototypes).any(dim=2).all()
    assert all(torch.equal(v, before[k]) for k, v in prior.generator.state_dict().items())
    assert all(torch.equal(v, network[k]) for k, v in where.victim._network.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in prior.generator.parameters())


def test_one_backward_pass_gives_the_prototypes_the_gradient_of_imr_alone() -> None:
    """The W step must not feel lambda_1, L_ce or L_idr."""
    runs = [run(replace(TINY, epochs=1, batch_size=4, lambda_imr=weight)) for weight in (1.0, 0.25)]
    first, second = (r.prototypes for r in runs)
    assert first is not None
    assert second is not None
    assert torch.allclose(first, second, atol=1e-7)
    assert not torch.equal(first, runs[0].first_prototypes)


@pytest.mark.parametrize("micro_batch", [1, 3, 5])
def test_the_micro_batch_does_not_change_the_result(micro_batch: int) -> None:
    whole, split = attack(TINY), attack(TINY, context(micro_batch=micro_batch))
    assert torch.allclose(whole.images, split.images, **ROUNDED)
    assert torch.allclose(whole.confidence, split.confidence, **ROUNDED)


def test_the_same_seed_gives_the_same_bits() -> None:
    one, other = attack(TINY), attack(TINY)
    assert torch.equal(one.images, other.images)
    assert all(torch.equal(one.curves[k], other.curves[k]) for k in one.curves)


def test_without_memory_identities_do_not_depend_on_each_other() -> None:
    configuration = replace(TINY, lambda_idr=0.0)
    together = attack(configuration)
    alone = attack(configuration, labels=LABELS[1:])
    assert torch.allclose(together.images[4:], alone.images, **ROUNDED)


def test_the_memory_of_a_unit_is_shared_and_a_memory_of_one_s_own_is_not() -> None:
    shared, own = attack(TINY), attack(replace(TINY, memory_scope="identity"))
    alone = attack(TINY, labels=LABELS[1:])
    assert torch.allclose(own.images[4:], alone.images, **ROUNDED)
    assert not torch.allclose(shared.images[4:], alone.images, rtol=0.0, atol=0.1)


def test_until_idr_begins_identities_do_not_depend_on_each_other_and_the_memory_fills() -> None:
    late = replace(TINY, epochs=2, idr_from=1)
    without, begun = attack(replace(late, lambda_idr=0.0)), attack(late)
    steps = begun.curves["L_ce"].shape[1] // 2
    assert torch.equal(begun.curves["L_ce"][:, : steps + 1], without.curves["L_ce"][:, : steps + 1])
    assert not torch.equal(begun.curves["L_ce"][:, steps + 1 :], without.curves["L_ce"][:, steps + 1 :])
    assert float(begun.curves["L_idr"][:, steps].min()) > 0


@pytest.mark.parametrize(
    "change",
    [
        {"lambda_imr": 0.0},
        {"lambda_idr": 0.0},
        {"lambda_imr": 0.0, "lambda_idr": 0.0},
        {"optimise": "w", "learning_rate": 0.05},
        {"scope": "shared"},
        {"loss": "poincare"},
        {"loss": "max_margin"},
        {"loss": "logit"},
        {"resample_every": 1},
        {"resample_every": 1, "optimise": "w"},
        {"features": "raw"},
        {"features": "logits"},
        {"normalise_prototypes": False},
        {"likelihood": "mean"},
        {"objective": "ratio"},
        {"memory_key": "target"},
        {"memory_update": "sequential"},
        {"memory_update": "growing"},
        {"idr_from": 1},
        {"memory_start": "random"},
        {"memory_start": "warm"},
        {"memory_slots": 2},
        {"memory_scope": "identity"},
        {"memory_samples": "correct"},
        {"memory_renormalise": True},
        {"memory_first": True},
        {"prototype_features": "after"},
        {"prototype_gradient_scale": 0.1},
        {"order": "sequential"},
        {"batch_size": 3},
        {"truncation": 0.5},
    ],
    ids=lambda change: ",".join(f"{k}={v}" for k, v in change.items()),
)
def test_every_option_changes_the_result_and_keeps_it_sane(change: dict[str, Any]) -> None:
    result = attack(replace(TINY, **change))
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert torch.isfinite(result.images).all()
    assert torch.isfinite(result.confidence).all()
    assert all(torch.isfinite(curve).all() for curve in result.curves.values())
    assert not torch.equal(result.images, attack(TINY).images)
    assert ("L_imr" in result.curves) == bool(change.get("lambda_imr", 1.0))
    assert ("L_idr" in result.curves) == bool(change.get("lambda_idr", 1.0))


def test_optimising_w_without_prototypes_is_plain_adam_on_each_vector() -> None:
    """With both lambdas 0 and w optimised, a candidate's path is PPA's: its own Adam, its own crops, nothing shared."""
    configuration = replace(
        TINY, optimise="w", lambda_imr=0.0, lambda_idr=0.0, loss="poincare", learning_rate=0.02, epochs=4
    )
    where = context()
    result = attack(configuration, where)
    prior: Any = where.prior
    streams = Streams(7, ("test",))
    state = configuration.prepare(where, streams)
    for row, label in enumerate(LABELS.tolist()):
        best = state["confidence"][:, label].topk(4).indices
        w = prior.mapping(state["latents"][best]).clone().requires_grad_()
        adam = torch.optim.Adam([w], lr=0.02, betas=(0.1, 0.1))
        for epoch in range(4):
            crops = draw_crops(4, streams.generator("identity", label, "crops", epoch), scale=(0.9, 1.0))
            images = apply_crops(prior.synthesis(prior.truncate(w, 1.0)), crops)
            # losses are divided by the batch, as in the attack: Adam does not feel it but for its epsilon
            loss = poincare(where.victim.logits(images), torch.full((4,), label)).sum() / 2
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert torch.allclose(result.latents[row * 4 : row * 4 + 4], w.detach(), atol=1e-5)


def test_curves_of_drift_losses_and_displacement_of_the_prototypes() -> None:
    curves = attack(TINY).curves
    steps = TINY.epochs * 2
    assert {name: tuple(curve.shape) for name, curve in curves.items()} == {
        "drift": (2, steps),
        "L_ce": (2, steps),
        "L_imr": (2, steps),
        "L_idr": (2, steps),
        "prototype_displacement": (2, TINY.epochs),
    }
    assert float(curves["drift"][:, 0].abs().max()) < 1e-6
    assert float(curves["drift"][:, -1].min()) > 0
    assert float(curves["prototype_displacement"][:, -1].min()) > 0


def test_the_log_has_every_term_by_epoch() -> None:
    records: list[dict[str, Any]] = []
    attack(TINY, context(log=lambda **record: records.append(record)))
    (record,) = records
    assert record["identities"] == [1, 3]
    for name in ("L_ce", "L_imr", "L_idr", "drift", "prototype_displacement"):
        assert len(record[name]) == TINY.epochs


def test_a_saturated_imr_gets_a_note() -> None:
    calm = attack(replace(TINY, prototype_rate=0.0))
    hot = attack(replace(TINY, prototype_rate=0.2, temperature=0.05, epochs=12))
    assert not any("saturated" in note for note in calm.notes)
    assert any("saturated" in note for note in hot.notes)


def bank(**options: Any) -> MemoryBank:
    return MemoryBank(3, 2, momentum=0.7, **options)


DRAWN = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("sequential", [False, True])
def test_a_random_row_is_replaced_by_the_first_features_and_averaged_with_the_next(
    slots: int, sequential: bool
) -> None:
    memory = bank(initial=DRAWN, placeholder=True, slots=slots, sequential=sequential)
    assert memory.seen[:, 0].all()  # random rows are rivals from the first step
    assert float(memory.loss(DRAWN[:1], torch.tensor([0]), 1.0)) > 0
    first = torch.tensor([[0.0, -1.0]])
    memory.update(first, torch.tensor([0]))
    assert torch.equal(memory.rows[0, 0], first[0])  # released code, queue update: the first time a copy
    assert torch.equal(memory.rows[1:, 0], DRAWN[1:])
    for _ in range(slots):
        memory.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert torch.allclose(memory.rows[0, 0], 0.7 * first[0] + 0.3 * torch.tensor([1.0, 0.0]))


def test_a_row_of_features_to_start_from_is_averaged() -> None:
    """``memory_start=warm``: the pool's features are what the released code's first copy would have been."""
    memory = bank(initial=DRAWN, initial_seen=torch.tensor([True, False, True]))
    memory.update(torch.tensor([[0.0, -1.0], [0.5, 0.5]]), torch.tensor([0, 1]))
    assert torch.allclose(memory.rows[0, 0], 0.7 * DRAWN[0] + 0.3 * torch.tensor([0.0, -1.0]))
    assert torch.equal(memory.rows[1, 0], torch.tensor([0.5, 0.5]))  # not seen in the pool: a copy


def test_the_random_start_of_a_run_is_replaced() -> None:
    unit = run(replace(TINY, memory_start="random", memory_key="target"))
    (memory,) = unit.banks
    attacked = torch.isin(torch.arange(CLASSES), LABELS)
    assert torch.equal(memory.learnt[:, 0], attacked)
    untouched = memory.rows[~attacked, 0].norm(dim=1)
    assert torch.allclose(untouched, torch.ones_like(untouched))


NO_RIVAL = "no other class entered the memory"


@pytest.mark.parametrize(
    ("change", "labels", "alone"),
    [
        ({}, [1, 3], None),
        ({"memory_key": "target"}, [1, 3], None),
        ({"memory_key": "target"}, [1], "class 1"),  # the last unit of a run may hold one identity
        ({"memory_samples": "correct"}, [3], "class 3"),
        ({"memory_key": "target", "memory_start": "random"}, [1], None),
        ({"memory_key": "target", "memory_start": "warm"}, [1], None),
        ({"memory_key": "target", "order": "sequential"}, [1, 3], "class 1"),  # the second one finds the first
        ({"memory_key": "target", "lambda_idr": 0.0}, [1], None),
    ],
)
def test_an_idr_without_rivals_gets_a_note(change: dict[str, Any], labels: list[int], alone: str | None) -> None:
    result = attack(replace(TINY, **change), labels=torch.tensor(labels))
    said = [note for note in result.notes if NO_RIVAL in note]
    assert [alone in note for note in said] == ([] if alone is None else [True])
    if alone is not None:
        assert float(result.curves["L_idr"][0].abs().max()) == 0


@pytest.mark.parametrize("own", [{"memory_key": "target"}, {"memory_samples": "correct"}])
@pytest.mark.parametrize("alone", [{"memory_scope": "identity"}, {"unit_size": 1}])
def test_settings_under_which_no_rival_can_exist_are_refused(own: dict[str, Any], alone: dict[str, Any]) -> None:
    with pytest.raises(MibenchError, match="no other class can enter the memory"):
        replace(TINY, **own, **alone)
    for start in ("random", "warm"):
        replace(TINY, **own, **alone, memory_start=start)
    replace(TINY, **own, **alone, lambda_idr=0.0)


def test_the_loop_costs_one_forward_and_one_backward_query_per_image() -> None:
    where = context()
    configuration = replace(TINY, selection_transforms=1)
    streams = Streams(7, ("test",))
    state = configuration.prepare(where, streams)
    assert where.victim.queries.forward == 2 * 48
    configuration.reconstruct(where, state, LABELS, streams)
    optimised = 2 * 4 * TINY.epochs
    assert where.victim.queries.backward == optimised
    assert where.victim.queries.forward == 2 * 48 + 1 + optimised + 2 * 4  # pool, probe, loop, selection


def test_dmmia_needs_gradients() -> None:
    with pytest.raises(AccessError, match="GRADIENTS"):
        attack(TINY, context(Access.SCORES))
    assert attack(Floor(pool_size=8, candidates=2, selection_transforms=1), context(Access.SCORES)).images.shape[0] == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positives": 12}, "positives"),
        ({"candidates": 99}, "pool_size"),
        ({"temperature": 0.0}, "temperature"),
        ({"momentum": 1.5}, "momentum"),
        ({"loss": "hinge"}, "hinge"),
        ({"epochs": 0}, "epochs"),
        ({"prototype_rate": -1.0}, "prototype_rate"),
        ({"scope": "shared", "optimise": "w"}, "lock-step"),
        ({"optimise": "w", "truncation": 0.0}, "truncation"),
        ({"scope": "shared", "order": "sequential"}, "lock-step"),
        ({"idr_from": 3}, "idr_from"),
        ({"memory_update": "growing", "memory_slots": 2}, "growing"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words):
        replace(TINY, **change)


def test_crops_are_differentiable_and_belong_to_their_sample() -> None:
    images = torch.rand(6, 3, 12, 12, requires_grad=True)
    crops = draw_crops(6, torch.Generator().manual_seed(0), scale=(0.5, 0.9), ratio=(0.8, 1.25), flip=0.5)
    out = apply_crops(images, crops)
    assert out.shape == images.shape
    out.sum().backward()
    assert images.grad is not None
    assert torch.allclose(apply_crops(images[2:3], crops[2:3]), out[2:3], atol=1e-6)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.allclose(apply_crops(images[:1], whole), images[:1], atol=1e-5)
    mirrored = torch.tensor([[0.0, 0.0, -1.0, 1.0]])
    assert torch.allclose(apply_crops(images[:1], mirrored), images[:1].flip(3), atol=1e-5)
