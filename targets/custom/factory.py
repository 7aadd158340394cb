"""The code of somebody's own model: found by ``package.module:build``, and noticed when it changes."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mibench.api import MibenchError, foreign, modules_of, source_digest
from mibench.api import worded as worded


def see_working_directory() -> None:
    """Let the working directory be searched for modules, as ``python -m`` does (not under ``python -P``)."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path and not sys.flags.safe_path:
        sys.path.insert(0, here)


def find_factory(address: str) -> Callable[..., Any]:
    """What ``package.module:name`` stands for; ``name`` may have dots.

    Raises:
        MibenchError: no colon, no such module or name, a module that fails on import, or nothing that can be called.
    """
    module, colon, name = address.partition(":")
    if not colon or not module or not name:
        raise MibenchError(f"model {address}: expected package.module:build, or a file .onnx or .pt")
    if module.endswith(".py") or "/" in module or "\\" in module:
        raise MibenchError(f"model {address}: a module is named without folder and .py", cure=f"{_cure(module, name)}")
    see_working_directory()
    try:
        with foreign(f"model {address}: {module}", "on import"):
            loaded: Any = importlib.import_module(module)
    except MibenchError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise MibenchError(
                f"model {address}: no module {error.name!r} in {Path.cwd()} or among what is installed",
                cure="start from the folder that it lies in, or set PYTHONPATH",
            ) from error
        raise MibenchError(
            f"model {address}: it needs module {error.name!r}, which is not installed", cure="install it"
        ) from error
    except Exception as error:  # a person's own code may raise anything; the line says what it was
        raise MibenchError(f"model {address}: {module} fails on import: {worded(error)}") from error
    for part in name.split("."):
        if not hasattr(loaded, part):
            offered = [n for n, value in vars(loaded).items() if callable(value) and not n.startswith("_")]
            raise MibenchError(
                f"model {address}: {module} has no {part!r} (it has: {', '.join(sorted(offered)[:8]) or 'nothing'})"
            )
        loaded = getattr(loaded, part)
    if not callable(loaded):
        raise MibenchError(f"model {address}: expected a function or class, got {type(loaded).__name__}")
    factory: Callable[..., Any] = loaded
    return factory


def _cure(module: str, name: str) -> str:
    """How a file of Python is named as a module: from the folder that it lies in."""
    path = Path(module.replace("\\", "/"))
    stem = path.stem if path.suffix == ".py" else path.name
    folder = path.parent
    if folder == Path():
        return f"write {stem}:{name}"
    return f"start in {folder} and write {stem}:{name}, or set PYTHONPATH={folder}"


def build(address: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Call the factory.

    Raises:
        MibenchError: it cannot be found, does not take the arguments, raises, or returns no ``nn.Module``.
    """
    factory = find_factory(address)
    try:
        with foreign(f"model {address}", "when it is built"):
            made = factory(**arguments)
    except MibenchError:
        raise
    except TypeError as error:
        raise MibenchError(
            f"model {address}: it cannot be called so ({worded(error)}); its arguments come from --set model.NAME=VALUE"
        ) from error
    except Exception as error:  # as above
        raise MibenchError(f"model {address}: it raises {worded(error)}") from error
    if isinstance(made, nn.DataParallel | nn.parallel.DistributedDataParallel):
        made = made.module  # which devices it runs on is not the factory's to say
    if not isinstance(made, nn.Module):
        raise MibenchError(f"model {address}: expected a torch.nn.Module from it, got {type(made).__name__}")
    return made


def code_of(address: str) -> str:
    """SHA-256 over the factory's file and every file beside or below it that it imports, directly or not.

    "Beside" is the folder of the outermost package (of the file itself, for a module outside one). Installed libraries
    are other folders, so they do not count.
    """
    module = address.partition(":")[0]
    see_working_directory()
    top = _source(module.partition(".")[0])
    root = None if top is None else (top.parent.parent if top.name == "__init__.py" else top.parent)
    return source_digest(modules_of(module, lambda _, path: root is not None and root in path.parents, _source))


def _source(module: str) -> Path | None:
    try:
        # Looking for a module imports the packages above it.
        with foreign(module, "on import", failing=f"{module} cannot be found"):
            spec = importlib.util.find_spec(module)
    except MibenchError:  # also a module without a spec, such as __main__
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    return None if "site-packages" in path.parts else path
