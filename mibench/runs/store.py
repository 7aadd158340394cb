"""The run directory: atomic writes, units, status, one writer at a time.

Layout (:mod:`mibench.results` reads it)::

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

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mibench.errors import MibenchError
from mibench.results.run_record import CURE, check_record
from mibench.system.canonical import JsonObject
from mibench.system.files import file_sha256, write_json
from mibench.system.tensor_files import read_tensors, write_tensors
from mibench.system.text_files import read_json as read_json
from mibench.system.text_files import read_object
from mibench.system.work_directory import WorkDirectory

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
Status = Literal["running", "complete", "failed"]


@dataclass(frozen=True)
class RunDir(WorkDirectory):
    """One run's folder. Reading needs nothing more; writing happens inside :meth:`writing`."""

    @property
    def record_path(self) -> Path:
        """``run.json``."""
        return self.path / "run.json"

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.record_path.exists()

    def record(self) -> JsonObject:
        """The contents of ``run.json``, each field of its kind; {} when there is none yet.

        Raises:
            MibenchError: it is not what a run writes; says what to do.
        """
        return check_record(read_object(self.record_path, cure=CURE), self.record_path) if self.exists() else {}

    def update_record(self, **fields: object) -> None:
        """Replace top-level fields of ``run.json``."""
        write_json(self.record_path, {"schema": SCHEMA} | self.record() | fields)

    def tensors_path(self, stem: str) -> Path:
        """``state.safetensors`` or ``units/000.safetensors`` for the stems ``state`` and ``units/000``."""
        return self.path / f"{stem}.safetensors"

    def save(self, stem: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, object], **sidecar: object) -> None:
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

    def discard_new_run(self) -> None:
        """Take back what the beginning of a run wrote. The lock stays: another process may wait for it."""
        for name in ("run.json", "config.yaml", "log.jsonl"):
            with suppress(OSError):
                (self.path / name).unlink(missing_ok=True)

    def load(self, stem: str) -> tuple[dict[str, Tensor], dict[str, object]]:
        """Tensors and metadata of a stem."""
        return read_tensors(self.tensors_path(stem))


def unit_stem(index: int) -> str:
    """``units/000`` for unit 0."""
    return f"units/{index:03d}"
