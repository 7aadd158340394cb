"""A gate: runs what is missing, and decides."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mibench import plugins, registry
from mibench.commands.settings_by_scope import Settings, scoped
from mibench.errors import MibenchError
from mibench.system.progress import Reporter

if TYPE_CHECKING:
    from mibench.results import GateFunction, PrintableGate, StoredRun
    from mibench.runs.attack import Execution

PROTOCOL = "gate"


def gate(
    runs: Path | str | Sequence[Path | str] = (),
    *,
    baseline: Path | str | Sequence[Path | str],
    target: str | None = None,
    attacks: Sequence[str] = (),
    max_increase: Mapping[str, float] | None = None,
    min_accuracy: float | None = None,
    max_drop: float | None = None,
    confidence: float = 0.95,
    settings: Settings | None = None,
    out: Path | str = "runs",
    device: str = "auto",
    allow_changed_code: bool = False,
    reporter: Reporter | None = None,
) -> PrintableGate:
    """Decide whether a classifier leaks more than its baseline: ``mibench gate``.

    >>> import mibench
    >>> file = mibench.update_baseline("leak.json", "vgg16", attacks=["ppa"], protocol="smoke", device="cpu")
    >>> mibench.gate(baseline=file, target="vgg16", device="cpu").verdict
    'undecided'

    Args:
        runs: finished runs against one target, or folders of them; empty with ``target``.
        baseline: a file of :func:`update_baseline`, or finished runs. Several files, or runs against several targets,
            are several accepted classifiers: each test takes the one that leaks most.
        target: attack this one as the first file's was attacked, as far as that is not done yet. Needs a file.
        attacks: of the baseline, which to test; empty: all.
        max_increase: metric -> allowed increase in its own unit (0.05 of a share is 5 points); None: ``acc1`` by 0.05.
        min_accuracy: least test accuracy in [0, 1]. max_drop: how far it may lie below the baseline's.
        confidence: of the one-sided tests.
        settings: on top of the baseline's, such as ``{"dataset.root": "faces"}``.
        out, device, allow_changed_code, reporter: as in :func:`mibench.run`.

    Raises:
        MibenchError: invalid input, or what must not be compared.
    """
    decide: GateFunction = registry.load("gate", "decide")
    _refuse_what_is_no_attack(attacks)
    sources: Sequence[StoredRun | Path | str] = [runs] if isinstance(runs, str | Path) else list(runs)
    if bool(sources) == (target is not None):
        raise MibenchError(
            "a gate takes finished runs or a target to attack", cure="name run directories, or one target with --target"
        )
    if target is not None:
        named = [baseline] if isinstance(baseline, str | Path) else list(baseline)
        file = next((each for each in named if Path(each).is_file()), None)
        if file is None:
            missing = next((each for each in named if not Path(each).exists()), None)
            raise MibenchError(
                "with a target to attack, the baseline is a file" if missing is None else f"there is no {missing}",
                cure="make one: mibench gate --update-baseline --baseline FILE",
            )
        machine = _machine(device, reporter)
        sources, attacks = _attack(
            target, file, attacks, scoped(settings or {}), Path(out), machine, allow_changed_code
        )
    return decide(
        sources,
        baseline,
        margins=max_increase,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        confidence=confidence,
        attacks=attacks,
    )


def update_baseline(
    baseline: Path | str,
    target: str | None = None,
    *,
    runs: Path | str | Sequence[Path | str] = (),
    attacks: Sequence[str] = (),
    dataset: str | None = None,
    protocol: str | None = None,
    seeds: Sequence[int] = (0,),
    settings: Settings | None = None,
    out: Path | str = "runs",
    device: str = "auto",
    allow_changed_code: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Write the file that later gates compare with: ``mibench gate --update-baseline``.

    >>> import mibench
    >>> mibench.update_baseline("leak.json", "vgg16", protocol="smoke", device="cpu").name
    'leak.json'

    Args:
        baseline: the file to write.
        target: attack this one, as far as that is not done yet; or
        runs: take these finished runs.
        attacks: None: the attack that ``mibench run`` runs by default.
        protocol: None: ``gate``, or the data set's own where that is another one than the default.
        seeds: of the attacks; more of them narrow the intervals where an attack varies between seeds.
        dataset, settings, out, device, allow_changed_code, reporter: as in :func:`mibench.run`.

    Raises:
        MibenchError: invalid input.
    """
    from mibench.runs.request import RunRequest
    from mibench.runs.run import run_request

    sources: list[StoredRun | Path | str] = [runs] if isinstance(runs, str | Path) else list(runs)
    if bool(sources) == (target is not None):
        raise MibenchError(
            "a baseline is made of finished runs or from a target to attack",
            cure="name run directories, or one target with --target",
        )
    changed = any(scoped(settings or {}).values())
    named = {"--attack": attacks, "--protocol": protocol, "--dataset": dataset, "--set": changed}
    ignored = [option for option, value in named.items() if value and target is None]
    if ignored:
        raise MibenchError(
            f"{' and '.join(ignored)} would say how to attack a target, and these runs are finished",
            cure="name only the runs that the baseline is to hold",
        )
    _refuse_what_is_no_attack(attacks)
    if target is not None:
        machine = _machine(device, reporter)
        for attack in attacks or (registry.role("default_attack"),):
            for seed in seeds or (0,):
                request = RunRequest(
                    attack=attack,
                    target=target,
                    dataset=dataset,
                    protocol=protocol or (PROTOCOL if dataset is None else None),
                    seed=seed,
                    settings=scoped(settings or {}),
                )
                sources.append(run_request(request, Path(out), machine, allow_changed_code=allow_changed_code))
    write = registry.load("gate", "baseline")
    return cast(Path, write(sources, baseline))


