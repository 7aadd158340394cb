"""What is written down: the images a network takes, and cards of trained weights. Part of the contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mibench.errors import MibenchError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TAG = rf"{_PLAIN_NAME.pattern}(?:\+{_PLAIN_NAME.pattern})*"  # several where defences are combined
_CARD_NAME = re.compile(rf"({_PLAIN_NAME.pattern})@({_PLAIN_NAME.pattern})(?:\+({_TAG}))?")
LONGEST_NAME = 150  # characters: file systems take 255 bytes, and a file adds its hash, ending and process number
PLAIN_NAMES = f"letters, digits, '_', '.' and '-', beginning with a letter or digit, {LONGEST_NAME} characters at most"


AccessName = Literal["labels", "scores", "gradients"]  # what an adversary is granted, in words


def is_plain_name(name: object) -> bool:
    """Whether files and folders of every system can be called by a name, and no separator of ours is in it.

    The rule of every name that becomes a file: of weights and their tags, attacks, data sets, suites.
    ``PLAIN_NAMES`` says it in words.
    """
    return isinstance(name, str) and len(name) <= LONGEST_NAME and _PLAIN_NAME.fullmatch(name) is not None


@dataclass(frozen=True)
class ImageSpec:
    """The images a network takes: ``size`` in pixels (square) and the normalisation applied inside the wrapper."""

    size: int
    channels: int = 3
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, order=True)
class CardName:
    """The name of a set of weights: ``architecture@dataset`` or ``architecture@dataset+tag``."""

    architecture: str
    dataset: str
    tag: str | None = None

    @classmethod
    def parse(cls, text: str) -> CardName:
        """Read a whole name.

        Raises:
            MibenchError: it is none.
        """
        parts = _CARD_NAME.fullmatch(text)
        if parts is None or len(text) > LONGEST_NAME:
            raise MibenchError(
                "a name of weights reads architecture@dataset or architecture@dataset+tag, each part of "
                f"{PLAIN_NAMES}; got {text[:LONGEST_NAME]!r}"
            )
        return cls(*parts.groups())

    def checked(self, option: str = "--tag") -> CardName:
        """The same name, if files can be called by it. Architecture and data set are registered, so theirs can.

        A tag is a plain name, or several joined by ``+`` (the defences of a target).

        Args:
            option: where the tag comes from, for the message.

        Raises:
            MibenchError: with the tag and the rule.
        """
        given = self.tag
        if given is not None and not (isinstance(given, str) and all(map(is_plain_name, given.split("+")))):
            got = f"{given[:LONGEST_NAME]!r}" if isinstance(given, str) else f"a {type(given).__name__}"
            raise MibenchError(f"{option}: a tag becomes part of file names: {PLAIN_NAMES}; got {got}")
        if len(str(self)) > LONGEST_NAME:
            raise MibenchError(
                f"{option}: {str(self)!r} is too long a name for a file",
                cure="choose a shorter tag",
            )
        return self

    @classmethod
    def complete(cls, text: str, dataset: str) -> CardName:
        """Read a whole name, or ``architecture`` or ``architecture+tag``, which ``dataset`` completes.

        Nothing is refused: whether there is a card of that name is another question.
        """
        head, at, rest = text.partition("@")
        if at:
            name, _, tag = rest.partition("+")
            return cls(head, name, tag or None)
        architecture, _, tag = head.partition("+")
        return cls(architecture, dataset, tag or None)

    def __str__(self) -> str:
        return f"{self.architecture}@{self.dataset}" + (f"+{self.tag}" if self.tag else "")

    @property
    def stem(self) -> str:
        """What its files are called: ``vgg16_synthfaces_bido``."""
        return str(self).replace("@", "_").replace("+", "_")

    @property
    def as_tag(self) -> str:
        """The tag of a prior that is made against this target: ``vgg16@celeba+smoothed`` -> ``vgg16-smoothed``."""
        return self.architecture + (f"-{self.tag}" if self.tag else "")

    def target_of_tag(self) -> CardName | None:
        """Undo :attr:`as_tag`: the target that a prior of this name is made against; None without a tag."""
        if self.tag is None:
            return None
        architecture, _, tag = self.tag.partition("-")
        return CardName(architecture, self.dataset, tag or None)


@dataclass(frozen=True)
class WeightsFile:
    """A safetensors file beside its card: name, sha256 and size in bytes."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CardDefence:
    """What a target is defended by.

    Attributes:
        name: of the defence; names joined by ``+`` where several were combined.
        settings: defence -> every setting and its value.
        twin: the card of the undefended twin: the same recipe without the defence.
        twin_sha256: of the twin's weights.
        control: expected to leak more, shown beside the defences.
        filters: those of ``settings`` that train nothing and change the answers; a victim is wrapped in them.
        differs_from_twin: setting of the training (``epochs``, ``seed``) -> the twin's value and this one's; empty
            where the twin's recipe was followed.
    """

    name: str
    settings: Mapping[str, Mapping[str, object]]
    twin: str | None = None
    twin_sha256: str | None = None
    control: bool = False
    filters: tuple[str, ...] = ()
    differs_from_twin: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One set of trained weights. ``name`` reads ``architecture@dataset`` or ``architecture@dataset+tag``.

    ``reported`` is what the source of the weights claims, ``measured`` what this project measured and how.
    ``artefacts`` is a file of tensors for analysis, which no run reads.
    """

    name: str
    kind: str  # target | judge | regressor | prior | backbone
    architecture: str
    dataset: str
    image: ImageSpec
    weights: WeightsFile
    arguments: Mapping[str, object] = field(default_factory=dict)  # keyword arguments that build the architecture
    classes: int | None = None
    dataset_digest: str | None = None
    licence: str = "MIT"
    recipe: Mapping[str, object] = field(default_factory=dict)
    reported: Mapping[str, Any] | None = None
    measured: Mapping[str, Any] | None = None
    access: AccessName = "gradients"  # the most that this network can give
    defence: CardDefence | None = None
    artefacts: WeightsFile | None = None
    notes: str | None = None
