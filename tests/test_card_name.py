"""Names of weights: read, completed and written alike everywhere."""

from __future__ import annotations

import pytest

from mibench.api import CardName, MibenchError


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vgg16@celeba", ("vgg16", "celeba", None)),
        ("vgg16@celeba+bido", ("vgg16", "celeba", "bido")),
        ("kedmi@celeba+vgg16-bido", ("kedmi", "celeba", "vgg16-bido")),
        ("a@b+c+d", ("a", "b", "c+d")),
    ],
)
def test_a_name_is_read_and_written(text: str, parts: tuple[str, str, str | None]) -> None:
    name = CardName.parse(text)
    assert (name.architecture, name.dataset, name.tag) == parts
    assert str(name) == text
    assert CardName.complete(text, "other") == name


@pytest.mark.parametrize(
    "text", ["vgg16", "vgg16+bido", "@celeba", "vgg16@", "a@b@c", "a/b@c", "a b@c", "vgg16@celeba+"]
)
def test_what_is_no_name_is_refused_in_one_line(text: str) -> None:
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
