"""The run directory: atomic writes, units, status, one writer at a time.

Layout (``results.py`` is the read side)::

    run.json            status, resolved specification, origin of each value, environment, hashes, times
    config.yaml         what ``mibench run --config`` accepts
    units/000.safetensors   images uint8 (N,3,H,W), labels int64 (N,), confidence float32 (N,), latents, curve.<name>
                            metadata {"mibench": json of attack, unit, labels, queries_forward, queries_backward, notes}
    units/000.json      sha256 of the tensors, seconds, peak_memory_bytes, device, micro_batch: written last, so a unit
                        counts only when this file is there and its hash agrees
    state.safetensors   what ``Attack.prepare`` returned, with state.json in the same manner
    samples.csv metrics.json tables/ figures/ images/
    log.jsonl           one record a line, with the time

Two promises. A crash at any moment leaves every finished file whole (written beside, synced, then renamed). And an
interrupted run ends with the same bytes as an uninterrupted one: times, memory, devices and process numbers go into
``run.json``, ``units/*.json``, ``state.json`` and ``log.jsonl``, never into the files that hold results.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from mibench.errors import MibenchError
from mibench.holding import held
from mibench.results.run_record import CURE, check_record
from mibench.system.text_files import parse_json, read_object
from mibench.system.text_files import read_json as read_json

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
METADATA_KEY = "mibench"  # one key only: safetensors writes several in an order that changes from run to run
Status = Literal["running", "complete", "failed"]


def write_error(path: Path, error: OSError) -> MibenchError:
    """The one line a person gets when a file cannot be written."""
    reason = error.strerror or str(error)
    return MibenchError(
        f"cannot write {path}: {reason}; make room or choose another folder with --output "
        "(everything finished is kept, the same command continues)"
    )


def atomic_write(path: Path, content: bytes, *, sweep: bool = False) -> None:
    """Replace ``path`` by ``content``: temporary file beside it, fsync, rename. A crash leaves the old or the new file.

    Args:
        path: the file.
        content: all of it.
        sweep: first remove what killed processes left of it; a run directory is swept as a whole instead.

    Raises:
        MibenchError: the folder is not writable or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if sweep:
            _sweep_leftovers(path)
        with temporary.open("wb") as file:
            _vouch_for(file)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if sys.platform != "win32":  # while the lock vouches for it; there an open file cannot be renamed
                temporary.replace(path)
        if sys.platform == "win32":
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:  # an error or Ctrl-C leaves it, and nobody would ever remove it
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _vouch_for(file: IO[bytes]) -> None:
    """Lock a temporary file while its writer lives."""
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sweep_leftovers(path: Path) -> None:
    """Remove temporary files of ``path`` whose writers are dead."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        _remove_dead(leftover)


def _remove_dead(leftover: Path) -> None:
    """Remove a temporary file unless its writer lives."""
    if sys.platform == "win32":  # there the system refuses while it is open
        with suppress(OSError):
            leftover.unlink()
        return
    with suppress(OSError), leftover.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        leftover.unlink()


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, indented, no NaN (a number that is none is null by our own rule)."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    atomic_write(path, (text + "\n").encode())


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """Write a safetensors file atomically and return its sha256. Equal contents give equal bytes."""
    from safetensors.torch import save

    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(stored, metadata={METADATA_KEY: json.dumps(dict(metadata), sort_keys=True)})
    atomic_write(path, content)
    return hashlib.sha256(content).hexdigest()


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by :func:`write_tensors`."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise MibenchError(f"cannot read {path}: {error}; delete it and run the same command again") from error
    try:
        facts = parse_json(metadata.get(METADATA_KEY, "{}"))
    except ValueError as error:
        raise MibenchError(
            f"cannot read {path}: its metadata is not JSON ({error}); delete it and run the same command again"
        ) from error
    return tensors, facts if isinstance(facts, dict) else {}


@dataclass(frozen=True)
class RunDir:
    """One run's folder. Reading needs nothing more; writing happens inside :meth:`writing`."""

    path: Path

    @property
    def record_path(self) -> Path:
        """``run.json``."""
        return self.path / "run.json"

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.record_path.exists()

    def record(self) -> dict[str, Any]:
        """The contents of ``run.json``, each field of its kind; {} when there is none yet.

        Raises:
            MibenchError: it is not what a run writes; says what to do.
        """
        return check_record(read_object(self.record_path, cure=CURE), self.record_path) if self.exists() else {}

    def update_record(self, **fields: Any) -> None:
        """Replace top-level fields of ``run.json``."""
        write_json(self.record_path, {"schema": SCHEMA} | self.record() | fields)

    @contextmanager
    def writing(self, patience: float = 0) -> Iterator[None]:
        """Hold the folder for this process (:func:`mibench.holding.held`).

        Args:
            patience: seconds to wait for another process that holds it.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(held(self.path / ".lock", f"{self.path} is being written", patience=patience))
            except OSError as error:
                raise write_error(self.path, error) from error
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Remove temporary files that a killed process left."""
        for folder in (self.path, *(p for p in self.path.iterdir() if p.is_dir())):
            for leftover in folder.glob(".*.tmp"):
                _remove_dead(leftover)  # an audit, say, writes here as well, and after its run

    def log(self, **record: Any) -> None:
        """Append a record to ``log.jsonl``."""
        line = json.dumps({"time": round(time.time(), 3)} | record, default=str).encode() + b"\n"
        path = self.path / "log.jsonl"
        try:
            with path.open("a+b") as file:
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                    line = b"\n" + line  # a crash cut the last record off; keep it from spoiling this one
                file.write(line)
        except OSError as error:
            raise write_error(path, error) from error

    def tensors_path(self, stem: str) -> Path:
        """``state.safetensors`` or ``units/000.safetensors`` for the stems ``state`` and ``units/000``."""
        return self.path / f"{stem}.safetensors"

    def save(self, stem: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any], **sidecar: Any) -> None:
        """Store tensors, then the sidecar that makes them count."""
        digest = write_tensors(self.tensors_path(stem), tensors, metadata)
        write_json(self.path / f"{stem}.json", {"sha256": digest, **sidecar})

    def intact(self, stem: str) -> bool:
        """Whether the stored tensors are all there, by hash. Damaged or half-written ones are simply made again."""
        sidecar, tensors = self.path / f"{stem}.json", self.tensors_path(stem)
        if not sidecar.is_file() or not tensors.is_file():
            return False
        try:
            return file_sha256(tensors) == read_object(sidecar).get("sha256")
        except (MibenchError, OSError):
            return False

    def anything_stored(self) -> bool:
        """Whether a state or a unit was ever stored, intact or not."""
        return self.tensors_path("state").exists() or any((self.path / "units").glob("*"))

    def forget(self) -> None:
        """Take back what the beginning of a run wrote. The lock stays: another process may wait for it."""
        for name in ("run.json", "config.yaml", "log.jsonl"):
            with suppress(OSError):
                (self.path / name).unlink(missing_ok=True)

    def load(self, stem: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and metadata of a stem."""
        return read_tensors(self.tensors_path(stem))


def unit_stem(index: int) -> str:
    """``units/000`` for unit 0."""
    return f"units/{index:03d}"
