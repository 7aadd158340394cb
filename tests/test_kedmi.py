"""KEDMI: its prior loss against the reference, recovery written out, what depends on the unit and what does not."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gmi import SIZE, Toy, Z, context, small
from torch import Tensor, nn

from mibench import settings
from mibench.api import Access, AccessError, Context, MibenchError, Prior, Reconstruction
from mibench.attacks.kedmi import KEDMI
from mibench.attacks.losses import negative_log_realness
from mibench.rng import Streams

TINY = KEDMI(unit_size=2, draws=3, iterations=12)
LABELS = torch.tensor([1, 3])
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "test_vectors.json").read_text())["functions"]


class Crowd(Toy):
    """The toy prior with a discriminator that compares the images of its batch, as KEDMI's does."""

    def realism(self, images: Tensor) -> Tensor:
        features: Tensor = self.discriminator[1](self.discriminator[0](images)).flatten(1)
        closeness = torch.exp(-torch.cdist(features, features, p=1) / 10).sum(dim=1) - 1
        return super().realism(images) - closeness


class GeneratorAlone(Toy):
    """A prior without a discriminator: it leaves out what says how real an image is."""

    realism = Prior.realism


def crowd() -> Crowd:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Crowd()


def attack(configuration: KEDMI, where: Context | None = None, labels: Tensor = LABELS) -> Reconstruction:
    where = where or context()
    streams = Streams(7, ("test",))
    return configuration.reconstruct(where, configuration.prepare(where, streams), labels, streams)


def test_the_prior_loss_matches_the_reference() -> None:
    lse = torch.tensor(VECTORS["logits"]).logsumexp(dim=1)
    losses = negative_log_realness(lse)
    assert losses.shape == lse.shape
    assert float(losses.mean()) == pytest.approx(VECTORS["kedmi_prior_softplus_lse_minus_lse"], rel=1e-5)
    assert torch.allclose(losses, nn.functional.softplus(lse) - lse, atol=1e-6)
    certain = negative_log_realness(torch.tensor([30.0]))
    assert float(certain) == pytest.approx(9.36e-14, rel=1e-2), "softplus(s) - s cancels to 0 here"


@pytest.mark.parametrize("clip_z", [False, True])
def test_distributions_follow_the_recovery_written_out(clip_z: bool) -> None:
    """One person alone: reparametrised samples, Adam, the losses of the paper, in a loop of its own."""
    where = context(crowd())
    prior: Any = where.prior
    result = attack(replace(TINY, clip_z=clip_z), where, LABELS[1:])
    streams = Streams(7, ("test",))
    noise = torch.randn(64, 1, Z, generator=streams.generator("identity", 3, "noise", 0))
    mu, logvar = torch.zeros(1, Z, requires_grad=True), torch.ones(1, Z, requires_grad=True)
    adam = torch.optim.Adam([mu, logvar], lr=0.02)
    for step in range(TINY.iterations):
        z = mu + (0.5 * logvar).exp() * noise[step]
        images = prior.decode(z.clamp(-1, 1) if clip_z else z)
        lse = prior.realism(images)
        cross_entropy = nn.functional.cross_entropy(where.victim.logits(images), torch.tensor([3]))
        loss = (nn.functional.softplus(lse) - lse).mean() + 100 * cross_entropy
        adam.zero_grad()
        loss.backward()
        adam.step()
        assert float(result.curves["L_id"][0, step]) == pytest.approx(float(cross_entropy.detach()), abs=1e-4)
    with torch.no_grad():
        eps = torch.stack([torch.randn(Z, generator=streams.generator("identity", 3, "draw", k)) for k in range(3)])
        draws = mu + (0.5 * logvar).exp() * eps
        assert torch.allclose(result.latents, draws.clamp(-1, 1) if clip_z else draws, atol=1e-4)
        assert torch.allclose(result.images, prior.decode(result.latents), atol=1e-6)


