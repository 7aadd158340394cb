"""The referee's side of ``mibench train``: hands a recipe its data and context, stores and describes the result."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mibench import registry
from mibench import settings as config
from mibench.api import Card, CardName, Defence, Recipe, TrainingContext, network_traits
from mibench.data.files import FileSplit
from mibench.data.split import IdentitySplit
from mibench.errors import MibenchError
from mibench.party_errors import parties_named, shown_traceback
from mibench.settings import Layer
from mibench.system.canonical import JsonObject, hash_of, plain
from mibench.system.devices import choose_device
from mibench.system.files import check_writable
from mibench.system.foreign_code import contained, worded
from mibench.system.malloc import keep_freed_memory
from mibench.system.paths import home
from mibench.system.precision import PRECISIONS
from mibench.system.progress import Reporter
from mibench.system.text_files import shown
from mibench.system.turns import computing
from mibench.system.work_directory import WorkDirectory
from mibench.weights.answer_filters import access_behind, filter_settings, filters_of, trains_nothing
from mibench.weights.cards import CARD_KINDS, shipped_cards
from mibench.weights.cards import find as find_card
from mibench.weights.checkpoint import FileCheckpoint
from mibench.weights.defences import (
    Twin,
    check_compatible,
    check_teacher,
    check_untrained,
    describe_defences,
    differences,
    find_twin,
    other_backbone,
    resolve_defences,
    tag_of,
    teacher_of,
)
from mibench.weights.filtered_target import filter_twin, measure_trained
from mibench.weights.load import load_weights
from mibench.weights.same_data import check_same_data
from mibench.weights.save import refuse_other_card, store_weights
from mibench.weights.training_inputs import backbone_of, data_for, image_count, target_of

TRAIN_SCOPES = ("train", "dataset", "defence")
PUBLIC = "public"  # tag of the backbones that are trained here


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is to be trained.

    Attributes:
        kind: target, judge, regressor, prior or backbone.
        architecture: a registered one of that kind.
        tag: the part of the card's name after ``+``, for a second set of weights of one architecture.
        target: the classifier that a prior is made against, where a recipe wants one; it also gives the tag.
        defences: ``NAME`` or ``NAME:PRESET``; they also give the tag.
        twin: the undefended twin of a defended target; None: the card without a tag; ``none``: there is none.
        seed, precision: None means the undefended twin's, else 0 and float32.
        settings: scope (train, dataset, defence) -> values.
        output: folder that gets ``cards/`` and ``weights/``; None means ``$MIBENCH_HOME``.
    """

    kind: str
    architecture: str
    dataset: str = "synthfaces"
    tag: str | None = None
    target: str | None = None
    defences: tuple[str, ...] = ()
    twin: str | None = None
    seed: int | None = None
    precision: str | None = None
    settings: Mapping[str, Mapping[str, object]] = dataclasses.field(default_factory=dict)
    output: Path | None = None

    @property
    def command(self) -> str:
        """The command that does this training again.

        Seed and precision of a defended one are spelled out even where they are the usual ones: its twin's may differ.
        """
        precision = self.precision if self.defences or self.precision != "float32" else None
        words = ["mibench", "train", self.kind, self.architecture]
        words += ["--dataset", self.dataset] if self.dataset != "synthfaces" else []
        words += ["--target", self.target] if self.target else []
        words += [word for defence in self.defences for word in ("--defence", defence)]
        words += ["--twin", self.twin] if self.twin else []
        words += ["--tag", self.tag] if self.tag else []
        words += ["--seed", str(self.seed)] if self.seed or (self.defences and self.seed is not None) else []
        words += ["--precision", precision] if precision is not None else []
        for scope, values in self.settings.items():
            words += [word for name, value in values.items() for word in ("--set", f"{scope}.{name}={plain(value)}")]
        return shlex.join(words)

    @property
    def card_name(self) -> CardName:
        """The card's name; a prior made against one target is called after it, a defended target after its defences.

        A backbone gets the tag ``public``: a target of the same architecture and data has the name without one.

        Raises:
            MibenchError: a name that no file can have.
        """
        tag, option = self.tag if self.tag is not None else tag_of(self.defences), "--tag"
        if tag is None and self.kind == "backbone":
            tag = PUBLIC
        if tag is None and self.target:
            tag, option = CardName.complete(self.target, self.dataset).as_tag, "--target"
        return CardName(self.architecture, self.dataset, tag).checked(option)

    @property
    def name(self) -> str:
        """The card's name as text."""
        return str(self.card_name)


