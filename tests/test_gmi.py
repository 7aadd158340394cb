"""GMI: its update against the reference vector, its properties, and independence from batching, on tiny networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mibench import settings
from mibench.api import (
    Access,
    AccessError,
    ClassifierOutput,
    Context,
    ImageSpec,
    MibenchError,
    Prior,
    Reconstruction,
    Victim,
)
from mibench.attacks.gmi import GMI, momentum_step
from mibench.attacks.priors.dcgan.networks import Critic, Generator, MinibatchDiscriminator
from mibench.attacks.priors.dcgan.prior import GMIPrior, KEDMIPrior
from mibench.attacks.priors.stylegan2.generator import Generator as StyleGenerator
from mibench.attacks.priors.stylegan2.prior import StyleGAN2Prior
from mibench.rng import Streams

SIZE, CLASSES, Z = 16, 5, 6
TINY = GMI(unit_size=2, restarts=4, iterations=12, batch_scale=20.0)
LABELS = torch.tensor([1, 3])
VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "data" / "test_vectors.json").read_text())["functions"]


class Classifier(nn.Module):
    """Convolutions only: their kernels give an image the same bits in every batch, those of ``nn.Linear`` do not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Tanh(), nn.Conv2d(8, 6, 4))
        self.head = nn.Conv2d(6, CLASSES, 1)

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = self.body(images)
        return ClassifierOutput(features.flatten(1), self.head(features).flatten(1))


class Toy(Prior):
    """A generator and a critic of 16 x 16 images, convolutions only."""

    name, image, latent_dim = "toy", ImageSpec(SIZE), Z

    def __init__(self) -> None:
        self.generator = nn.Sequential(
            nn.ConvTranspose2d(Z, 12, 4),
            nn.Tanh(),
            nn.ConvTranspose2d(12, 8, 4, 2, 1),
            nn.Tanh(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
        ).requires_grad_(False)
        self.discriminator = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Tanh(), nn.Conv2d(6, 1, 4)).requires_grad_(False)

    @classmethod
    def build(cls, arguments: Any, weights: Any, image: ImageSpec, *, name: str) -> Toy:
        return cls()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, Z, generator=generator)

    def decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.generator(latents[:, :, None, None])
        return images.sigmoid()

    def realism(self, images: Tensor) -> Tensor:
        scores: Tensor = self.discriminator(images)
        return scores.flatten()


def context(prior: Any = None, access: Access = Access.GRADIENTS, **kwargs: Any) -> Context:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, toy = Classifier(), Toy()
    with torch.no_grad():  # untrained networks hardly respond: give pixels, logits and scores a spread worth attacking
        latents = toy.sample(64, torch.Generator().manual_seed(1))
        toy.generator[-1].weight.mul_(1.5 / toy.generator(latents[:, :, None, None]).std())
        images = toy.decode(latents)
        network.head.weight.mul_(1.5 / network(images).logits.std(0)[:, None, None, None])
        network.head.bias.sub_(network(images).logits.mean(0))
        toy.discriminator[-1].weight.mul_(1 / toy.realism(images).std())
    prior = prior or toy
    victim = Victim(network, image=ImageSpec(SIZE), num_classes=CLASSES, access=access)
    return Context(victim=victim, prior=prior, device=torch.device("cpu"), **kwargs)


def attack(configuration: GMI, where: Context | None = None, labels: Tensor = LABELS) -> Reconstruction:
    where = where or context()
    streams = Streams(7, ("test",))
    return configuration.reconstruct(where, configuration.prepare(where, streams), labels, streams)


def small(kind: str) -> Any:
    """The real priors at a small width."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(z_dim=Z, width=0.05)
        if kind == "gmi":
            return GMIPrior(generator, Critic(width=0.05), z_dim=Z, image=ImageSpec(64), name="gmi")
        discriminator = MinibatchDiscriminator(num_classes=CLASSES, width=0.05, kernels=4, dimensions=3)
        return KEDMIPrior(generator, discriminator, z_dim=Z, image=ImageSpec(64), name="kedmi")


def test_the_update_matches_the_reference() -> None:
    case = {name: torch.tensor(values) for name, values in VECTORS["gmi_update"].items()}
    z, velocity = momentum_step(case["z"], case["v"], case["g"], rate=0.02, momentum=0.9)
    assert torch.allclose(z, case["z_new"], atol=1e-6)
    assert torch.allclose(velocity, case["v_new"], atol=1e-6)


def test_without_look_ahead_and_clamp_it_is_the_sgd_of_torch() -> None:
    parameter = torch.randn(3, Z, generator=torch.Generator().manual_seed(0)).mul(2).requires_grad_()
    z, velocity = parameter.detach().clone(), torch.zeros(3, Z)
    sgd = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    for _ in range(5):
        sgd.zero_grad()
        parameter.pow(4).sum().backward()
        z, velocity = momentum_step(z, velocity, 4 * z**3, rate=0.1, momentum=0.9, nesterov=False, clip=None)
        sgd.step()
    assert torch.allclose(z, parameter.detach(), rtol=1e-4, atol=1e-6)


def test_latents_follow_the_update_written_out() -> None:
    """One latent, its own loss, the reference's formula in a loop of its own."""
    where = context()
    prior: Any = where.prior
    result = attack(replace(TINY, restarts=1), where)
    z = prior.sample(1, Streams(7, ("test",)).generator("identity", 3, "restart", 0))
    v = torch.zeros_like(z)
    for _ in range(TINY.iterations):
        leaf = z.clone().requires_grad_()
        images = prior.decode(leaf)
        loss = -prior.realism(images).sum() + 100 * nn.functional.cross_entropy(
            where.victim.logits(images), torch.tensor([3])
        )
        (g,) = torch.autograd.grad(loss / 20, leaf)
        before, v = v, 0.9 * v - 0.02 * g
        z = (z - 0.9 * before + 1.9 * v).clamp(-1, 1)
    assert torch.allclose(result.latents[1:], z, atol=1e-5)


