"""One run from beginning to end: plan, floor, attack, judge, draw. Every way to ask for a run ends up here."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mibench import registry
from mibench.api import Access, Card
from mibench.data.files import FileSplit
from mibench.data.fingerprint import what_changed
from mibench.data.split import GroundTruth
from mibench.errors import MibenchError
from mibench.metrics import METRICS
from mibench.party_errors import parties_named, shown_traceback
from mibench.results import StoredRun, open_run
from mibench.results.run_record import read_estimates
from mibench.runs.attack import Execution, attack_units, stored_units
from mibench.runs.code import code_hashes
from mibench.runs.parts import AttackElsewhere, attack_side_by_side
from mibench.runs.plan import Plan, make_plan
from mibench.runs.request import RunRequest
from mibench.runs.score import check_units, judge_units, metric_groups
from mibench.runs.store import RunDir
from mibench.system import provenance
from mibench.system.canonical import JsonObject, plain
from mibench.system.devices import choose_device
from mibench.system.files import atomic_write, check_writable, file_sha256, write_error
from mibench.system.foreign_code import contained, text_of, worded
from mibench.system.progress import Reporter
from mibench.system.source_code import code_hash
from mibench.system.turns import computing
from mibench.weights import cards, load

FLOOR_PATIENCE = 3600.0  # seconds that a run waits for another one that is making the floor both need
MAX_REMARKS = 4  # remarks on the data that are printed; `mibench data verify` prints all
RESULT_FILES = ("samples.csv", "metrics.json")
DRAWN_FOLDERS = ("tables", "figures", "images")


def run_request(
    request: RunRequest,
    out: Path,
    machine: Execution,
    *,
    allow_changed_code: bool = False,
    unused: bool = True,
    patience: float = 0,
    elsewhere: AttackElsewhere | None = None,
) -> StoredRun:
    """Run what was asked for and, before it, the floor that its tables compare it with.

    Args:
        allow_changed_code: continue although the code that began it has changed.
        unused: say what lies in the data's folder and is not used.
        patience: seconds to wait for another process that writes the run.
        elsewhere: attacks units in other processes; None: all are attacked here. A floor is too cheap for it.
    """
    with computing(machine.reporter), parties_named():
        plan = make_plan(request)
        if unused and isinstance(plan.dataset, FileSplit) and (remarks := plan.dataset.unused()):
            more = (
                f"; {len(remarks) - MAX_REMARKS:,} more remarks: mibench data verify"
                if len(remarks) > MAX_REMARKS
                else ""
            )
            machine.reporter.say(f"data set {plan.spec.dataset}: {'; '.join(remarks[:MAX_REMARKS])}{more}")
        baseline = plan.floor()
        _refuse_early(plan, RunDir(out / plan.spec.run_name), machine, allow_changed_code)
        floor = None if baseline is None else _run_plan(baseline, out, machine, None, allow_changed_code)
        return _run_plan(plan, out, machine, floor, allow_changed_code, patience, elsewhere)


def _refuse_early(plan: Plan, folder: RunDir, machine: Execution, allow_changed_code: bool) -> None:
    """Look at what would end the run after its floor, or after its attack, before either begins."""
    check_writable(folder.path)
    if not allow_changed_code:
        refuse_changed_code(folder, code_hashes(plan.parties))
    if folder.record().get("status") == "complete":
        return
    for file in (plan.judge, plan.second_judge, plan.regressor):
        if file is not None:
            load.check_weights(file)
    for file in filter(None, (plan.target if plan.attack.least_access >= Access.GRADIENTS else None, plan.surrogate)):
        load.build_victim(file, Access.GRADIENTS, machine.device)  # the floor works without gradients


def _run_plan(
    plan: Plan,
    out: Path,
    machine: Execution,
    floor: StoredRun | None,
    allow_changed_code: bool,
    patience: float = 0,
    elsewhere: AttackElsewhere | None = None,
) -> StoredRun:
    folder = RunDir(out / plan.spec.run_name)
    # runs side by side share one floor: the second waits for the first to finish it
    patience = FLOOR_PATIENCE if plan.spec.attack == registry.role("baseline") else patience
    with folder.writing(patience=patience), parties_named(lambda error: f"its traceback is in {folder.log_path}"):
        code = code_hashes(plan.parties)
        if not allow_changed_code:
            refuse_changed_code(folder, code)
        for doubt in _weight_warnings(plan) if floor is None else ():  # else the floor said them
            machine.reporter.say(f"warning: {doubt}")
        if (finished := completed(plan, folder, floor)) is not None:
            machine.reporter.say(f"{folder.path}: complete already, nothing to do")
            return finished
        record, reading = folder.record(), _scoring_code_hashes(plan, folder, floor)
        _begin(plan, folder, machine, code)
        started = time.time()
        try:
            if elsewhere is not None:
                attack_side_by_side(plan, folder, machine, elsewhere)
            attack_units(plan, folder, machine)
            judge_units(plan, folder, machine)
            write_reports(plan, folder, floor, machine.reporter)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit in an attack, too
            _failed(folder, error, fresh=not record)
            raise
        seconds = round(time.time() - started, 3) + float(record.get("seconds", 0.0))
        folder.update_record(
            status="complete",
            finished=_now(),
            seconds=seconds,
            reading=reading,
            outputs=_outputs(folder),
            floor=None if floor is None else floor.path.name,
            missing=_missing(plan, folder),
            error=None,
        )
        return StoredRun(folder.path)


def completed(plan: Plan, folder: RunDir, floor: StoredRun | None) -> StoredRun | None:
    """The run where it is complete, its files intact and read by today's code, else None. Nothing is written.

    Every recorded output is verified by hash: the files that results are in, the attack's state and each unit.
    """
    record = folder.record()
    if record.get("status") != "complete" or record.get("reading") != _scoring_code_hashes(plan, folder, floor):
        return None
    stored = folder.intact("state") and len(list(stored_units(plan, folder))) == len(plan.units)
    return StoredRun(folder.path, reused=True) if stored and _outputs_intact(folder, record) else None


def _begin(plan: Plan, folder: RunDir, machine: Execution, code: Mapping[str, str]) -> None:
    record = folder.record()
    done = len(list(stored_units(plan, folder)))
    preset = f" (preset {plan.spec.preset})" if plan.spec.preset else ""
    machine.reporter.say(
        f"{plan.spec.attack}{preset} against {plan.spec.target.card}: {_attacked(plan)} identities, "
        f"protocol {plan.spec.protocol.title}, on {machine.device}"
    )
    if record and done:
        machine.reporter.say(f"continuing {folder.path}: {done} of {len(plan.units)} units are stored")
    # The code that made the stored part stays on record next to the code that goes on (differs only when allowed).
    history = [h for h in record.get("code_history", []) if h != code]
    folder.update_record(
        status="running",
        digest=plan.spec.digest(),
        spec=plain(plan.spec.record()),
        settings={
            name: {"value": plain(s.value), "origin": s.origin, "by_user": s.by_user}
            for name, s in plan.origins.items()
        },
        environment=provenance.environment(machine.device),
        code=dict(code),
        code_history=[*history, dict(code)],
        argv=sys.argv,
        pid=os.getpid(),
        started=record.get("started", _now()),
        units=len(plan.units),
        prior_queries_forward=plan.prior_queries,
        attacked=_attacked_classifier(plan.cards["target"]),
        **({"sees_private": True} if plan.attack.needs_portraits else {}),
    )
    atomic_write(folder.path / "config.yaml", plan.config_yaml.encode())


def _attacked(plan: Plan) -> str:
    """``50 of 5,000``."""
    attacked, available = plan.spec.protocol.num_identities, plan.dataset.num_classes
    return f"{attacked:,}" + (f" of {available:,}" if attacked < available else "")


def _attacked_classifier(card: Card) -> dict[str, object]:
    """What tables of defences need of the target's card: its utility, what it cost to train, and what defends it."""
    measured = card.measured or {}
    return {
        **{name: measured.get(name) for name in ("test_accuracy", "test_images", "seconds")},
        "defence": None if card.defence is None else cards.defence_record(card.defence),
    }