def find_recipe(kind: str, architecture: str) -> type[Recipe]:
    """``prior:stylegan2`` if a catalogue has it, else ``target``."""
    if kind not in CARD_KINDS:
        raise MibenchError(registry.unknown("kind of network", kind, CARD_KINDS))
    registry.entry(kind, architecture)  # an unknown architecture is refused here, with a suggestion
    if kind == "target" and network_traits(registry.load(kind, architecture)).from_user:
        raise MibenchError(f"{architecture!r} is a model that somebody brings: mibench audit takes it in")
    known = registry.names("recipe")
    for name in (f"{kind}:{architecture}", kind):
        if name in known:
            recipe: type[Recipe] = registry.load("recipe", name)
            return recipe
    raise MibenchError(f"there is no recipe to train the {kind} {architecture!r} (known: {', '.join(known)})")


@dataclass(frozen=True)
class ResolvedTraining:
    """A training whose settings are checked.

    Attributes:
        training: as asked for, with its seed and precision.
        recipe, dataset: built.
        defences: built, in their order.
        twin: the undefended twin, whose recipe this is.
        differs_from_twin: where it is not: setting -> the twin's value and this one's.
    """

    training: Training
    recipe: Recipe
    dataset: IdentitySplit
    defences: tuple[Defence, ...] = ()
    twin: Twin | None = None
    differs_from_twin: Mapping[str, tuple[object, object]] = dataclasses.field(default_factory=dict)


def resolve_training(training: Training, reporter: Reporter | None = None) -> ResolvedTraining:
    """The recipe, the data and the defences of a training, settings checked.

    Raises:
        MibenchError: an unknown name or setting, a value that makes no sense, too little data.
    """
    seed = 0 if training.seed is None else training.seed
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise MibenchError(f"seed must be a whole number from 0 to 2**63 - 1, got {shown(seed)}")
    kind = find_recipe(training.kind, training.architecture)
    for scope in training.settings:
        if scope not in TRAIN_SCOPES:
            raise MibenchError(registry.unknown("scope of settings", scope, TRAIN_SCOPES))
    if training.precision is not None and training.precision not in PRECISIONS:
        raise MibenchError(registry.unknown("precision", training.precision, PRECISIONS))
    defences = resolve_defences(training.defences, training.settings.get("defence", {}))
    if defences and not (kind.defends or (training.kind == "target" and trains_nothing(defences))):
        raise MibenchError(
            f"no defence applies to the training of a {training.kind}",
            cure="leave --defence out",
        )
    if training.twin is not None and not defences:
        raise MibenchError(
            "--twin belongs to a defended target",
            cure="add --defence NAME or leave it out",
        )
    check_compatible(defences, training.architecture)
    dataset, _ = config.resolve(
        registry.load("dataset", training.dataset),
        [Layer("--set", training.settings.get("dataset", {}), by_user=True)],
        scope="dataset",
    )
    twin = None
    if defences:
        check_untrained(defences, training.settings.get("train") or training.seed or training.precision)
        twin = find_twin(defences, training.twin, training.architecture, kind, dataset, reporter or Reporter())
        check_teacher(defences, twin)
    layers = [] if twin is None else [twin.layer]
    by_user = Layer("--set", training.settings.get("train", {}), by_user=True)
    if "architecture" in config.setting_names(kind):
        if "architecture" in by_user.values:
            raise MibenchError("the architecture is the second argument of `mibench train`, not a --set")
        layers.append(Layer("command line", {"architecture": training.architecture}))
    recipe, _ = config.resolve(kind, [*layers, by_user], scope="train")
    recipe.check(image_count(recipe, dataset))
    seed, precision = (0, "float32") if twin is None else (twin.seed, twin.precision)
    training = dataclasses.replace(
        training,
        seed=seed if training.seed is None else training.seed,
        precision=precision if training.precision is None else training.precision,
    )
    differing: dict[str, tuple[object, object]] = {}
    if twin is not None and not trains_nothing(defences):
        differing = differences(
            twin,
            recipe,
            architecture=training.architecture,
            seed=int(training.seed or 0),
            precision=str(training.precision),
        )
    return ResolvedTraining(training, recipe, dataset, defences, twin, differing)


