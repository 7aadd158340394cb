"""``--access``: what an adversary may ask for, who is refused, and the floor where labels are all there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from test_dmmia import CLASSES, LABELS, context
from test_sweep import TOY as TOY_SUITE

import mibench
from mibench import registry
from mibench.api import Access, AccessError, Attack, Context, MibenchError, Reconstruction
from mibench.attacks.answers import confidence_in_classes
from mibench.attacks.final_ranking import robust_confidence
from mibench.attacks.floor import Floor
from mibench.attacks.initial_selection import choose
from mibench.audits.request import AuditRequest
from mibench.cli import cli
from mibench.rng import Streams
from mibench.runs.compatibility import granted_access
from mibench.runs.plan import make_plan
from mibench.runs.request import ACCESS, RunRequest
from mibench.sweeps.suite import load_suite

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
TOY_WORDS = ["--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy", "--device", "cpu"]
FLOOR = Floor(pool_size=60, candidates=8, truncation=1.0, selection_transforms=6)


def reconstructed(where: Context, attack: Attack = FLOOR) -> tuple[Any, Reconstruction]:
    streams = Streams(7, ("test",))
    state = attack.prepare(where, streams)
    return state, attack.reconstruct(where, state, LABELS, streams)


# -- attacks -----------------------------------------------------------------------------------------------------------


def test_with_labels_only_confidence_is_a_share_of_votes() -> None:
    scores, labels = context(Access.SCORES), context(Access.LABELS)
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    votes = confidence_in_classes(labels.victim, images)
    assert votes.shape == (7, CLASSES)
    assert torch.equal(votes.argmax(dim=1), confidence_in_classes(scores.victim, images).argmax(dim=1))
    assert torch.equal(votes.sum(dim=1), torch.ones(7))
    share = robust_confidence(labels, images[None, :4], LABELS[:1], Streams(0), transforms=5)
    assert share.shape == (1, 4)
    assert torch.equal(share * 5, (share * 5).round()), "so many of five views"


def test_the_floor_with_labels_picks_what_the_victim_calls_so_and_ranks_by_stability() -> None:
    where = context(Access.LABELS)
    state, found = reconstructed(where)
    votes = state["confidence"]
    assert set(votes.unique().tolist()) <= {0.0, 0.5, 1.0}, "of an image and its mirror image"
    for label in LABELS:
        own = found.labels == label
        chosen = (found.latents[own][:, None] == state["latents"]).all(dim=2).int().argmax(dim=1)
        of_all = votes[:, label].sort(descending=True).values
        assert of_all[0] > 0, "a test needs an image that is called so"
        assert torch.equal(votes[chosen, label], of_all[:8]), "what it calls so first, then others"
        unnamed = chosen[votes[chosen, label] == 0]
        assert torch.equal(unnamed, unnamed.sort().values), "others in the order of the pool"
        assert torch.equal(found.confidence[own] * 6, (found.confidence[own] * 6).round())
    assert where.victim.queries.forward == FLOOR.planned_preparation().forward + FLOOR.planned_queries(2).forward
    assert where.victim.queries.backward == 0


def test_equal_votes_keep_the_order_of_the_pool() -> None:
    state = {
        "latents": torch.arange(200.0)[:, None],
        "confidence": torch.tensor([1.0, 0.5] * 100)[:, None].expand(200, 2),
    }
    chosen = choose(state, torch.tensor([0, 1]), 103, stable=True)[..., 0]
    assert chosen.tolist() == [[*map(float, range(0, 200, 2)), 1.0, 3.0, 5.0]] * 2


def test_the_floor_s_answers_are_scores_wherever_they_are_granted() -> None:
    _, scores = reconstructed(context(Access.SCORES))
    _, gradients = reconstructed(context(Access.GRADIENTS))
    _, labels = reconstructed(context(Access.LABELS))
    assert torch.equal(scores.confidence, gradients.confidence)
    assert torch.equal(scores.images, gradients.images)
    assert not torch.equal(scores.confidence, labels.confidence)


def test_a_floor_s_victim_grants_what_it_makes_use_of_and_no_more() -> None:
    for level, granted in (("labels", Access.LABELS), ("scores", Access.SCORES), ("gradients", Access.SCORES)):
        plan = make_plan(RunRequest(attack="floor", protocol="smoke", access=level))
        assert granted_access(plan.attack, plan.spec.protocol, plan.cards["target"]) == granted


# -- the option --------------------------------------------------------------------------------------------------------


def test_access_is_the_protocol_s_setting_by_another_name() -> None:
    flag = make_plan(RunRequest(attack="mirror-b", protocol="smoke", access="scores"))
    setting = make_plan(RunRequest(attack="mirror-b", protocol="smoke", settings={"protocol": {"access": "scores"}}))
    assert flag.spec.digest() == setting.spec.digest()
    assert flag.spec.digest() != make_plan(RunRequest(attack="mirror-b", protocol="smoke")).spec.digest()
    assert flag.origins["protocol.access"].origin == "--access"
    assert "access: scores" in flag.config_yaml
    floor = flag.floor()
    assert floor is not None
    assert floor.spec.protocol.access == "scores"


@pytest.mark.parametrize("access", ACCESS)
def test_an_attack_that_needs_more_is_refused_and_no_other(access: str) -> None:
    for name in registry.names("attack"):
        other = "gmi" if name == "plgmi" else None  # its own prior is not shipped
        request = RunRequest(attack=name, protocol="smoke", access=access, prior=other)
        if registry.load("attack", name).access <= Access[access.upper()]:
            assert make_plan(request).floor() is not None or name == "floor"
        else:
            with pytest.raises(AccessError, match=f"this run grants {access}; choose an attack that needs less"):
                make_plan(request)


@pytest.mark.parametrize(("attack", "access"), [("mirror-w", "scores"), ("mirror-b", "labels"), ("ppa", "labels")])
def test_the_refusal_is_one_line_and_exit_code_2(tmp_path: Path, attack: str, access: str) -> None:
    words = ["run", "--attack", attack, "--protocol", "smoke", "--access", access, "--output", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert f"attack '{attack}' needs" in line
    assert "--access" in line
    assert not (tmp_path / "runs").exists()


def test_two_answers_to_one_question_are_refused() -> None:
    both = {"protocol": {"access": "labels"}}
    with pytest.raises(MibenchError, match=r"--access scores and --set protocol.access=.labels. differ"):
        make_plan(RunRequest(attack="floor", protocol="smoke", access="scores", settings=both))
    make_plan(RunRequest(attack="floor", protocol="smoke", access="labels", settings=both))


def test_an_unknown_level_is_refused_everywhere() -> None:
    for ask in (lambda: mibench.run("floor", **TOY, access="score"), lambda: AuditRequest(model="x", access="score")):
        with pytest.raises(MibenchError, match=r"unknown access 'score'; did you mean 'scores'"):
            ask()


def test_a_suite_names_the_access_of_all_its_cells(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    own = "{attack: toyattack, settings: {protocol: {access: gradients}}}"
    file.write_text(TOY_SUITE + f"access: labels\nattacks: [floor, {own}]\n")
    floor, other = load_suite(str(file)).cells
    assert floor.request.settings["protocol"]["access"] == "labels"
    assert other.request.settings["protocol"]["access"] == "gradients", "an attack's own settings win"


def test_a_run_with_less_access_than_its_attack_needs_leaves_nothing(toy: Path, tmp_path: Path) -> None:
    with pytest.raises(AccessError):
        mibench.run("toyattack", **TOY, out=tmp_path / "runs", device="cpu", access="scores")
    assert not (tmp_path / "runs").exists()


def test_the_refusal_names_the_cure(toy: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["run", "--attack", "toyattack", *TOY_WORDS, "--access", "scores", "--output", str(tmp_path / "runs")]
    )
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "or --access gradients" in done.stderr


# -- early stops in the record of a run --------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_used_are_counted_and_a_stop_is_in_the_record(tmp_path: Path) -> None:
    """Through the command line, on shipped weights: two generations, and a stop that the first one reaches."""
    sets = [f"attack.{name}={value}" for name, value in (("stop_confidence", 1e-6), ("pool_size", 32))]
    words = ["run", "--attack", "mirror-b", "--protocol", "smoke", "--set", "protocol.identities=2", "--json"]
    for one in (*sets, "protocol.public_control=0"):
        words += ["--set", one]
    done = CliRunner().invoke(cli, [*words, "--output", str(tmp_path), "--device", "cpu"])
    assert done.exit_code in (0, 1), done.stderr
    cost = json.loads(done.stdout)["cost"]
    assert cost["prepare"]["queries_forward"] == 32
    assert cost["attack"]["queries_forward"] == 2 * 4 * 2, "two people, four candidates, two views, no generation"
    assert "stopped early" in done.stderr
    assert "0 of 28 planned images" in done.stderr


def test_an_attack_says_that_it_does_not_stop_early_unless_it_does() -> None:
    for name in registry.names("attack"):
        kind: type[Attack] = registry.load("attack", name)
        assert kind().stops_early == (name in ("brep", "miface", "mirror-b"))
