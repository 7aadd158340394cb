"""What a person says about an audit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mibench import registry
from mibench.api import Access
from mibench.errors import MibenchError
from mibench.runs.request import ACCESS

SCOPES = ("model", "dataset", "judge_training", "prior_training", "prior", "attack", "protocol")


@dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """One audit. None and empty mean: not said.

    Attributes:
        model: ``package.module:build``, or an ONNX or TorchScript file.
        weights: of a model in code; None: those that the factory leaves in it.
        data: folder of private people; settings of the data set go before it.
        public: folder of public images.
        size, range, mean, std, channel_order: the images that the model takes.
        classes: a file with one directory name a line, in the model's order of classes; or ``imagefolder``: the order
            of torchvision's ImageFolder, which sorts names as text; or ``sorted``: numbers by size.
        outputs, features: what the model returns, where its shapes do not say it.
        attack, access, judge, prior, identities, seed: of the run.
        min_accuracy: least accuracy on the held-out images, in [0, 1].
        dataset: registered name of the data set.
        settings: scope -> values: ``model`` (arguments of the factory), ``judge_training``, ``prior_training``, and the
            scopes of a run.
    """

    model: str
    weights: Path | None = None
    data: Path | None = None
    public: Path | None = None
    size: int | None = None
    range: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: Literal["rgb", "bgr"] = "rgb"
    classes: str | None = None
    outputs: tuple[str, ...] = ()
    features: str = ""
    attack: str | None = None
    access: str | None = None
    judge: str | None = None
    prior: str | None = None
    identities: int | None = None
    min_accuracy: float | None = None
    seed: int = 0
    dataset: str = "folder"
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.access is not None and self.access not in ACCESS:
            raise MibenchError(registry.unknown("access", self.access, ACCESS))
        if self.min_accuracy is not None and not 0 <= self.min_accuracy <= 1:
            raise MibenchError(f"--min-accuracy is a share in [0, 1], got {self.min_accuracy}")
        for scope in self.settings:
            if scope not in SCOPES:
                raise MibenchError(registry.unknown("scope of settings", scope, SCOPES))

    def settings_of(self, scope: str) -> dict[str, object]:
        """The settings of a scope."""
        return dict(self.settings.get(scope, {}))

    @property
    def wanted_access(self) -> Access:
        """What the adversary may have, if the model can give it."""
        return Access[(self.access or "gradients").upper()]


def numbers(text: str | None, option: str) -> tuple[float, ...]:
    """``0.5,0.5,0.5`` -> three numbers; None and "" -> none.

    Raises:
        MibenchError: something that is no number.
    """
    try:
        return tuple(float(part) for part in (text or "").split(",") if part.strip())
    except ValueError as error:
        raise MibenchError(f"{option} {text}: expected numbers with commas between them") from error