def train(
    training: Training, *, device: str = "auto", reporter: Reporter | None = None, unused: bool = True
) -> tuple[Path, Card]:
    """Train to the end, or on from the last checkpoint of the same training, and write weights and card.

    Args:
        training: what to train, on what.
        device: where.
        reporter: who hears of the progress.
        unused: say what lies in the data's folder and is not used.

    Returns:
        The card's path and the card.

    Raises:
        MibenchError: a mistake in the input; a folder that cannot be written.
    """
    reporter = reporter or Reporter()
    with computing(reporter):
        return _trained(training, device, reporter, unused)


def _trained(training: Training, device: str, reporter: Reporter, unused: bool) -> tuple[Path, Card]:
    refuse_shipped_name(training)
    resolved, asked = resolve_training(training, reporter), training
    training, recipe, dataset = resolved.training, resolved.recipe, resolved.dataset
    folder = training.output or home()
    check_writable(folder / "cards", folder / "weights", home() / "training")
    refuse_other_card(training.card_name, folder)
    if unused and isinstance(dataset, FileSplit):
        for line in dataset.unused():
            reporter.say(line)
    target = target_of(training.target, training.kind, training.architecture, recipe, dataset)
    backbone = backbone_of(recipe, dataset)
    chosen = choose_device(device)
    keep_freed_memory()
    dataset.check_disjoint()
    differing = {**resolved.differs_from_twin, **other_backbone(resolved.twin, recipe, backbone)}
    defended = describe_defences(resolved.defences, resolved.twin, differing)
    filters = filters_of(resolved.defences)
    if defended is not None and resolved.twin is not None and trains_nothing(resolved.defences):
        return filter_twin(
            training.card_name,
            resolved.twin.file,
            filters,
            dataset,
            training.output or home(),
            defence=defended,
            command=asked.command,
            device=chosen,
            reporter=reporter,
        )
    settings: JsonObject = {
        "recipe": plain(dataclasses.asdict(recipe)),
        "dataset_digest": dataset.digest,
        "seed": training.seed,
        "precision": training.precision,
    }
    if target is not None:
        settings["target"] = target.name
        settings["target_sha256"] = target.card().weights.sha256
        if filtered := filter_settings(target.card()):
            settings["target_filters"] = plain(filtered)
    if backbone is not None:
        settings["init_sha256"] = backbone.card().weights.sha256
    public = {
        one.name: find_card("backbone", card_name, dataset.name)
        for one in resolved.defences
        if (card_name := one.backbone(training.architecture)) is not None
    }
    for file in public.values():
        check_same_data("backbone", file.card(), dataset)  # else its public people may be private here
    if defended is not None:
        settings["defence"] = [defended.name, plain(defended.settings)]  # combined, their order matters
    teacher = teacher_of(resolved.defences, resolved.twin, chosen)
    if defended is not None and teacher is not None:
        settings["teacher_sha256"] = defended.twin_sha256
    if public:
        settings["public_sha256"] = {name: file.card().weights.sha256 for name, file in public.items()}
    work_directory = WorkDirectory(
        home() / "training" / f"{training.card_name.stem}-{_digest(training, recipe, settings)}"
    )
    with work_directory.writing(), parties_named(lambda error: _noted(error, work_directory)):
        checkpoint = FileCheckpoint(work_directory.path / "checkpoint.pt")
        if checkpoint.path.is_file():
            reporter.say(f"continuing from {checkpoint.path}")
        context = TrainingContext(
            device=chosen,
            checkpoint=checkpoint,
            seed=settings["seed"],
            precision=settings["precision"],
            log=work_directory.log,
            progress=reporter.update,
            initial=None if backbone is None else load_weights(backbone),
            teacher=teacher,
            defences=tuple(one for one in resolved.defences if one not in filters),
            public={name: load_weights(file) for name, file in public.items()},
        )
        started = time.time()
        reporter.start(f"training {training.name}")
        try:
            data = data_for(recipe, dataset.seen_by(training.kind), target, chosen)
            with contained(f"the training of {training.name}", "while it trains", seeds=True):
                trained = recipe.run(data, context)
        finally:
            reporter.stop()
        seconds = round(checkpoint.seconds_before + time.time() - started, 1)
        work_directory.log(event="trained", seconds=seconds, device=str(chosen))
        if training.kind == "target":
            trained = dataclasses.replace(trained, measured={**trained.measured, "seconds": seconds})
        trained = measure_trained(trained, filters, dataset, chosen, reporter)
        path, card = store_weights(
            training.card_name,
            training.kind,
            trained,
            folder,
            dataset_digest=dataset.digest,
            recipe=_recipe_of(training, settings),
            defence=defended,
            access=access_behind(resolved.defences),
        )
        checkpoint.discard()
    return path, card


