"""LOMMA on GMI and KEDMI: the released code's vectors, students, and what it depends on and counts."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import test_gmi
import test_kedmi
import torch
from field_vectors import VECTORS, sines
from torch import Tensor, nn

from mibench import registry, settings
from mibench.api import Access, AccessError, ClassifierOutput, Context, ImageSpec, MibenchError, Prior, Queries, Victim
from mibench.attacks import lomma
from mibench.attacks.gmi import GMI
from mibench.attacks.kedmi import KEDMI
from mibench.attacks.lomma import mean_identity_loss, regulariser
from mibench.attacks.lomma_gmi import LommaGMI
from mibench.attacks.lomma_kedmi import LommaKEDMI
from mibench.attacks.losses import IDENTITY_LOSSES
from mibench.attacks.students import STUDENTS, Distillation, distil, distillation_loss, load_student
from mibench.rng import Streams, stream
from mibench.runs.budget import planned_total
from mibench.runs.protocol import load_protocol

RUN = VECTORS["lomma"]
LABELS = torch.tensor([1, 3])
OURS: dict[str, Any] = {
    "feature_images": 20,
    "students": ("plain", "residual"),
    "student_images": 24,
    "student_epochs": 2,
    "student_batch": 8,
}
TINY_GMI = LommaGMI(unit_size=2, restarts=3, iterations=6, batch_scale=20.0, **OURS)
TINY_KEDMI = LommaKEDMI(unit_size=2, draws=3, iterations=6, **OURS)
BOTH = pytest.mark.parametrize("one", [TINY_GMI, TINY_KEDMI], ids=["gmi", "kedmi"])


# ---------------------------------------------------------------- vectors


class ToyNetwork(nn.Module):
    """The vectors' network ``j``: features ``tanh(x A^T)``, logits ``h W^T``."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.a, self.w = sines((5, 12), 0.9, 0.2 * number, 0.8), sines((4, 5), 1.3, 0.5 + number)

    def forward(self, images: Tensor) -> ClassifierOutput:
        h = (images.flatten(1).double() @ self.a.T).tanh()
        return ClassifierOutput(h, h @ self.w.T)


class ToyStudent(ToyNetwork):
    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(images).logits


STUDENTS_OF_VECTORS: list[nn.Module] = [ToyStudent(number) for number in (1, 2, 3)]
CENTRE = sines((5,), 0.5, 1.0, 0.3)


class ToyPrior(Prior):
    """The vectors' generator ``sigmoid(z B^T)`` of 2 x 2 pixels and GMI's critic, or KEDMI's discriminator."""

    name, image, latent_dim = "toy", ImageSpec(2), 100

    def __init__(self, *, kedmi: bool) -> None:
        self.kedmi, self.started, self.decoded = kedmi, 0, []

    @classmethod
    def build(cls, arguments: Any, weights: Any, image: ImageSpec, *, name: str) -> ToyPrior:
        return cls(kedmi=False)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        self.started += n
        return sines((2, 100), 0.17, 0.5, 0.9)[[self.started % 2]] if n == 1 else torch.randn(n, 100).double()

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents.detach().clone())
        return (latents.double() @ sines((12, 100), 0.7, 0.1, 0.3).T).sigmoid().view(-1, 3, 2, 2)

    def realism(self, images: Tensor) -> Tensor:
        x = images.flatten(1).double()
        return (x @ sines((12, 4), 0.6, 0.3)).logsumexp(dim=1) if self.kedmi else x @ sines((12,), 1.1, 0.4, 0.5)


def toy(*, kedmi: bool) -> Context:
    victim = Victim(ToyNetwork(0), image=ImageSpec(2), num_classes=4, access=Access.GRADIENTS)
    return Context(victim=victim, prior=ToyPrior(kedmi=kedmi), device=torch.device("cpu"))


@pytest.mark.parametrize(
    ("vector", "students", "loss", "weight"),
    [
        ("target_only_logit_lam1", 0, "logit", 1.0),
        ("target_only_logit_lam0.1", 0, "logit", 0.1),
        ("four_nets_logit_lam1", 3, "logit", 1.0),
        ("four_nets_cel", 3, "cross_entropy", 0.0),
    ],
)
def test_the_identity_loss_is_the_released_one(vector: str, students: int, loss: str, weight: float) -> None:
    x = (sines((2, 12), 0.31, 0.2, 0.5) + 0.5).view(2, 3, 2, 2).requires_grad_()
    networks, targets = STUDENTS_OF_VECTORS[:students], torch.tensor(RUN["inputs"]["y"])
    features, identity = mean_identity_loss(toy(kedmi=False).victim, networks, x, targets, IDENTITY_LOSSES[loss])
    total = (identity + weight * regulariser(features, CENTRE)).mean()
    (gradient,) = torch.autograd.grad(total, x)
    assert float(total.detach()) == pytest.approx(RUN[vector]["loss"], rel=1e-4, abs=1e-6)
    assert gradient[0].flatten().tolist() == pytest.approx(RUN[vector]["grad_x_row0"], rel=1e-4, abs=1e-5)


