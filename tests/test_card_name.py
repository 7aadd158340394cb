"""Names of weights: read, completed and written alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

import mibench
from mibench import registry
from mibench.api import CardName, MibenchError
from mibench.records import LONGEST_NAME
from mibench.weights.training import Training


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vgg16@celeba", ("vgg16", "celeba", None)),
        ("vgg16@celeba+bido", ("vgg16", "celeba", "bido")),
        ("kedmi@celeba+vgg16-bido", ("kedmi", "celeba", "vgg16-bido")),
    ],
)
def test_a_name_is_read_and_written(text: str, parts: tuple[str, str, str | None]) -> None:
    name = CardName.parse(text)
    assert (name.architecture, name.dataset, name.tag) == parts
    assert str(name) == text
    assert CardName.complete(text, "other") == name


@pytest.mark.parametrize(
    "text",
    [
        *("vgg16", "vgg16+bido", "@celeba", "vgg16@", "a@b@c", "a/b@c", "a b@c", "vgg16@celeba+", "a@b+c+"),
        *("a@b+c\n", "a@b+\x1b[1m", "a@b+.c", "a@b+-c", "a@b+ä", f"a@b+{'c' * 200}", "a@b+c\\d"),
    ],
)
def test_anything_but_a_name_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(MibenchError, match="reads architecture@dataset or") as caught:
        CardName.parse(text)
    assert "\n" not in str(caught.value)


def test_a_data_set_completes_a_short_name() -> None:
    assert str(CardName.complete("vgg16", "celeba")) == "vgg16@celeba"
    assert str(CardName.complete("vgg16+bido", "celeba")) == "vgg16@celeba+bido"


def test_a_prior_is_called_after_its_target_and_back() -> None:
    target = CardName.parse("vgg16@celeba+bido")
    prior = CardName("kedmi", "celeba", target.as_tag)
    assert prior.target_of_tag() == target
    assert CardName("kedmi", "celeba").target_of_tag() is None
    assert prior.stem == "kedmi_celeba_vgg16-bido"


BAD_TAGS = ["", "a/b", "../up", "a@b", "a+", "a b", "a\nb", "a\x1b[31mb", "\0", ".hidden", "-x", "ä", "x" * 200, 5]


@pytest.mark.parametrize("tag", BAD_TAGS)
def test_a_tag_that_makes_no_file_is_refused_before_anything_is_made(home: Path, tag: Any) -> None:
    """By every way to give one: nothing is read, trained or written."""
    with pytest.raises(MibenchError, match=r"--tag: a tag becomes part of file names|too long a name") as caught:
        mibench.train("target", "vgg16", tag=tag, device="cpu")
    assert "\n" not in str(caught.value)
    if isinstance(tag, str) and tag not in ("", "a@b"):
        with pytest.raises(MibenchError, match=r"--as .*a tag becomes part of file names|too long a name"):
            mibench.import_weights("gone.pt", f"target:vgg16@synthfaces+{tag}")
    assert not home.exists()


def test_a_name_may_be_long_as_long_as_its_files_can_be(home: Path) -> None:
    longest = CardName("vgg16", "synthfaces", "x" * (LONGEST_NAME - len("vgg16@synthfaces+"))).checked()
    assert len(f".{longest.stem}-0123abcd.safetensors.{2**22}.tmp") <= 255
    with pytest.raises(MibenchError, match="too long a name for a file"):
        CardName("vgg16", "synthfaces", f"{longest.tag}x").checked()
    with pytest.raises(MibenchError, match=r"--target: .* is too long a name"):
        _ = Training(kind="prior", architecture="kedmi", target=str(longest)).card_name


@pytest.mark.parametrize("name", ["my attack", "a/b", "a@b", "a+b", "", "x" * 200, "a\nb"])
def test_registered_names_are_names_of_files_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = Mock(dist=Mock(), load=lambda: {"dataset": {name: "odd:Data"}})
    point.dist.name = point.name = "odd"
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry.catalogue.cache_clear()
    try:
        with pytest.raises(MibenchError, match=r"odd registers the dataset .*, which files cannot be called by"):
            registry.catalogue()
    finally:
        monkeypatch.undo()
        registry.catalogue.cache_clear()
