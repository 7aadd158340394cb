"""Answer-time filters: reference vectors, their order, and what a victim behind them grants."""

from __future__ import annotations

import pytest
import torch
from defended import VECTORS, same_weights, train_tiny
from torch import Tensor, nn

from mibench.api import (
    Access,
    AccessError,
    AnswerFilter,
    ClassifierOutput,
    FilteredAnswers,
    ImageSpec,
    Victim,
)
from mibench.targets.defences.answer_filters import LabelOnly, Noise, Rounding, Temperature, TopK

REFERENCE = VECTORS["answer_filters"]
LOGITS = (2 * torch.sin(0.7 * torch.arange(5.0))).view(1, 5)
ALL = [Temperature(tau=3.0), Noise(), TopK(k=2), Rounding(decimals=2), LabelOnly()]
CPU = torch.device("cpu")


class Known(nn.Module):
    """Logits that are a fixed map of the pixels."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        flat = images.flatten(1)
        return ClassifierOutput(flat, 5 * torch.sin(flat @ torch.linspace(-1, 2, flat.shape[1] * 5).view(-1, 5)))


def victim(*filters: AnswerFilter, access: Access = Access.SCORES) -> Victim:
    answer = FilteredAnswers(filters) if filters else None
    return Victim(Known(), image=ImageSpec(size=4), num_classes=5, access=access, answer=answer)


def images(count: int, seed: int = 0) -> Tensor:
    """Images of 8 bits."""
    drawn = torch.randint(0, 256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(seed))
    return drawn.float() / 255


def answer(*filters: AnswerFilter, logits: Tensor = LOGITS) -> Tensor:
    return FilteredAnswers(filters)(logits, torch.zeros(len(logits), 3, 4, 4))


@pytest.mark.parametrize(
    ("name", "filters"),
    [
        ("probs", ()),
        ("top2", (TopK(k=2),)),
        ("top2_renormalised", (TopK(k=2, rest="renormalise"),)),
        ("round_1", (Rounding(decimals=1),)),
        ("round_2", (Rounding(decimals=2),)),
        ("temperature_4", (Temperature(tau=4.0),)),
    ],
)
def test_answers_are_the_reference_ones(name: str, filters: tuple[AnswerFilter, ...]) -> None:
    assert answer(*filters)[0].tolist() == pytest.approx(REFERENCE[name], abs=1e-6)


def test_the_label_is_that_of_the_unfiltered_scores() -> None:
    assert int(LOGITS.argmax()) == REFERENCE["label"]
    shown = images(200)
    noisy = victim(Noise(scale=2.0), Rounding(decimals=0))
    assert (noisy.scores(shown).argmax(dim=1) != noisy.labels(shown)).any(), "the noise is to move the largest score"
    assert torch.equal(noisy.labels(shown), victim().labels(shown))


def test_the_rest_is_spread_evenly_over_the_other_classes() -> None:
    found = answer(TopK(k=2, rest="spread"))[0].tolist()
    top = REFERENCE["top2"]
    each = (1 - sum(top)) / 3
    assert found == pytest.approx([score or each for score in top], abs=1e-6)


def test_equal_scores_are_kept_from_the_lower_class_on() -> None:
    assert answer(TopK(k=3), logits=torch.zeros(2, 8)).tolist() == [[0.125] * 3 + [0.0] * 5] * 2


def test_rounding_is_half_to_even_of_what_the_scores_are() -> None:
    given = torch.tensor([[0.125, 0.375, 0.0, 0.0, 0.0], [0.05, 0.15, 0.25, 0.35, 0.45]])  # float32: 0.0500000007 ...
    found = Rounding(decimals=2).scores(given[:1], given)[0].tolist()
    assert found[:2] == pytest.approx([0.12, 0.38])
    exact = [float(f"{score:.1f}") for score in given[1].tolist()]
    assert Rounding(decimals=1).scores(given[1:], given)[0].tolist() == pytest.approx(exact)


def test_rounding_may_leave_nothing_and_logarithms_have_a_floor() -> None:
    zeros = answer(Rounding(decimals=0), logits=torch.zeros(1, 8))
    assert not zeros.any()
    logarithms = victim(Rounding(decimals=1)).log_scores(images(50))
    assert logarithms.isfinite().all()
    assert logarithms.min().item() == pytest.approx(torch.tensor(1e-12).log().item())
    plain = victim()
    assert torch.equal(plain.log_scores(images(5)), plain.scores(images(5)).clamp_min(1e-12).log())


def test_filters_act_in_their_order_whatever_the_command_line_says() -> None:
    shown = images(3)
    logits = Known()(shown).logits
    scores = (logits / 3.0).softmax(dim=1)
    for one in (Noise(), TopK(k=2), Rounding(decimals=2)):
        scores = one.scores(scores, shown)
    for shift in range(len(ALL)):
        turned = [*ALL[shift:], *ALL[:shift]]
        for named in (turned, turned[::-1]):
            assert torch.equal(FilteredAnswers(named)(logits, shown), scores)


@pytest.mark.parametrize(
    "off",
    [Temperature(tau=1.0), TopK(k=5), TopK(k=300, rest="spread"), Noise(scale=0.0)],
    ids=lambda one: f"{one.name}",
)
def test_a_filter_that_is_off_leaves_the_answers_as_they_are_to_the_bit(off: AnswerFilter) -> None:
    assert torch.equal(victim(off).scores(images(9)), victim().scores(images(9)))


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_filter_changes_nothing_in_a_training(one: AnswerFilter) -> None:
    assert same_weights(train_tiny(), train_tiny(one))


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
def test_the_noise_of_an_image_is_the_same_in_every_batch(distribution: str) -> None:
    noise = Noise(scale=0.1, distribution=distribution)
    shown = images(16)
    whole = noise.drawn(shown, 5)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(noise.drawn(shown[order], 5), whole[order])
    assert torch.equal(torch.cat([noise.drawn(one, 5) for one in shown.split(3)]), whole)
    assert len({tuple(row) for row in whole.tolist()}) == 16, "other images, other noise"
    torch.manual_seed(5)
    assert torch.equal(noise.drawn(shown, 5), whole), "nothing depends on torch's own generator"


def test_asking_again_does_not_average_the_noise_away() -> None:
    shown = images(1)
    noisy, plain = victim(Noise(scale=0.1)), victim()
    mean = torch.cat([noisy.scores(shown.repeat(count, 1, 1, 1)) for count in (1, 7, 40)]).mean(dim=0)
    assert torch.allclose(mean, noisy.scores(shown)[0])
    assert (mean - plain.scores(shown)[0]).abs().max() > 0.02


def test_a_change_that_8_bits_do_not_show_draws_no_new_noise() -> None:
    shown = images(4)
    noise = Noise()
    assert torch.equal(noise.drawn((shown + 1e-4).clamp(0, 1), 5), noise.drawn(shown, 5))
    neighbour = shown.clone()
    neighbour[:, 0, 0, 0] = (neighbour[:, 0, 0, 0] + 2 / 255) % 1
    assert not torch.equal(noise.drawn(neighbour, 5), noise.drawn(shown, 5))


def test_the_noise_has_its_distribution_and_its_key() -> None:
    shown = images(4000)
    for distribution, mean_size, variance in (("laplace", 1.0, 2.0), ("gauss", (2 / torch.pi) ** 0.5, 1.0)):
        drawn = Noise(scale=0.1, distribution=distribution).drawn(shown, 5) / 0.1
        assert drawn.mean().item() == pytest.approx(0, abs=0.05)
        assert drawn.abs().mean().item() == pytest.approx(mean_size, rel=0.03)
        assert drawn.var().item() == pytest.approx(variance, rel=0.08)
    assert not torch.equal(Noise(key=1).drawn(shown, 5), Noise(key=2).drawn(shown, 5))


def test_noisy_scores_are_a_distribution_even_where_all_are_clipped() -> None:
    found = victim(Noise(scale=5.0)).scores(images(300))
    assert found.min() >= 0
    assert torch.allclose(found.sum(dim=1), torch.ones(300))
    assert (found == 1 / 5).all(dim=1).any(), "a row whose scores are all clipped to 0"


def test_a_victim_behind_filters_grants_no_gradients() -> None:
    with pytest.raises(AccessError, match="which ignore them"):
        victim(Rounding(), access=Access.GRADIENTS)
    with pytest.raises(AccessError, match="grants SCORES"):
        victim(Rounding()).logits(images(1))
    assert FilteredAnswers([Rounding(), LabelOnly()]).grants is Access.LABELS