def test_the_distribution_is_learnt_and_confidence_rises() -> None:
    before, after = attack(replace(TINY, iterations=1, learning_rate=1e-9)), attack(replace(TINY, iterations=150))
    curves = after.curves
    assert (curves["L_id"][:, -20:].mean(1) < curves["L_id"][:, :20].mean(1) - 0.1).all()
    assert float(after.confidence.mean()) > float(before.confidence.mean()) + 0.1
    assert curves["sigma"][:, 0].tolist() == pytest.approx([math.exp(0.5)] * 2, rel=1e-5)
    assert (curves["sigma"][:, -1] < curves["sigma"][:, 0] - 0.05).all()
    assert (curves["mu_rms"][:, 0] == 0).all()
    assert (curves["mu_rms"][:, -1] > 0.1).all()
    assert after.notes == ()


def test_its_curves_and_shapes() -> None:
    result = attack(TINY)
    assert result.images.shape == (6, 3, SIZE, SIZE)
    assert result.latents.shape == (6, Z)
    assert result.labels.tolist() == [1] * 3 + [3] * 3
    assert {name: tuple(curve.shape) for name, curve in result.curves.items()} == dict.fromkeys(
        ("L_prior", "L_id", "sigma", "mu_rms"), (2, TINY.iterations)
    )
    assert all(torch.isfinite(curve).all() for curve in result.curves.values())
    scores = context().victim.scores(result.images).gather(1, result.labels[:, None]).squeeze(1)
    assert torch.allclose(result.confidence, scores)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("configuration", [TINY, replace(TINY, samples_per_step=3)], ids=["1", "3"])
def test_the_micro_batch_does_not_change_a_bit(configuration: KEDMI) -> None:
    for prior in (None, crowd()):
        whole, split = (attack(configuration, context(prior, micro_batch=size)) for size in (64, 1))
        assert torch.equal(whole.images, split.images)
        assert torch.equal(whole.latents, split.latents)
        assert all(torch.equal(whole.curves[name], split.curves[name]) for name in whole.curves)


@pytest.mark.usefixtures("one_thread")
def test_people_depend_on_each_other_through_a_discriminator_that_compares_and_in_no_other_way() -> None:
    def apart(configuration: KEDMI, prior: Any) -> bool:
        together = attack(configuration, context(prior))
        return torch.equal(together.latents[3:], attack(configuration, context(prior), LABELS[1:]).latents)

    assert apart(TINY, None)
    assert not apart(TINY, crowd())
    assert apart(replace(TINY, realism_weight=0.0), crowd())
    assert not apart(replace(TINY, identity_weight=0.0), crowd())


def test_a_longer_run_and_more_draws_begin_with_the_shorter_and_the_fewer() -> None:
    assert torch.equal(attack(replace(TINY, draws=5)).latents.view(2, 5, Z)[:, :3], attack(TINY).latents.view(2, 3, Z))
    shorter, longer = attack(replace(TINY, iterations=65)), attack(replace(TINY, iterations=130))
    assert torch.equal(longer.curves["L_id"][:, :65], shorter.curves["L_id"])
    loss = attack(replace(TINY, iterations=130, learning_rate=1e-9)).curves["L_id"]
    assert not torch.equal(loss[:, :64], loss[:, 64:128]), "a new block of noise is new"


@pytest.mark.parametrize(
    "change", [{}, {"samples_per_step": 3}, {"selection_transforms": 2}, {"realism_weight": 0.0}], ids=str
)
def test_kedmi_shows_the_victim_what_it_planned(change: dict[str, Any]) -> None:
    configuration, where = replace(TINY, **change), context(micro_batch=2)
    attack(configuration, where)
    assert where.victim.queries == configuration.planned_queries(2)
    prepared = configuration.planned_preparation()
    assert prepared is not None
    assert (prepared.forward, prepared.backward) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"logvar_start": 0.0},
        {"clip_z": True},
        {"samples_per_step": 2},
        {"loss": "poincare"},
        {"learning_rate": 0.05},
        {"betas": (0.5, 0.9)},
        {"identity_weight": 0.1},
        {"realism_weight": 0.0},
    ],
    ids=str,
)
def test_every_option_changes_the_result(change: dict[str, Any]) -> None:
    result = attack(replace(TINY, **change))
    assert torch.isfinite(result.images).all()
    assert not torch.equal(result.latents, attack(TINY).latents)
    assert ("L_prior" in result.curves) == bool(change.get("realism_weight", 1.0))
    if change.get("clip_z"):
        assert float(result.latents.abs().max()) <= 1