def _refuse_what_is_no_attack(attacks: Sequence[str]) -> None:
    """Refuse the floor and controls before anything runs; a name that nobody knows is refused where it is looked up."""
    for name in attacks:
        if name.partition(":")[0] not in registry.names("attack") and not plugins.names_a_file(name):
            continue
        entry, _ = registry.attack_entry(name)
        if entry.name == registry.role("baseline"):
            what = "is what the prior gives without an attack"
        elif entry.load().needs_portraits:
            what = "is a control that sees images of the private people"
        else:
            continue
        raise MibenchError(f"{name} {what}: an increase of it is no leak", cure="name an attack with --attack")


def _machine(device: str, reporter: Reporter | None) -> Execution:
    from mibench.runs.attack import Execution
    from mibench.system.devices import choose_device

    return Execution(choose_device(device), reporter=reporter or Reporter())


def _attack(
    target: str,
    baseline: Path | str,
    attacks: Sequence[str],
    settings: Mapping[str, Mapping[str, object]],
    out: Path,
    machine: Execution,
    allow_changed_code: bool,
) -> tuple[list[StoredRun], list[str]]:
    """Run what the baseline holds against a target; runs that are finished are only opened.

    Returns:
        The runs, and ``attacks`` by the names that rows have, where one is the address of a file.
    """
    import yaml

    from mibench.runs.request import RunRequest
    from mibench.runs.run import run_request

    wanted = [
        (label, attack, content, seeds)
        for label, attack, content, seeds in registry.load("gate", "requests")(baseline)
        if not attacks or {label, attack, _address(content)} & set(attacks)
    ]
    _refuse_what_is_no_attack([attack for _, attack, _, _ in wanted])
    for _, _, content, _ in wanted:
        if (
            plugins.names_a_file(address := _address(content)) and address not in attacks
        ):  # a baseline may come from anybody
            raise MibenchError(
                f"{baseline} has an attack from a file, {address}, whose code would be run",
                cure=f"say that it may: --attack {address}",
            )
    sources: list[StoredRun] = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (_, _, content, seeds) in enumerate(wanted):
            config = Path(folder) / f"{number}.yaml"
            config.write_text(yaml.safe_dump(dict(content), sort_keys=True), encoding="utf-8")
            for seed in seeds:
                request = RunRequest(target=target, seed=seed, settings=settings, config=config)
                sources.append(run_request(request, out, machine, allow_changed_code=allow_changed_code))
    if not sources:
        raise MibenchError(f"{baseline} has none of the attacks {', '.join(attacks)}", cure="leave --attack out")
    files = {address: attack for _, attack, content, _ in wanted if plugins.names_a_file(address := _address(content))}
    return sources, [files.get(name, name) for name in attacks]


def _address(request: Mapping[str, object]) -> str:
    """What the configuration of a run calls its attack."""
    return str(request.get("attack", ""))
