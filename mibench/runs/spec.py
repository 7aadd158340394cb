"""What a run is: the evaluation protocol, the run's specification and the digest that names it.

The digest covers what affects results and nothing else: settings, weights (by sha256), data (by digest), protocol,
seed and precision. The device, the micro-batch and the output folder are not part of it; the code is recorded and
checked apart (see :mod:`mibench.system.provenance`). No torch here: ``mibench list`` reads protocols.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mibench.errors import MibenchError
from mibench.records import CardName
from mibench.system.canonical import hash_of, plain
from mibench.system.precision import Precision

Tier = Literal["recommended", "paper", "demo", "smoke"]
DIGEST_DEFAULTS = {
    "query_budget": None,
    "at_most": None,
    "stored": None,
    "judge_resize": "low2high",
    "second_judge": None,
}

LATER_FIELDS = ("variant", "surrogate", "second_judge")


@dataclass(frozen=True, kw_only=True)
class EvalProtocol:
    """Which identities are attacked and how reconstructions are judged. Numbers compare inside one protocol only.

    Attributes:
        name, version: what a table quotes; a change of any other field needs a new version.
        identities: how many classes are attacked; None: all that the data set has (:meth:`resolved` puts the number).
        first_identity: the first of them; classes ``first_identity .. first_identity + identities - 1``.
        at_most: the most that "all" may mean; None: no limit. A number in ``identities`` is not limited by it.
        samples: reconstructions per identity that count, the adversary's best by its own confidence.
        stored: reconstructions per identity that a run stores, again the adversary's best; None: all that it gets.
        access: the most that the adversary may ask of the victim.
        query_budget: images shown to the victim forwards plus backwards, per attacked identity, the shared preparation
            included; all attacks get as many (:mod:`mibench.runs.budget`). None: as many as each attack's preset asks.
        prior, judge, regressor: architectures; the card ``<architecture>@<dataset>`` is used unless a tag is given. No
            regressor: the data set has no ground truth.
        prior_settings: card of a prior -> settings that the protocol gives it (the crop of PPA, say); ``--set`` wins.
        second_judge: another judge, as ``judge``, whose verdicts stand beside the first one's; None: no other.
        judge_resize: how images come to the judge's size: ``low2high`` (8 bits, PIL bilinear: the 64-pixel papers),
            ``bilinear`` or ``antialias`` (of the tensor, as PLG-MI and PPA).
        metrics: groups of metrics to compute; empty means the default ones.
        diagnostics: further groups, which say something about the attacked model rather than about what an attack
            achieved. They change no other number, so a run keeps its name and compares with runs without them.
        required: estimates that must have a value; a run in which one of them is null exits with 1.
        public_control: how many public images the control "nearest public image" chooses from; 0 leaves it out.
        preset: the tier of presets that attacks start from when none is asked for; one without it takes its default.
        preset_for: attack -> preset, where one is an exception.
        datasets: data sets that the protocol is defined on: there its presets go before an attack's variant for the
            data set (:func:`mibench.runs.protocol.choose_preset`).
        dataset: data-set settings that belong to the protocol.
    """

    name: str
    version: int = 1
    description: str = ""
    identities: int | None = None
    first_identity: int = 0
    at_most: int | None = None
    samples: int
    stored: int | None = None
    access: Literal["labels", "scores", "gradients"] = "gradients"
    query_budget: int | None = None
    prior: str
    prior_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    judge: str
    second_judge: str | None = None
    judge_resize: Literal["low2high", "bilinear", "antialias"] = "low2high"
    regressor: str | None = None
    metrics: tuple[str, ...] = ()
    diagnostics: tuple[str, ...] = ()
    required: tuple[str, ...] = ("acc1", "acc5", "knn_distance")
    public_control: int = 1000
    preset: Tier | None = None
    preset_for: Mapping[str, str] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    dataset: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least, nothing in (
            ("identities", 1, ", or null for all"),
            ("first_identity", 0, ""),
            ("at_most", 1, ", or null for no limit"),
            ("samples", 1, ""),
            ("stored", self.samples, " (protocol.samples), or null for all"),
            ("query_budget", 1, ", or null for none"),
            ("public_control", 0, ""),
            ("version", 1, ""),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise MibenchError(f"protocol.{name} must be at least {least}{nothing}, got {value}")

    def resolved(self, classes: int) -> EvalProtocol:
        """The same protocol with the number of identities in place of "all"."""
        available = max(classes - self.first_identity, 1)
        count = self.identities or min(available, self.at_most or available)
        return dataclasses.replace(self, identities=count, at_most=None)

    @property
    def num_identities(self) -> int:
        """How many classes are attacked."""
        if self.identities is None:
            raise MibenchError(f"protocol {self.name!r} attacks all classes, and their number is not known yet")
        return self.identities

    @property
    def labels(self) -> tuple[int, ...]:
        """The classes under attack, ascending."""
        return tuple(range(self.first_identity, self.first_identity + self.num_identities))

    def units(self, size: int) -> list[tuple[int, ...]]:
        """The classes in order, ``size`` at a time; the last unit may be smaller."""
        labels = self.labels  # made anew each time it is asked for
        return [labels[start : start + size] for start in range(0, len(labels), size)]

    @property
    def title(self) -> str:
        """What a table quotes: ``demo v1``."""
        return f"{self.name} v{self.version}"

    def digest_fields(self) -> dict[str, object]:
        """The fields that decide numbers; of presets and of settings of the data and the prior the run has the values.

        A field that came later counts only where it says something new, so that runs made before it keep their names.
        """
        fields = dataclasses.asdict(self)
        for name in ("description", "diagnostics", "preset", "preset_for", "datasets", "dataset", "prior_settings"):
            del fields[name]
        for name, before in DIGEST_DEFAULTS.items():
            if fields[name] == before:
                del fields[name]
        return fields


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A set of weights as a run uses it: the card's name, architecture, file hash and resolved arguments."""

    card: str
    architecture: str
    sha256: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FilteredWeights(Weights):
    """A target whose answers are filtered: its weights alone do not say what an adversary sees.

    Attributes:
        filters: defence -> every setting and its value.
    """

    filters: Mapping[str, Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """Everything that decides the results of a run, resolved.

    Attributes:
        attack, attack_settings: registered name and every hyper-parameter of the attack.
        preset: the preset the settings started from (for people; not part of the digest).
        attack_code: hash of the source of an attack that is not installed; None for an installed one.
        dataset, dataset_settings, dataset_digest: registered name, settings and the split's own hash.
        target, judge, prior, regressor: weights.
        variant: ``NAME:VARIANT`` of the attack (for people, as the preset is).
        second_judge: the weights of the judge that stands beside; None: there is none.
        surrogate: the network whose gradients the attack follows instead of the target's; None: the target's own.
    """

    attack: str
    attack_settings: Mapping[str, object]
    preset: str | None = None
    dataset: str
    dataset_settings: Mapping[str, object]
    dataset_digest: str
    target: Weights
    judge: Weights
    prior: Weights | None = None
    regressor: Weights | None = None
    protocol: EvalProtocol
    seed: int = 0
    precision: Precision = "float32"
    attack_code: str | None = None
    variant: str | None = None
    surrogate: Weights | None = None
    second_judge: Weights | None = None

    def record(self) -> dict[str, object]:
        """As ``run.json`` has it; a field that came later only where it says something."""
        fields = dataclasses.asdict(self)
        for name in LATER_FIELDS:
            if fields[name] is None:
                del fields[name]
        return fields

    def digest_fields(self) -> dict[str, object]:
        """The canonical form that is hashed. Card names are left out: weights are what their hash says."""

        def hashed(weights: Weights | None) -> dict[str, object] | None:
            if weights is None:
                return None
            return {
                "architecture": weights.architecture,
                "sha256": weights.sha256,
                "arguments": plain(weights.arguments),
                **({"filters": plain(weights.filters)} if isinstance(weights, FilteredWeights) else {}),
            }

        return {
            "schema": 1,
            "attack": self.attack,
            "attack_settings": plain(self.attack_settings),
            **({} if self.attack_code is None else {"attack_code": self.attack_code}),
            "dataset": self.dataset,
            "dataset_digest": self.dataset_digest,
            "target": hashed(self.target),
            "judge": hashed(self.judge),
            "prior": hashed(self.prior),
            "regressor": hashed(self.regressor),
            "protocol": plain(self.protocol.digest_fields()),
            "seed": self.seed,
            "precision": self.precision,
            **({} if self.surrogate is None else {"surrogate": hashed(self.surrogate)}),
            **({} if self.second_judge is None else {"second_judge": hashed(self.second_judge)}),
        }

    def digest(self) -> str:
        """SHA-256 (hex) of :meth:`digest_fields`."""
        return hash_of(self.digest_fields())

    @property
    def run_name(self) -> str:
        """The folder's name, ``dmmia-ir152-synthfaces-1f3a9c2e``; of a variant ``dmmia-VARIANT-ir152-...``."""
        attack = self.attack if self.variant is None else f"{self.attack}-{self.variant}"
        tag = CardName.parse(self.target.card).tag
        target = self.target.architecture + (f"+{tag}" if tag else "")
        return f"{attack}-{target}-{self.dataset}-{self.digest()[:8]}"
