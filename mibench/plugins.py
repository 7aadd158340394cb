"""Parties that are not installed: an attack from a file, a catalogue from a file or a package folder.

``--attack ./climb.py:HillClimb`` names the class. ``--plugin ./hillclimb`` names a package folder, or a file, with the
``CATALOGUE`` that an installed distribution would name in its entry point. Whoever names code runs it: these are
programs of the person's own, as with ``python climb.py``.

The code of such an attack is part of the run's digest: a file that changes is another attack.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mibench.errors import MibenchError
from mibench.records import PLAIN_NAMES, is_plain_name

if TYPE_CHECKING:
    from mibench.api import Attack

VARIABLE = "MIBENCH_PLUGINS"  # what --plugin named, for the worker processes of a sweep as well
CATALOGUE = "CATALOGUE"
_FILE_MODULE = "mibench_plugin_"  # begins the names of modules that are files of attacks
_FILE = re.compile(r"\.py(:|$)")


def names_a_file(name: str) -> bool:
    """Whether an attack's name is the address of a class in a file."""
    return bool(_FILE.search(name))


def attack_class(address: str) -> type[Attack]:
    """The attack class at ``path/to/file.py:Class``.

    Raises:
        MibenchError: no such file or class, a file that fails on import, or a class that is no attack.
    """
    from mibench.api import Attack

    text, colon, attribute = address.rpartition(":")
    path = Path(text if colon and text else address)
    if path.suffix != ".py" or not path.is_file():
        raise MibenchError(f"attack {address}: there is no file {path} (working directory {Path.cwd().name or '/'})")
    module = _load_file(path, f"attack {address}")
    attacks = [name for name, candidate in vars(module).items() if _is_attack(candidate, Attack, module)]
    offered = f"(attacks in it: {', '.join(attacks) or 'none'})"
    if not colon or not text or not attribute:
        raise MibenchError(f"attack {address}: name its class, {path}:CLASS {offered}")
    candidate = getattr(module, attribute, None)
    if not (inspect.isclass(candidate) and issubclass(candidate, Attack)):
        raise MibenchError(f"attack {address}: {path} has no attack {attribute!r} {offered}")
    if inspect.isabstract(candidate):
        lacking = ", ".join(sorted(candidate.__abstractmethods__))
        raise MibenchError(f"attack {address}: the class lacks {lacking}")
    if not dataclasses.is_dataclass(candidate) or "__dataclass_fields__" not in vars(candidate):
        raise MibenchError(
            f"attack {address}: an attack is a dataclass", cure="write @dataclass(frozen=True, kw_only=True)"
        )
    for attribute_name, kind in (("name", str), ("access", int)):
        if not isinstance(getattr(candidate, attribute_name, None), kind):
            raise MibenchError(f"attack {address}: it needs the class variable {attribute_name!r}")
    if not is_plain_name(candidate.name):
        raise MibenchError(f"attack {address}: its name becomes a folder: {PLAIN_NAMES}; got {candidate.name[:200]!r}")
    return candidate


def _is_attack(value: object, base: type, module: ModuleType) -> bool:
    return inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__


def is_file_module(name: str) -> bool:
    """Whether a module is the file of an attack."""
    return name.startswith(_FILE_MODULE)


def name_in(module: str, attribute: str) -> str:
    """The name of an attack in a file: of the class, or of the first one where it is something else of the file."""
    from mibench.api import Attack

    loaded = sys.modules.get(module)
    if loaded is None:  # the file has changed since, and another module has taken its place
        return attribute
    attacks = {name: candidate for name, candidate in vars(loaded).items() if _is_attack(candidate, Attack, loaded)}
    chosen = attacks.get(attribute) or next(iter(attacks.values()), None)
    return str(getattr(chosen, "name", Path(str(loaded.__file__)).name))


def file_folders() -> set[str]:
    """The folders of files of attacks: what they import lies beside them."""
    files = [module.__file__ for name, module in list(sys.modules.items()) if is_file_module(name)]
    return {str(Path(file).parent) for file in files if file is not None}


def add(path: str) -> bool:
    """Remember the catalogue of a file or package folder, for this process and its workers; whether it was new.

    Raises:
        MibenchError: there is no catalogue there.
    """
    resolved = str(Path(path).resolve())
    known = added()
    if resolved in known:
        return False
    catalogue_of(resolved)
    os.environ[VARIABLE] = os.pathsep.join([*known, resolved])
    return True


