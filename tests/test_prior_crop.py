"""Priors of another size than the target: crop, resize and range, in every attack, in the run's name; memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn
from torchvision.transforms import v2

from mibench.api import Access, Attack, ClassifierOutput, Context, ImageSpec, MibenchError, Victim
from mibench.attacks.brep import BREP
from mibench.attacks.c2fmi import C2FMI
from mibench.attacks.consensus import Consensus
from mibench.attacks.dmmia import DMMIA
from mibench.attacks.floor import Floor
from mibench.attacks.gmi import GMI
from mibench.attacks.if_gmi import IFGMI
from mibench.attacks.kedmi import KEDMI
from mibench.attacks.lokt_pool import LOKTPool
from mibench.attacks.lomma_gmi import LommaGMI
from mibench.attacks.mirror_b import MirrorBlack
from mibench.attacks.mirror_w import MirrorWhite
from mibench.attacks.ppa import PPA
from mibench.attacks.priors.stylegan2.discriminator import Discriminator
from mibench.attacks.priors.stylegan2.generator import Generator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.attacks.rlb import RLB
from mibench.attacks.smile import SMILE
from mibench.attacks.vmi import VMI
from mibench.cli import cli
from mibench.rng import Streams
from mibench.runs import attack as engine
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.runs.store import RunDir
from mibench.system import devices

PRIOR, CROP, VICTIM = 32, 24, 16
SHAPE: dict[str, Any] = {"resolution": PRIOR, "channel_base": 64, "channel_max": 8}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = self.body(images)
        return ClassifierOutput(features, self.head(features))


def context(crop: int | None = CROP) -> Context:
    torch.manual_seed(0)
    generator = Generator(z_dim=6, w_dim=6, mapping_layers=2, **SHAPE)
    prior = StyleGAN2Prior(generator, Discriminator(**SHAPE), image=ImageSpec(PRIOR), name="tiny", crop=crop)
    victim = Victim(Classifier(), image=ImageSpec(VICTIM), num_classes=3, access=Access.GRADIENTS)
    return Context(victim=victim, prior=prior, device=torch.device("cpu"))


def test_clamp_then_crop_then_antialiased_resize() -> None:
    """The order of the released code, which works in [-1, 1]: all three steps commute with a change of range."""
    where = context()
    prior: Any = where.prior
    w = prior.mapping(torch.randn(3, 6))
    raw = prior.generator.synthesis(w[:, None].expand(-1, prior.num_ws, -1)) * 3
    released = v2.Compose([v2.CenterCrop(CROP), v2.Resize(VICTIM, antialias=True)])(raw.clamp(-1, 1))
    ours = where.fit(raw.mul(0.5).add(0.5).clamp(0, 1))
    assert ours.shape == (3, 3, VICTIM, VICTIM)
    torch.testing.assert_close(ours, (released + 1) / 2, rtol=0, atol=1e-5)


@pytest.mark.parametrize("crop", [1, 15, 16, 23, 31, 32])
def test_the_crop_is_torchvision_s(crop: int) -> None:
    images = torch.rand(2, 3, PRIOR, PRIOR)
    where = context(crop)
    expected = v2.functional.center_crop(images, [crop, crop])
    torch.testing.assert_close(where.fit(images), replace(where, prior=None).fit(expected))


def test_a_crop_of_the_victim_s_size_is_not_resized() -> None:
    images = torch.rand(2, 3, PRIOR, PRIOR)
    assert torch.equal(context(VICTIM).fit(images), images[..., 8:24, 8:24])


def test_gradients_come_from_inside_the_crop_alone() -> None:
    images = torch.rand(1, 3, PRIOR, PRIOR, requires_grad=True)
    context().fit(images).sum().backward()
    assert images.grad is not None
    assert (images.grad[..., 4:28, 4:28] > 0).all()
    outside = torch.ones_like(images, dtype=torch.bool)
    outside[..., 4:28, 4:28] = False
    assert not images.grad[outside].any()


ATTACKS: dict[str, Attack] = {
    "floor": Floor(pool_size=8, candidates=2, selection_transforms=1),
    "ppa": PPA(pool_size=8, candidates=2, epochs=1, batch_size=2, selection_transforms=1),
    "ppa with realism": PPA(
        pool_size=8, candidates=2, epochs=1, batch_size=2, selection_transforms=1, discriminator_weight=0.1
    ),
    "dmmia": DMMIA(
        pool_size=8, candidates=2, epochs=1, batch_size=2, prototypes=4, positives=2, selection_transforms=1
    ),
    "mirror-b": MirrorBlack(pool_size=8, candidates=2, population=4, generations=1),
    "mirror-w": MirrorWhite(pool_size=8, candidates=2, steps=1),
    "consensus": Consensus(pool_size=8, candidates=3, steps=3, subset=2),
    "c2fmi": C2FMI(pool_size=8, starts=3, population=4, generations=1, candidates=2),
    "lokt-pool": LOKTPool(
        pool_size=8, candidates=2, steps=1, surrogates=("small",), training_steps=1, training_batch=4
    ),
    "if-gmi": IFGMI(pool_size=8, candidates=2, steps=2, stages=2, stage_steps=1),
    "brep": BREP(pool_size=8, restarts=2, directions=2, steps=1, patience=None),
    "rlb": RLB(candidates=2, episodes=2),
    "smile": SMILE(pool_size=8, training_steps=1, training_batch=4, steps=1, population=4, generations=1, candidates=2),
    "gmi": GMI(restarts=2, iterations=1),
    "lomma-gmi": LommaGMI(restarts=2, iterations=1, students=(), regulariser_weight=0.0),
    "kedmi": KEDMI(iterations=1, draws=2),
    "vmi": VMI(steps=1, samples_per_step=2, draws=2, layers="shared"),
}


@pytest.mark.parametrize("name", list(ATTACKS))
def test_every_attack_shows_the_victim_the_crop_and_the_discriminator_the_whole(name: str) -> None:
    where = context()
    prior: Any = where.prior
    judged, shown = [], []

    def watched(call: Callable[..., Any], sizes: list[tuple[int, ...]]) -> Callable[..., Any]:
        def called(images: Tensor, *rest: Any, **named: Any) -> Any:
            sizes.append(tuple(images.shape[2:]))
            return call(images, *rest, **named)

        return called

    prior.discriminator.forward = watched(prior.discriminator.forward, judged)
    where.victim._network.forward = watched(where.victim._network.forward, shown)
    attack, streams = ATTACKS[name], Streams(3, ("test",))
    labels = torch.tensor([0, 2])
    found = attack.reconstruct(where, attack.prepare(where, streams), labels, streams)
    assert set(shown) == {(VICTIM, VICTIM)}
    assert set(judged) == ({(PRIOR, PRIOR)} if name in ("ppa with realism", "gmi", "lomma-gmi", "kedmi") else set())
    assert found.images.shape[1:] == (3, VICTIM, VICTIM)
    if name == "floor":
        uncropped = context(None)
        other = attack.reconstruct(uncropped, attack.prepare(uncropped, streams), labels, streams)
        assert not torch.allclose(found.images, other.images, atol=0.01)


# -- part of the settings --------------------------------------------------------------------------------------------


def plan(**prior: Any) -> Any:
    return make_plan(RunRequest(attack="floor", settings={"prior": prior}))


def test_the_crop_is_recorded_and_part_of_the_run_s_name() -> None:
    plain, cropped, other = plan(), plan(crop=48), plan(crop=50)
    assert len({found.spec.digest() for found in (plain, cropped, other)}) == 3
    assert cropped.spec.digest() == plan(crop=48).spec.digest()
    assert cropped.spec.prior.arguments["crop"] == 48
    assert cropped.origins["prior.crop"].origin == "--set"
    assert "crop: 48" in cropped.config_yaml


@pytest.mark.parametrize("crop", [0, 65, -3, 48.0, True, "half", [48]])
def test_a_crop_that_cannot_be_is_refused_before_anything_is_written(crop: Any, tmp_path: Path) -> None:
    with pytest.raises(MibenchError, match=r"prior\.crop must be a whole number of pixels from 1 to 64"):
        plan(crop=crop)
    out = tmp_path / "runs"
    shown = CliRunner().invoke(
        cli, ["run", "--attack", "floor", "--set", f"prior.crop={crop}", "--output", str(out)], catch_exceptions=True
    )
    assert shown.exit_code == 2
    assert not out.exists()


def test_other_values_of_a_prior_are_checked_as_early() -> None:
    with pytest.raises(MibenchError, match=r"prior\.noise='random'"):
        plan(noise="random")
    with pytest.raises(MibenchError, match=r"prior\.truncation must be a finite number"):
        plan(truncation="much")


# -- memory ----------------------------------------------------------------------------------------------------------


class OfBytes:
    def __init__(self, each: int | None) -> None:
        self.bytes_per_image = each


@pytest.mark.parametrize(
    ("each", "total", "most"),
    [
        (None, 16 << 30, 256),
        (1 << 20, 16 << 30, 256),
        (2_650_000_000, 24_000_000_000, 4),
        (2_650_000_000, 80_000_000_000, 8),
        (2_650_000_000, 4_000_000_000, 1),
        (2_650_000_000, None, 256),
    ],
)
def test_the_micro_batch_is_a_power_of_two_that_fits_half_of_the_memory(
    each: int | None, total: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "total_memory", lambda device: total)
    prior: Any = OfBytes(each)
    assert engine.max_micro_batch(prior, torch.device("cpu")) == most
    assert engine.max_micro_batch(None, torch.device("cpu")) == 256


def test_the_memory_of_the_machine_is_known() -> None:
    total = devices.total_memory(torch.device("cpu"))
    if not hasattr(os, "sysconf"):
        assert total is None
        return
    assert total is not None
    assert 1 << 28 < total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_an_image_of_a_thousand_pixels_takes_gigabytes() -> None:
    with torch.device("meta"):
        generator = Generator(resolution=1024, channel_base=32768)
    prior = StyleGAN2Prior(generator, None, image=ImageSpec(1024))
    assert 2e9 < prior.bytes_per_image < 3e9  # 2.4 GB measured, benchmarks/stylegan2_memory.py


def test_a_run_with_a_large_prior_takes_fewer_images_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(StyleGAN2Prior, "bytes_per_image", 1 << 40)
    seen: list[int] = []
    synthesis = StyleGAN2Prior.synthesis

    def watched(self: StyleGAN2Prior, w: Tensor) -> Tensor:
        seen.append(len(w))
        return synthesis(self, w)

    monkeypatch.setattr(StyleGAN2Prior, "synthesis", watched)
    attack = {"pool_size": 3, "candidates": 2, "selection_transforms": 1}
    protocol = {"identities": 1, "samples": 1}
    small = make_plan(RunRequest(attack="floor", settings={"attack": attack, "protocol": protocol}))
    machine, folder = engine.Execution(torch.device("cpu")), RunDir(tmp_path)
    with folder.writing():
        engine.attack_units(small, folder, machine)
    assert set(seen) == {1}
    assert machine.micro_batch == 1
