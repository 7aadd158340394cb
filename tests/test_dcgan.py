"""Networks, losses and trainings of the GMI and KEDMI priors: key lists, reference outputs, properties."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from powercut import Memory, Stopped
from torch import Tensor, nn

from mibench.api import (
    Access,
    ClassifierOutput,
    ImageSpec,
    MibenchError,
    PriorTrainingData,
    TrainedWeights,
    TrainingContext,
    Victim,
)
from mibench.attacks.priors.dcgan.networks import Critic, Discriminated, Generator, MinibatchDiscriminator
from mibench.attacks.priors.dcgan.prior import GMIPrior, KEDMIPrior
from mibench.attacks.priors.dcgan.training import (
    TrainDCGAN,
    TrainGMI,
    TrainKEDMI,
    _InversionSpecific,
    _Wasserstein,
    entropy,
    neg_log_real,
    soft_cross_entropy,
)

DATA = Path(__file__).parent / "data"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "GMI_Generator": Generator,
    "GMI_DGWGAN": Critic,
    "KEDMI_MinibatchDiscriminator": lambda: MinibatchDiscriminator(num_classes=1000),
}
VECTORS = json.loads((DATA / "test_vectors.json").read_text())


def draw(key: str, shape: tuple[int, ...], uniform: bool = False) -> Tensor:
    """The reference's deterministic numbers for a name."""
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
    return torch.as_tensor(state.random_sample(shape) if uniform else state.standard_normal(shape)).float()


def reference_weights(network: nn.Module, gain: float) -> dict[str, Tensor]:
    state = network.state_dict()
    filled = {}
    for key, tensor in state.items():
        n = draw(key, tuple(tensor.shape)) if tensor.is_floating_point() else tensor
        if key.endswith("num_batches_tracked"):
            filled[key] = tensor
        elif key.endswith("running_var"):
            filled[key] = 1 + 0.1 * n.abs()
        elif key.endswith(("running_mean", "bias")):
            filled[key] = 0.1 * n
        elif key == "mbd1.T":
            filled[key] = 0.02 * n
        elif tensor.ndim == 1:
            filled[key] = 1 + 0.1 * n
        else:
            filled[key] = gain * n / tensor[0].numel() ** 0.5
    return filled


@pytest.mark.parametrize("name", NETWORKS)
def test_names_and_shapes_are_those_of_the_release(name: str) -> None:
    expected = json.loads((DATA / f"state_dict_{name}.json").read_text())
    with torch.device("meta"):
        network = NETWORKS[name]()
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == expected["keys"]
    assert list(network.state_dict()) == list(expected["keys"])
    assert sum(parameter.numel() for parameter in network.parameters()) == expected["num_parameters"]


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_outputs_are_those_of_the_reference(name: str) -> None:
    wanted = VECTORS["models"][name]
    network = NETWORKS[name]().eval()
    network.load_state_dict(reference_weights(network, wanted["gain"]))
    given = wanted["input"]
    found = network(draw(f"input:{name}", tuple(given["shape"]), given["dist"] == "uniform"))
    outputs = list(found) if isinstance(found, tuple) else [found]
    assert len(outputs) == len(wanted["outputs"])
    for output, expected in zip(outputs, wanted["outputs"], strict=True):
        assert list(output.shape) == expected["shape"]
        torch.testing.assert_close(
            output.flatten()[: len(expected["first8"])], torch.tensor(expected["first8"]), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            output.flatten()[-len(expected["last4"]) :], torch.tensor(expected["last4"]), rtol=1e-4, atol=1e-4
        )
        assert output.mean().item() == pytest.approx(expected["mean"], abs=1e-4)
        assert output.std().item() == pytest.approx(expected["std"], abs=1e-4)


def logits(name: str) -> Tensor:
    return torch.tensor(VECTORS["functions"][name])


def test_losses_of_the_inversion_specific_gan_are_those_of_the_reference() -> None:
    given, target = logits("logits"), logits("t_logits")
    wanted = VECTORS["functions"]
    assert neg_log_real(given).mean().item() == pytest.approx(wanted["kedmi_prior_softplus_lse_minus_lse"], rel=1e-5)
    labels = target.softmax(dim=1)
    assert soft_cross_entropy(given, labels).mean().item() == pytest.approx(
        wanted["kedmi_soft_xent(input=logits,target=t_logits)"], rel=1e-5
    )
    assert entropy(given).sum().item() == pytest.approx(wanted["kedmi_entropy_sum"], rel=1e-5)


def test_minibatch_discrimination_is_the_sum_over_the_others() -> None:
    network = MinibatchDiscriminator(num_classes=5, width=0.1, kernels=3, dimensions=2).mbd1
    f = torch.randn(4, network.T.shape[0], dtype=torch.float64).float() / 30
    m = torch.einsum("nf,fkd->nkd", f, network.T)
    by_hand = torch.zeros(4, 3)
    for n in range(4):
        for other in range(4):
            if other != n:
                by_hand[n] += torch.exp(-(m[n] - m[other]).abs().sum(dim=1))
    torch.testing.assert_close(network(f), by_hand, rtol=1e-4, atol=1e-5)