def added() -> tuple[str, ...]:
    """Paths that :func:`add` was given."""
    return tuple(filter(None, os.environ.get(VARIABLE, "").split(os.pathsep)))


def catalogue_of(address: str) -> Mapping[str, Mapping[str, str]]:
    """The ``CATALOGUE`` of a file or package folder.

    Raises:
        MibenchError: there is none, or it cannot be loaded.
    """
    path = Path(address)
    label = f"plugin {path.name}"
    if path.is_dir() and not (path / "__init__.py").is_file():
        inside = sorted(file.parent.name for file in path.glob("*/__init__.py"))
        hint = f"; name the package in it: {path.name}/{inside[0]}" if inside else ""
        raise MibenchError(f"{label}: it has no __init__.py, so it is no package{hint}")
    if not path.is_dir() and not (path.is_file() and path.suffix == ".py"):
        raise MibenchError(f"{label}: expected a package folder or a .py file, there is none")
    name = path.stem
    _search(path.parent)
    with _foreign(label):
        module = importlib.import_module(name)
    where = Path(getattr(module, "__file__", None) or "/").resolve()
    if where not in (path.resolve(), (path / "__init__.py").resolve()):
        raise MibenchError(f"{label}: another module is called {name!r}", cure="give the plugin another name")
    offered = getattr(module, CATALOGUE, None)
    if not isinstance(offered, Mapping) or not all(isinstance(names, Mapping) for names in offered.values()):
        raise MibenchError(f'{label}: it has no {CATALOGUE}, such as {{"attack": {{"mine": "{name}.attack:Mine"}}}}')
    return offered


def source_hash(path: Path) -> str:
    """SHA-256 over a file and those beside or below it that it imports, directly or not; not over where they lie."""
    digest = hashlib.sha256()
    for name, content in sorted(_sources(path).items()):
        digest.update(name.encode() + b"\0" + content + b"\0")
    return digest.hexdigest()


def _sources(path: Path) -> dict[str, bytes]:
    folder, contents = path.parent, dict[str, bytes]()
    queue = [path]
    while queue:
        file = queue.pop()
        name = file.relative_to(folder).as_posix()
        if name in contents:
            continue
        contents[name] = file.read_bytes()
        with contextlib.suppress(SyntaxError, ValueError):  # the import says what is wrong with it
            queue += [beside for wanted in _imported(ast.parse(contents[name])) for beside in _files(folder, wanted)]
    return contents


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _files(folder: Path, module: str) -> list[Path]:
    """The files in ``folder`` that an import of ``module`` runs."""
    parts, files = module.split("."), list[Path]()
    for count in range(1, len(parts) + 1):
        stem = folder.joinpath(*parts[:count])
        files += [file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()]
    return files


def _load_file(path: Path, label: str) -> ModuleType:
    """Run a file as a module of its own, once for the same contents."""
    resolved = path.resolve()
    name = f"{_FILE_MODULE}{resolved.stem}_{source_hash(resolved)[:12]}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(resolved):
        return known
    _forget(resolved.parent / beside for beside in _sources(resolved))
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise MibenchError(f"{label}: it is no Python file")
    module = importlib.util.module_from_spec(spec)
    _search(resolved.parent)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with _foreign(label):
            spec.loader.exec_module(module)
    except MibenchError:
        del sys.modules[name]
        raise
    return module


def _forget(files: Iterable[Path]) -> None:
    """Have files imported again: they may have changed since, and the digest is of what is there now."""
    changed = {str(file) for file in files}
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in changed:
            del sys.modules[name]
    importlib.invalidate_caches()


def _search(folder: Path) -> None:
    """Let files beside a plugin be imported by it; last, so that they shadow nothing that is installed."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


@contextlib.contextmanager
def _foreign(label: str) -> Iterator[None]:
    """Somebody's code on import, behind the guard; what it raises becomes one line."""
    from mibench.system.foreign_code import foreign  # loads torch, as an attack does

    try:
        with foreign(label, "on import"):
            yield
    except MibenchError:
        raise
    except ModuleNotFoundError as error:
        raise MibenchError(
            f"{label}: it needs module {error.name!r}, which is not installed", cure="install it"
        ) from error
    except Exception as error:  # it may raise anything; the line says what it was
        raise MibenchError(f"{label}: it fails on import: {import_fault(error)}") from error


def import_fault(error: BaseException) -> str:
    """What went wrong on import, in one line."""
    from mibench.system.foreign_code import ended, worded

    if isinstance(error, SystemExit):
        return f"it ends the program ({ended(error)})"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}, line {error.lineno}"
    return worded(error)
