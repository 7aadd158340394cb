"""VMI with normal distributions: its recovery written out, its divergence, and what it depends on and counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import torch
from test_dmmia import LABELS, SIZE, attack, context
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from mibench import settings
from mibench.api import Access, AccessError, MibenchError
from mibench.attacks.vmi import VMI
from mibench.rng import Streams
from mibench.runs.budget import planned_total
from mibench.runs.protocol import load_protocol

TINY: Any = VMI(
    family="diag",
    flow_steps=2,
    flow_hidden=8,
    unit_size=2,
    draws=3,
    steps=4,
    samples_per_step=2,
    optimiser="adam",
    learning_rate=0.05,
    selection_transforms=2,
)


@pytest.mark.parametrize(("optimiser", "layers"), [("sgd", "own"), ("adam", "shared")])
def test_the_recovery_is_the_bound_written_out(optimiser: Any, layers: Any) -> None:
    where = context()
    one = replace(TINY, optimiser=optimiser, layers=layers, kl_weight=0.1)
    result = attack(one, where, LABELS[1:])
    prior: Any = where.prior
    label, streams = int(LABELS[1]), Streams(7, ("test",))
    count = prior.num_styles if layers == "own" else 1
    mu = torch.zeros(count, prior.latent_dim, requires_grad=True)
    log_sigma = torch.zeros(count, prior.latent_dim, requires_grad=True)
    kind: Any = torch.optim.SGD if optimiser == "sgd" else torch.optim.Adam
    steps = kind([mu, log_sigma], lr=0.05, **({"momentum": 0.9} if optimiser == "sgd" else {}))

    def styles(noise: Tensor) -> Tensor:
        layered = [
            prior.mapping(mu[min(k, count - 1)] + log_sigma[min(k, count - 1)].exp() * noise)
            for k in range(prior.num_styles)
        ]
        return torch.stack(layered, dim=1)

    for step in range(one.steps):
        noise = torch.randn(2, prior.latent_dim, generator=streams.generator("identity", label, "noise", step))
        logits = where.victim.logits(where.fit(prior.synthesis(styles(noise))))
        identity = nn.functional.cross_entropy(logits, torch.full((2,), label))
        kl = kl_divergence(Normal(mu, log_sigma.exp()), Normal(torch.zeros(()), torch.ones(()))).sum(dim=1).mean()
        assert float(result.curves["L_id"][0, step]) == pytest.approx(float(identity.detach()), rel=1e-2, abs=1e-3)
        assert float(result.curves["kl"][0, step]) == pytest.approx(float(kl.detach()), rel=1e-2, abs=1e-3)
        steps.zero_grad()
        (identity + 0.1 * kl).backward()
        steps.step()
    with torch.no_grad():
        drawn = torch.randn(3, prior.latent_dim, generator=streams.generator("identity", label, "noise", "draws"))
        assert torch.allclose(result.latents, styles(drawn), atol=1e-2)
        assert torch.allclose(result.images, where.fit(prior.synthesis(result.latents)), atol=1e-4)


@pytest.mark.parametrize("family", ["diag", "flow"])
def test_confidence_rises_above_the_prior_s_and_the_weight_of_the_divergence_holds_it_back(family: Any) -> None:
    one = replace(TINY, family=family, draws=8)
    before, after = attack(replace(one, steps=1, learning_rate=1e-9)), attack(replace(one, steps=40))
    held = attack(replace(one, steps=40, kl_weight=1.0))
    assert float(after.confidence.mean()) > float(before.confidence.mean()) + 0.05
    assert float(held.curves["kl"][:, -1].mean()) < float(after.curves["kl"][:, -1].mean())
    assert after.images.shape == (16, 3, SIZE, SIZE)


@pytest.mark.parametrize("family", ["diag", "flow"])
def test_results_depend_on_the_seed_and_on_nothing_else(family: Any) -> None:
    one = replace(TINY, family=family, learning_rate=0.01)
    together = attack(one)
    assert torch.allclose(together.images, attack(one, context(micro_batch=1)).images, atol=1e-2)
    alone = attack(one, None, LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=1e-2)


def test_weaker_access_and_other_priors_are_refused() -> None:
    with pytest.raises(AccessError):
        attack(TINY, context(access=Access.SCORES))
    with pytest.raises(MibenchError, match="needs a prior with a mapping network"):
        attack(TINY, test_gmi.context())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "vmi: steps must be at least 1"),
        ({"flow_hidden": 0}, "vmi: flow_hidden must be at least 1"),
        ({"momentum": 1.0}, "vmi: momentum must lie in"),
        ({"kl_weight": -1.0}, "vmi: kl_weight must be finite and not negative"),
        ({"loss": "hinge"}, "unknown identity loss 'hinge'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        VMI(**changes)


def test_the_preset_paper_is_the_default_and_recommended_is_what_equal_allows() -> None:
    presets = settings.attack_presets("vmi")

    def resolved(name: str) -> VMI:
        found, _ = settings.resolve(VMI, [presets.presets[name]], scope="attack")
        assert isinstance(found, VMI)
        return found

    assert resolved("paper") == VMI()
    assert presets.variants["flow"].values["family"] == "flow"
    protocol, recommended = load_protocol("equal")[0], resolved("recommended")
    assert protocol.query_budget is not None
    for steps, fits in ((recommended.steps, True), (recommended.steps + 1, False)):
        planned = planned_total(replace(recommended, steps=steps), protocol)
        assert planned is not None
        assert (planned.forward + planned.backward <= protocol.query_budget * protocol.num_identities) is fits


def test_a_flow_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(MibenchError, match=r"have 5 numbers; set attack\.family=diag"):
        VMI()._distributions([1], 1, 5, torch.device("cpu"), Streams(0))