def _weight_warnings(plan: Plan) -> Iterator[str]:
    """What may make the weights of a run other than a reader expects."""
    files = (plan.target, plan.judge, plan.second_judge, plan.prior, plan.regressor, plan.surrogate)
    for file in filter(None, files):
        if (owner := cards.hides_shipped(file)) is not None:
            yield (
                f"{file.name} is your own ({file.path}), not the one that {owner} ships under this name; move it away, "
                "or give it a tag, for numbers that compare"
            )
    for card in (plan.cards["target"], plan.cards["judge"]):
        measured, reported = card.measured or {}, card.reported or {}
        if measured.get("agrees_with_reported") is False:
            yield (
                f"{card.name} reached {measured['test_accuracy']:.2%} where it was measured and its source "
                f"reports {reported['test_accuracy']:.2%}; what is attacked or judged may not be what was published"
            )


def refuse_changed_code(folder: RunDir, code: Mapping[str, str]) -> None:
    """Raise when the code that produced the stored part of a run is not the code that would go on."""
    before = folder.record().get("code")
    stored = folder.intact("state") or any((folder.path / "units").glob("*.safetensors"))
    if not isinstance(before, dict) or not stored:
        return
    changed = sorted(name for name in {*before, *code} if before.get(name) != code.get(name))
    if changed:
        raise MibenchError(
            f"{folder.path} was made by other code ({', '.join(changed)} changed since)",
            cure=(
                "choose another --output, delete the folder to start again, or add --allow-changed-code to keep "
                "what it has"
            ),
        )


