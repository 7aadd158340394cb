"""Lazy catalogues from entry points: names are known without importing what they name.

A distribution plugs in with one entry point in the group ``mibench``::

    [project.entry-points.mibench]
    mine = "my_package:CATALOGUE"

``CATALOGUE`` maps a kind to names and addresses, ``{"attack": {"mine": "my_package.attack:Mine"}}``, and lies in a
module that imports nothing heavy. Kinds: attack, prior, target, defence, judge, regressor, backbone, recipe, importer,
dataset, metric, report, comparison, gate, page and executor hold objects (``"module:attribute"``); cards, protocol and
suite hold packages of YAML files (``"package"``); role says which name plays a part that the referee needs
(:func:`role`), and counterpart which attack does with gradients what another does without (:func:`counterpart`).

Code that is not installed comes by its path (:mod:`mibench.plugins`): a catalogue with ``--plugin``, and an attack
wherever the name of one is asked for, as ``path/to/file.py:Class``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mibench.errors import MibenchError, suggest
from mibench.records import PLAIN_NAMES, is_plain_name
from mibench.system.stdout_guard import stdout_to_stderr
from mibench.system.text_files import resource_text, shown

from . import plugins

GROUP = "mibench"
KINDS = (
    "attack",
    "target",
    "defence",
    "dataset",
    "prior",
    "judge",
    "regressor",
    "backbone",
    "importer",
    "metric",
    "report",
    "comparison",
    "gate",
    "page",
    "executor",
    "recipe",
    "cards",
    "protocol",
    "suite",
    "role",
    "counterpart",
)
OF_AN_ARCHITECTURE = ("importer", "recipe")  # names that read kind:architecture, or kind for all of it


@dataclass(frozen=True)
class Entry:
    """A registered name: what kind of thing, where it lies, who brought it."""

    kind: str
    name: str
    address: str  # "module:attribute", or a package for cards, protocol and suite
    distribution: str
    installed: bool = True  # False: brought by a path, so its source is part of what it is

    @property
    def module(self) -> str:
        """The module part of the address."""
        return self.address.partition(":")[0]

    @property
    def package(self) -> str:
        """The package the module lies in (the module itself when it is top-level)."""
        return self.module.rpartition(".")[0] or self.module

    def load(self) -> Any:
        """Import the object.

        Raises:
            MibenchError: the address does not lead to an object; names the distribution to fix.
        """
        module, _, attribute = self.address.partition(":")
        subject = f"{self.kind} {self.name!r} of {self.distribution}"
        try:
            with _importing(module, f"{self.kind} {self.name!r}"):
                value: Any = importlib.import_module(module)
        except (MibenchError, KeyboardInterrupt):
            raise
        except ModuleNotFoundError as error:
            raise MibenchError(
                f"{subject} needs module {error.name!r}, which is not installed", cure="install it"
            ) from error
        except BaseException as error:  # it may raise anything; the line says what it was
            raise MibenchError(
                f"{subject} fails on import: {plugins.import_fault(error)}",
                cure=f"repair or uninstall {self.distribution}",
            ) from error
        for part in filter(None, attribute.split(".")):
            try:
                value = getattr(value, part)
            except AttributeError as error:
                raise MibenchError(
                    f"{subject} points at {self.address!r}, which does not exist",
                    cure=f"repair or uninstall {self.distribution}",
                ) from error
        return value


@contextmanager
def _importing(module: str, whose: str) -> Iterator[None]:
    """Import a party's module: it prints to stderr, and settings of torch, where that is loaded, stay as they were."""
    if module in sys.modules or "torch" not in sys.modules:
        with stdout_to_stderr():
            yield
        return
    from mibench.system.foreign_code import contained

    with contained(whose, "on import"):
        yield


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else f"entry point {point.name!r}"


@cache
def catalogue() -> dict[str, dict[str, Entry]]:
    """Every registered entry, kind -> name -> entry, in alphabetical order.

    Raises:
        MibenchError: two distributions claim one name, a catalogue cannot be read, or a kind is unknown.
    """
    entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
    for point in sorted(set(entry_points(group=GROUP)), key=lambda p: (_distribution(p), p.name)):
        owner = _distribution(point)
        try:
            with stdout_to_stderr():
                offered = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a catalogue is somebody's code, too
            fault = plugins.import_fault(error)
            raise MibenchError(
                f"{owner} registers {point.value!r} in the group {GROUP!r}, which cannot be loaded ({fault})",
                cure=f"repair or uninstall {owner}",
            ) from error
        _offer(entries, owner, offered)
    for address in plugins.added():
        _offer(entries, f"plugin {Path(address).name}", plugins.catalogue_of(address), installed=False)
    return {kind: dict(sorted(names.items())) for kind, names in entries.items()}


