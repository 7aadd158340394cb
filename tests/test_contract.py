"""What every registered name must keep to; a new attack, network or report is tested by being registered."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from mibench import registry, settings
from mibench.api import Access, Attack, CardName, ClassifierOutput, Recipe, network_traits
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.weights import cards

ATTACKS, RECIPES = registry.names("attack"), registry.names("recipe")
CLASSIFIERS = [
    (kind, name)
    for kind in ("target", "judge")
    for name in registry.names(kind)
    if not network_traits(registry.load(kind, name)).from_user  # somebody's own model has the classes that it has
]
ARGUMENTS = {"timm": {"width": 1.0, "model": "test_resnet"}}  # of classifiers that a width does not make small
EVERYTHING = [
    (kind, name)
    for kind in ("attack", "prior", "target", "judge", "regressor", "recipe", "dataset", "metric", "report", "defence")
    for name in registry.names(kind)
]


@pytest.mark.parametrize(("kind", "name"), EVERYTHING)
def test_every_name_leads_to_something_documented(kind: str, name: str) -> None:
    found = registry.load(kind, name)
    assert callable(found)
    assert inspect.getdoc(found), f"{kind} {name} has no docstring"


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_a_frozen_keyword_only_configuration(name: str) -> None:
    kind = registry.load("attack", name)
    assert issubclass(kind, Attack)
    assert kind.name == name
    assert isinstance(kind.access, Access)
    attack = kind()
    fields = dataclasses.fields(kind)
    assert all(field.kw_only for field in fields)
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.unit_size = 3
    assert attack.unit_size >= 1
    assert kind(**{f.name: getattr(attack, f.name) for f in fields}) == attack, "the fields are the configuration"


@pytest.mark.parametrize("name", ATTACKS)
def test_every_preset_of_an_attack_is_valid(name: str) -> None:
    presets = settings.attack_presets(name)
    kind = registry.load("attack", name)
    for preset, layer in presets.presets.items():
        _, resolved = settings.resolve(kind, [layer], scope="attack")
        changed = {name for name, setting in resolved.items() if setting.origin != "default"}
        assert changed == set(settings.flatten(layer.values, kind)), preset
    assert presets.default is None or presets.default in presets.presets
    assert set(presets.dataset.values()) <= set(presets.presets)


def test_protocols_name_presets_that_exist() -> None:
    from mibench.runs.protocol import load_protocol, protocol_files

    named = {name: load_protocol(name)[0].preset_for for name in protocol_files()}
    assert any(named.values())
    for name, preset_for in named.items():
        for attack, preset in preset_for.items():
            assert preset in settings.attack_presets(attack).presets, f"protocol {name}: {attack}:{preset}"


def usual_size(kind: str, architecture: type[nn.Module]) -> int:
    """Pixels that a classifier without a card is shown: its own default, else those of the 64-pixel protocols."""
    parameter = inspect.signature(architecture).parameters.get("size")
    said = parameter.default if parameter is not None else None
    return said if isinstance(said, int) else {"target": 64, "judge": 112}[kind]


@pytest.mark.parametrize(("kind", "name"), CLASSIFIERS)
def test_a_classifier_returns_features_and_logits(kind: str, name: str) -> None:
    card = next((c for c in cards.all_cards().values() if c.kind == kind and c.card().architecture == name), None)
    if name == "timm":
        pytest.importorskip("timm")
    architecture = registry.load(kind, name)
    size = card.card().image.size if card else usual_size(kind, architecture)
    network = architecture(num_classes=7, **{"width": 0.05, **ARGUMENTS.get(name, {})}).eval()
    assert isinstance(network, nn.Module)
    with torch.no_grad():
        output = network(torch.rand(2, 3, size, size))
        again = network(torch.rand(1, 3, size, size))
    assert isinstance(output, ClassifierOutput)
    assert output.logits.shape == (2, 7)
    assert output.features.ndim == 2
    assert output.features.shape[0] == 2
    assert again.features.shape[1] == output.features.shape[1]
    with pytest.raises(MibenchError, match=r"can never be chosen as the target|no trained weights"):
        cards.find("target", f"{name}@nowhere", "nowhere")


def test_no_network_is_target_and_judge() -> None:
    assert not set(registry.names("target")) & set(registry.names("judge"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_frozen_configuration(name: str) -> None:
    kind = registry.load("recipe", name)
    assert issubclass(kind, Recipe)
    assert kind.kind == name.partition(":")[0]
    assert kind.needs in ("split", "public", "public+identities", "public+victim")
    if kind.kind in ("prior", "backbone"):
        assert kind.needs != "split", f"a {kind.kind} is trained on public images, never on the private split"
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().anything = 1


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_a_dataset_is_a_frozen_configuration(name: str) -> None:
    kind = registry.load("dataset", name)
    assert issubclass(kind, IdentitySplit)
    assert kind.name == name
    assert dataclasses.is_dataclass(kind)


def test_every_shipped_card_is_whole() -> None:
    from mibench.system.files import file_sha256
    from mibench.weights.load import load_weights

    shipped = [file for file in cards.all_cards().values() if file.origin != "user"]
    total = 0
    for file in shipped:
        card = file.card()
        assert file.path.stem == CardName.parse(card.name).stem
        assert card.architecture in registry.names(card.kind)
        assert card.dataset in registry.names("dataset")
        assert card.dataset_digest == registry.load("dataset", card.dataset)().digest, f"{card.name}: another world"
        assert card.measured, f"{card.name}: nothing was measured"
        assert file_sha256(file.weights_path) == card.weights.sha256
        load_weights(file)
        total += card.weights.bytes
    assert total < 40e6, "all shipped weights together stay under 40 MB"
    folders = {file.weights_folder for file in shipped}
    orphans = {p.name for folder in folders for p in Path(folder).glob("*.safetensors")}
    assert orphans == {file.card().weights.file for file in shipped}
