"""What a panel is, which ones are drawn of a run, and the key that tells afterwards what each one was.

A panel shows some real images of a person and one further image: is it the same person? The further image is a
reconstruction, or a control whose right answer is known. Panels are shuffled and their numbers say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import torch

from mibench.data.split import IdentitySplit, Images
from mibench.errors import MibenchError
from mibench.results import StoredRun
from mibench.rng import stream
from mibench.system.canonical import JsonObject, hash_of

Kind = Literal["reconstruction", "same", "other", "stranger"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SCHEMA = 1
SMALL = 16  # pixels, where labels alone count
MOST_STRANGERS = 2000  # public images that strangers are drawn from


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A question.

    Attributes:
        name: of its file, without ending; says nothing of what it shows.
        kind: ``reconstruction``; ``same``: another real image of the person (the right answer is yes); ``other``: one
            of another attacked person, ``stranger``: one of somebody public (no).
        identity: whose real images it shows.
        references: which of the person's private training images.
        image: ``(unit, index)`` of a reconstruction, ``(class, number)`` of a private test image, ``(-1, number)`` of a
            public image.
        accepted: what the judge says of a reconstruction; None of controls.
    """

    name: str
    kind: Kind
    identity: int
    references: tuple[int, ...]
    image: tuple[int, int]
    accepted: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Key:
    """What every panel of an export was. It stays with the run and is not handed out.

    Attributes:
        batch: names the export; the same request gives the same one.
        run: digest of the run.
        panels: in the order of their names.
    """

    batch: str
    run: str
    panels: tuple[Panel, ...]

    def as_json(self) -> JsonObject:
        """As the file holds it."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def read(cls, content: JsonObject, where: str) -> Key:
        """From the file.

        Raises:
            MibenchError: it is no key.
        """
        try:
            if content["schema"] != SCHEMA:
                raise ValueError(f"schema {content['schema']!r}")
            panels = tuple(_panel(one) for one in content["panels"])
            return cls(batch=str(content["batch"]), run=str(content["run"]), panels=panels)
        except (KeyError, TypeError, ValueError) as error:
            raise MibenchError(
                f"{where} is no key of panels ({type(error).__name__}: {error})", cure="export the panels again"
            ) from error


def _panel(content: JsonObject) -> Panel:
    kind, accepted = content["kind"], content["accepted"]
    if kind not in KINDS or not (accepted is None or isinstance(accepted, bool)):
        raise ValueError(f"kind {kind!r}, accepted {accepted!r}")
    unit, index = content["image"]
    return Panel(
        name=str(content["name"]),
        kind=kind,
        identity=int(content["identity"]),
        references=tuple(int(one) for one in content["references"]),
        image=(int(unit), int(index)),
        accepted=accepted,
    )


def draw_panels(
    run: StoredRun, dataset: IdentitySplit, *, people: int | None, per_person: int, references: int, seed: int
) -> Key:
    """Choose panels: of each person ``per_person`` reconstructions and as many of each kind of control.

    Args:
        run: scored.
        dataset: what was attacked.
        people: attacked people, the first of them; None: all.
        per_person: panels of each kind and person, as far as there are images.
        references: real images on a panel.
        seed: of the choice and the order.

    Raises:
        MibenchError: a person without enough images, nobody to confuse a person with.
    """
    attacked = sorted(int(one) for one in run.samples["identity"].unique())
    chosen = attacked[:people]
    run_digest = str(run.record.get("digest", ""))
    request = [run_digest, chosen, per_person, references, seed]
    batch = hash_of(request)[:8]
    train, test = (
        dataset.private(part, 16, attacked).labels for part in ("train", "test")
    )  # small: labels alone count
    have = {label: (int((train == label).sum()), int((test == label).sum())) for label in attacked}
    strangers = min(dataset.public_count(), MOST_STRANGERS)
    drawn: list[Panel] = []
    for identity in chosen:
        trained, held_out = have[identity]
        if trained < references or not held_out:
            raise MibenchError(
                f"identity {identity} has {trained} training and {held_out} test images; a panel shows {references} of "
                "the former and one of the latter",
                cure=f"--references {max(1, min(trained, references))}",
            )
        own = run.samples[run.samples["selected"] & (run.samples["identity"] == identity)].reset_index(drop=True)
        others = [label for label in attacked if label != identity and have[label][1]]

        def order(purpose: str, count: int, identity: int = identity) -> list[int]:
            generator = stream(seed, "panels", identity, purpose)
            return torch.randperm(count, generator=generator).tolist()[:per_person]

        def add(kind: Kind, image: tuple[int, int], accepted: bool | None = None, identity: int = identity) -> None:
            generator = stream(seed, "panels", identity, kind, *image)
            shown = torch.randperm(have[identity][0], generator=generator).tolist()[:references]
            drawn.append(
                Panel(
                    name=hash_of([batch, kind, identity, *image])[:12],
                    kind=kind,
                    identity=identity,
                    references=tuple(shown),
                    image=image,
                    accepted=accepted,
                )
            )

        for row in order("reconstruction", len(own)):
            sample = own.iloc[row]
            add("reconstruction", (int(sample["unit"]), int(sample["index"])), bool(sample["hit1"]))
        for number in order("same", held_out):
            add("same", (identity, number))
        for row in order("other", len(others)):
            generator = stream(seed, "panels", identity, "which", row)
            add("other", (others[row], int(torch.randint(have[others[row]][1], (1,), generator=generator))))
        for number in order("stranger", strangers):
            add("stranger", (-1, number))
    return Key(batch=batch, run=run_digest, panels=tuple(sorted(drawn, key=lambda panel: panel.name)))


def images_of(run: StoredRun, dataset: IdentitySplit, key: Key, size: int) -> PanelImages:
    """Everything that the panels of a key show, at ``size`` pixels a side."""
    labels = sorted({panel.identity for panel in key.panels} | {p.image[0] for p in key.panels if p.kind == "other"})
    most = max((panel.image[1] for panel in key.panels if panel.kind == "stranger"), default=-1)
    return PanelImages(
        run=run,
        train=dataset.private("train", size, labels),
        test=dataset.private("test", size, labels),
        public=dataset.public(size, most + 1) if most >= 0 else None,
    )


@dataclass(frozen=True, kw_only=True)
class PanelImages:
    """Where the images of panels come from."""

    run: StoredRun
    train: Images
    test: Images
    public: Images | None

    def of(self, panel: Panel) -> tuple[Sequence[torch.Tensor], torch.Tensor]:
        """The real images of the person and the image in question, each uint8 ``(3, S, S)``."""
        own = self.train.pixels[self.train.labels == panel.identity]
        first, second = panel.image
        if panel.kind == "reconstruction":
            image = self.run.image(first, second)
        elif panel.kind == "stranger":
            assert self.public is not None
            image = self.public.pixels[second]
        else:
            image = self.test.pixels[self.test.labels == first][second]
        return [own[number] for number in panel.references], image