def test_latents_stay_in_the_cube_unless_told_otherwise() -> None:
    bounded, narrow, free = (attack(replace(TINY, clip=clip)).latents.abs().max() for clip in (1.0, 0.25, None))
    assert float(bounded) <= 1
    assert float(narrow) <= 0.25
    assert float(free) > 1


def test_the_losses_fall_and_confidence_rises() -> None:
    result, barely = attack(replace(TINY, iterations=60)), attack(replace(TINY, iterations=1, learning_rate=1e-9))
    curve = result.curves["L_id"]
    assert (curve[:, -1] < curve[:, 0] - 0.1).all()
    assert float(result.confidence.mean()) > float(barely.confidence.mean()) + 0.1
    assert result.notes == ()
    realism = [
        attack(replace(TINY, iterations=60, identity_weight=0.0, realism_weight=w)).curves["L_prior"] for w in (1, 100)
    ]
    assert (realism[1][:, -1] < realism[0][:, -1]).all()


def test_its_curves_and_shapes() -> None:
    result = attack(TINY)
    assert result.images.shape == (8, 3, SIZE, SIZE)
    assert result.latents.shape == (8, Z)
    assert result.labels.tolist() == [1] * 4 + [3] * 4
    assert {name: tuple(curve.shape) for name, curve in result.curves.items()} == dict.fromkeys(
        ("L_id", "L_prior", "drift"), (2, TINY.iterations)
    )
    assert all(torch.isfinite(curve).all() for curve in result.curves.values())
    where = context()
    scores = where.victim.scores(result.images).gather(1, result.labels[:, None]).squeeze(1)
    assert torch.allclose(result.confidence, scores)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_micro_batch_does_not_change_a_bit(micro_batch: int) -> None:
    whole, split = (attack(TINY, context(micro_batch=size)) for size in (64, micro_batch))
    assert torch.equal(whole.images, split.images)
    assert torch.equal(whole.latents, split.latents)
    assert torch.equal(whole.confidence, split.confidence)
    assert all(torch.equal(whole.curves[name], split.curves[name]) for name in whole.curves)


def test_identities_and_restarts_do_not_depend_on_each_other() -> None:
    together = attack(TINY)
    assert torch.equal(together.latents[4:], attack(TINY, labels=LABELS[1:]).latents)
    assert torch.equal(together.latents[:2], attack(replace(TINY, restarts=2)).latents[:2])
    assert not torch.equal(together.latents[0], together.latents[1])


def test_the_best_of_each_group_of_restarts_is_the_one_with_the_highest_target_logit() -> None:
    where = context()
    everything, best = attack(TINY), attack(replace(TINY, best_of=2))
    logits = where.victim.logits(everything.images).gather(1, everything.labels[:, None]).view(4, 2)
    rows = torch.arange(4) * 2 + logits.argmax(dim=1)
    assert 0 < int(logits.argmax(dim=1).sum()) < 4, "the case would pass with a constant choice"
    assert torch.equal(best.images, everything.images[rows])
    assert torch.equal(best.latents, everything.latents[rows])
    assert best.labels.tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    "change", [{}, {"best_of": 2}, {"selection_transforms": 3}, {"best_of": 4, "selection_transforms": 2}], ids=str
)
def test_gmi_shows_the_victim_what_it_planned(change: dict[str, Any]) -> None:
    configuration, where = replace(TINY, **change), context(micro_batch=3)
    attack(configuration, where)
    assert where.victim.queries == configuration.planned_queries(2)
    prepared = configuration.planned_preparation()
    assert prepared is not None
    assert (prepared.forward, prepared.backward) == (0, 0)
    more, less = (replace(configuration, iterations=n).planned_queries(2) for n in (13, 12))
    assert (more.forward - less.forward, more.backward - less.backward) == (8, 8)


