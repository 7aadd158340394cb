"""Runs: made, scored again, opened, compared, swept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mibench import registry
from mibench.commands.settings_by_scope import Settings, scoped
from mibench.errors import MibenchError
from mibench.party_errors import parties_named
from mibench.system.progress import Reporter

if TYPE_CHECKING:
    from mibench.results import ComparedBy, ComparisonFunction, StoredRun
    from mibench.sweeps.sweep import DryRun, Sweep

LISTED = (
    "attack",
    "target",
    "dataset",
    "protocol",
    "suite",
    "prior",
    "judge",
    "regressor",
    "backbone",
    "metric",
    "report",
    "weights",
)


class RunComparison(Protocol):
    """Finished runs side by side."""

    def render(self, kind: str = "text", *, width: int = 110) -> str:
        """As ``text``, ``markdown``, ``csv`` (rows) or ``latex``."""

    def as_plain(self) -> dict[str, object]:
        """Everything as JSON types."""

    def write(self, folder: Path | str, *, paper: bool = False) -> list[Path]:
        """Write tables and the figure; the files."""


@parties_named()
def run(
    attack: str | None = None,
    target: str | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
    *,
    prior: str | None = None,
    judge: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    settings: Settings | None = None,
    config: Path | str | None = None,
    out: Path | str = "runs",
    device: str = "auto",
    precision: str | None = None,
    min_accuracy: float | None = None,
    access: str | None = None,
    jobs: int = 1,
    allow_changed_code: bool = False,
    reporter: Reporter | None = None,
) -> StoredRun:
    """Attack a target, score the reconstructions, draw tables and figures: ``mibench run``.

    The same arguments mean the same folder below ``out``; a run that was interrupted continues.

    >>> import mibench
    >>> run = mibench.run("dmmia", "vgg16", protocol="smoke", out="runs", device="cpu")
    >>> run.metrics["acc1"].n, run.floor.attack, run.missing
    (3, 'floor', {})
    >>> mibench.run(config=run.path / "config.yaml", out="runs", device="cpu").reused
    True

    Args:
        attack, target, dataset, protocol, prior, preset, seed, precision: as the flags of ``mibench run``; None means
            the value of ``config``, else the default.
        judge: another set of weights than the protocol's judge.
        settings: ``{"attack.steps": 300}`` or ``{"attack": {"steps": 300}}``.
        config: a YAML file, such as the ``config.yaml`` of another run.
        out: where run directories are made.
        device: ``auto``, ``cpu`` or ``cuda``.
        min_accuracy: least test accuracy of target and judge, a share; None refuses those below twice chance.
        access: the most that the attack may ask of the target: ``labels``, ``scores`` or ``gradients``; None means
            what the protocol grants. An attack that needs more is refused.
        jobs: units of the attack side by side, each in a process; they share the CPU cores.
        allow_changed_code: continue a run although the code that made its first part has changed.
        reporter: hears about progress; silent by default.

    Raises:
        MibenchError: invalid input.
    """
    from mibench.runs.attack import Execution
    from mibench.runs.request import RunRequest
    from mibench.runs.run import run_request
    from mibench.system.devices import choose_device

    request = RunRequest(
        attack=attack,
        target=target,
        dataset=dataset,
        protocol=protocol,
        prior=prior,
        judge=judge,
        preset=preset,
        seed=seed,
        precision=precision,
        min_accuracy=min_accuracy,
        access=access,
        settings=scoped(settings or {}),
        config=Path(config) if config is not None else None,
    )
    machine = Execution(choose_device(device), reporter=reporter or Reporter())
    elsewhere = None
    if jobs != 1:
        from mibench.sweeps.executors.contract import ExecutorOptions
        from mibench.sweeps.units import units_side_by_side

        options = ExecutorOptions(jobs=jobs, device=device, allow_changed_code=allow_changed_code)
        elsewhere = units_side_by_side(request, Path(out), options, machine.reporter)
    return run_request(request, Path(out), machine, allow_changed_code=allow_changed_code, elsewhere=elsewhere)


@parties_named()
def score(
    path: Path | str,
    *,
    metrics: Sequence[str] = (),
    show_faces: bool = False,
    device: str = "auto",
    reporter: Reporter | None = None,
) -> StoredRun:
    """Judge and draw a stored run again, without attacking again: ``mibench score``.

    >>> import mibench
    >>> run = mibench.run(protocol="smoke", out="runs", device="cpu")
    >>> mibench.score(run.path, device="cpu").metrics == run.metrics
    True

    Args:
        path: a run directory.
        metrics: groups to measure beside those that the run has, such as ``["gradients"]``; it keeps them.
        show_faces: draw faces in figures although the people may be real; until the run is scored again without it.
        device, reporter: as in :func:`run`.

    Raises:
        MibenchError: not a run, units missing, weights or data that are not the ones of the run, an unknown metric.
    """
    from mibench.runs.run import rescore

    return rescore(Path(path), device, reporter, metrics, show_faces=show_faces)


@parties_named()
def open_run(path: Path | str) -> StoredRun:
    """A run directory for reading: its samples, metrics, units, curves and costs.

    >>> import mibench
    >>> path = mibench.run(protocol="smoke", out="runs", device="cpu").path
    >>> run = mibench.open_run(path)
    >>> run.attack, run.protocol, len(run.samples)
    ('dmmia', 'smoke v1', 12)

    Raises:
        MibenchError: there is no run there.
    """
    from mibench import results

    return results.open_run(path)


@parties_named()
def compare(
    runs: Path | str | Sequence[Path | str],
    *,
    reference: str | None = None,
    metrics: Sequence[str] = (),
    mix: bool = False,
    by: ComparedBy = "attack",
) -> RunComparison:
    """Finished runs side by side, with paired tests over identities: ``mibench compare``.

    >>> import mibench
    >>> _ = mibench.run(protocol="smoke", out="runs", device="cpu")
    >>> comparison = mibench.compare("runs", metrics=["acc1"])
    >>> len(comparison.as_plain()["rows"])
    2

    Args:
        runs: run directories, or folders of them; floors that lie beside them come along.
        reference: label or attack that every row is tested against; ``floor``: each against its own.
        metrics: which to show and to test; empty: all that can be tested.
        mix: show runs of different protocols, data or judges too, without tests between them.
        by: what the rows are: ``attack``, on each target; or ``defence``, under each attack, tested against the
            undefended twin unless ``reference`` names another row.

    Raises:
        MibenchError: runs that are unfinished or must not be compared, an unknown reference or metric.
    """
    table: ComparisonFunction = registry.load("comparison", "table")
    comparison = table(runs, reference=reference, metrics=metrics, mix=mix, by=by)
    return comparison


@parties_named()
def sweep(
    suite: str,
    out: Path | str | None = None,
    *,
    jobs: int | None = None,
    device: str = "auto",
    executor: str = "local",
    address: str | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    retries: int = 2,
    warm: bool = False,
    allow_changed_code: bool = False,
    reporter: Reporter | None = None,
) -> Sweep:
    """Run a matrix of attacks, targets and seeds, each cell in a worker process: ``mibench sweep``.

    >>> import mibench
    >>> mibench.sweep("smoke", out="sweeps/smoke").failed  # doctest: +SKIP
    ()

    Args:
        suite: a YAML file, or the name of a shipped suite.
        out: folder of run directories and tables; None: ``runs/<name of the suite>``.
        jobs: cells side by side; None: one on a CPU, one for each GPU; on a cluster as many as it has room for.
        executor: where cells run: ``local``, ``ray`` (extra ``ray``), or one that a plugin brings.
        address: of a running Ray cluster; None: a local one is started.
        threads: of PyTorch in each worker; None: the cores divided by ``jobs``; 1 on a cluster.
        timeout: seconds that a cell may take; None: any number.
        retries: how often a cell goes to another worker when its worker died.
        warm: keep worker processes for further cells instead of a fresh one for each.
        device, allow_changed_code, reporter: as in :func:`run`.

    Raises:
        MibenchError: invalid input, or a folder that holds another sweep.
    """
    from mibench.sweeps.executors.contract import ExecutorOptions
    from mibench.sweeps.suite import load_suite
    from mibench.sweeps.sweep import sweep as run_sweep

    loaded = load_suite(suite)
    folder = Path("runs") / loaded.name if out is None else Path(out)
    options = ExecutorOptions(
        jobs=jobs,
        device=device,
        threads=threads,
        timeout=timeout,
        retries=retries,
        warm=warm,
        address=address,
        allow_changed_code=allow_changed_code,
    )
    return run_sweep(loaded, folder, options, executor=executor, reporter=reporter)


@parties_named()
def forecast(
    suite: str,
    out: Path | str | None = None,
    *,
    jobs: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    allow_changed_code: bool = False,
) -> DryRun:
    """What a sweep would do, and what it would cost: ``mibench sweep --dry-run``. Starts and writes nothing.

    >>> import mibench
    >>> {cell.state for cell in mibench.forecast("smoke", out="nowhere", device="cpu").cell_statuses}
    {'to do'}

    Args:
        suite, out, jobs, device, threads, allow_changed_code: as in :func:`sweep`.
    """
    from mibench.sweeps.executors.contract import ExecutorOptions
    from mibench.sweeps.suite import load_suite
    from mibench.sweeps.sweep import forecast as forecast_sweep

    loaded = load_suite(suite)
    folder = Path("runs") / loaded.name if out is None else Path(out)
    options = ExecutorOptions(jobs=jobs, device=device, threads=threads, allow_changed_code=allow_changed_code)
    return forecast_sweep(loaded, folder, options)


@parties_named()
def names(kind: str) -> tuple[str, ...]:
    """The names of what is installed: ``mibench list``.

    >>> import mibench
    >>> mibench.names("attack")[:3]
    ('brep', 'c2fmi', 'ceiling')

    Args:
        kind: attack, target, dataset, protocol, suite, prior, judge, regressor, backbone, metric, report or weights;
            one or many (``attacks``).

    Raises:
        MibenchError: an unknown kind.
    """
    singular = kind if kind in LISTED else kind.removesuffix("s")
    if singular not in LISTED:
        raise MibenchError(registry.unknown("kind", kind, LISTED))
    if singular == "weights":
        from mibench.weights.cards import all_cards

        return tuple(all_cards())
    return tuple(registry.yaml_files(singular)) if singular in ("protocol", "suite") else registry.names(singular)
