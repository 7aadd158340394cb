"""Messages: names from disks and files never write lines of their own, nor codes for the terminal."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

from mibench.api import AccessError
from mibench.errors import MibenchError, MisfitError, Problem, StateDictMismatch, printable


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("faces/a\nerror: b.png", r"faces/a\nerror: b.png"),
        ("\r\x1b[2Jgone", r"\r\x1b[2Jgone"),
        ("a\x85b\u2028c", r"a\x85b\u2028c"),
        ("gnp.\u202eoloh", r"gnp.\u202eoloh"),
        ("not text: \udcff", r"not text: \udcff"),
        ("Zoë 李 🙂 50 % of C:\\n", "Zoë 李 🙂 50 % of C:\\n"),
    ],
)
def test_anything_but_a_plain_character_is_escaped(raw: str, shown: str) -> None:
    assert printable(raw) == shown
    assert printable(shown) == shown
    for error in (MibenchError(raw), AccessError(raw), MisfitError(raw, StateDictMismatch(misshapen={}))):
        assert str(error) == shown
        shown.encode("utf-8")


def test_several_causes_have_a_line_each() -> None:
    error = MibenchError.several([Problem("one\ncause", "do this"), Problem("another"), Problem("another")])
    assert str(error).splitlines() == ["one\\ncause; do this", "another"]
    assert (error.cause, error.cure) == ("one\\ncause\nanother", "do this")
    assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == str(error)
    assert str(error.of("x: ")).splitlines() == ["x: one\\ncause; do this", "x: another"]


@pytest.mark.parametrize(
    "error",
    [
        MibenchError("no such run", cure="start one"),
        AccessError("no such run", cure="start one"),
        MisfitError("no such run", StateDictMismatch(misshapen={}), cure="start one"),
    ],
)
def test_the_text_is_the_cause_and_the_cure(error: MibenchError) -> None:
    for same in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(same), same.cause, same.cure) == ("no such run; start one", "no such run", "start one")
    assert MibenchError("no such run").cure is None
    assert str(MibenchError("no such run")) == "no such run"


ANOTHER_PROJECT_GIVES_NO_TYPE = {
    "targets/custom/torchscript.py": "torch raises a plain RuntimeError when a program runs out of memory on a CPU",
}
MATCHING = {"startswith", "endswith", "partition", "rpartition", "replace", "removeprefix", "removesuffix", "find"}


def text_matches(source: str) -> list[int]:
    """Lines where the text of a caught exception decides something, or is taken apart."""
    found = []
    for handler in ast.walk(ast.parse(source)):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue

        def is_text(node: ast.AST, name: str = handler.name) -> bool:
            match node:
                case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id=inner)]):
                    return inner == name
                case ast.Subscript(value=ast.Attribute(value=ast.Name(id=inner), attr="args")):
                    return inner == name
            return False

        for node in ast.walk(handler):
            match node:
                case ast.Compare() if any(map(is_text, (node.left, *node.comparators))):
                    found.append(node.lineno)
                case ast.Call(func=ast.Attribute(value=value, attr=attr)) if is_text(value) and attr in MATCHING:
                    found.append(node.lineno)
    return found


def test_no_code_matches_on_the_text_of_an_exception() -> None:
    root = Path(__file__).parents[1]
    found = {}
    for top in ("mibench", "attacks", "targets", "reports"):
        for file in (root / top).rglob("*.py"):
            if lines := text_matches(file.read_text(encoding="utf-8")):
                found[file.relative_to(root).as_posix()] = lines
    assert set(found) == set(ANOTHER_PROJECT_GIVES_NO_TYPE), found


@pytest.mark.parametrize(
    ("test", "lines"),
    [('"gone" in str(error)', [4]), ('str(error).rpartition("; ")', [4]), ("error.errno == 2", []), ("str(error)", [])],
)
def test_matching_on_text_is_noticed(test: str, lines: list[int]) -> None:
    assert text_matches(f"try:\n    pass\nexcept OSError as error:\n    {test}\n") == lines
