"""The two files of a GAN become one prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoints import bring, gan, save, state, stored

from mibench.api import CardName
from mibench.errors import MibenchError, MisfitError
from mibench.weights import cards
from mibench.weights.load import build_prior


@pytest.mark.parametrize("swapped", [False, True], ids=["G D", "D G"])
@pytest.mark.parametrize("name", ["gmi", "kedmi"])
def test_the_two_files_of_a_gan_are_told_apart_by_their_keys(
    home: Path, tmp_path: Path, name: str, swapped: bool
) -> None:
    generator, critic = gan(name)
    paths = [save(tmp_path / "x.tar", generator), save(tmp_path / "y.tar", critic)]
    tag = "+vgg16" if name == "kedmi" else ""
    done = bring(f"prior:{name}@celeba{tag}", *(reversed(paths) if swapped else paths))
    found = stored(done)
    assert torch.equal(found["G.l1.0.weight"], generator["l1.0.weight"])
    assert len(found) == len(generator) + len(critic)
    assert len(done.card.recipe["imported_sha256"]) == 2
    prior = build_prior(cards.all_cards()[done.card.name], done.card.arguments, torch.device("cpu"))
    assert prior.decode(prior.sample(2, torch.Generator())).shape == (2, 3, 64, 64)
    assert done.card.recipe.get("target") == ("vgg16@celeba" if name == "kedmi" else None)


def test_a_gan_made_against_a_target_is_found_by_a_run_against_it(home: Path, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"improved_celeba_{n}.tar", w) for n, w in zip("GD", gan("kedmi"), strict=True)]
    done = bring("prior:kedmi@celeba+vgg16-bido", *paths)
    assert done.card.recipe["target"] == "vgg16@celeba+bido"
    assert CardName.parse("vgg16@celeba+bido").as_tag == "vgg16-bido"
    assert done.card.recipe["source"] == "SCccc21/Knowledge-Enriched-DMI"


@pytest.mark.parametrize(
    ("wanted", "parts", "message"),
    [
        ("prior:gmi@celeba", ["G"], r"the critic of GMI is missing, given: generator; give the two files"),
        ("prior:gmi@celeba", ["G", "G"], "is a second generator"),
        ("prior:gmi@celeba", ["G", "kedmi"], "the critic of GMI is missing, given: generator, critic of KEDMI"),
        ("prior:gmi@celeba", ["G", "gmi", "kedmi"], "3 files for gmi"),
        ("prior:kedmi@celeba+vgg16", ["G", "vgg16"], "is neither a generator nor a critic"),
        ("prior:kedmi@celeba", ["G", "kedmi"], "is made against one target; say which, such as --as prior:kedmi"),
        ("prior:kedmi@celeba+vgg61", ["G", "kedmi"], "unknown target 'vgg61'; did you mean 'vgg16'"),
    ],
)
def test_anything_but_a_gan_is_refused(home: Path, tmp_path: Path, wanted: str, parts: list[str], message: str) -> None:
    have = {"G": gan("gmi")[0], "gmi": gan("gmi")[1], "kedmi": gan("kedmi")[1], "vgg16": state("vgg16")}
    paths = [save(tmp_path / f"{index}.tar", have[part]) for index, part in enumerate(parts)]
    with pytest.raises(MibenchError, match=message):
        bring(wanted, *paths)
    assert not home.exists()


def test_a_gan_of_other_classes_than_its_target_is_refused(home: Path, tmp_path: Path) -> None:
    bring("target:vgg16@celeba", save(tmp_path / "a.tar", state("vgg16", classes=9)))
    paths = [save(tmp_path / f"{n}.tar", w) for n, w in zip("GD", gan("kedmi"), strict=True)]
    with pytest.raises(MibenchError, match=r"was made against 5 classes, 'vgg16@celeba' has 9"):
        bring("prior:kedmi@celeba+vgg16", *paths)


def test_a_gan_with_missing_layers_names_them(home: Path, tmp_path: Path) -> None:
    generator, critic = gan("gmi")
    del critic["ls.5.bias"]
    paths = [save(tmp_path / "g.tar", generator), save(tmp_path / "d.tar", critic)]
    with pytest.raises(MisfitError, match=r"1 missing \(D.ls.5.bias\)") as caught:
        bring("prior:gmi@celeba", *paths)
    assert caught.value.misfit.missing == ["D.ls.5.bias"]
