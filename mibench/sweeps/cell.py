"""The cells of a suite, and the axes along which they lie."""

from __future__ import annotations

from dataclasses import dataclass

from mibench.runs.request import RunRequest

DETAILS = ("preset", "prior", "settings", "label")


@dataclass(frozen=True)
class Axis:
    """A dimension of the matrix: the key of its list in a suite, the field of a request that its values fill.

    Attributes:
        details: what an entry may say besides its value, when it is written as a mapping.
        default: the values when the suite has no such list; None: it must have one.
    """

    key: str
    field: str
    kind: type = str
    details: tuple[str, ...] = ()
    default: tuple[object, ...] | None = None


AXES = (
    Axis("attacks", "attack", details=DETAILS),
    Axis("targets", "target"),
    Axis("seeds", "seed", kind=int, default=(0,)),
)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the matrix.

    Attributes:
        label: what tables call its attack; the attack's name unless the suite says otherwise.
        request: what ``mibench run`` would be asked for.
    """

    label: str
    request: RunRequest

    def axis(self, field: str) -> object:
        """Its value along an axis, or one of its details."""
        return self.label if field == "label" else getattr(self.request, field)

    @property
    def key(self) -> dict[str, object]:
        """What tells it from the other cells of its suite."""
        return {"label": self.label, **{axis.field: self.axis(axis.field) for axis in AXES}}

    @property
    def title(self) -> str:
        """``dmmia against vgg16, seed 0``."""
        return f"{self.label} against {self.request.target}, seed {self.request.seed}"