def _failed(folder: RunDir, error: BaseException, *, fresh: bool) -> None:
    """Record the failure in run.json and its traceback in the log where that is still possible; the error itself
    reaches the person either way.

    A run that met a mistake in its input before it had computed anything never began: it leaves no file.
    """
    if fresh and isinstance(error, MibenchError) and not folder.anything_stored():
        folder.discard_new_run()
        return
    with suppress(MibenchError):  # the disk is full or the folder unwritable, which is what `error` says already
        folder.update_record(status="failed", error=f"{type(error).__name__}: {text_of(error)}")
        if not isinstance(error, MibenchError):
            folder.log(event="failed", error=worded(error), traceback=shown_traceback(error))


def write_reports(
    plan: Plan, folder: RunDir, floor: StoredRun | None, reporter: Reporter, *, show_faces: bool = False
) -> None:
    """Have every registered report drawn for a judged run; reports are handed private images, they cannot load any.

    ``show_faces``: draw faces although the people may be real; those who are made up are drawn anyway.
    """
    run = open_run(folder.path)
    private = plan.dataset.private("train", plan.cards["target"].image.size, plan.spec.protocol.labels)
    names = registry.names("report")
    wish = {"hide_faces": False} if show_faces else {}  # a report without faces need not know of it
    reporter.start("drawing")
    try:
        for number, name in enumerate(names):
            reporter.update(number, len(names), name)
            report = registry.load("report", name)
            with contained(f"report {name!r}", "while it draws"):
                report(run, floor=floor, private=private, **wish)
    except OSError as error:
        raise write_error(folder.path, error) from error
    finally:
        reporter.stop()


def _scoring_code_hashes(plan: Plan, folder: RunDir, floor: StoredRun | None) -> dict[str, str]:
    """What determines the files made from units: scoring, metrics, reports, and the floor they are compared with."""
    hashes = {"scoring": code_hash("mibench.metrics.scoring", "mibench")}
    for name in metric_groups(plan, folder):
        hashes[f"metric {name}"] = code_hash(registry.entry("metric", name).module)
    for name in registry.names("report"):
        hashes[f"report {name}"] = code_hash(registry.entry("report", name).module)
    if floor is not None:
        hashes["floor"] = file_sha256(floor.path / "metrics.json")
    return hashes


