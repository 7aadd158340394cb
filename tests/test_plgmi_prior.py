"""PLG-MI's conditional GAN: the released networks' vectors, top-n selection, training, the prior that comes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from field_vectors import VECTORS, sines
from powercut import Memory, Stopped
from test_dcgan import TinyClassifier, float32, pictures
from torch import Tensor, nn

from mibench.api import (
    Access,
    AccessError,
    ImageSpec,
    MibenchError,
    PriorTrainingData,
    TrainedWeights,
    TrainingContext,
    Victim,
)
from mibench.attacks.class_conditional import classes_of, require_classes
from mibench.attacks.losses import IDENTITY_LOSSES
from mibench.attacks.priors.plgmi import training
from mibench.attacks.priors.plgmi.networks import Discriminator, Generator
from mibench.attacks.priors.plgmi.prior import PLGMIPrior
from mibench.attacks.priors.plgmi.pseudo_labels import TopImages, top_images
from mibench.attacks.priors.plgmi.training import TrainPLGMI, hinge_of_discriminator

RUN, SHAPES = VECTORS["plg"], VECTORS["plg_state_dict_full"]
CPU = torch.device("cpu")


# ---------------------------------------------------------------- vectors


def filled(network: nn.Module) -> nn.Module:
    """The weights of the vectors, by key and its position."""
    state = network.state_dict()
    for j, (key, tensor) in enumerate(state.items()):
        s = sines(tuple(tensor.shape), 0.37, 1.3 * j)
        if key.endswith("num_batches_tracked"):
            continue
        if key.endswith("running_var"):
            s = 1 + 0.1 * s.abs()
        elif key.endswith(("running_mean", "bias", "biases.weight")):
            s = 0.1 * s
        elif key.endswith("weights.weight") or key == "b6.weight":
            s = 1 + 0.1 * s
        elif key.endswith(("weight_u", "weight_v")):
            s = s / s.norm()
        else:
            s = 1.5 * s / math.sqrt(tensor[0].numel())
        state[key] = s.to(tensor)
    network.load_state_dict(state)
    return network


def generator() -> nn.Module:
    return filled(Generator(num_classes=3, z_dim=6, features=4))


def statistics(images: Tensor) -> tuple[float, float]:
    return float(images.mean()), float(images.std())


@torch.no_grad()
def test_the_generator_computes_what_the_released_one_computes() -> None:
    wanted = RUN["generator_nf4_z6_k3_eval"]
    network = generator().eval()
    assert len(network.state_dict()) == wanted["keys"]
    images = network(sines((2, 6), 0.7, 0.4).float(), torch.tensor([2, 0]))
    assert statistics(images) == pytest.approx((wanted["mean"], wanted["std_unbiased"]), abs=1e-5)
    for place, value in wanted["pixels"].items():
        index = tuple(int(number) for number in place.strip("[]").split(","))
        assert float(images[index]) == pytest.approx(value, abs=1e-4)
    assert images[0].unique().numel() == pytest.approx(wanted["distinct_pixels_of_image0"], rel=0.02)


@torch.no_grad()
def test_in_train_mode_it_normalises_by_its_batch_and_keeps_the_statistics() -> None:
    wanted = RUN["generator_train_mode_batch4"]
    network = generator().train()
    images = network(sines((4, 6), 0.7, 0.4).float(), torch.tensor([2, 0, 1, 1]))
    assert statistics(images) == pytest.approx((wanted["mean"], wanted["std_unbiased"]), abs=1e-5)
    kept = network.state_dict()["block2.b1.running_mean"][:3]
    assert kept.tolist() == pytest.approx(wanted["block2.b1.running_mean_first3"], abs=1e-5)


@torch.no_grad()
def test_the_discriminator_computes_what_the_released_one_computes() -> None:
    wanted = RUN["discriminator_nf2_k3"]
    network = filled(Discriminator(num_classes=3, features=2)).train()
    images, y = (sines((2, 3, 64, 64), 0.011, 0.3, 0.5) + 0.5).float(), torch.tensor([2, 0])
    scores = network(images, y)
    assert scores.shape == (2, 1)
    assert scores.flatten().tolist() == pytest.approx(wanted["train_call_1"], rel=1e-4)
    kept = network.state_dict()["block1.c1.weight_u"]
    assert kept.tolist() == pytest.approx(wanted["block1.c1.weight_u_after_call_1"], rel=1e-4)
    for _ in range(4):
        scores = network(images, y)
    assert scores.flatten().tolist() == pytest.approx(wanted["train_call_5"], rel=1e-4)
    network.eval()
    assert network(images, y).flatten().tolist() == pytest.approx(wanted["eval_after_5_train_calls"], rel=1e-4)
    assert network(images).flatten().tolist() == pytest.approx(wanted["eval_without_label"], rel=1e-4)


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: Generator(num_classes=1000), "G (73 keys, 17,973,379 parameters)"),
        (lambda: Discriminator(num_classes=1000), "D (67 keys, 11,165,441 parameters)"),
    ],
    ids=["G", "D"],
)
def test_names_and_shapes_are_those_of_the_release(build: Any, key: str) -> None:
    with torch.device("meta"):
        network = build()
    state = network.state_dict()
    shapes = {name: "x".join(map(str, tensor.shape)) or "scalar" for name, tensor in state.items()}
    assert [f"{name}:{shape}" for name, shape in shapes.items()] == SHAPES[key].split()
    keys, parameters = (int(word.replace(",", "")) for word in key.strip(")").replace("(", "").split()[1:4:2])
    assert len(state) == keys
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["max_margin", "cross_entropy", "poincare"])
def test_identity_losses_are_the_released_ones(name: str) -> None:
    logits, y = sines((4, 6), 0.9, 0.3, 3.0), torch.tensor([0, 3, 5, 2])
    assert float(IDENTITY_LOSSES[name](logits, y).mean()) == pytest.approx(RUN["logits_losses"][name], rel=1e-4)


def test_hinge_losses_are_the_released_ones() -> None:
    fake, real = sines((5, 1), 1.1, 0.2, 2.0), sines((5, 1), 0.7, 1.2, 2.0)
    terms = hinge_of_discriminator(real, fake)
    assert float(sum(terms.values())) == pytest.approx(RUN["hinge"]["D"], rel=1e-5)
    assert float(-fake.mean()) == pytest.approx(RUN["hinge"]["G"], rel=1e-5)


# ---------------------------------------------------------------- pseudo-labels


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_top_n_is_the_released_selection_however_the_images_come(chunk: int) -> None:
    wanted = RUN["top_n_7_images_3_classes_n2"]
    scores = sines((7, 3), 1.9, 0.1, 2.0).softmax(dim=1)
    assert scores.flatten().tolist() == pytest.approx([p for row in wanted["softmax"] for p in row], rel=1e-5)
    best = TopImages(3, 2)
    for start in range(0, 7, chunk):
        best.add(scores[start : start + chunk])
    assert {str(y): [f"i{row}" for row in rows] for y, rows in enumerate(best.rows.tolist())} == wanted["selected"]


def test_of_equal_scores_the_later_image_stays() -> None:
    best = TopImages(1, 2)
    for score in (0.5, 0.5, 0.9, 0.5, 0.1):
        best.add(torch.tensor([[score]]))
    assert sorted(best.rows[0].tolist()) == [2, 3]


# ---------------------------------------------------------------- training

TINY = TrainPLGMI(
    top_n=4,
    steps=4,
    critic_steps=2,
    batch_size=4,
    z_dim=4,
    width=0.03,
    storage="float32",
    log_steps=2,
    checkpoint_seconds=0.0,
)


def victim(access: Access = Access.GRADIENTS, size: int = 64) -> Victim:
    return Victim(TinyClassifier(), image=ImageSpec(size=size), num_classes=4, access=access)


def train(
    memory: Memory | None = None, recipe: TrainPLGMI = TINY, seed: int = 0, target: Victim | None = None
) -> TrainedWeights:
    workshop = TrainingContext(device=CPU, checkpoint=memory or Memory(), seed=seed)
    return recipe.run(PriorTrainingData(pictures, target or victim()), workshop)


def test_labelled_images_are_those_the_target_is_surest_of() -> None:
    target, images = victim(Access.SCORES), pictures(64)
    context = TrainingContext(device=CPU, checkpoint=Memory())
    rows = top_images(PriorTrainingData(pictures, target), images, 4, context)
    scores = victim().scores(images.float() / 255)
    assert (target.queries.forward, target.queries.backward) == (30, 0)
    for y in range(4):
        assert set(rows[y].tolist()) == set(scores[:, y].topk(4).indices.tolist())


def test_a_stopped_training_ends_as_an_uninterrupted_one() -> None:
    whole, memory = train(), Memory(stop_after=3)
    with pytest.raises(Stopped):
        train(memory)
    memory.stop_after = None
    resumed = train(memory)
    assert whole.weights.keys() == resumed.weights.keys()
    for key, tensor in whole.weights.items():
        assert torch.equal(tensor, resumed.weights[key]), key
    assert whole.measured == resumed.measured
    other = train(seed=1)
    assert not torch.equal(whole.weights["G.conv6.weight"], other.weights["G.conv6.weight"])


@pytest.mark.parametrize("size", [64, 32])
def test_its_queries_are_counted_on_the_card(size: int) -> None:
    target = victim(size=size)
    trained = train(target=target)
    assert trained.measured["queries_forward"] == target.queries.forward == 30 + 4 * 4
    assert trained.measured["queries_backward"] == target.queries.backward == 4 * 4
    assert 4 <= trained.measured["labelled_images"] <= 16
    assert trained.measured["images_shown"] == 4 * 2 * 4


def test_the_generator_learns_through_the_target_so_it_must_give_gradients() -> None:
    assert TrainPLGMI.access is Access.GRADIENTS
    with pytest.raises(AccessError):
        train(target=victim(Access.SCORES))


def test_the_generator_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    of_generator, of_discriminator = training._Training._generator_loss, training.hinge_of_discriminator

    def generator_step(self: Any, *given: Any) -> dict[str, Tensor]:
        order.append("G")
        return of_generator(self, *given)

    def discriminator_step(*given: Tensor) -> dict[str, Tensor]:
        order.append("D")
        return of_discriminator(*given)

    monkeypatch.setattr(training._Training, "_generator_loss", generator_step)
    monkeypatch.setattr(training, "hinge_of_discriminator", discriminator_step)
    train(recipe=replace(TINY, steps=2))
    assert order == ["G", "D", "D"] * 2


@pytest.mark.slow
def test_the_generator_learns_what_the_target_takes_for_each_class() -> None:
    prior = built(train(recipe=replace(TINY, steps=60, learning_rate=5e-3, identity_weight=5.0, width=0.06)))
    noise, y = prior.sample(64, torch.Generator().manual_seed(0))[:, :-1], torch.arange(4).repeat(16)
    called = victim().labels(prior.generate(noise, y))
    assert float((called == y).float().mean()) > 0.4, "chance is 0.25"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_n": 0}, r"train\.top_n must be at least 1"),
        ({"top_n": 31}, r"30 public images are fewer than train\.top_n=31"),
        ({"batch_size": 17}, r"4 classes of train\.top_n=4 images are fewer than train\.batch_size=17"),
        ({"betas": (0.0, 1.0)}, r"train\.betas must lie in"),
        ({"width": 0.0}, r"train\.width must be positive"),
        ({"identity_weight": -1.0}, r"train\.identity_weight must be finite and not negative"),
        ({"jitter": 1.5}, r"train\.jitter lie in"),
        ({"storage": "int8"}, "unknown storage 'int8'"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        train(recipe=replace(TINY, **changes))


# ---------------------------------------------------------------- the prior


def built(trained: TrainedWeights) -> PLGMIPrior:
    return PLGMIPrior.build(dict(trained.arguments), float32(trained.weights), trained.image, name="plgmi@test")


def test_what_was_trained_loads_as_a_frozen_prior() -> None:
    trained = train(recipe=replace(TINY, storage="float16"))
    prior = built(trained)
    assert prior.per_target
    assert not prior.has_discriminator
    latents = prior.sample(3, torch.Generator().manual_seed(0)).requires_grad_()
    assert latents.shape == (3, prior.latent_dim) == (3, 5)
    images = prior.decode(latents)
    assert images.shape == (3, 3, 64, 64)
    assert ((images >= 0) & (images <= 1)).all()
    torch.testing.assert_close(prior.decode(latents[:1]), images[:1], msg="an image does not depend on its batch")
    (gradient,) = torch.autograd.grad(images.square().sum(), latents)
    assert gradient[:, :-1].abs().sum() > 0
    assert (gradient[:, -1] == 0).all(), "the class is no variable"
    assert not any(parameter.requires_grad for parameter in prior.generator.parameters())
    with pytest.raises(MibenchError, match=r"weight G\.l1\.bias is missing"):
        PLGMIPrior.build(
            dict(trained.arguments),
            {key: tensor for key, tensor in trained.weights.items() if key != "G.l1.bias"},
            trained.image,
            name="x",
        )
    with pytest.raises(MibenchError, match="unknown argument 'depth'"):
        PLGMIPrior.build({**trained.arguments, "depth": 3}, trained.weights, trained.image, name="x")


@pytest.mark.parametrize("num_classes", [1, 3, 300, 1000, 10_177])
def test_a_latent_names_its_class(num_classes: int) -> None:
    prior = PLGMIPrior(
        Generator(num_classes=num_classes, z_dim=2, features=1),
        z_dim=2,
        num_classes=num_classes,
        image=ImageSpec(64),
        name="x",
    )
    classes = torch.arange(num_classes)
    latents = prior.of_class(torch.zeros(num_classes, 2), classes)
    assert latents.isfinite().all()
    assert torch.equal(classes_of(latents, num_classes), classes)
    assert torch.equal(classes_of(latents.float() * 1.00001, num_classes), classes), "rounding does not change it"


def test_draws_from_the_prior_have_every_class_as_often() -> None:
    prior = PLGMIPrior(
        Generator(num_classes=4, z_dim=2, features=1), z_dim=2, num_classes=4, image=ImageSpec(64), name="x"
    )
    drawn = classes_of(prior.sample(4000, torch.Generator().manual_seed(0)), 4)
    assert (torch.bincount(drawn, minlength=4) > 850).all()


def test_a_prior_of_another_target_is_refused() -> None:
    with pytest.raises(MibenchError, match="knows 4 classes, the target has 7"):
        require_classes(
            built(train(recipe=replace(TINY, steps=1))),
            Victim(TinyClassifier(), image=ImageSpec(64), num_classes=7, access=Access.SCORES),
            "plgmi",
        )