def refuse_shipped_name(training: Training) -> None:
    """Refuse to put weights of one's own in the place of a shipped baseline: later runs would attack them by its name.

    Raises:
        MibenchError: the result would lie in ``$MIBENCH_HOME`` under the name of a shipped card.
    """
    if training.output is not None and training.output.resolve() != home().resolve():
        return  # mibench does not look for cards there
    if (shipped := shipped_cards().get(training.name)) is not None:
        raise MibenchError(
            f"{training.name!r} is the name of weights that {shipped.origin} ships; runs would take yours for them",
            cure=f"give yours another name, `{with_free_tag(training).command}`, or another place with --output FOLDER",
        )


def with_free_tag(training: Training) -> Training:
    """The same training, under a name that no shipped weights have."""
    shipped, tag = shipped_cards(), training.card_name.tag
    while str(CardName(training.architecture, training.dataset, tag)) in shipped:
        tag = f"{tag}-mine" if tag else "mine"
    return training if tag == training.card_name.tag else dataclasses.replace(training, tag=tag)


def _noted(error: BaseException, folder: WorkDirectory) -> str:
    """Put the traceback of a party's mistake into the log; says where it is."""
    folder.log(event="failed", error=worded(error), traceback=shown_traceback(error))
    return f"its traceback is in {folder.log_path}"


def _digest(training: Training, recipe: Recipe, settings: Mapping[str, object]) -> str:
    """What tells one training from another. Settings that a recipe calls ``cost_only`` change no result."""
    fields = plain(dataclasses.asdict(recipe))
    kept = {name: value for name, value in fields.items() if name not in recipe.cost_only}
    return hash_of([training.kind, training.architecture, {**settings, "recipe": kept}])[:8]


def _recipe_of(training: Training, settings: Mapping[str, object]) -> dict[str, object]:
    """What the card says of how the weights came to be."""
    return {
        "command": training.command,
        **plain(settings["recipe"]),
        **{
            key: settings[key]
            for key in ("target", "target_sha256", "target_filters", "init_sha256", "teacher_sha256", "public_sha256")
            if key in settings
        },
        "seed": training.seed,
        "precision": training.precision,
        **({"dataset": plain(training.settings["dataset"])} if training.settings.get("dataset") else {}),
    }
