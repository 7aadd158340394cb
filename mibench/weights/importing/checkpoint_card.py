"""What is asked of ``mibench import``, and the card that comes of it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mibench.api import Accuracy, Card, CardName, TrainedWeights, WeightsContents
from mibench.data.split import IdentitySplit
from mibench.system.canonical import plain
from mibench.weights.save import describe

from .released_files import recognise
from .reported_accuracy import doubt
from .requested_name import RequestedName

IMPORT_SCOPES = ("import", "dataset")
UNKNOWN_LICENCE = "not stated; ask the source"
MOST_SAID = 4000  # characters of what a file says besides its weights that go onto the card


@dataclass(frozen=True, kw_only=True)
class Import:
    """What is to be imported.

    Attributes:
        files: one, or the two files of a generator and its critic in either order.
        wanted: ``--as``, ``kind:architecture@dataset[+tag]``.
        settings: scope (import, dataset) -> values.
        source, licence: text for the card.
        reported: test accuracy that the source claims, in percent.
        sha256: what the files must hash to, in their order; empty: anything.
        output: folder that gets ``cards/`` and ``weights/``; None means ``$MIBENCH_HOME``.
        replace: overwrite a card of this name that has other weights.
    """

    files: Sequence[Path]
    wanted: str
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    source: str | None = None
    licence: str | None = None
    reported: float | None = None
    sha256: Sequence[str] = ()
    output: Path | None = None
    replace: bool = False

    @property
    def command(self) -> str:
        """The command that does this again, without the folder of the files."""
        words = ["mibench", "import", *(path.name for path in self.files), "--as", self.wanted]
        for flag, value in (("reported", self.reported), ("source", self.source), ("licence", self.licence)):
            words += [f"--{flag}", str(value)] if value is not None else []
        for scope, values in self.settings.items():
            words += [word for name, given in values.items() for word in ("--set", f"{scope}.{name}={plain(given)}")]
        return shlex.join(words)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where imported weights come from, and the card that says so."""

    request: Import
    wanted: RequestedName
    files: Sequence[WeightsContents]
    trained: TrainedWeights
    target: CardName | None

    def card(self, content: bytes, dataset: IdentitySplit | None, accuracy: Accuracy | None) -> tuple[Card, list[str]]:
        """The card, and doubts about what it says."""
        wanted, trained, request = self.wanted, self.trained, self.request
        release = next(filter(None, (recognise(file.file, wanted) for file in self.files)), None)
        percent, origin = request.reported, "--reported"
        if percent is None and release is not None and release.accuracy is not None:
            percent, origin = release.accuracy, f"the file's name, {self.files[0].file}"
        reported = {} if percent is None else {"test_accuracy": round(percent / 100, 6), "from": origin}
        measured: dict[str, object] = dict(trained.measured)
        doubts = []
        if accuracy is not None and dataset is not None:
            measured |= {
                "test_accuracy": accuracy.value, "test_images": accuracy.images, "dataset_digest": dataset.digest
            }  # fmt: skip
            if percent is not None:
                why = doubt(accuracy, percent / 100, trained.classes or 1)
                measured["agrees_with_reported"] = why is None
                doubts += [why] if why else []
        one = len(self.files) == 1
        card = describe(
            wanted.card_name,
            wanted.kind,
            trained,
            content,
            licence=request.licence or UNKNOWN_LICENCE,
            recipe={
                "command": request.command,
                "container": self.files[0].container,
                "stripped": "".join(self.files[0].stripped),
                "imported_sha256": self.files[0].sha256 if one else [file.sha256 for file in self.files],
                "source": request.source or (release.source if release is not None else "not stated"),
                **({"target": str(self.target)} if self.target else {}),
                **({"dataset": plain(request.settings["dataset"])} if request.settings.get("dataset") else {}),
                **self._extras(),
            },
            reported=reported or None,
            measured=measured or None,
            notes=" ".join(filter(None, ("; ".join(trained.notes), *(f"Doubt: {text}." for text in doubts)))) or None,
        )
        return card, doubts

    def _extras(self) -> dict[str, object]:
        """What the files say besides their weights, unless it is a novel."""
        by_file = {file.file: dict(file.extras) for file in self.files if file.extras}
        extras = next(iter(by_file.values())) if len(self.files) == 1 and by_file else by_file
        return {"said": extras} if extras and len(json.dumps(extras)) <= MOST_SAID else {}
