"""One-sided tests against a margin: level, agreement with the two-sided test, bounds that agree with the p values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mibench.metrics.differences import sign_flip_p_value
from mibench.metrics.margins import Increase


def increase(differences, **options) -> Increase:
    return Increase(new=list(differences), old=[0.0] * len(differences), **options)


def by_hand(differences, margin: float) -> float:
    """p of "the true increase is at least the margin", from all sign patterns of ``margin - difference``."""
    values = [margin - each for each in differences]
    observed = sum(values)
    sums = [
        sum(s * v for s, v in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=len(values))
    ]
    return sum(each >= observed - 1e-12 for each in sums) / len(sums)


@pytest.mark.parametrize("margin", [-0.1, 0.0, 0.05, 0.2])
@pytest.mark.parametrize("people", [3, 6, 9])
def test_p_values_are_those_of_all_sign_patterns(people, margin):
    differences = np.random.default_rng(people).normal(0.02, 0.1, people).round(3)
    assert increase(differences).p_below(margin) == pytest.approx(by_hand(differences, margin))
    assert increase(differences).p_above(margin) == pytest.approx(by_hand(-differences, -margin))


@pytest.mark.parametrize("people", [8, 40])
def test_both_sides_together_are_the_two_sided_test(people):
    differences = np.random.default_rng(2).normal(0.05, 0.1, people)
    each = increase(differences)
    assert 2 * min(each.p_below(0.0), each.p_above(0.0)) == pytest.approx(sign_flip_p_value(differences), abs=2e-3)


@pytest.mark.parametrize("people", [7, 12, 30])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_a_bound_lies_below_the_margin_just_where_the_test_says_so(people, confidence):
    generator = np.random.default_rng(people)
    for _ in range(20):
        each = increase(generator.normal(0.0, 0.2, people))
        upper, lower = each.upper(confidence), each.lower(confidence)
        assert lower < each.mean < upper
        for step in (1e-6, 0.01, 0.1):
            if math.isfinite(upper):
                assert each.p_below(upper + step) <= 1 - confidence + 1e-9
                assert each.p_below(upper - step) > 1 - confidence
            if math.isfinite(lower):
                assert each.p_above(lower - step) <= 1 - confidence + 1e-9
                assert each.p_above(lower + step) > 1 - confidence


def test_the_level_is_kept():
    generator = np.random.default_rng(0)
    draws = [increase(generator.normal(0.1, 0.3, 12)) for _ in range(600)]
    for wrong in (
        np.mean([each.p_below(0.1) <= 0.05 for each in draws]),
        np.mean([each.p_above(0.1) <= 0.05 for each in draws]),
    ):
        assert wrong < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)  # three standard errors of the simulation


def test_few_identities_can_show_nothing():
    each = increase([0.0, 0.0, 0.001])
    assert each.p_below(10.0) == 1 / 8
    assert each.upper(0.95) == math.inf
    assert each.lower(0.95) == -math.inf


def test_shares_that_are_all_alike_are_not_taken_for_certain():
    nobody = Increase(new=[0.0] * 10, old=[0.0] * 10, trials=(80.0, 80.0))
    assert 0.02 < nobody.upper(0.95) < 0.5
    assert nobody.p_below(0.01) == 1.0
    assert nobody.p_below(0.5) == 0.0
    many = Increase(new=[0.0] * 300, old=[0.0] * 300, trials=(4800.0, 4800.0))
    assert many.upper(0.95) < nobody.upper(0.95) / 5


def test_what_is_needed_decides_about_as_often_as_promised():
    generator = np.random.default_rng(5)
    pilot = increase(generator.normal(0.0, 0.25, 400) - 0.0)
    needed = pilot.identities_needed(0.1, 0.95)
    assert needed is not None
    seen = [
        increase(generator.normal(min(pilot.mean, 0.0) + max(pilot.mean, 0.0), 0.25, needed)).p_below(0.1) <= 0.05
        for _ in range(400)
    ]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.1)
    assert pilot.identities_needed(0.05, 0.95) > needed
    assert (
        increase([0.2, 0.3, 0.25]).identities_needed(0.1, 0.95) is None
    )  # no number helps where more leaks than allowed


def test_identities_that_are_all_alike_need_as_many_as_their_interval_does():
    def alike(people: int) -> Increase:
        return Increase(new=[0.0] * people, old=[0.0] * people, trials=(8 * people, 8 * people))

    needed = alike(5).identities_needed(0.05, 0.95)
    assert needed is not None
    assert alike(needed).p_below(0.05) == 0.0
    assert alike(needed // 2).p_below(0.05) == 1.0
    assert alike(5).identities_needed(1e-6, 0.95) is None  # more than anybody would attack


def test_what_could_have_been_seen_shrinks_with_identities():
    generator = np.random.default_rng(6)
    few, many = (increase(generator.normal(0, 0.2, people)).detectable(0.95) for people in (10, 90))
    assert few is not None
    assert many is not None
    assert many < few / 2
    assert increase([0.1] * 8).detectable(0.95) is None
    assert increase([0.1, 0.2, 0.0, 0.1]).detectable(0.95) is None  # four never reach 5 %
    assert increase([0.1, 0.2, 0.0, 0.1, 0.1]).detectable(0.95) is not None


def test_what_cannot_be_tested_is_refused():
    for new, old in (([1.0], [0.0]), ([1.0, 2.0], [0.0]), ([1.0, math.nan], [0.0, 0.0])):
        with pytest.raises(ValueError, match="an increase is measured over"):
            Increase(new=new, old=old)
