"""What somebody's own model gives an attack: no more than its card and its kind of network grant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from own_files import onnx_file
from own_models import CLASSES, CPU, SIZE, as_file, stored, taken_in

from mibench.api import Access, AccessError, MibenchError
from mibench.runs.plan import make_plan
from mibench.runs.request import RunRequest
from mibench.targets.custom.importing import import_onnx
from mibench.weights import cards, load


def test_an_attack_that_needs_more_than_the_card_gives_is_refused_with_those_that_need_less(own_models: Path) -> None:
    trained = import_onnx("onnx", [as_file(onnx_file(classes=6))], {"classes": 6})
    stored(own_models, trained, access="scores")
    names = {"target": "onnx@toyfaces+mine", "dataset": "toyfaces", "protocol": "toy", "prior": "toygan"}
    with pytest.raises(
        AccessError, match=r"'toyattack' needs gradients, target .* scores; choose .*\(badattack, floor\)"
    ):
        make_plan(RunRequest(attack="toyattack", **names))
    assert make_plan(RunRequest(attack="floor", **names)).spec.target.architecture == "onnx"


def test_a_card_cannot_promise_more_than_its_kind_of_network_can(own_models: Path) -> None:
    card = stored(own_models, import_onnx("onnx", [as_file(onnx_file(classes=6))], {"classes": 6}))  # says gradients
    with pytest.raises(AccessError, match="no more than scores, gradients was asked for"):
        load.build_victim(card, Access.GRADIENTS, CPU)


def test_a_card_may_say_less_than_its_network_can(own_models: Path, own: Path) -> None:
    card = stored(own_models, taken_in(), access="labels")
    assert load.build_victim(card, Access.LABELS, CPU).labels(torch.rand(2, 3, SIZE, SIZE)).shape == (2,)
    with pytest.raises(AccessError, match="no more than labels"):
        load.build_victim(card, Access.SCORES, CPU)


def test_a_target_without_a_usable_gradient_grants_none(own_models: Path, own: Path) -> None:
    """Whatever its card says: it may be older than the look at gradients, or written by hand."""
    (own / "own_rounded.py").write_text(
        "from torch import nn\n"
        "class Rounded(nn.Sequential):\n"
        "    def forward(self, x): return super().forward((x * 4).round() / 4)\n"
        "def build(): return Rounded(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    card = stored(own_models, taken_in(factory="own_rounded:build", arguments={}))
    with pytest.raises(AccessError, match=r"gives no usable gradient: it is zero everywhere .* needs only scores"):
        load.build_victim(card, Access.GRADIENTS, CPU)
    assert load.build_victim(card, Access.SCORES, CPU).scores(torch.rand(2, 3, SIZE, SIZE)).shape == (2, CLASSES)


def test_a_look_at_gradients_is_not_counted(own_models: Path, own: Path) -> None:
    victim = load.build_victim(stored(own_models, taken_in()), Access.GRADIENTS, CPU)
    assert (victim.queries.forward, victim.queries.backward) == (0, 0)


def test_own_models_are_taken_in_not_trained() -> None:
    from mibench.weights.training import find_recipe

    with pytest.raises(MibenchError, match="mibench audit takes it in"):
        find_recipe("target", "onnx")
    with pytest.raises(MibenchError, match="mibench audit --model"):
        cards.find("target", "onnx+mine", "synthfaces")
