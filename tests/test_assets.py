"""Weights are verified before anything reads them, and loaded strictly. Cards are checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load, save

from mibench.api import Access
from mibench.errors import MibenchError
from mibench.weights import cards
from mibench.weights import load as assets

CPU = torch.device("cpu")


def weights_path(home: Path, stem: str) -> Path:
    return home / "weights" / f"{stem}.safetensors"


def rewrite(home: Path, stem: str, weights: dict[str, torch.Tensor]) -> None:
    """Other weights with a card that vouches for them."""
    import hashlib

    content = save(weights)
    weights_path(home, stem).write_bytes(content)
    path = home / "cards" / f"{stem}.yaml"
    card = yaml.safe_load(path.read_text())
    card["weights"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    path.write_text(yaml.safe_dump(card))


def test_a_victim_is_frozen_and_counts(toy: Path) -> None:
    victim = assets.build_victim(cards.find("target", "toynet", "toyfaces"), Access.GRADIENTS, CPU)
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    victim.logits(images).sum().backward()
    assert (victim.queries.forward, victim.queries.backward) == (3, 3)
    assert images.grad is not None


@pytest.mark.parametrize("damage", ["flipped", "truncated", "appended", "swapped"])
def test_damaged_or_swapped_weights_are_refused_by_hash(toy: Path, damage: str) -> None:
    path = weights_path(toy, "toynet_toyfaces")
    content = path.read_bytes()
    changed = {
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "truncated": content[:-5],
        "appended": content + b"\0",
        "swapped": weights_path(toy, "toygan_toyfaces").read_bytes(),
    }[damage]
    path.write_bytes(changed)
    with pytest.raises(MibenchError, match=r"not the ones on their card: .*sha256 .* expected") as caught:
        assets.load_weights(cards.find("target", "toynet", "toyfaces"))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pickle_under_the_right_hash_is_still_refused(toy: Path) -> None:
    import hashlib

    path = weights_path(toy, "toynet_toyfaces")
    torch.save({"a": torch.ones(1)}, path)
    card_path = toy / "cards" / "toynet_toyfaces.yaml"
    card = yaml.safe_load(card_path.read_text())
    content = path.read_bytes()
    card["weights"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    card_path.write_text(yaml.safe_dump(card))
    with pytest.raises(MibenchError, match="is not a safetensors file"):
        assets.load_weights(cards.find("target", "toynet", "toyfaces"))


def test_missing_weights_name_the_file(toy: Path) -> None:
    weights_path(toy, "toynet_toyfaces").unlink()
    with pytest.raises(MibenchError, match=r"toynet_toyfaces\.safetensors: No such file"):
        assets.load_weights(cards.find("target", "toynet", "toyfaces"))


def test_half_precision_is_stored_and_float32_is_used(toy: Path) -> None:
    stored = load(weights_path(toy, "toynet_toyfaces").read_bytes())
    rewrite(toy, "toynet_toyfaces", {name: tensor.half() for name, tensor in stored.items()})
    network, _ = assets.build_network(cards.find("target", "toynet", "toyfaces"))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"fc_layer.bias": w["fc_layer.bias"]}, r"1 missing \(fc_layer\.weight\)"),
        (lambda w: w | {"extra": torch.ones(1)}, r"1 unexpected \(extra\)"),
        (lambda w: {f"module.{k}": v for k, v in w.items()}, r"strip the prefix 'module\.'"),
        (
            lambda w: w | {"fc_layer.weight": torch.ones(7, 4)},
            r"expected \(6, 4\), got \(7, 4\)\). Likely cause: the card's",
        ),
    ],
)
def test_weights_that_do_not_fit_say_how_and_why(toy: Path, change: object, message: str) -> None:
    stored = load(weights_path(toy, "toynet_toyfaces").read_bytes())
    rewrite(toy, "toynet_toyfaces", change(stored))  # type: ignore[operator]
    with pytest.raises(MibenchError, match=message):
        assets.build_network(cards.find("target", "toynet", "toyfaces"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kindd": "x"}, "unknown field 'kindd'; did you mean 'kind'"),
        ({"image": {"size": "big"}}, r"image\.size: .*integer"),
        ({"image": {"size": 8, "sizes": 9}}, r"unknown field image\.'sizes'; did you mean 'size'"),
        ({"weights": {"file": "../x.safetensors", "sha256": "0", "bytes": 1}}, "must be the bare name"),
        ({"weights": {"file": "x.pth", "sha256": "0", "bytes": 1}}, r"must be the bare name of a \.safetensors file"),
    ],
)
def test_a_card_is_checked(toy: Path, change: dict[str, object], message: str) -> None:
    path = toy / "cards" / "toynet_toyfaces.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(MibenchError, match=message):
        cards.find("target", "toynet", "toyfaces").card()


def test_a_card_survives_writing_and_reading(toy: Path, tmp_path: Path) -> None:
    card = cards.find("regressor", "toyregressor", "toyfaces").card()
    path = cards.write_card(card, tmp_path)
    assert cards.parse_card(yaml.safe_load(path.read_text()), "again") == card


def test_names_of_cards(toy: Path) -> None:
    assert cards.find("target", "toynet@toyfaces", "elsewhere").name == "toynet@toyfaces"
    with pytest.raises(MibenchError, match=r"'toyjudge' is a judge, it can never be chosen as the target"):
        cards.find("target", "toyjudge", "toyfaces")
    with pytest.raises(MibenchError, match=r"unknown target 'toynett'; did you mean 'toynet'"):
        cards.find("target", "toynett", "toyfaces")
    with pytest.raises(MibenchError, match=r"no trained weights for the target 'toynet@celeba'; train them"):
        cards.find("target", "toynet", "celeba")
    with pytest.raises(MibenchError, match=r"toynet@toyfaces\+bido"):
        cards.find("target", "toynet+bido", "toyfaces")


@pytest.mark.parametrize(
    ("tag", "flags"),
    [
        ("bido", "--defence bido"),
        ("negls+bido", "--defence negls --defence bido"),
        ("mine", "--tag mine"),
        ("bido+mine", "--tag bido+mine"),
    ],
)
def test_a_tag_that_names_defences_is_trained_with_them(home: Path, tag: str, flags: str) -> None:
    with pytest.raises(MibenchError) as caught:
        cards.find("target", f"facenet64+{tag}", "synthfaces")
    assert f"`mibench train target facenet64 --dataset synthfaces {flags}`" in str(caught.value)


def test_a_prior_that_rejects_its_arguments_is_one_line(toy: Path) -> None:
    with pytest.raises(MibenchError, match="prior 'toygan@toyfaces' does not accept its arguments") as caught:
        assets.build_prior(cards.find("prior", "toygan", "toyfaces"), {"nonsense": 1}, CPU)
    assert "\n" not in str(caught.value)