def test_frozen_networks_get_no_gradient() -> None:
    where = context()
    prior: Any = where.prior
    networks = [where.victim._network, prior.generator, prior.discriminator]
    before = [p.clone() for n in networks for p in n.parameters()]
    result = attack(TINY, where)
    after = [p for n in networks for p in n.parameters()]
    assert all(p.grad is None and not p.requires_grad and torch.equal(p, q) for p, q in zip(after, before, strict=True))
    assert not any(t.requires_grad for t in (result.images, result.latents, *result.curves.values()))


def test_kedmi_runs_with_its_own_prior_and_with_another() -> None:
    configuration = replace(TINY, iterations=3)
    own, other = attack(configuration, context(small("kedmi"))), attack(configuration, context(small("gmi")))
    assert own.images.shape == other.images.shape == (6, 3, SIZE, SIZE)
    assert torch.isfinite(own.curves["L_prior"]).all()
    split = attack(configuration, context(small("kedmi"), micro_batch=1))
    assert torch.allclose(split.images, own.images, atol=1e-4)
    alone = GeneratorAlone()
    assert crowd().has_discriminator
    assert not alone.has_discriminator
    with pytest.raises(MibenchError, match="realism_weight=0"):
        attack(configuration, context(alone))
    without = attack(replace(configuration, realism_weight=0.0), context(alone))
    assert "L_prior" not in without.curves


def test_a_stalled_loss_and_a_closed_distribution_get_notes() -> None:
    stuck = attack(replace(TINY, logvar_start=-20.0, learning_rate=1e-9))
    assert [words for words in ("identity loss", "closed") if any(words in note for note in stuck.notes)] == [
        "identity loss",
        "closed",
    ]


def test_kedmi_logs_and_reports_progress() -> None:
    records: list[dict[str, Any]] = []
    steps: list[tuple[int, int, str]] = []
    where = context(log=lambda **r: records.append(r), progress=lambda *step: steps.append(step))
    attack(TINY, where)
    (record,) = records
    assert record["event"] == "kedmi"
    assert record["identities"] == [1, 3]
    assert len(record["L_id"]) == len(record["sigma"]) == TINY.iterations
    assert (TINY.iterations, TINY.iterations, "recover distributions") in steps


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"draws": 0}, "draws"),
        ({"iterations": 0}, "iterations"),
        ({"samples_per_step": 0}, "samples_per_step"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"logvar_start": float("nan")}, "logvar_start"),
        ({"loss": "hinge"}, "hinge"),
        ({"realism_weight": float("inf")}, "realism_weight"),
        ({"identity_weight": 0.0, "realism_weight": 0.0}, "nothing is optimised"),
        ({"selection_transforms": -1}, "selection_transforms"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_in_one_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words) as refused:
        replace(TINY, **change)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("kedmi: ")


def test_kedmi_needs_gradients() -> None:
    with pytest.raises(AccessError, match="GRADIENTS"):
        attack(TINY, context(access=Access.SCORES))


def test_presets_say_what_the_repositories_do() -> None:
    presets = settings.attack_presets("kedmi").presets
    resolved = {name: settings.resolve(KEDMI, [layer], scope="attack")[0] for name, layer in presets.items()}
    assert resolved["paper"] == KEDMI()
    assert resolved["lomma"] == KEDMI(clip_z=True)
    assert resolved["bido"] == KEDMI(iterations=5000, logvar_start=0.0)
    for name, samples in (("recommended", 16), ("demo", 8), ("smoke", 2)):
        assert resolved[name].draws >= samples
