"""Runs an attack: plan its units, attack them, store them, resume.

The engine measures and stores; an attack can neither select, count, save nor judge. What it hands back is checked at
this boundary, with "expected ... got ...".
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from mibench.api import Access, Attack, Context, MappingPrior, Prior, Queries, QueryLimit, Reconstruction, State, Victim
from mibench.data.split import IdentitySplit, to_uint8
from mibench.errors import MibenchError
from mibench.metrics.groups import rows_by_label
from mibench.rng import Streams
from mibench.runs.compatibility import granted_access, mapping_priors
from mibench.runs.plan import Plan
from mibench.runs.store import RunDir, unit_stem
from mibench.system.devices import deterministic, out_of_memory, peak_memory, reset_peak_memory, total_memory
from mibench.system.foreign_code import contained
from mibench.system.malloc import keep_freed_memory
from mibench.system.progress import Reporter, stretch
from mibench.weights import load

Result = TypeVar("Result")
MICRO_BATCH = 256
STORABLE = (
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
RESERVED = "__metadata__"  # by the files that tensors are stored in


@dataclass
class Execution:
    """Where a run computes: device, images at a time, progress reporter. None of it changes a result."""

    device: torch.device
    micro_batch: int = MICRO_BATCH
    reporter: Reporter = field(default_factory=Reporter)


def attack_units(plan: Plan, folder: RunDir, machine: Execution) -> None:
    """Attack every unit that is not stored intact yet. Called inside ``folder.writing()``.

    Raises:
        MibenchError: the attack needs more than the victim or the prior offers, or its output is not what it should be.
    """
    units = plan.units
    missing = [index for index in range(len(units)) if not folder.intact(unit_stem(index))]
    if not missing and folder.intact("state"):
        return
    plan.dataset.check_disjoint()
    keep_freed_memory()
    with stretch(machine.reporter, f"loading {plan.spec.target.card}"):
        granted = granted_access(plan.attack, plan.spec.protocol, plan.cards["target"])
        victim = load.build_victim(plan.target, granted, machine.device)
    prior = None
    if plan.prior is not None and plan.spec.prior is not None:
        prior = load.build_prior(plan.prior, plan.spec.prior.arguments, machine.device)
    surrogate = None
    if plan.surrogate is not None:
        surrogate = load.build_victim(plan.surrogate, Access.GRADIENTS, machine.device)
    if plan.attack.needs_mapping and not isinstance(prior, MappingPrior):
        raise MibenchError(f"attack {plan.attack.name!r} needs a prior with a mapping network", cure=mapping_priors())
    machine.micro_batch = min(machine.micro_batch, max_micro_batch(prior, machine.device))
    streams = Streams(plan.spec.seed, (plan.attack.name,))
    total = len(missing) + (not folder.intact("state"))
    run = _AttackRunner(plan, folder, machine, victim, prior, surrogate, total=total)
    with deterministic(machine.device, plan.spec.precision) as varying:
        machine.reporter.start(f"{plan.spec.attack} against {plan.spec.target.card}", attack=plan.spec.attack)
        try:
            state = run.prepared(streams)
            for index in missing:
                run.unit(index, units[index], state, streams)
        finally:
            machine.reporter.stop()
            note_varying(folder, varying)


def note_varying(folder: RunDir, operations: set[str]) -> None:
    """Leave in the log which operations were not deterministic (on a GPU): a run is repeated but for last digits."""
    if operations:
        folder.log(event="not_deterministic", operations=sorted(operations))


@dataclass
class _AttackRunner:
    """The objects of one run at work."""

    plan: Plan
    folder: RunDir
    machine: Execution
    victim: Victim
    prior: Prior | None
    surrogate: Victim | None
    total: int  # preparation and units still to do: what the progress bar counts
    done: int = 0

    @property
    def attack(self) -> Attack:
        return self.plan.attack

    def context(self, micro_batch: int, **record: object) -> Context:
        machine, size, dataset = self.machine, self.victim.image.size, self.plan.dataset

        furthest = 0.0

        def progress(done: int, total: int, text: str) -> None:
            nonlocal furthest  # an attack reports its stages one after another: the bar never runs backwards
            furthest = max(furthest, done / max(total, 1))
            machine.reporter.update(self.done + furthest, self.total, text)

        return Context(
            victim=self.victim,
            prior=self.prior,
            surrogate=self.surrogate,
            portraits=_portraits(dataset, size, machine.device) if self.attack.needs_portraits else None,
            device=machine.device,
            public=_public(dataset, size, machine.device),
            micro_batch=micro_batch,
            log=lambda **numbers: self.folder.log(**record, **numbers),
            progress=progress,
        )

    def with_smaller_batches_on_oom(self, work: Callable[[int], Result], stage: str) -> Result:
        """Do ``work(micro_batch)``, halving the micro-batch when memory is full; results do not depend on it."""
        while True:
            before = [(network, replace(network.queries)) for network in self.networks]
            try:
                with contained(f"attack {self.attack.name!r}", stage):
                    return work(self.machine.micro_batch)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.machine.micro_batch == 1:
                    raise
            for network, queries in before:
                network.queries = queries
            self.machine.micro_batch //= 2
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            self.machine.reporter.say(f"out of memory; going on with {self.machine.micro_batch} images at a time")
            self.folder.log(event="out_of_memory", micro_batch=self.machine.micro_batch)

    @property
    def networks(self) -> tuple[Victim, ...]:
        """The victim, and the surrogate where there is one."""
        return (self.victim,) if self.surrogate is None else (self.victim, self.surrogate)

    def timed(
        self, work: Callable[[int], Result], stage: str, *planned: Queries | None
    ) -> tuple[Result, dict[str, int], dict[str, object]]:
        """Result, queries (they belong to the result) and cost (it does not). A budget allows what was planned.

        ``planned``: for the victim, and for a surrogate.
        """
        for network, queries, name in zip(self.networks, planned, ("the victim", "its surrogate"), strict=False):
            network.queries = Queries()
            network.limit = None
            if self.plan.spec.protocol.query_budget is not None and queries is not None:
                network.limit = QueryLimit(self.attack.name, stage, queries.forward, queries.backward, name)
        reset_peak_memory(self.machine.device)
        start = time.perf_counter()
        result = self.with_smaller_batches_on_oom(work, f"in {stage}")
        if self.machine.device.type == "cuda":
            torch.cuda.synchronize(self.machine.device)
        cost = {
            "seconds": round(time.perf_counter() - start, 4),
            "peak_memory_bytes": peak_memory(self.machine.device),
            "device": str(self.machine.device),
            "threads": torch.get_num_threads(),
            "micro_batch": self.machine.micro_batch,
        }
        shown = {"queries_forward": self.victim.queries.forward, "queries_backward": self.victim.queries.backward}
        if self.surrogate is not None:
            shown["surrogate_forward"] = self.surrogate.queries.forward
            shown["surrogate_backward"] = self.surrogate.queries.backward
        return result, shown, cost

    def prepared(self, streams: Streams) -> State:
        """The attack's shared state: stored once, read back ever after (so both ways the same bytes are used)."""
        if not self.folder.intact("state"):
            state, queries, cost = self.timed(
                lambda batch: self.attack.prepare(self.context(batch), streams),
                "its preparation",
                self.attack.planned_preparation(),
                Queries(),  # a surrogate has no part in it
            )
            _check_tensors(state, f"the preparation of attack {self.attack.name!r}")
            self.folder.save("state", state, {"attack": self.attack.name, **queries}, **cost)
            self.done += 1
        tensors, _ = self.folder.load("state")
        return {name: tensor.to(self.machine.device) for name, tensor in tensors.items()}

    def unit(self, index: int, identities: tuple[int, ...], state: State, streams: Streams) -> None:
        """Attack one unit and store it."""
        labels = torch.tensor(identities, dtype=torch.int64, device=self.machine.device)
        reconstruction, queries, cost = self.timed(
            lambda batch: self.attack.reconstruct(self.context(batch, unit=index), state, labels, streams),
            f"unit {index}",
            self.attack.planned_queries(len(identities)),
            self.attack.planned_surrogate_queries(len(identities)),
        )
        check_reconstruction(reconstruction, identities, self.victim.image.size, self.plan)
        reconstruction = keep_most_confident(reconstruction, self.plan.spec.protocol.stored)
        tensors = {
            "images": to_uint8(reconstruction.images.detach().float()),
            "labels": reconstruction.labels.to(torch.int64),
            "confidence": reconstruction.confidence.detach().float(),
            "latents": reconstruction.latents.detach(),
            **{f"curve.{name}": curve.detach().float() for name, curve in reconstruction.curves.items()},
        }
        metadata = {
            "attack": self.attack.name,
            "unit": index,
            "identities": list(identities),
            "notes": list(reconstruction.notes),
            **queries,
        }
        self.folder.save(unit_stem(index), tensors, metadata, **cost)
        self.folder.log(event="unit", unit=index, **queries, **cost)
        for note in reconstruction.notes:
            self.machine.reporter.say(f"unit {index}: {note}")
        self.done += 1
        self.machine.reporter.update(self.done, self.total)