def _outputs(folder: RunDir) -> dict[str, str]:
    files = [folder.path / name for name in RESULT_FILES]
    files += [folder.tensors_path("state"), *sorted((folder.path / "units").glob("*.safetensors"))]
    for name in DRAWN_FOLDERS:
        files += sorted(path for path in (folder.path / name).rglob("*") if path.is_file())
    return {path.relative_to(folder.path).as_posix(): file_sha256(path) for path in files}


def _outputs_intact(folder: RunDir, record: JsonObject) -> bool:
    outputs: Mapping[str, str] = record.get("outputs", {})
    try:
        return all(name in outputs for name in RESULT_FILES) and all(
            (folder.path / name).is_file() and file_sha256(folder.path / name) == digest
            for name, digest in outputs.items()
        )
    except OSError:  # a file that cannot be read is not intact
        return False


def _missing(plan: Plan, folder: RunDir) -> dict[str, str]:
    """Estimates that the protocol demands but that have no value, with the reason."""
    metrics = read_estimates(folder.path / "metrics.json")
    missing: dict[str, str] = {}
    for name in plan.spec.protocol.required:
        if name.startswith("true_identity") and not isinstance(plan.dataset, GroundTruth):
            continue  # photographs have no ground truth: null with the reason, and no reason to fail
        if name not in metrics:
            missing[name] = "it was not computed"
        elif metrics[name]["value"] is None and not metrics[name].get("params", {}).get("cannot_differ"):
            missing[name] = metrics[name].get("reason") or "no reason was given"
    return missing


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def rescore(
    path: Path,
    device: str = "auto",
    reporter: Reporter | None = None,
    metrics: Sequence[str] = (),
    *,
    show_faces: bool = False,
) -> StoredRun:
    """Judge and draw a stored run again without attacking.

    ``metrics``: groups to measure beside those that the run has; from now on it has them. ``show_faces``: draw faces
    although the people may be real.

    Raises:
        MibenchError: not a run, units missing, weights or data that are not the ones of the run, an unknown group.
    """
    known = {*METRICS, *registry.names("metric")}
    for name in metrics:
        if name not in known:
            raise MibenchError(registry.unknown("metric", name, known))
    folder = RunDir(path)
    if not folder.exists():
        raise MibenchError(f"{path} is not a run directory: it has no run.json", cure="start one with mibench run")
    machine = Execution(choose_device(device), reporter=reporter or Reporter())
    with computing(machine.reporter):
        return _rescored(folder, device, machine, metrics, show_faces=show_faces)


def _rescored(
    folder: RunDir, device: str, machine: Execution, metrics: Sequence[str], *, show_faces: bool
) -> StoredRun:
    path = folder.path
    plan = make_plan(RunRequest(config=path / "config.yaml"))
    recorded = folder.record().get("digest")
    data = (folder.record().get("spec") or {}).get("dataset_digest")
    if plan.spec.digest() != recorded and data not in (None, plan.spec.dataset_digest):
        raise MibenchError(
            f"{path} was made of another version of {plan.spec.dataset}: "
            f"{what_changed(str(data), plan.spec.dataset_digest)}",
            cure="restore the data, or run it again",
        )
    if plan.spec.digest() != recorded:
        raise MibenchError(
            f"{path} was made with other weights, data, protocol or attack file than are here now (digest "
            f"{recorded}, now {plan.spec.digest()})",
            cure="install what run.json names, or run it again",
        )
    floor_name = folder.record().get("floor")
    if floor_name and not RunDir(path.parent / floor_name).exists():
        raise MibenchError(
            f"floor run {floor_name} of {path} is missing from {path.parent}",
            cure="copy it there",
        )
    check_writable(path)
    check_units(plan, folder)
    floor = rescore(path.parent / floor_name, device, machine.reporter, show_faces=show_faces) if floor_name else None
    with folder.writing():
        judge_units(plan, folder, machine, metrics)
        write_reports(plan, folder, floor, machine.reporter, show_faces=show_faces)
        folder.update_record(
            status="complete",
            reading=_scoring_code_hashes(plan, folder, floor),
            outputs=_outputs(folder),
            missing=_missing(plan, folder),
            scored=_now(),
        )
        return StoredRun(folder.path)


__all__ = ["rescore", "run_request"]
