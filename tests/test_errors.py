"""Messages: names from disks and files never write lines of their own, nor codes for the terminal."""

from __future__ import annotations

import copy
import pickle

import pytest

from mibench.api import AccessError
from mibench.errors import MibenchError, MisfitError, StateDictMismatch, printable


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
def test_what_is_no_plain_character_is_escaped(raw: str, shown: str) -> None:
    assert printable(raw) == shown
    assert printable(shown) == shown
    for error in (MibenchError(raw), AccessError(raw), MisfitError(raw, StateDictMismatch(misshapen={}))):
        assert str(error) == shown
        shown.encode("utf-8")


def test_several_causes_have_a_line_each() -> None:
    error = MibenchError("one\ncause", "another")
    assert str(error).splitlines() == ["one\\ncause", "another"]
    assert str(pickle.loads(pickle.dumps(error))) == str(copy.copy(error)) == str(error)