def max_micro_batch(prior: Prior | None, device: torch.device) -> int:
    """The most images of a prior to decode at a time: a power of two that takes half of the memory at most.

    A GPU raises an out-of-memory error; a CPU overcommits and the process is killed.
    What is free now does not count: kernels round by the size of a batch, and a run resumed later must not.
    """
    bytes_per_image, total = None if prior is None else prior.bytes_per_image, total_memory(device)
    count = MICRO_BATCH
    while bytes_per_image and total and count > 1 and count * bytes_per_image > total / 2:
        count //= 2
    return count


def _public(dataset: IdentitySplit, size: int, device: torch.device) -> Callable[[int], Tensor]:
    """All of the data that an adversary can ask for: the first ``n`` public images."""
    return lambda n: dataset.public(size, n).floats().to(device)


def _portraits(dataset: IdentitySplit, size: int, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    """What a control sees of private people. An attack is never handed it."""

    def portraits(labels: Tensor, count: int) -> Tensor:
        people = labels.tolist()
        images = dataset.portraits(size, count, people)
        rows = rows_by_label(images.labels)
        for person in people:
            if (have := len(rows.get(person, ()))) < count:
                raise MibenchError(
                    f"data set {dataset.name} has {have} images of identity {person}, and {count} portraits are needed",
                    cure=f"--set attack.portraits={max(have, 1)}, and --set protocol.samples={max(have, 1)} if need be",
                )
        return torch.stack([images.floats()[rows[person]] for person in people]).to(device)

    return portraits


def check_reconstruction(reconstruction: Reconstruction, identities: tuple[int, ...], size: int, plan: Plan) -> None:
    """Refuse what is not a reconstruction of this unit.

    Raises:
        MibenchError: wrong shape, a label outside the unit, numbers that are not finite, or too few per identity.
    """

    def expect(condition: bool, what: str, expected: object, got: object) -> None:
        if not condition:
            raise MibenchError(f"attack {plan.attack.name!r} returned {what}: expected {expected}, got {got}")

    _check_kinds(reconstruction, f"attack {plan.attack.name!r}")
    count = int(reconstruction.labels.shape[0])
    shape = (count, 3, size, size)
    expect(
        tuple(reconstruction.images.shape) == shape,
        "images of another shape",
        shape,
        tuple(reconstruction.images.shape),
    )
    expect(
        tuple(reconstruction.confidence.shape) == (count,),
        "confidence of another shape",
        (count,),
        tuple(reconstruction.confidence.shape),
    )
    numbers = bool(torch.isfinite(reconstruction.images).all() & torch.isfinite(reconstruction.confidence).all())
    expect(numbers, "numbers that are not finite", "finite images and confidence", "NaN or infinity")
    labels = reconstruction.labels.tolist()
    foreign = sorted(set(labels) - set(identities))
    expect(not foreign, "labels that are not in the unit", f"identities {list(identities)}", foreign[:5])
    need = plan.spec.protocol.samples
    for identity in identities:
        have = labels.count(identity)
        expect(
            have >= need,
            f"too few images of identity {identity}",
            f"at least {need} (protocol {plan.spec.protocol.name}: the attack's own setting must give as many)",
            have,
        )


def _check_kinds(reconstruction: object, whose: str) -> None:
    """Refuse what is no reconstruction at all, or none of dense tensors."""
    if not isinstance(reconstruction, Reconstruction):
        raise MibenchError(
            f"{whose} returned {type(reconstruction).__name__} for a unit", cure="return a Reconstruction"
        )
    curves: object = reconstruction.curves
    if not isinstance(curves, Mapping):
        raise MibenchError(f"{whose} returned curves as {type(curves).__name__}", cure="make them a dict of tensors")
    named = {name: getattr(reconstruction, name) for name in ("images", "labels", "confidence", "latents")}
    _check_tensors({**named, **{f"curve {name}": curve for name, curve in curves.items()}}, whose)
    if reconstruction.labels.ndim != 1 or reconstruction.labels.is_floating_point():
        dtype, shape = reconstruction.labels.dtype, tuple(reconstruction.labels.shape)
        raise MibenchError(f"{whose} returned labels that are {dtype} {shape}: expected int64 (N,)")


def _check_tensors(given: object, whose: str) -> None:
    """Refuse values that cannot be stored as tensors."""
    if not isinstance(given, Mapping):
        raise MibenchError(f"{whose} returned {type(given).__name__}", cure="return a dict of tensors")
    for name, tensor in given.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            kind = "a sparse tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise MibenchError(f"{whose} returned {kind} as {str(name)!r}", cure="make it a dense tensor")
        if tensor.device.type == "meta" or tensor.dtype not in STORABLE:
            kind = "a tensor without contents" if tensor.device.type == "meta" else str(tensor.dtype)
            raise MibenchError(
                f"{whose} returned {kind} as {name!r}, which cannot be stored",
                cure="make it real numbers of at most 64 bits",
            )
        if name == RESERVED:
            raise MibenchError(f"{whose} returned a tensor called {name!r}", cure="give it another name")


def keep_most_confident(reconstruction: Reconstruction, count: int | None) -> Reconstruction:
    """The ``count`` reconstructions of each identity that the adversary is surest of, in the order they came in.

    Equal confidences: the earlier one. None keeps all.
    """
    if count is None:
        return reconstruction
    ranked = reconstruction.confidence.detach().cpu().argsort(descending=True, stable=True)
    labels = reconstruction.labels.cpu()[ranked]
    kept = torch.cat([ranked[rows[:count]] for rows in rows_by_label(labels).values()]).sort().values
    latents = (
        reconstruction.latents[kept.to(reconstruction.latents.device)]
        if len(reconstruction.latents) == len(labels)
        else reconstruction.latents
    )
    return replace(
        reconstruction,
        images=reconstruction.images[kept.to(reconstruction.images.device)],
        labels=reconstruction.labels[kept.to(reconstruction.labels.device)],
        confidence=reconstruction.confidence[kept.to(reconstruction.confidence.device)],
        latents=latents,
    )


def stored_units(plan: Plan, folder: RunDir) -> Iterator[int]:
    """Indices of the units that are stored intact."""
    yield from (index for index in range(len(plan.units)) if folder.intact(unit_stem(index)))
