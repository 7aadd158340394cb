"""Configuration: strict YAML, layers, origins, messages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from mibench import registry
from mibench import settings as config
from mibench.errors import MibenchError
from mibench.runs.protocol import choose_preset, load_protocol
from mibench.settings import Layer, parse_assignments, parse_yaml, resolve


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
def test_a_wrong_setting_is_named(values: dict[str, object], message: str) -> None:
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


def test_the_preset_is_chosen_by_person_then_protocol_and_data_set_then_file(toy: Path) -> None:
    presets = config.attack_presets("toyattack")
    toy_protocol, _ = load_protocol("toy")

    def chosen(dataset: str, asked: str | None = None, **fields: Any) -> str | None:
        protocol = dataclasses.replace(toy_protocol, **fields)
        return choose_preset("toyattack", protocol, dataset, asked, presets)

    slow = {"preset_for": {"toyattack": "slow"}}
    assert chosen("celeba", "slow", preset="paper") == "slow"
    assert chosen("celeba", **slow) == "paper"  # a protocol's preset suits the prior of its own world
    assert chosen("celeba", **slow, datasets=("celeba",)) == "slow"
    assert chosen("toyfaces", **slow, preset="paper") == "slow"
    assert chosen("toyfaces", preset="paper") == "paper"
    assert chosen("toyfaces", preset="smoke") == "quick", "a tier that the attack does not have"
    assert chosen("celeba") == "paper"
    assert chosen("toyfaces") == "quick"
    with pytest.raises(MibenchError, match="did you mean 'quick'"):
        chosen("toyfaces", "quik")
    with pytest.raises(MibenchError, match="did you mean 'quick'"):
        chosen("toyfaces", preset_for={"toyattack": "quik"})
    assert choose_preset("floor", toy_protocol, "celeba", None, config.attack_presets("floor")) is None


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
    from mibench.runs.protocol import protocol_files

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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": float("nan")}, r"attack\.rate: must be a finite number, got nan \(from --set\)"),
        ({"rate": "inf"}, r"attack\.rate: must be a finite number, got inf"),
        ({"betas": [0.1, float("inf")]}, r"attack\.betas: must be a finite number"),
        ({"memory": {"rate": -float("inf")}}, r"attack\.memory\.rate: must be a finite number"),
        ({"steps": 2**70}, r"attack\.steps: is too large a number"),
        ({"steps": True}, r"attack\.steps: expected a number, got True \(from --set\)"),
        ({"betas": [True, 0]}, r"attack\.betas: expected a number, got \[True, 0\]"),
        ({"mode": "a\0b"}, r"attack\.mode: holds a null character"),
        ({"steps": ["x" * 1000]}, r"got \['x{70,80}\.\.\. \(from"),
        ({"x" * 1000: 1}, r"unknown setting 'attack\.x{70,80}\.\.\.' from"),
    ],
)
def test_values_that_no_setting_means_are_refused_and_shown_in_short(values: dict[str, object], message: str) -> None:
    with pytest.raises(MibenchError, match=message) as caught:
        settings_of(Layer("--set", values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: [1]", "settings: expected a mapping"),
        ("settings: {attack: 3}", r"settings\.attack: expected a mapping"),
        ("settings: {atack: {}}", "settings: unknown scope 'atack'; did you mean 'attack'"),
        ("preset: 5", "preset: expected a name, got 5"),
        ("dataset: [toyfaces]", r"dataset: expected a name, got \['toyfaces'\]"),
        ("precision: float31", "unknown precision 'float31'"),
        ("seed: true", "seed must be a whole number"),
        ("seed: 2026-99-99", "seed must be a whole number from 0 .*, got '2026-99-99'"),
        ("min_accuracy: 2", r"min_accuracy is a share in \[0, 1\], got 2"),
        ("- 1", "expected a mapping of names to values, got list"),
    ],
)
def test_a_configuration_file_of_the_wrong_types_names_file_and_key(
    toy: Path, tmp_path: Path, text: str, message: str
) -> None:
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(MibenchError, match=rf"mine\.yaml: .*{message}"):
        make_plan(RunRequest(config=path, attack="floor", target="toynet", protocol="toy"))


def test_null_in_a_configuration_file_leaves_it_to_the_default(toy: Path, tmp_path: Path) -> None:
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    path = tmp_path / "mine.yaml"
    path.write_text("seed: null\npreset: null\nsettings: {attack: null}\ntarget: toynet\ndataset: toyfaces\n")
    assert make_plan(RunRequest(config=path, attack="floor", protocol="toy")).spec.seed == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"metrics": ["nonsense"]}, r"protocol\.metrics: unknown metric 'nonsense'"),
        ({"required": ["acc9"]}, r"protocol\.required: unknown estimate 'acc9'"),
        ({"metrics": ["prdc"]}, r"demands acc1, knn_distance, .*'protocol\.metrics=\[prdc, accuracy, knn-distance\]'"),
    ],
)
def test_metrics_that_clash_with_demands_are_refused_before_anything_runs(
    toy: Path, values: dict[str, list[str]], message: str
) -> None:
    from mibench.runs.plan import make_plan
    from mibench.runs.request import RunRequest

    named = {"attack": "toyattack", "target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
    with pytest.raises(MibenchError, match=message):
        make_plan(RunRequest(**named, settings={"protocol": values}))


@pytest.mark.parametrize(
    ("metrics", "required", "message"),
    [
        ("[accuracy, theirs]", "[acc1, knn_distance]", "'protocol.metrics=[accuracy, theirs, knn-distance]'"),
        ("[theirs]", "[acc1, their_confidence]", "demands acc1, which its metrics leave out (['theirs'])"),
        ("[accuracy, theirs]", "[acc1, their_confidence]", None),
        ("[default, theirs]", "[acc1, knn_distance, their_confidence]", None),
    ],
)
def test_what_a_metric_of_somebody_else_cannot_bring_is_refused_too(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metrics: str, required: str, message: str | None
) -> None:
    from importlib.metadata import EntryPoint

    from click.testing import CliRunner
    from toyworld import build

    from mibench import registry
    from mibench.cli import cli

    point = EntryPoint("theirs", "toyworld:THEIRS", registry.GROUP)
    monkeypatch.setattr(build, "POINTS", (*build.POINTS, point))
    registry.catalogue.cache_clear()
    words = ["run", "--attack", "toyattack", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy"]
    words += ["--device", "cpu", "--output"]
    settings = ["--set", f"protocol.metrics={metrics}", "--set", f"protocol.required={required}"]
    settings += ["--set", "protocol.identities=2"]
    done = CliRunner().invoke(cli, [*words, str(tmp_path / "runs"), *settings])
    assert done.exit_code == (0 if message is None else 2)
    assert (tmp_path / "runs").exists() == (message is None)
    if message is not None:
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


COUNTS = (
    "unit_size", "pool_size", "candidates", "epochs", "iterations", "batch_size", "restarts", "steps", "population",
    "generations", "directions", "stages", "episodes", "length", "hidden", "stage_steps", "draws", "patience",
)  # fmt: skip


@pytest.mark.parametrize("name", registry.names("attack"))
def test_every_number_of_an_attack_is_checked(name: str) -> None:
    kind = registry.load("attack", name)
    for setting in dataclasses.fields(kind):
        if type(setting.default) is float:
            with pytest.raises(MibenchError):
                kind(**{setting.name: float("nan")})
        if setting.name in COUNTS:
            for count in (0, -1):
                with pytest.raises(MibenchError):
                    resolve(kind, [Layer("--set", {setting.name: count})], scope="attack")
