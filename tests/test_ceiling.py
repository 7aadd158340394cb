"""The ceiling: projections come as near as the prior can show, per portrait, and no attack is handed a portrait."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reported_runs import make_run
from torch import Tensor

import mibench
from mibench import registry
from mibench.api import Access, Context, MibenchError, Victim
from mibench.attacks.ceiling import Ceiling
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.attacks.projection import Descent, pyramid_distance
from mibench.audits.audit import audit
from mibench.audits.request import AuditRequest
from mibench.records import ImageSpec
from mibench.reports.compare import compare_attacks
from mibench.reports.compare_defences import compare_defences
from mibench.rng import Streams

SETTINGS = {"unit_size": 3, "portraits": 2, "pool_size": 16, "restarts": 2, "trial_steps": 4, "steps": 40}


def descent(**changes: object) -> Descent:
    settings: dict[str, object] = {
        "steps": 200,
        "learning_rate": 0.05,
        "patience": 20,
        "tolerance": 0.01,
        "falls": 2,
        "betas": (0.9, 0.999),
        "edges": 0.0,
    }
    return Descent(**{**settings, **changes})  # type: ignore[arg-type]


def flat(styles: Tensor) -> Tensor:
    """A prior of images of one colour: its style."""
    return styles[:, :, None, None].expand(-1, -1, 8, 8)


def test_the_distance_is_of_pixels_and_edges_at_every_scale() -> None:
    plain = torch.full((1, 3, 8, 8), 0.5)
    assert pyramid_distance(plain, plain, 1.0).item() == 0
    assert pyramid_distance(plain + 0.25, plain, 1.0).item() == pytest.approx(0.25)  # no edge differs, at two scales
    stripes = plain.clone()
    stripes[..., ::2] += 0.5
    by_hand = (0.25 + 0.25) / 2  # half of the columns differ by 0.5; averaged in pairs every one by 0.25
    assert pyramid_distance(stripes, plain, 0.0).item() == pytest.approx(by_hand)
    assert pyramid_distance(stripes, plain, 1.0).item() == pytest.approx(by_hand + 0.5 / 2)


def test_a_projection_ends_at_the_image_and_stops_when_it_is_there() -> None:
    sought = torch.tensor([[0.2, 0.4, 0.6], [0.9, 0.1, 0.5]])
    start = torch.full((2, 3), 0.5)
    steps: list[int] = []
    styles, distance, taken = descent(steps=2000).project(flat, start, flat(sought), steps.append)
    assert torch.allclose(styles, sought, atol=0.02)
    assert torch.allclose(distance, pyramid_distance(flat(styles), flat(sought), 0.0))
    assert int(taken.max()) == steps[-1] < 2000
    assert torch.equal(start, torch.full((2, 3), 0.5)), "what it is handed stays"


def test_a_projection_does_not_depend_on_its_neighbours() -> None:
    sought, start = torch.rand(3, 3, generator=torch.Generator().manual_seed(0)), torch.full((3, 3), 0.5)
    together = descent().project(flat, start, flat(sought), lambda step: None)
    alone = descent().project(flat, start[1:2], flat(sought[1:2]), lambda step: None)
    for whole, part in zip(together, alone, strict=True):
        assert torch.allclose(whole[1:2].double(), part.double())


@pytest.fixture(scope="module")
def prior() -> StyleGAN2Prior:
    torch.manual_seed(3)
    generator = Generator(z_dim=8, w_dim=8, resolution=16, channel_base=64, channel_max=8, mapping_layers=2)
    return StyleGAN2Prior(generator, None, image=ImageSpec(16))


class Silent(Victim):
    """Nobody may ask it."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Identity(), image=ImageSpec(16), num_classes=3, access=Access.LABELS, name="silent")


def context(prior: StyleGAN2Prior, portraits: Tensor | None) -> Context:
    handed = None if portraits is None else lambda labels, count: portraits[labels, :count]
    return Context(victim=Silent(), prior=prior, device=torch.device("cpu"), portraits=handed)


def projected(prior: StyleGAN2Prior, **settings: object) -> tuple[Tensor, Tensor]:
    """Images and confidences for three people, of whom the prior itself made the portraits with a style per layer."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        own = prior.mapping(torch.randn(6 * prior.num_styles, 8, generator=generator)).view(6, prior.num_styles, -1)
        portraits = prior.synthesis(own).view(3, 2, 3, 16, 16)
    attack, where, streams = Ceiling(**{**SETTINGS, **settings}), context(prior, portraits), Streams(0, ("ceiling",))  # type: ignore[arg-type]
    result = attack.reconstruct(where, attack.prepare(where, streams), torch.arange(3), streams)
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert where.victim.queries.forward == 0
    distance = pyramid_distance(result.images, portraits.flatten(0, 1), 1.0)
    assert torch.allclose(-result.confidence, distance, atol=1e-4), "its ranking is the distance of what it returns"
    return result.images, distance


def test_a_style_per_layer_comes_nearer_than_one_for_all(prior: StyleGAN2Prior) -> None:
    _, one = projected(prior)
    _, each = projected(prior, optimise="styles")
    assert bool((each <= one).all())
    assert float(each.mean()) < 0.9 * float(one.mean())


def test_more_steps_never_end_farther_away(prior: StyleGAN2Prior) -> None:
    _, few = projected(prior, steps=5)
    _, many = projected(prior, steps=40)
    assert bool((many <= few).all())


def test_without_portraits_it_says_so(prior: StyleGAN2Prior) -> None:
    attack, where, streams = Ceiling(**SETTINGS), context(prior, None), Streams(0, ("ceiling",))  # type: ignore[arg-type]
    with pytest.raises(MibenchError, match="no portraits"):
        attack.reconstruct(where, attack.prepare(where, streams), torch.arange(3), streams)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(MibenchError, match="raise pool_size"):
        Ceiling(pool_size=2, restarts=3)
    with pytest.raises(MibenchError, match="learning_rate must be positive"):
        Ceiling(learning_rate=0.0)


def test_the_ceiling_alone_is_handed_portraits() -> None:
    handed = {name for name in registry.names("attack") if registry.load("attack", name).needs_portraits}
    assert handed == {"ceiling"}


def test_an_audit_refuses_it(tmp_path: Path) -> None:
    request = AuditRequest(model="mynet:build", attack="ceiling")
    with pytest.raises(MibenchError, match="is no attack"):
        audit(request, tmp_path)


def test_tables_mark_it_and_no_test_counts_it(tmp_path: Path) -> None:
    import json

    for name, attack, noise in (("a", "ppa", 0.2), ("b", "ceiling", 0.01), ("c", "floor", 0.35)):
        make_run(tmp_path / name, attack, noise)
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    (tmp_path / "b" / "run.json").write_text(json.dumps({**record, "sees_private": True}))
    comparison = compare_attacks(tmp_path)
    labels = [row.label for row in comparison.rows]
    assert labels == ["ppa", "floor (no attack)", "ceiling (sees private images)"]
    assert {name for each in comparison.differences for name in (each.first, each.second)} == set(labels[:2])
    assert any("ceiling (sees private images): a control" in note for note in comparison.notes)
    assert "ceiling" not in compare_defences(tmp_path).attacks
    assert any("sees private images" in note for note in compare_defences(tmp_path).left_out)
    assert mibench.open_run(tmp_path / "b").attack_title == "ceiling (sees private images)"
