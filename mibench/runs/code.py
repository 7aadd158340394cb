"""The code that decides a run's results, as hashes."""

from __future__ import annotations

from collections.abc import Iterable

from mibench import plugins, registry
from mibench.system.source_code import code_hash, source_of

REFEREE = ("api", "rng", "runs.attack", "weights.load", "system.devices", "runs.plan")  # decide what an attack produces


def code_hashes(entries: Iterable[registry.Entry]) -> dict[str, str]:
    """What decides reconstructions: the referee's core, and each party's module with what it imports of its own kind.

    Returns:
        ``attack dmmia`` -> sha256. Another attack's file, a report or the command line do not count.
    """
    hashes = {f"mibench.{name}": code_hash(f"mibench.{name}", f"mibench.{name}") for name in REFEREE}
    return hashes | {f"{entry.kind} {entry.name}": code_hash(entry.module) for entry in entries}


def attack_code(entry: registry.Entry) -> str | None:
    """Hash of the source of an attack that was brought by its path, a part of its run's digest; None when installed.

    Of a package it covers what :func:`code_hash` does, of a single file also the files beside it that it imports.
    """
    if entry.installed:
        return None
    source = source_of(entry.module)
    return code_hash(entry.module) if source is None or "." in entry.module else plugins.source_hash(source)
