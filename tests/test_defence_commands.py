"""Commands that cards, errors and ``mibench show defence`` print: they can be typed as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

import mibench
from mibench import registry
from mibench.api import MibenchError
from mibench.cli import cli
from mibench.weights.cards import shipped_cards
from mibench.weights.training import Training, refuse_shipped_name

SMALL = {"train.width": 0.0625, "train.epochs": 1, "dataset.identities": 6, "dataset.train_images": 8}


def training_of(command: str) -> Training:
    """What ``mibench train`` makes of a command: its arguments, defences, tag, seed and precision."""
    words = shlex.split(command)
    assert words[:2] == ["mibench", "train"]
    given: dict[str, list[str | None]] = {
        "--defence": [],
        "--tag": [None],
        "--seed": [None],
        "--precision": [None],
        "--set": [],
    }
    for option, value in zip(words[4::2], words[5::2], strict=True):
        given[option].append(value)
    seed = given["--seed"][-1]
    return Training(
        kind=words[2],
        architecture=words[3],
        defences=tuple(given["--defence"]),
        tag=given["--tag"][-1],
        seed=None if seed is None else int(seed),
        precision=given["--precision"][-1],
    )


def test_a_shipped_name_is_refused_with_the_whole_command_under_a_free_one() -> None:
    settings = {"defence": {"lambda_x": 0.05}, "train": {"epochs": 3}}
    for asked in (
        Training(kind="target", architecture="vgg16"),
        Training(kind="target", architecture="vgg16", defences=("bido:small",), settings=settings),
        Training(kind="target", architecture="vgg16", defences=("negls",), tag="bido"),
    ):
        with pytest.raises(MibenchError, match="ships; runs would take yours") as refused:
            refuse_shipped_name(asked)
        (command,) = re.findall("`(.*?)`", str(refused.value))
        typed = training_of(command)
        assert typed.name not in shipped_cards()
        assert typed.defences == asked.defences
        refuse_shipped_name(typed)
        if asked.settings:
            assert "--set defence.lambda_x=0.05 --set train.epochs=3" in command


@pytest.mark.parametrize("name", registry.names("defence"))
def test_a_defence_is_shown_with_a_command_that_trains_it(name: str) -> None:
    done = CliRunner().invoke(cli, ["show", "defence", name])
    assert done.exit_code == 0, done.output
    shown = yaml.safe_load(done.stdout)
    typed = training_of(shown["train"])
    assert typed.defences == (name,)
    refuse_shipped_name(typed)
    applies_to = shown["applies_to"]
    assert applies_to == "every target" or typed.architecture in applies_to
    for card, command in shown["shipped"].items():
        assert card in shipped_cards()
        assert training_of(command).name == card


def test_the_command_on_a_defended_card_trains_in_the_same_seed_and_precision(tmp_path: Path, monkeypatch) -> None:
    """Without ``--seed`` and ``--precision`` a defended training takes its twin's."""
    monkeypatch.setenv("MIBENCH_HOME", str(tmp_path))
    data = {key: value for key, value in SMALL.items() if key.startswith("dataset")}
    mibench.train("target", "vgg16", tag="on", settings=SMALL, seed=3, precision="bfloat16", device="cpu")
    card = mibench.train(
        "target",
        "vgg16",
        defences="midre",
        twin="vgg16+on",
        tag="again",
        settings=data,
        device="cpu",
        seed=0,
        precision="float32",
    ).card
    assert card.defence is not None
    assert card.defence.differs_from_twin == {"seed": (3, 0), "precision": ("bfloat16", "float32")}
    assert "--seed 0 --precision float32" in card.recipe["command"]
    filtered = mibench.train("target", "vgg16", defences="rounding", twin="vgg16+on", settings=data, device="cpu").card
    assert not {"--seed", "--precision"} & set(shlex.split(filtered.recipe["command"])), "filters refuse both"
