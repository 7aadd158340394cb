"""Every released container and architecture ends as the same weights, every trap of the published files included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import CLASSES, NETWORKS, PUBLISHED, WIDTH, bido, bring, contents, published, save, state, stored
from safetensors.torch import save_file

from mibench import registry
from mibench.attacks.priors.dcgan.importing import import_gan
from mibench.errors import MibenchError, MisfitError, StateDictMismatch
from mibench.targets.importing.checkpoint_kinds import kind_of
from mibench.targets.importing.released import from_bido, import_backbone, import_classifier
from mibench.targets.networks.vgg16_mid import VGG16MID
from mibench.weights import cards
from mibench.weights.importing.requested_name import parse
from mibench.weights.load import build_network


@pytest.mark.parametrize(
    ("container", "prefix", "legacy", "more"),
    [
        ("state_dict", "module.", True, {}),  # KEDMI's classifiers
        ("state_dict", "module.", False, {}),
        ("state_dict", "module.", False, {"config": {"width": 1}, "model_name": "ir152_64"}),  # TB
        ("model_state_dict", "_orig_mod.model.", False, {"epoch": 99, "optimizer_state_dict": {"state": {}}}),  # PPA
        ("model", "", False, {"opt": {"state": {0: torch.ones(3)}}}),  # PLG-MI
        ("bare", "", True, {}),
        ("bare", "module.module.", False, {}),
    ],
)
def test_every_released_container_ends_as_the_same_weights(
    home: Path, tmp_path: Path, container: str, prefix: str, legacy: bool, more: dict[str, Any]
) -> None:
    weights = state("facenet64")
    path = save(tmp_path / "a.tar", weights, container=container, prefix=prefix, legacy=legacy, **more)
    done = bring("target:facenet64@celeba", path)
    found = stored(done)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert done.card.recipe["container"] == container
    assert done.card.recipe["stripped"] == prefix
    assert done.card.licence.startswith("not stated"), "nobody gave these weights the licence of this project"
    said = {"config": {"width": 1}, "model_name": "ir152_64"}, {"epoch": 99}
    assert done.card.recipe.get("said") in (None, *said)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "facenet112"])
def test_targets_are_rebuilt_from_their_shapes(home: Path, tmp_path: Path, name: str) -> None:
    weights = state(name)
    done = bring(f"target:{name}@celeba", save(tmp_path / "a.tar", weights))
    network, card = build_network(cards.find("target", name, "celeba"))
    assert card.classes == CLASSES
    assert card.image.size == 64
    assert (card.image.mean, card.image.std) == ((0.0,), (1.0,)), "no normalisation in this family"
    assert card.arguments["width"] == WIDTH
    assert done.path == home / "cards" / f"{name}_celeba.yaml"
    images = torch.rand(2, 3, 64, 64)
    original = NETWORKS[name](CLASSES, width=WIDTH).eval()
    original.load_state_dict(weights)
    with torch.no_grad():
        assert torch.equal(network(images).logits, original(images).logits)


def test_the_judge_is_imported_at_112_pixels(home: Path, tmp_path: Path) -> None:
    weights = state("facenet112")
    done = bring("judge:facenet112@celeba", save(tmp_path / "FaceNet_95.88.tar", weights))
    assert done.card.image.size == 112
    assert done.card.reported == {"test_accuracy": 0.9588, "from": "the file's name, FaceNet_95.88.tar"}
    build_network(cards.find("judge", "facenet112", "celeba"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_key_lists_are_imported_at_width_1(name: str) -> None:
    """Against the whole list of keys and shapes, on tensors without storage."""
    weights = published(name)
    architecture = PUBLISHED[name]
    trained = import_classifier(architecture, [contents(weights)], {})
    size = 112 if name == "FaceNet" else 64
    assert trained.arguments == {"width": 1.0, "size": size}
    assert trained.classes == 1000
    kind = "judge" if name == "FaceNet" else "target"
    with torch.device("meta"):
        network = registry.load(kind, architecture)(num_classes=trained.classes, **trained.arguments)
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert not StateDictMismatch.between(shapes, {key: tensor.shape for key, tensor in trained.weights.items()})
    found = kind_of(weights)
    assert found is not None
    assert found.name == architecture


def test_the_published_gans_are_imported_at_width_1() -> None:
    generator = published("GMI_Generator")
    for name, critic in (("gmi", "GMI_DGWGAN"), ("kedmi", "KEDMI_MinibatchDiscriminator")):
        trained = import_gan(name, [contents(published(critic)), contents(generator)], {})
        assert trained.arguments["z_dim"] == 100
        assert trained.arguments["width"] == 1.0
    assert {trained.arguments[key] for key in ("num_classes", "kernels", "dimensions")} == {1000, 64, 50}


def test_bido_is_renamed_and_computes_what_vgg16_computes(home: Path, tmp_path: Path) -> None:
    weights = state("vgg16")
    theirs = bido(weights)
    assert {"layer1.0.weight", "layer3.7.bias", "layer5.7.running_var"} <= theirs.keys()
    assert from_bido(theirs).keys() == weights.keys()
    done = bring("target:vgg16@celeba+bido", save(tmp_path / "bido.tar", theirs))
    found = stored(done)
    assert all(torch.equal(found[key], weights[key]) for key in weights)
    assert "renamed" in str(done.card.notes)
    published_keys = published("VGG16")
    assert from_bido(bido(published_keys)).keys() == published_keys.keys()


def test_mid_is_an_architecture_of_its_own_and_deterministic_unless_it_is_asked_to_draw(
    home: Path, tmp_path: Path
) -> None:
    path = save(tmp_path / "mid.tar", state("vgg16_mid"))
    bring("target:vgg16_mid@celeba", path)
    drawn = bring("target:vgg16_mid@celeba+drawn", path, settings={"import": {"sample": True}})
    assert drawn.card.arguments["sample"] is True
    images = torch.rand(2, 3, 64, 64)
    mean, _ = build_network(cards.find("target", "vgg16_mid", "celeba"))
    sampling, _ = build_network(cards.find("target", "vgg16_mid+drawn", "celeba"))
    with torch.no_grad():
        assert torch.equal(mean(images).logits, mean(images).logits)
        assert not torch.equal(sampling(images).logits, sampling(images).logits)
        assert torch.equal(sampling(images).features, mean(images).features)
    with pytest.raises(MibenchError, match=r"import.sample is true or false, got 3"):
        bring("target:vgg16_mid@celeba", path, settings={"import": {"sample": 3}})


def test_mid_is_the_formula() -> None:
    torch.manual_seed(0)
    network = VGG16MID(3, width=WIDTH, sample=True).eval()
    images = torch.rand(2, 3, 64, 64)
    features = network.feature(images).flatten(1)
    half = features.shape[1] // 2
    assert network.fc_layer.in_features == half == 64
    statistics = network.st_layer(features)
    torch.manual_seed(5)
    drawn = network(images).logits
    torch.manual_seed(5)
    spread = (statistics[:, half:] - 5).exp().add(1).log()
    code = statistics[:, :half] + spread * torch.randn(2, half)
    torch.testing.assert_close(drawn, network.fc_layer(code))


def test_counters_that_old_torch_did_not_save_are_added(home: Path, tmp_path: Path) -> None:
    weights = state("vgg16")
    lacking = {key: tensor for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    done = bring("target:vgg16@celeba", save(tmp_path / "a.tar", lacking))
    assert int(stored(done)["bn.num_batches_tracked"]) == 0
    assert "Counters of batches" in str(done.card.notes)
    one = {key: tensor for key, tensor in weights.items() if key != "bn.num_batches_tracked"}
    with pytest.raises(MisfitError, match=r"1 missing \(bn.num_batches_tracked\)"):
        bring("target:vgg16@celeba+b", save(tmp_path / "b.tar", one))


def test_weights_that_share_memory_and_half_precision_are_stored(home: Path, tmp_path: Path) -> None:
    weights = {key: t.half() if t.is_floating_point() else t for key, t in state("vgg16").items()}
    weights["bn.weight"] = weights["bn.bias"]
    shared = torch.zeros(2, CLASSES)
    weights["fc_layer.bias"] = shared[0]
    done = bring("target:vgg16@celeba", save(tmp_path / "a.tar", weights))
    found = stored(done)
    assert torch.equal(found["bn.weight"], found["bn.bias"])
    assert found["fc_layer.weight"].dtype == torch.float32


def test_safetensors_are_taken_too(home: Path, tmp_path: Path) -> None:
    save_file(state("vgg16"), tmp_path / "a.safetensors")
    assert bring("target:vgg16@celeba", tmp_path / "a.safetensors").card.recipe["container"] == "safetensors"


def test_an_importer_may_be_of_one_architecture_or_of_a_kind() -> None:
    from mibench.weights.importing.importer import find_importer

    assert find_importer(parse("target:ir152@celeba")) is import_classifier
    assert find_importer(parse("backbone:ir50@ms1m")) is import_backbone
    assert find_importer(parse("target:resnet18@celeba")) is registry.load("importer", "target:resnet18")
