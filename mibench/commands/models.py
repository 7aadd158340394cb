"""Models: audited, trained, imported, fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mibench.commands.settings_by_scope import Settings, scoped
from mibench.errors import MibenchError
from mibench.party_errors import parties_named
from mibench.system.progress import Reporter

if TYPE_CHECKING:
    from mibench.api import Card
    from mibench.audits.audit import Audit
    from mibench.downloads.download import Outcome
    from mibench.weights.importing.importer import Imported


@dataclass(frozen=True)
class StoredWeights:
    """Weights that lie on disk: the path of their card, and the card."""

    path: Path
    card: Card


@parties_named()
def audit(
    model: str,
    *,
    weights: Path | str | None = None,
    data: Path | str | None = None,
    public: Path | str | None = None,
    size: int | None = None,
    range: Sequence[float] = (),
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    channel_order: Literal["rgb", "bgr"] = "rgb",
    classes: str | None = None,
    outputs: Sequence[str] = (),
    features: str = "",
    attack: str | None = None,
    access: str | None = None,
    judge: str | None = None,
    prior: str | None = None,
    identities: int | None = None,
    min_accuracy: float | None = None,
    seed: int = 0,
    dataset: str = "folder",
    settings: Settings | None = None,
    out: Path | str = "runs",
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Audit:
    """What a model of one's own leaks: ``mibench audit``.

    >>> import mibench
    >>> quick = {"width": 0.0625, "batch_size": 8}  # networks that learn next to nothing, in seconds
    >>> settings = {
    ...     "judge_training": {**quick, "size": 32, "epochs": 2},
    ...     "prior_training": {**quick, "steps": 2},
    ...     "attack": {"pool_size": 16, "candidates": 2, "selection_transforms": 1},
    ...     "protocol": {"samples": 2},
    ... }
    >>> folders = {"data": "people", "public": "strangers"}
    >>> where = {"out": "audits", "device": "cpu"}
    >>> audit = mibench.audit("mynet:build", **folders, size=16, attack="floor", settings=settings, **where)
    >>> audit.run.attack, audit.attacked.accuracy.test, audit.path.name
    ('floor', 1.0, 'audit.json')

    Args:
        model: ``package.module:build``, or an ONNX or TorchScript file.
        weights: of a model in code; None: those that the factory leaves in it.
        data, public: folders of private people and of public images.
        settings: ``{"attack.steps": 300}`` or by scope; the scopes are those of the command.
        out, device, reporter: as in :func:`run`.

    The other arguments are those of :class:`mibench.audits.request.AuditRequest`.

    Raises:
        MibenchError: invalid input, or a model that does no better than chance.
    """
    from mibench.audits.audit import audit as conduct
    from mibench.audits.request import AuditRequest

    request = AuditRequest(
        model=model,
        weights=_path(weights),
        data=_path(data),
        public=_path(public),
        size=size,
        range=tuple(range),
        mean=tuple(mean),
        std=tuple(std),
        channel_order=channel_order,
        classes=classes,
        outputs=tuple(outputs),
        features=features,
        attack=attack,
        access=access,
        judge=judge,
        prior=prior,
        identities=identities,
        min_accuracy=min_accuracy,
        seed=seed,
        dataset=dataset,
        settings=scoped(settings or {}),
    )
    return conduct(request, Path(out), device=device, reporter=reporter)


@parties_named()
def train(
    kind: str,
    architecture: str,
    *,
    dataset: str = "synthfaces",
    target: str | None = None,
    defences: str | Sequence[str] = (),
    twin: str | None = None,
    tag: str | None = None,
    seed: int | None = None,
    precision: str | None = None,
    settings: Settings | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> StoredWeights:
    """Train a target, judge, regressor, prior or backbone; write weights and a card with its measurements.

    As ``mibench train``.

    >>> import mibench
    >>> tiny = {"train.epochs": 1, "train.width": 0.0625, "dataset.identities": 10}
    >>> trained = mibench.train("target", "vgg16", tag="tiny", settings=tiny, out="mine", device="cpu")
    >>> trained.card.name, trained.path.name
    ('vgg16@synthfaces+tiny', 'vgg16_synthfaces_tiny.yaml')

    Args:
        kind: target, judge, regressor, prior or backbone.
        architecture: a registered one of that kind.
        target: the classifier that a prior is made against.
        defences: of a target, ``NAME`` or ``NAME:PRESET``; the name of the weights ends with them.
        twin: the undefended twin of a defended target, whose recipe is followed; None: ``architecture@dataset`` where
            there is one; ``none``: there is none.
        seed, precision: None: the twin's, else 0 and ``float32``.
        tag: makes ``architecture@dataset+tag``, a second set of weights.
        settings: ``{"train.epochs": 3}`` or by scope (train, dataset, defence).
        out: folder that gets ``cards/`` and ``weights/``; None: ``$MIBENCH_HOME``.
        device, reporter: as in :func:`run`.

    Raises:
        MibenchError: invalid input, or the name of shipped weights.
    """
    from mibench.weights.training import Training
    from mibench.weights.training import train as train_network

    training = Training(
        kind=kind,
        architecture=architecture,
        dataset=dataset,
        tag=tag,
        target=target,
        defences=(defences,) if isinstance(defences, str) else tuple(defences),
        twin=twin,
        seed=seed,
        precision=precision,
        settings=scoped(settings or {}),
        output=_path(out),
    )
    return StoredWeights(*train_network(training, device=device, reporter=reporter))


@parties_named()
def import_weights(
    files: Path | str | Sequence[Path | str],
    name: str,
    *,
    settings: Settings | None = None,
    source: str | None = None,
    licence: str | None = None,
    reported: float | None = None,
    sha256: Sequence[str] = (),
    replace: bool = False,
    out: Path | str | None = None,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> Imported:
    """Take in published weights: read them safely, load them strictly, measure them, write a card: ``mibench import``.

    >>> import mibench
    >>> tiny = {"train.epochs": 1, "train.width": 0.0625, "dataset.identities": 10}
    >>> path = mibench.train("target", "vgg16", tag="tiny", settings=tiny, out="mine", device="cpu").path
    >>> file = path.parent.parent / "weights" / "vgg16_synthfaces_tiny.safetensors"
    >>> data = {"dataset.identities": 10}
    >>> imported = mibench.import_weights(file, "target:vgg16@synthfaces+copy", settings=data, out="mine", device="cpu")
    >>> imported.card.classes, sorted(imported.card.measured)
    (10, ['dataset_digest', 'test_accuracy', 'test_images'])

    Args:
        files: one, or the two files of a generator and its critic in either order.
        name: ``kind:architecture@dataset[+tag]``, what it is and shall be called.
        settings: ``{"import.size": 64}`` or by scope (import, dataset).
        source, licence: text for the card.
        reported: test accuracy that the source claims, in percent.
        sha256: what the files must hash to, in their order.
        replace: overwrite weights of the same name.
        out, device, reporter: as in :func:`train`.

    Raises:
        MisfitError: the weights are another network's; has every key.
        MibenchError: any other invalid input.
    """
    from mibench.weights.importing.checkpoint_card import Import
    from mibench.weights.importing.importer import import_weights as take_in

    listed = [files] if isinstance(files, Path | str) else files
    request = Import(
        files=tuple(Path(file) for file in listed),
        wanted=name,
        settings=scoped(settings or {}),
        source=source,
        licence=licence,
        reported=reported,
        sha256=tuple(sha256),
        output=_path(out),
        replace=replace,
    )
    return take_in(request, device=device, reporter=reporter)


@parties_named()
def fetch(
    *names: str,
    out: Path | str | None = None,
    sha256: str | None = None,
    offline: bool = False,
    reporter: Reporter | None = None,
) -> tuple[Outcome, ...]:
    """Download known weights, checked by hash; or say how to get what no program may download: ``mibench fetch``.

    >>> import mibench
    >>> (celeba,) = mibench.fetch("celeba", out="downloads")
    >>> celeba.status
    'by hand'

    Args:
        names: known files (``mibench fetch --list``); each once.
        out: folder that gets them; None: where they are looked for.
        sha256: of the one file that is named: another one is refused.
        offline: touch no network (``MIBENCH_OFFLINE=1`` says so for good).

    Raises:
        MibenchError: an unknown name, a file that cannot be had or is not what it should be.
    """
    from mibench.downloads import catalogue, download

    entries = list({(entry := catalogue.entry(name)).name: entry for name in names}.values())
    if sha256 is not None:
        if len(entries) != 1 or not isinstance(entries[0], catalogue.Asset):
            raise MibenchError("--sha256 belongs to one downloadable file", cure="name just that one")
        sha256 = catalogue.checked_sha256(sha256)
    work = download.Fetcher(
        folder=_path(out),
        demanded=sha256 or "",
        offline=download.offline_wanted(offline),
        reporter=reporter or Reporter(),
    )
    return tuple(work.fetch(entries))


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)
