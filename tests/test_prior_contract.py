"""What every registered prior declares, and what is refused."""

from __future__ import annotations

import pytest
import torch
from toyworld.networks import ToyPrior

from mibench import registry
from mibench.api import ImageSpec, MappingPrior, MibenchError, Prior
from mibench.attacks.rendering import decoder
from mibench.attacks.requirements import require_discriminator, require_mapping, require_prior
from mibench.weights.prior_class import prior_class

OWN = ("stylegan2", "gmi", "kedmi", "plgmi")


@pytest.mark.parametrize("name", OWN)
def test_a_prior_extends_the_contract(name: str) -> None:
    kind = prior_class(name)
    assert issubclass(kind, Prior)
    assert not getattr(kind, "__abstractmethods__", ()), "every abstract member is implemented"
    assert isinstance(kind.per_target, bool)
    assert all(isinstance(option, str) for option in kind.options)


def test_the_facts_of_the_own_priors() -> None:
    assert [name for name in OWN if prior_class(name).per_target] == ["kedmi", "plgmi"]
    assert [name for name in OWN if issubclass(prior_class(name), MappingPrior)] == ["stylegan2"]
    assert prior_class("stylegan2").options == ("truncation", "noise", "crop")
    assert prior_class("gmi").options == prior_class("kedmi").options == prior_class("plgmi").options == ()


def test_an_object_that_does_not_extend_the_contract_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda kind, name: object)
    with pytest.raises(MibenchError, match=r"prior 'gmi' \(mibench\.attacks.*\) does not extend mibench\.api\.Prior"):
        prior_class("gmi")


class Silent(ToyPrior):
    """Without a discriminator, and nothing else declared."""

    realism = Prior.realism


def test_what_a_prior_leaves_out_has_a_default() -> None:
    prior = Silent(torch.ones(()), ImageSpec(8), "silent")
    assert (prior.crop, prior.bytes_per_image, prior.has_discriminator, prior.per_target) == (None, None, False, False)
    assert prior.to("cpu") is prior
    Silent.check({"anything": 1}, "silent")
    with pytest.raises(MibenchError, match="prior 'silent' comes without a discriminator"):
        prior.realism(torch.zeros(1, 3, 8, 8))
    assert ToyPrior(torch.ones(()), ImageSpec(8), "toy").has_discriminator


def test_attacks_refuse_a_prior_without_what_they_work_on() -> None:
    prior = Silent(torch.ones(()), ImageSpec(8), "silent")
    with pytest.raises(MibenchError, match="needs a prior and the run has none"):
        require_prior(None)
    with pytest.raises(MibenchError, match="needs a prior with a mapping network, 'silent' has none"):
        require_mapping(prior)
    with pytest.raises(MibenchError, match=r"gmi: prior 'silent' .*--set attack\.realism_weight=0"):
        require_discriminator(prior, "gmi", "realism_weight")


def test_without_a_mapping_network_the_truncation_is_the_priors_own() -> None:
    prior = Silent(torch.ones(()), ImageSpec(8), "silent")
    latents = prior.sample(2, torch.Generator().manual_seed(0))
    for psi in (None, 0.3):
        assert torch.equal(decoder(prior, psi)(latents), prior.decode(latents))
