"""AlignMI: copies, the mean of their gradients, what PPA and MIRROR with it depend on and count."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import test_mirror
import test_ppa
import torch
from test_dmmia import LABELS, context
from test_ppa import attack, same_bits, unbatched

from mibench import settings
from mibench.api import Attack, MibenchError, Queries
from mibench.attacks.alignment import Alignment, copied, draw_copies
from mibench.attacks.mirror_w import LOSS_WEIGHT, MirrorWhite
from mibench.rng import Streams, stream

PAA_PPA = replace(test_ppa.TINY, align="paa", draws=3)
TAA_PPA = replace(test_ppa.TINY, align="taa", draws=3)
PAA_MIRROR = replace(test_mirror.TINY_W, align="paa", draws=3)
ALIGNED = pytest.mark.parametrize("attacked", [PAA_PPA, TAA_PPA, PAA_MIRROR], ids=["ppa-paa", "ppa-taa", "mirror-paa"])


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=stream(0, "images"))


def test_a_noisy_copy_is_the_image_and_noise_in_its_own_range() -> None:
    shown, seeds = images(), torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    copy = copied(shown, seeds, 1, "paa", 0.1)
    for row, seed in enumerate((6, 8)):
        noise = torch.randn(3, 8, 8, generator=stream(seed, "noise"))
        expected = shown[row] + 0.1 * (shown[row].max() - shown[row].min()) * noise
        assert torch.allclose(copy[row], expected, atol=1e-6)
    assert torch.equal(copied(shown, seeds, 1, "paa", 0.0), shown)


def test_a_transformed_copy_turns_crops_and_flips() -> None:
    shown = images(1)

    def taa(x: float, y: float, half_width: float, half_height: float, turn: float) -> torch.Tensor:
        return copied(shown, torch.tensor([[x, y, half_width, half_height, turn]]), 0, "taa", 0.0)

    assert torch.allclose(taa(0, 0, 1, 1, 0), shown, atol=1e-6)
    assert torch.allclose(taa(0, 0, -1, 1, 0), shown.flip(3), atol=1e-6)
    assert torch.allclose(taa(0, 0, 1, 1, math.pi / 2), shown.rot90(1, (2, 3)), atol=1e-5)
    centre = torch.nn.functional.interpolate(shown[..., 2:6, 2:6], size=(8, 8), mode="bilinear", align_corners=False)
    assert torch.allclose(taa(0, 0, 0.5, 0.5, 0)[..., 1:-1, 1:-1], centre[..., 1:-1, 1:-1], atol=1e-6)


@pytest.mark.parametrize(("kind", "width"), [("none", 0), ("paa", 1), ("taa", 5)])
def test_copies_are_drawn_for_each_image_from_its_identity_s_stream(kind: Alignment, width: int) -> None:
    streams = Streams(3)
    drawn = draw_copies(kind, [4, 2], 3, 5, 7, streams)
    assert drawn.shape == (2, 3, 5 * width)
    assert torch.equal(drawn[1:], draw_copies(kind, [2], 3, 5, 7, streams))
    if kind != "none":
        assert not torch.equal(drawn, draw_copies(kind, [4, 2], 3, 5, 8, streams))
        assert drawn.view(-1, width).unique(dim=0).shape[0] == 30, "every copy is another"


def test_the_gradient_is_the_mean_over_copies_led_back_through_the_prior() -> None:
    """Written out for MIRROR: dL/dx of each copy, their mean, then the Jacobian of the prior."""
    where = context()
    prior: Any = where.prior
    one = replace(PAA_MIRROR, draws=4, candidates=2, align_strength=0.2)
    codes = prior.mapping(prior.sample(4, stream(1, "codes"))).view(2, 2, -1).clone().requires_grad_()
    copies = draw_copies("paa", LABELS.tolist(), 2, 4, 1, Streams(3))
    one._backward(where, codes, LABELS, torch.zeros(2, 2, dtype=torch.bool), copies)
    shown = one.decoder(prior)(codes.flatten(0, 1))
    mean = torch.zeros_like(shown)
    for number in range(4):
        copy = copied(shown.detach(), copies.flatten(0, 1), number, "paa", 0.2).requires_grad_()
        loss = torch.nn.functional.cross_entropy(
            where.victim.logits(copy), LABELS.repeat_interleave(2), reduction="sum"
        )
        mean += torch.autograd.grad(loss, copy)[0] / 4
    (expected,) = torch.autograd.grad(shown, codes, LOSS_WEIGHT / 2 * mean)
    assert codes.grad is not None
    assert torch.allclose(codes.grad, expected, rtol=1e-4, atol=1e-6)
    assert float(expected.abs().max()) > 1e-3


@ALIGNED
def test_alignment_changes_what_is_found_and_equal_seeds_give_equal_bits(attacked: Any) -> None:
    one, other = attack(attacked), attack(attacked)
    assert same_bits(one, other)
    plain = attack(replace(attacked, align="none"))
    assert not torch.equal(one.images, plain.images)


@ALIGNED
def test_the_micro_batch_and_the_others_of_a_unit_change_nothing(attacked: Attack) -> None:
    together = attack(attacked, unbatched())
    assert same_bits(together, attack(attacked, unbatched(micro_batch=3)))
    alone = attack(attacked, unbatched(), LABELS[1:])
    assert torch.allclose(together.images[together.labels == LABELS[1]], alone.images, atol=1e-5)


@ALIGNED
def test_every_copy_is_an_image_shown(attacked: Any) -> None:
    where, streams = context(), Streams(3, ("test",))
    state = attacked.prepare(where, streams)
    where.victim.queries = Queries()
    attacked.reconstruct(where, state, LABELS, streams)
    assert where.victim.queries == attacked.planned_queries(2)
    once = replace(attacked, draws=1).planned_queries(2)
    assert where.victim.queries.backward == 3 * once.backward


@pytest.mark.parametrize(
    ("name", "variant", "kind", "draws"),
    [
        ("ppa", "alignmi", "paa", 4),
        ("ppa", "alignmi-taa", "taa", 4),
        ("ppa", "alignmi-paper", "paa", 50),
        ("mirror-w", "alignmi", "paa", 4),
        ("mirror-w", "alignmi-taa", "taa", 4),
    ],
)
def test_variants(name: str, variant: str, kind: str, draws: int) -> None:
    from mibench import registry

    presets = settings.attack_presets(name)
    layers = [presets.presets["recommended"], settings.variant_layer(name, variant, presets)]
    resolved, _ = settings.resolve(registry.load("attack", name), layers, scope="attack")
    assert (resolved.align, resolved.draws, resolved.align_strength) == (kind, draws, 0.06)


def test_results_of_before_keep_their_digests() -> None:
    later = {"draws", "align", "align_strength"}
    assert not later & set(MirrorWhite().recorded_settings())
    assert later <= set(replace(PAA_MIRROR, align_strength=0.1).recorded_settings())


def test_a_negative_strength_is_refused() -> None:
    with pytest.raises(MibenchError, match="align_strength must be finite and not negative"):
        replace(PAA_MIRROR, align_strength=-0.1)