def _offer(
    entries: dict[str, dict[str, Entry]],
    owner: str,
    offered: Mapping[str, Mapping[str, str]],
    *,
    installed: bool = True,
) -> None:
    """Add the names of one catalogue."""
    for kind, names in offered.items():
        if kind not in entries:
            raise MibenchError(f"{owner} registers the unknown kind {kind!r}{suggest(kind, KINDS)}")
        for name, address in names.items():
            if not is_plain_name(name.replace(":", "", 1) if kind in OF_AN_ARCHITECTURE else name):
                raise MibenchError(
                    f"{owner} registers the {kind} {shown(name)}, which files cannot be called by: choose a name of "
                    f"{PLAIN_NAMES}"
                )
            other = entries[kind].get(name)
            if other is not None and other.address != address:
                raise MibenchError(
                    f"two distributions register the {kind} {name!r}: {other.distribution} ({other.address}) and "
                    f"{owner} ({address})",
                    cure="uninstall one of them",
                )
            entries[kind].setdefault(name, Entry(kind, name, address, owner, installed))


def add_plugin(path: str) -> None:
    """Offer the catalogue of a file or package folder beside those of installed distributions; twice is once.

    Raises:
        MibenchError: there is no catalogue there.
    """
    if plugins.add(path):
        catalogue.cache_clear()


def names(kind: str) -> tuple[str, ...]:
    """The registered names of a kind."""
    return tuple(catalogue()[kind])


def entry(kind: str, name: str) -> Entry:
    """The entry of a name; of an attack in a file (``path/to/file.py:Class``), under the name that it calls itself.

    Raises:
        MibenchError: unknown name, with the nearest known ones; a file without such an attack.
    """
    if kind == "attack" and plugins.names_a_file(name):
        return _from_file(name)
    known = catalogue()[kind]
    if name not in known:
        raise MibenchError(unknown(kind, name, known))
    return known[name]


def attack_entry(name: str) -> tuple[Entry, str | None]:
    """The entry of an attack and the variant of it that ``NAME:VARIANT`` asks for; one from a file has no variants.

    Raises:
        MibenchError: an unknown attack; whether the variant exists is not looked at.
    """
    if plugins.names_a_file(name):
        return _from_file(name), None
    attack, colon, variant = name.partition(":")
    return entry("attack", attack), variant if colon else None


def _from_file(address: str) -> Entry:
    attack = plugins.attack_class(address)
    taken = catalogue()["attack"].get(attack.name)
    if taken is not None:
        raise MibenchError(
            f"attack {address}: it calls itself {attack.name!r}, which is an attack of {taken.distribution}",
            cure="give the class another name, so that tables tell them apart",
        )
    return Entry("attack", attack.name, f"{attack.__module__}:{attack.__qualname__}", "a file", installed=False)


def load(kind: str, name: str) -> Any:
    """Import what a name stands for."""
    return entry(kind, name).load()


def role(part: str) -> str | None:
    """The name that plays a part, as the parties declare it; None when nobody does.

    Parts: ``baseline`` (the attack that every run is compared with), ``strongest`` (the attack of an audit),
    ``strongest_by_scores`` (that of one without gradients), ``default_attack``, ``default_target``, ``default_judge``,
    ``default_prior`` and ``default_mapping_prior``.
    """
    return _declared("role", part)


def counterpart(attack: str) -> str | None:
    """The attack that does with gradients what ``attack`` does without, all else equal; None where none is declared."""
    return _declared("counterpart", attack)


def _declared(kind: str, name: str) -> str | None:
    entry_of_name = catalogue()[kind].get(name)
    return None if entry_of_name is None else entry_of_name.address


def yaml_files(kind: str) -> dict[str, tuple[str, str]]:
    """Name -> (source for messages, YAML text) of every file in the packages of a kind.

    Raises:
        MibenchError: two distributions offer one name.
    """
    files: dict[str, tuple[str, str]] = {}
    for package in catalogue()[kind].values():
        try:
            listed = sorted(resources.files(package.address).iterdir(), key=lambda file: file.name)
        except (ImportError, OSError) as error:
            raise MibenchError(
                f"{package.distribution} registers the {kind} package {package.address!r}, which cannot be read "
                f"({error})",
                cure=f"repair or uninstall {package.distribution}",
            ) from error
        for file in listed:
            name = file.name.removesuffix(".yaml")
            if name == file.name:
                continue
            if name in files:
                raise MibenchError(
                    f"the {kind} {name!r} is offered twice, by {files[name][0]} and {package.distribution}",
                    cure="uninstall one of them",
                )
            source = f"{package.distribution}: {kind} {file.name}"
            files[name] = source, resource_text(file, source)
    return dict(sorted(files.items()))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """``unknown attack 'dmia'; did you mean 'dmmia'? known: dmmia, floor``."""
    options = sorted(known)
    listed = ", ".join(options) if options else "none is installed"
    return f"unknown {what} {shown(name)}{suggest(name, options)} (known: {listed})"