def released(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of the vectors' runs: the target and three students."""
    numbers = itertools.count()
    monkeypatch.setattr(lomma, "load_student", lambda *_: STUDENTS_OF_VECTORS[next(numbers)])
    return {"students": ("plain",) * 3, "iterations": 3}


@pytest.mark.parametrize("steps", [1, 3])
def test_gmi_s_descent_is_the_released_one(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    one = replace(LommaGMI(restarts=1, batch_scale=2.0, **released(monkeypatch)), iterations=steps)
    where = toy(kedmi=False)
    prior: Any = where.prior
    prior.started = 1  # so that the first start is row 0
    z = one.reconstruct(where, {"feature_mean": CENTRE}, torch.tensor([2, 0]), Streams(0)).latents
    wanted = RUN["gmi_lomma"]
    assert z[0, :8].tolist() == pytest.approx(wanted[f"z_step{steps}_row0_first8"], rel=1e-4)
    if steps == 3:
        assert z[1, -4:].tolist() == pytest.approx(wanted["z_step3_row1_last4"], rel=1e-4)
        assert float(z.abs().sum()) == pytest.approx(wanted["sum_abs_z_step3"], rel=1e-4)


@pytest.mark.parametrize("clip", [True, False])
def test_kedmi_s_recovery_is_the_released_one(monkeypatch: pytest.MonkeyPatch, clip: bool) -> None:
    kept: list[tuple[Tensor, Tensor]] = []
    noise = [sines((2, 100), 0.23, 0.1 * (2 * t - 1), 1.2).float()[:, None] for t in (1, 2, 3)]
    monkeypatch.setattr(LommaKEDMI, "_noise", lambda *_: iter(noise))
    monkeypatch.setattr(LommaKEDMI, "_result", lambda self, context, mu, sigma, *_: kept.append((mu, sigma)))
    one, where = LommaKEDMI(clip_z=clip, **released(monkeypatch)), toy(kedmi=True)
    prior: Any = where.prior
    one.reconstruct(where, {"feature_mean": CENTRE}, torch.tensor([2, 0]), Streams(0))
    ((mu, sigma),) = kept
    wanted = RUN[f"kedmi_lomma_clip_{str(clip).lower()}"]
    assert mu[0, :6].tolist() == pytest.approx(wanted["mu_row0_first6"], rel=1e-3, abs=1e-6)
    assert sigma.square().log()[0, :6].tolist() == pytest.approx(wanted["log_var_row0_first6"], rel=1e-4)
    assert prior.decoded[-1][0, :4].tolist() == pytest.approx(wanted["z_of_step3_row0_first4"], rel=1e-4)


def test_the_distillation_loss_is_the_written_one() -> None:
    teacher, student = sines((3, 4), 0.8, 0.2, 2), sines((3, 4), 1.9, 0.7, 2)
    assert float(distillation_loss(student, teacher).mean()) == pytest.approx(RUN["kd"]["tau1"], rel=1e-5)
    divided, multiplied = (
        float(distillation_loss(student, teacher, temperature=2.0, scale=scale).mean())
        for scale in ("divide", "multiply")  # type: ignore[arg-type]
    )
    assert divided == pytest.approx(RUN["kd"]["tau2_as_released_divided_by_tau2"], rel=1e-5)
    assert multiplied == pytest.approx(16 * divided)
    assert float(distillation_loss(teacher, teacher).abs().max()) < 1e-12


# ---------------------------------------------------------------- students


def public(count: int) -> Tensor:
    """Images of many colours, which the toy classifier tells apart."""
    shared = torch.rand(300, 3, 1, 1, generator=stream(0, "colours"))
    fine = torch.rand(300, 3, 16, 16, generator=stream(0, "pixels"))
    return (0.7 * shared + 0.3 * fine)[:count]


def place(**options: Any) -> Context:
    return test_gmi.context(public=public, **options)


def test_students_learn_the_victim_s_answers() -> None:
    records: list[dict[str, Any]] = []
    where = place(log=lambda **record: records.append(record))
    images = public(256)
    with torch.no_grad():
        answers = where.victim.logits(images)
    how = Distillation(
        epochs=8, batch_size=32, learning_rate=0.05, momentum=0.9, weight_decay=0.0, temperature=1.0, scale="divide"
    )
    before = torch.get_rng_state()
    network = distil(where, "plain", images, answers, how, Streams(3))
    assert torch.equal(torch.get_rng_state(), before), "no global random number was drawn"
    (record,) = records
    assert record["loss"][-1] < 0.5 * record["loss"][0]
    most_frequent = float(answers.argmax(1).bincount().max()) / len(images)
    assert record["agreement"] > most_frequent + 0.1
    assert not network.training
    again = distil(where, "plain", images, answers, how, Streams(3))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    other = distil(where, "plain", images, answers, how, Streams(4))
    assert not torch.equal(next(network.parameters()), next(other.parameters()))


@pytest.mark.parametrize("name", ["plain", "residual", "efficientnet_b0"])
def test_a_student_is_stored_and_read_back(name: str) -> None:
    network = STUDENTS[name](7).eval()
    before = torch.get_rng_state()
    back = load_student(name, network.state_dict(), 7)
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(parameter.requires_grad for parameter in back.parameters())
    images = torch.rand(2, 3, 64, 64, generator=stream(0, name))
    with torch.no_grad():
        assert torch.equal(back(images), network(images))
        assert back(images).shape == (2, 7)
    with pytest.raises(MibenchError, match="is another network"):
        load_student(name, network.state_dict(), 8)


def test_no_student_draws_random_numbers_in_training() -> None:
    for name, build in STUDENTS.items():
        drawing = [m for m in build(3).modules() if type(m).__name__ in ("Dropout", "StochasticDepth") and m.p]
        assert not drawing, name


# ---------------------------------------------------------------- the attacks


def attack(one: Any, where: Context | None = None, labels: Tensor = LABELS) -> Any:
    where, streams = where or place(), Streams(7, ("test",))
    return one.reconstruct(where, one.prepare(where, streams), labels, streams)


@BOTH
def test_the_state_has_the_features_statistics_and_the_students(one: Any) -> None:
    where = place()
    state = one.prepare(where, Streams(7))
    features = where.victim.features_and_logits(public(20)).features
    assert torch.allclose(state["feature_mean"], features.mean(0), atol=1e-6)
    assert torch.allclose(state["feature_std"], features.std(0), atol=1e-6)
    assert {key.split(".")[1] for key in state if key.startswith("student.")} == {"0", "1"}
    alone = replace(one, students=()).prepare(where, Streams(7))
    assert set(alone) == {"feature_mean", "feature_std"}
    assert replace(one, students=(), regulariser_weight=0.0).prepare(replace(where, public=None), Streams(7)) == {}


@BOTH
@pytest.mark.parametrize(
    "change",
    [{}, {"students": ()}, {"regulariser_weight": 0.0}, {"feature_images": 40}, {"loss": "cross_entropy"}],
    ids=str,
)
def test_it_asks_what_it_plans(one: Any, change: dict[str, Any]) -> None:
    one, where, streams = replace(one, **change), place(micro_batch=3), Streams(7)
    state = one.prepare(where, streams)
    assert where.victim.queries == one.planned_preparation()
    assert where.victim.queries.backward == 0
    where.victim.queries = Queries()
    one.reconstruct(where, state, LABELS, streams)
    assert where.victim.queries == one.planned_queries(2)


def test_each_public_image_is_asked_once() -> None:
    assert LommaGMI().planned_preparation() == Queries(forward=30_000)
    assert LommaGMI(students=()).planned_preparation() == Queries(forward=5_050)
    assert LommaGMI(students=(), regulariser_weight=0.0).planned_preparation() == Queries()


@BOTH
def test_without_its_losses_it_is_its_base(one: Any) -> None:
    bare = replace(one, students=(), regulariser_weight=0.0, loss="cross_entropy")
    base = GMI if isinstance(one, GMI) else KEDMI
    same = base(**{name: getattr(bare, name) for name in base().recorded_settings()})
    mine, its = attack(bare), attack(same)
    assert torch.equal(mine.latents, its.latents)
    assert mine.curves.keys() == its.curves.keys()


@BOTH
def test_the_losses_fall_and_the_features_near_the_centre(one: Any) -> None:
    longer = replace(one, iterations=80, realism_weight=0.0, students=("plain",))
    curve = attack(longer).curves["L_id"]
    assert float(curve[:, -20:].mean()) < float(curve[:, :20].mean()) - 0.05
    near, far = (
        attack(replace(longer, regulariser_weight=weight, students=())).curves["L_reg"] for weight in (50.0, 1e-9)
    )
    assert float(near[:, -20:].mean()) < float(far[:, -20:].mean())


@BOTH
@pytest.mark.parametrize(
    "change",
    [
        {"loss": "cross_entropy"},
        {"regulariser_weight": 20.0},
        {"centre": "sampled", "regulariser_weight": 20.0},
        {"feature_images": 2, "regulariser_weight": 20.0},
        {"students": ("plain",)},
        {"student_images": 12},
        {"student_epochs": 1},
        {"student_batch": 4},
        {"student_rate": 0.1},
        {"student_momentum": 0.0},
        {"student_decay": 0.1},
        {"temperature": 2.0},
        {"temperature": 2.0, "temperature_scale": "multiply"},
    ],
    ids=str,
)
def test_every_option_changes_the_result(one: Any, change: dict[str, Any]) -> None:
    plain = replace(one, regulariser_weight=change.get("regulariser_weight", 1.0))
    if "temperature_scale" in change:
        plain = replace(plain, temperature=2.0)
    changed = attack(replace(one, **change))
    assert torch.isfinite(changed.images).all()
    assert not torch.equal(changed.latents, attack(plain if plain != replace(one, **change) else one).latents)


@BOTH
@pytest.mark.parametrize("centre", ["mean", "sampled"])
def test_results_depend_on_the_seed_and_on_nothing_else(one: Any, centre: Any) -> None:
    one = replace(one, centre=centre)
    together, streams = attack(one), Streams(7, ("test",))
    assert torch.equal(together.latents, attack(one).latents)
    state = one.prepare(place(), streams)
    split = one.reconstruct(place(micro_batch=2), state, LABELS, streams)
    assert torch.allclose(together.latents, split.latents, atol=1e-3)
    alone = one.reconstruct(place(), state, LABELS[1:], streams)
    assert torch.allclose(together.latents[3:], alone.latents, atol=1e-3)


@BOTH
def test_networks_stay_as_they_are(one: Any) -> None:
    where, streams = place(), Streams(7)
    state = one.prepare(where, streams)
    before = {key: value.clone() for key, value in state.items()}
    result = one.reconstruct(where, state, LABELS, streams)
    assert all(torch.equal(state[key], value) for key, value in before.items())
    assert all(p.grad is None for p in where.victim._network.parameters())
    assert not any(t.requires_grad for t in (result.images, result.latents, *result.curves.values()))
    assert set(result.curves) >= {"L_id", "L_reg", "L_prior"}


@BOTH
def test_it_needs_gradients_and_public_images(one: Any) -> None:
    with pytest.raises(AccessError, match="GRADIENTS"):
        attack(one, place(access=Access.SCORES))
    with pytest.raises(MibenchError, match=r"attack\.students=\[\]"):
        attack(one, test_gmi.context())
    with pytest.raises(MibenchError, match=r"needs 400 public images, there are 300.*attack\.student_images=300"):
        attack(replace(one, student_images=400))


@BOTH
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"students": ("vgg",)}, "unknown student 'vgg'"),
        ({"regulariser_weight": -1.0}, "regulariser_weight must be finite"),
        ({"student_batch": 1}, "student_batch must be at least 2"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"student_momentum": 1.0}, "student_momentum must lie"),
        ({"loss": "hinge"}, "unknown identity loss"),
        ({"iterations": 0}, "iterations must be at least 1"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(one: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(MibenchError, match=words) as refused:
        replace(one, **values)
    assert str(refused.value).startswith(f"{one.name}: ")


@pytest.mark.parametrize("name", ["lomma-gmi", "lomma-kedmi"])
def test_presets_and_the_budget_of_equal(name: str) -> None:
    kind, presets = registry.load("attack", name), settings.attack_presets(name)

    def resolved(*layers: Any) -> Any:
        return settings.resolve(kind, layers, scope="attack")[0]

    paper, recommended = (resolved(presets.presets[preset]) for preset in ("paper", "recommended"))
    assert paper == kind(unit_size=60)
    protocol = load_protocol("equal")[0]
    allowed = protocol.query_budget * protocol.num_identities
    for steps, fits in ((recommended.iterations, True), (recommended.iterations + 1, False)):
        planned = planned_total(replace(recommended, iterations=steps), protocol)
        assert planned is not None
        assert (planned.forward + planned.backward <= allowed) is fits
    logit, aug = (resolved(presets.presets["paper"], presets.variants[variant]) for variant in ("logit", "aug"))
    assert (logit.students, logit.loss, logit.regulariser_weight) == ((), "logit", 1.0)
    assert (aug.students, aug.loss, aug.regulariser_weight) == (kind().students, "cross_entropy", 0.0)


def test_kedmi_s_own_discriminator_that_compares_works() -> None:
    result = attack(replace(TINY_KEDMI, iterations=2), place(prior=test_kedmi.crowd()))
    assert torch.isfinite(result.images).all()
    with pytest.raises(MibenchError, match=r"^lomma-gmi: prior"):
        attack(TINY_GMI, place(prior=test_kedmi.crowd()))