TINY: dict[str, Any] = {"width": 0.07, "z_dim": 6, "batch_size": 8, "steps": 7, "critic_steps": 2, "log_steps": 3}
RECIPES: dict[str, TrainDCGAN] = {
    "gmi": TrainGMI(**TINY, storage="float32", checkpoint_seconds=0),
    "kedmi": TrainKEDMI(**TINY, storage="float32", checkpoint_seconds=0, kernels=4, dimensions=3, average=0.9),
}


class TinyClassifier(nn.Module):
    """Four classes by mean colour."""

    def forward(self, images: Tensor) -> ClassifierOutput:
        features = images.mean(dim=(2, 3))
        return ClassifierOutput(features, torch.cat([features, features.mean(dim=1, keepdim=True)], dim=1) * 9)


def pictures(size: int) -> Tensor:
    draws = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (30, 3, 1, 1), generator=draws, dtype=torch.uint8)
    return colours.expand(-1, -1, size, size).contiguous()


def train(name: str, memory: Memory | None = None, recipe: TrainDCGAN | None = None, seed: int = 0) -> TrainedWeights:
    victim = Victim(TinyClassifier(), image=ImageSpec(size=64), num_classes=4, access=Access.SCORES)
    data = pictures if name == "gmi" else PriorTrainingData(pictures, victim)
    workshop = TrainingContext(device=torch.device("cpu"), checkpoint=memory or Memory(), seed=seed)
    return (recipe or RECIPES[name]).run(data, workshop)


@pytest.mark.parametrize("name", RECIPES)
def test_a_stopped_training_ends_as_an_uninterrupted_one(name: str) -> None:
    whole, memory = train(name), Memory(stop_after=3)
    with pytest.raises(Stopped):
        train(name, memory)
    memory.stop_after = None
    resumed = train(name, memory)
    assert whole.weights.keys() == resumed.weights.keys()
    for key, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[key]), key
    assert whole.measured == resumed.measured
    other = train(name, seed=1)
    assert not torch.equal(whole.weights["G.l2_5.3.weight"], other.weights["G.l2_5.3.weight"])


@pytest.mark.parametrize(("name", "kind"), [("gmi", GMIPrior), ("kedmi", KEDMIPrior)])
def test_what_was_trained_loads_as_a_frozen_prior(name: str, kind: type[GMIPrior]) -> None:
    trained = train(name)
    prior = kind.build(dict(trained.arguments), trained.weights, trained.image, name=f"{name}@test")
    latents = prior.sample(3, torch.Generator().manual_seed(0)).requires_grad_()
    images = prior.decode(latents)
    assert images.shape == (3, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    score = prior.realism(images)
    assert score.shape == (3,)
    (gradient,) = torch.autograd.grad(score.sum(), latents)
    assert gradient.abs().sum() > 0
    frozen = [*prior.generator.parameters(), *prior.discriminator.parameters()]
    assert not any(parameter.requires_grad for parameter in frozen)
    torch.testing.assert_close(prior.decode(latents[:1]), images[:1], msg="an image does not depend on its batch")
    incomplete = {key: tensor for key, tensor in trained.weights.items() if key != "G.l1.0.weight"}
    with pytest.raises(MibenchError, match=r"weight G\.l1\.0\.weight is missing"):
        kind.build(dict(trained.arguments), incomplete, trained.image, name="x")
    with pytest.raises(MibenchError, match="unknown argument 'depth'"):
        kind.build({**trained.arguments, "depth": 3}, trained.weights, trained.image, name="x")
    with pytest.raises(MibenchError, match="expected"):
        kind.build({**trained.arguments, "z_dim": 7}, trained.weights, trained.image, name="x")


def test_kedmi_shows_every_public_image_to_the_target_once_and_learns_its_labels() -> None:
    recipe = TrainKEDMI(**(TINY | {"steps": 60, "learning_rate": 2e-3, "width": 0.15}), kernels=4, dimensions=3)
    victim = Victim(TinyClassifier(), image=ImageSpec(size=64), num_classes=4, access=Access.SCORES)
    memory = Memory()
    trained = recipe.run(
        PriorTrainingData(pictures, victim), TrainingContext(device=torch.device("cpu"), checkpoint=memory, seed=0)
    )
    assert victim.queries.forward == 30 == trained.measured["queries_forward"]
    assert victim.queries.backward == 0
    prior = KEDMIPrior.build(dict(trained.arguments), float32(trained.weights), trained.image, name="x")
    images = pictures(64).float() / 255
    learnt = prior.discriminator(images).logits.argmax(dim=1)
    assert (learnt == victim.labels(images)).float().mean() > 0.6, "the discriminator knows the target's classes"


def test_the_critic_tells_real_from_generated_and_the_penalty_pulls_its_slope_towards_one() -> None:
    recipe = TrainGMI(**(TINY | {"steps": 80, "critic_steps": 1000, "learning_rate": 2e-3, "width": 0.15}))
    trained = train("gmi", recipe=recipe)
    prior = GMIPrior.build(dict(trained.arguments), float32(trained.weights), trained.image, name="x")
    real = pictures(64).float() / 255
    fake = prior.decode(prior.sample(30, torch.Generator().manual_seed(1)))
    assert prior.realism(real).mean() > prior.realism(fake).mean()
    between = ((real + fake) / 2).detach().requires_grad_()
    (slope,) = torch.autograd.grad(prior.realism(between).sum(), between)
    assert 0.5 < slope.flatten(1).norm(dim=1).mean() < 1.5


class Spied:
    """What a game asks of a training: a network that is a formula, numbers of a step, no half precision."""

    def __init__(self, discriminator: Callable[[Tensor], Any]) -> None:
        self.discriminator = discriminator
        self.context = TrainingContext(device=torch.device("cpu"), checkpoint=Memory())

    def stream(self, *names: str) -> torch.Generator:
        return torch.Generator().manual_seed(5)


def test_the_wasserstein_terms_are_the_formula() -> None:
    def critic(x: Tensor) -> Tensor:
        return 3 * x.flatten(1).square().sum(dim=1)  # its slope at x is 6 x

    draws = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(4, 3, 2, 2, generator=draws) for _ in range(2))
    terms = _Wasserstein(10.0).discriminator_loss(Spied(critic), [real], [], fake)  # type: ignore[arg-type]
    mix = torch.rand(4, 1, 1, 1, generator=torch.Generator().manual_seed(5))
    slopes = (6 * (real + mix * (fake - real))).flatten(1).norm(dim=1)
    torch.testing.assert_close(terms["loss_critic"], critic(fake).mean() - critic(real).mean())
    torch.testing.assert_close(terms["loss_penalty"], 10 * (slopes - 1).square().mean())
    of_generator = _Wasserstein(10.0).generator_loss(Spied(critic), [real], fake)  # type: ignore[arg-type]
    torch.testing.assert_close(of_generator["loss_generator"], -critic(fake).mean())


