"""Configuration: strict YAML, layers, origins, messages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from mibench import config
from mibench.config import Layer, parse_assignments, parse_yaml, resolve
from mibench.errors import MibenchError
from mibench.protocols import load_protocol


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int = 4
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = 10
    rate: float = 1e-3
    mode: Literal["fast", "slow"] = "fast"
    betas: tuple[float, float] = (0.1, 0.2)
    memory: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise MibenchError(f"steps must be at least 1, got {self.steps}")


def settings_of(*layers: Layer) -> tuple[Settings, dict[str, config.Setting]]:
    return resolve(Settings, layers, scope="attack")


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1.0e-03", "1.e-3", ".1e-2"])
def test_exponents_are_numbers(text: str) -> None:
    assert parse_yaml(text, "test") == 0.001


@pytest.mark.parametrize(
    ("text", "value"), [("300", 300), ("true", True), ("[1, 2]", [1, 2]), ("e3", "e3"), ("", None)]
)
def test_other_values_are_as_in_yaml(text: str, value: object) -> None:
    assert parse_yaml(text, "test") == value


@pytest.mark.parametrize("text", ["a: 1\na: 2", "outer:\n  b: 1\n  b: 1"])
def test_a_key_that_stands_twice_is_refused(text: str) -> None:
    with pytest.raises(MibenchError, match=r"file\.yaml line \d: not valid YAML: the key '.' stands twice"):
        parse_yaml(text, "file.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object:os.system {}", "\t- x", "? [1]\n: 2"])
def test_bad_yaml_is_one_line(text: str) -> None:
    with pytest.raises(MibenchError) as caught:
        parse_yaml(text, "file.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("file.yaml line ")


def test_later_layers_win_and_origins_are_remembered() -> None:
    found, origins = settings_of(
        Layer("preset paper", {"steps": 70, "rate": 0.005}, {"steps": "section 5.1"}),
        Layer("--set", {"rate": 0.01}),
    )
    assert (found.steps, found.rate, found.mode) == (70, 0.01, "fast")
    assert origins["steps"].origin == "preset paper (section 5.1)"
    assert origins["rate"].origin == "--set"
    assert origins["mode"].origin == "default"
    assert origins["memory.size"] == config.Setting(4, "default")


def test_nested_settings_are_addressed_by_dots_or_mappings() -> None:
    dotted, _ = settings_of(Layer("--set", {"memory.size": 9}))
    nested, origins = settings_of(Layer("file", {"memory": {"size": 9}}))
    assert dotted == nested == Settings(memory=Inner(size=9))
    assert origins["memory.size"].origin == "file"
    assert origins["memory.rate"].origin == "default"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stepz": 1}, r"unknown setting 'attack.stepz' from --set; did you mean 'steps'\?"),
        ({"memory.siz": 1}, r"unknown setting 'attack.memory.siz' from --set; did you mean 'memory.size'"),
        ({"steps": "many"}, r"attack.steps: .*valid integer.*, got 'many' \(from --set\)"),
        ({"steps": 1.5}, r"attack.steps: .*, got 1.5"),
        ({"mode": "medium"}, r"attack.mode: .*'fast' or 'slow'"),
        ({"betas": [0.1]}, r"attack.betas"),
        ({"steps": 0}, r"steps must be at least 1, got 0"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(MibenchError, match=message) as caught:
        settings_of(Layer("--set", values))
    assert "\n" not in str(caught.value)


def test_lists_become_tuples_and_whole_numbers_floats() -> None:
    found, _ = settings_of(Layer("--set", {"betas": [0, 1], "rate": 2}))
    assert found.betas == (0.0, 1.0)
    assert isinstance(found.rate, float)


def test_assignments() -> None:
    found = parse_assignments(["attack.rate=1e-4", "prior.truncation=0.7", "attack.memory.size=3"], ("attack", "prior"))
    assert found == {"attack": {"rate": 1e-4, "memory.size": 3}, "prior": {"truncation": 0.7}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps=3", "expected SCOPE.NAME=VALUE"),
        ("attack.steps", "expected SCOPE.NAME=VALUE"),
        ("atack.steps=3", "did you mean 'attack'"),
        ("attack.steps=[", "not valid YAML"),
    ],
)
def test_bad_assignments(text: str, message: str) -> None:
    with pytest.raises(MibenchError, match=message):
        parse_assignments([text], ("attack", "prior"))


def test_one_setting_given_twice_is_refused() -> None:
    with pytest.raises(MibenchError, match=r"--set attack\.steps is given twice"):
        parse_assignments(["attack.steps=1", "attack.steps=2"], ("attack",))


def test_presets_extend_and_cite(toy: Path) -> None:
    presets = config.attack_presets("toyattack")
    assert presets.presets["slow"].values == {"steps": 60, "learning_rate": 0.5}
    assert presets.presets["paper"].origin_of("steps") == "preset paper (section 5.1)"
    assert presets.presets["slow"].origin_of("steps") == "preset slow"  # its own value, not the paper's


def test_the_preset_is_chosen_by_person_then_data_set_then_protocol_then_file(toy: Path) -> None:
    presets = config.attack_presets("toyattack")

    def chosen(asked: str | None, by_protocol: str | None, dataset: str) -> str | None:
        layer = presets.choose("toyattack", asked, by_protocol, dataset=dataset, protocol="toy")
        return layer and layer.origin

    assert chosen("slow", "paper", "celeba") == "preset slow"
    assert chosen(None, "slow", "celeba") == "preset paper"  # a protocol's preset suits the prior of its own world
    assert chosen(None, "slow", "toyfaces") == "preset slow"
    assert chosen(None, None, "celeba") == "preset paper"
    assert chosen(None, None, "toyfaces") == "preset quick"
    with pytest.raises(MibenchError, match="did you mean 'quick'"):
        chosen("quik", None, "toyfaces")
    assert config.attack_presets("floor").choose("floor", None, None) is None


def test_a_protocol_is_checked(toy: Path) -> None:
    protocol, _ = load_protocol("toy")
    assert protocol.labels == tuple(range(6))
    assert protocol.title == "toy v3"
    changed, origins = load_protocol("toy", [Layer("--set", {"samples": 1})])
    assert changed.name == "toy (changed)"
    assert origins["samples"].origin == "--set"
    with pytest.raises(MibenchError, match=r"protocol\.samples must be at least 1, got 0"):
        load_protocol("toy", [Layer("--set", {"samples": 0})])


def test_every_shipped_protocol_is_valid() -> None:
    from mibench.protocols import protocol_files

    names = set(protocol_files())
    assert {"demo", "standard", "smoke"} <= names
    for name in names:
        protocol, _ = load_protocol(name)
        assert protocol.name == name
        assert protocol.description


def test_fields_of_a_dataclass_without_default_are_asked_for() -> None:
    made = dataclasses.make_dataclass("made", [("needed", int)], kw_only=True, frozen=True)
    with pytest.raises(MibenchError, match=r"train\.needed has no default"):
        resolve(made, [], scope="train")
