"""Cards and files of imported weights: what they say, what they replace, where they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import SMALL_WORLD, bring, save, state, stored

from mibench.errors import MibenchError
from mibench.weights import cards
from mibench.weights.load import build_network


def test_the_card_says_where_the_weights_come_from(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "IR152_91.16.tar", state("ir152"))
    done = bring("target:ir152@celeba", path, licence="CC-BY-4.0", source="the authors' drive")
    card = cards.find("target", "ir152", "celeba").card()
    assert card == done.card
    assert card.licence == "CC-BY-4.0"
    assert card.recipe["source"] == "the authors' drive"
    assert card.recipe["command"] == (
        "mibench import IR152_91.16.tar --as target:ir152@celeba "
        """--source 'the authors'"'"' drive' --licence CC-BY-4.0"""
    )
    assert len(card.recipe["imported_sha256"]) == 64
    assert card.reported == {"test_accuracy": 0.9116, "from": "the file's name, IR152_91.16.tar"}
    assert any("test accuracy not measured: celeba is not complete" in text for text in done.remarks)
    assert str(tmp_path) not in done.path.read_text(), "a card holds no path of this machine"


def test_the_same_content_is_taken_twice_and_other_content_is_refused_or_replaces(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tar", state("vgg16"))
    first = bring("target:vgg16@celeba", path)
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}
    again = bring("target:vgg16@celeba", save(tmp_path / "b.pth", state("vgg16"), legacy=False, prefix=""))
    assert again.unchanged
    other = save(tmp_path / "c.tar", state("vgg16", seed=1))
    with pytest.raises(MibenchError, match=r"is there already with other weights.*--as target:vgg16@celeba\+NAME"):
        bring("target:vgg16@celeba", other)
    assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == before
    replaced = bring("target:vgg16@celeba", other, replace=True)
    assert replaced.card.weights.sha256 != first.card.weights.sha256
    assert len(list((home / "weights").iterdir())) == 1, "the old weights are gone"
    found = stored(replaced)
    assert torch.equal(found["fc_layer.weight"], state("vgg16", seed=1)["fc_layer.weight"])
    bring("target:vgg16@celeba", path, replace=True)
    assert len(list((home / "weights").iterdir())) == 1
    build_network(cards.find("target", "vgg16", "celeba"))


def test_a_replacement_that_fails_leaves_the_old_pair(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mibench.weights import save as saving

    bring("target:vgg16@celeba", save(tmp_path / "a.tar", state("vgg16")))
    before = {file: file.read_bytes() for file in home.rglob("*") if file.is_file()}

    def full(*arguments: Any) -> None:
        raise MibenchError("cannot write the card: no space left on device; make room")

    monkeypatch.setattr(saving, "write_card", full)
    other = save(tmp_path / "b.tar", state("vgg16", seed=1))
    for wanted, replace in (("target:vgg16@celeba", True), ("target:vgg16@celeba+b", False)):
        with pytest.raises(MibenchError, match="no space left"):
            bring(wanted, other, replace=replace)
        assert {file: file.read_bytes() for file in home.rglob("*") if file.is_file()} == before
    build_network(cards.find("target", "vgg16", "celeba"))


def test_a_shipped_name_is_not_shadowed_unasked(home: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.tar", state("vgg16"))
    with pytest.raises(MibenchError, match="'vgg16@synthfaces' is there already"):
        bring("target:vgg16@synthfaces", path, settings=SMALL_WORLD)
    assert not home.exists()


def test_an_output_folder_of_its_own(home: Path, tmp_path: Path) -> None:
    done = bring("target:vgg16@celeba", save(tmp_path / "a.tar", state("vgg16")), output=tmp_path / "out")
    assert done.path == tmp_path / "out" / "cards" / "vgg16_celeba.yaml"
    assert (tmp_path / "out" / "weights" / done.card.weights.file).is_file()
    assert not home.exists()