def test_the_terms_of_the_inversion_specific_gan_are_the_formula() -> None:
    def discriminator(x: Tensor) -> Discriminated:
        flat = x.flatten(1)
        return Discriminated(2 * flat, flat[:, :5] - 1)

    draws = torch.Generator().manual_seed(0)
    x, u1, u2, fake = (torch.rand(4, 3, 2, 2, generator=draws) for _ in range(4))
    labels = torch.rand(9, 5, generator=draws).softmax(dim=1).half()
    game, spied = _InversionSpecific(labels, 1e-4), Spied(discriminator)
    rows = [torch.tensor([8, 0, 3, 3])] * 3
    terms = game.discriminator_loss(spied, [x, u1, u2], rows, fake)  # type: ignore[arg-type]

    def z(images: Tensor) -> Tensor:  # Z of the paper: the sum of exponentials
        return discriminator(images).logits.exp().sum(dim=1)

    wanted = labels[rows[0]].float()
    by_hand = -(wanted * discriminator(x).logits.softmax(dim=1).log()).sum() / 4
    torch.testing.assert_close(terms["loss_labels"], by_hand)
    torch.testing.assert_close(terms["loss_real"], -0.5 * (z(u1) / (z(u1) + 1)).log().mean())
    torch.testing.assert_close(terms["loss_fake"], -0.5 * (1 - z(fake) / (z(fake) + 1)).log().mean())
    of_generator = game.generator_loss(spied, [x, u1, u2], fake)  # type: ignore[arg-type]
    difference = 2 * (fake.flatten(1).mean(dim=0) - u2.flatten(1).mean(dim=0))
    torch.testing.assert_close(of_generator["loss_features"], difference.abs().mean())
    p = discriminator(fake).logits.softmax(dim=1)
    torch.testing.assert_close(of_generator["loss_entropy"], 1e-4 * -(p * p.log()).sum())


@pytest.mark.parametrize("critic_steps", [1, 3])
def test_the_generator_waits_for_the_discriminator(critic_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = _Wasserstein.generator_loss

    def counted(self: _Wasserstein, training: Any, real: list[Tensor], fake: Tensor) -> dict[str, Tensor]:
        calls.append(training.state.step)
        return original(self, training, real, fake)

    monkeypatch.setattr(_Wasserstein, "generator_loss", counted)
    train("gmi", recipe=TrainGMI(**(TINY | {"critic_steps": critic_steps, "steps": 6})))
    assert calls == [step for step in range(6) if (step + 1) % critic_steps == 0]


def float32(weights: Any) -> dict[str, Tensor]:
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in weights.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 31}, "30 public images are fewer than train.batch_size=31"),
        ({"average": 1.0}, "average and train.betas must lie in"),
        ({"storage": "int8"}, "unknown storage 'int8'"),
        ({"width": 0.0}, "width must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite"),
        ({"betas": (0.5, 1.0)}, "average and train.betas must lie in"),
        ({"penalty": -1.0}, "penalty must be finite and not negative"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        train("gmi", recipe=TrainGMI(**(TINY | changes)))