@pytest.mark.parametrize(
    "change",
    [
        {"nesterov": False},
        {"clip": None},
        {"batch_scale": 100.0},
        {"momentum": 0.5},
        {"loss": "max_margin"},
        {"realism_weight": 0.0},
        {"identity_weight": 10.0},
        {"learning_rate": 0.1},
    ],
    ids=str,
)
def test_every_option_changes_the_result(change: dict[str, Any]) -> None:
    result = attack(replace(TINY, **change))
    assert torch.isfinite(result.images).all()
    assert not torch.equal(result.images, attack(TINY).images)
    assert ("L_prior" in result.curves) == bool(change.get("realism_weight", 1.0))


def test_frozen_networks_get_no_gradient() -> None:
    where = context()
    prior: Any = where.prior
    networks = [where.victim._network, prior.generator, prior.discriminator]
    before = [p.clone() for n in networks for p in n.parameters()]
    result = attack(TINY, where)
    after = [p for n in networks for p in n.parameters()]
    assert all(p.grad is None and not p.requires_grad and torch.equal(p, q) for p, q in zip(after, before, strict=True))
    assert not any(t.requires_grad for t in (result.images, result.latents, result.confidence))


def test_gmi_runs_with_its_own_prior_and_with_stylegan2() -> None:
    own = attack(replace(TINY, iterations=3), context(small("gmi")))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = StyleGenerator(z_dim=Z, w_dim=6, resolution=SIZE, channel_base=64, channel_max=8, mapping_layers=2)
    style = context(StyleGAN2Prior(generator, None, image=ImageSpec(SIZE), name="tiny"))
    with pytest.raises(MibenchError, match="realism_weight=0"):
        attack(TINY, style)
    other = attack(replace(TINY, iterations=3, realism_weight=0.0), style)
    assert own.images.shape == other.images.shape == (8, 3, SIZE, SIZE)
    split = attack(replace(TINY, iterations=3), context(small("gmi"), micro_batch=3))
    assert torch.allclose(split.images, own.images, atol=1e-4)  # its linear layer rounds otherwise in another batch


def test_a_prior_that_compares_its_batch_is_refused() -> None:
    with pytest.raises(MibenchError, match="--prior gmi"):
        attack(TINY, context(small("kedmi")))
    assert attack(replace(TINY, realism_weight=0.0, iterations=2), context(small("kedmi"))).images.shape[0] == 8


def test_a_stalled_loss_gets_a_note() -> None:
    assert any("identity loss" in note for note in attack(replace(TINY, batch_scale=1e9)).notes)


def test_gmi_logs_and_reports_progress() -> None:
    records: list[dict[str, Any]] = []
    steps: list[tuple[int, int, str]] = []
    where = context(log=lambda **r: records.append(r), progress=lambda *step: steps.append(step))
    attack(replace(TINY, iterations=250), where)
    (record,) = records
    assert record["event"] == "gmi"
    assert record["identities"] == [1, 3]
    assert len(record["L_id"]) == len(record["drift"]) == 20
    descended = [done for done, total, text in steps if text == "descend" and total == 250]
    assert descended[-1] == 250
    assert len(descended) <= 126


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"best_of": 3}, "multiple of best_of"),
        ({"restarts": 0}, "restarts"),
        ({"iterations": 0}, "iterations"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"batch_scale": 0.0}, "batch_scale"),
        ({"clip": 0.0}, "clip"),
        ({"loss": "hinge"}, "hinge"),
        ({"identity_weight": -1.0}, "identity_weight"),
        ({"identity_weight": 0.0, "realism_weight": 0.0}, "nothing is optimised"),
        ({"selection_transforms": -1}, "selection_transforms"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_in_one_line(change: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words) as refused:
        replace(TINY, **change)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("gmi: ")


def test_gmi_needs_gradients_and_a_prior() -> None:
    with pytest.raises(AccessError, match="GRADIENTS"):
        attack(TINY, context(access=Access.SCORES))
    with pytest.raises(MibenchError, match="--prior"):
        attack(TINY, replace(context(), prior=None))


def test_presets_say_what_the_repositories_do() -> None:
    presets = settings.attack_presets("gmi").presets
    resolved = {name: settings.resolve(GMI, [layer], scope="attack")[0] for name, layer in presets.items()}
    assert resolved["paper"] == GMI(unit_size=60)
    assert resolved["original"] == GMI(unit_size=100, batch_scale=100.0, best_of=5)
    assert resolved["toolbox"] == GMI(unit_size=60, nesterov=False, clip=None)
    for name, samples in (("recommended", 16), ("demo", 8), ("smoke", 2)):
        assert resolved[name].kept >= samples
