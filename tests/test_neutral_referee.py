"""The referee names no party, not even in a string: what it needs of one by its part, the parties declare."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mibench
from mibench import registry

ROOT = Path(mibench.__file__).resolve().parent
# Names of parties that are ordinary words here: what a run is compared with, kinds of files, what is counted,
# what faces do.
ORDINARY = {
    *("floor", "identity", "module", "onnx", "torchscript", "timm"),
    *("none", "noise", "temperature", "rounding", "smile"),
}
# Recipes of an audit, files that others have published, examples of a grammar, a protocol called like an attack.
ALLOWED = {
    "audits/judge_and_prior.py",
    "data/datasets/celeba1000.py",
    "data/datasets/facescrub.py",
    "data/datasets/public_only.py",
    "weights/importing/released_files.py",
    "weights/importing/requested_name.py",
    "weights/training_inputs.py",
}
KINDS = ("attack", "target", "prior", "judge", "defence")
MODULES = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in ("attacks", "targets", "reports", "cli")  # cli: examples and help
    and path.relative_to(ROOT).as_posix() not in ALLOWED
)


def docstrings(tree: ast.AST) -> set[int]:
    """Strings that stand alone: documentation of modules, classes, functions and attributes."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    documentation = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_string_of_the_referee_names_a_party(path: Path) -> None:
    parties = {name for kind in KINDS for name in registry.names(kind)} - ORDINARY
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {(line, word) for line, text in strings(tree) for word in re.findall(r"[\w-]+", text) if word in parties}
    assert not named


def test_ordinary_words_are_names_of_parties_still() -> None:
    parties = {name for kind in (*KINDS, "regressor") for name in registry.names(kind)}
    assert parties >= ORDINARY


def test_every_part_is_played_by_a_registered_party() -> None:
    kinds = {
        "baseline": "attack",
        "strongest": "attack",
        "strongest_by_scores": "attack",
        "default_attack": "attack",
        "default_target": "target",
        "default_judge": "judge",
        "default_prior": "prior",
        "default_mapping_prior": "prior",
    }
    assert set(registry.names("role")) == set(kinds)
    for part, kind in kinds.items():
        assert registry.role(part) in registry.names(kind)
    assert registry.role("understudy") is None
