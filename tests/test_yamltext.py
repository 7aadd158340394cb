"""Strict YAML: plain values, or one line; nothing that builds, multiplies, nests without end or reads forever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mibench.errors import MibenchError
from mibench.system import text_files
from mibench.system.strict_yaml import MOST_BYTES, parse_yaml, read_yaml
from mibench.system.text_files import parse_json, read_object, read_text

BOMB = "[&a [x,x,x,x,x,x,x,x,x,x]," + ",".join(
    f"&{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 10)}]" for n in range(12)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-99-99", "2026-99-99"),
        ("0x10", 16),
        ("1_000", 1000),
        ("!!str 5", "5"),
        ("[&a 1, *a]", [1, 1]),
        ("'010'", "010"),
        ("-0.5", -0.5),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    found = parse_yaml(text, "test")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("!!int x", "the tag !!int does not fit 'x'"),
        ("!!float x", "the tag !!float does not fit 'x'"),
        ("!!bool x", "the tag !!bool does not fit 'x'"),
        ("!!null x", "the tag !!null does not fit 'x'"),
        ("!!int [1]", "the tag !!int does not fit what follows it"),
        ("!!map [1]", "the tag !!map does not fit what follows it"),
        ("!!timestamp x", "the tag '!!timestamp' is not understood"),
        ("!!binary aGk=", "the tag '!!binary' is not understood"),
        ("a: !!set {b}", "the tag '!!set' is not understood"),
        ("a: !own b", "the tag '!own' is not understood"),
        ("9" * 5000, "a number of 5,000 characters is no setting"),
        ("010", "'010' is a number to the base 8 or 60"),
        ("a: 1:30", "'1:30' is a number to the base 8 or 60"),
        ("0b_", "'0b_' is no number"),
        ("[" * 5000, "more than 32 lists or mappings inside each other"),
        ("[" + ",".join(f"&a{i} [{f'*a{i - 1}' if i else 1}]" for i in range(50)) + "]", "inside each other"),
        ("&a [*a]", "a value contains itself"),
        (BOMB + "]", "more than 100,000 values, aliases written out"),
        ('"\\UFFFFFFFF"', "not valid YAML"),
        ("%YAML " + "1" * 5000 + ".1\n--- 1", "not valid YAML"),
        ("? {a: 1}\n: 1", "a key must be plain text"),
        ("x" * (MOST_BYTES + 1), "characters are no settings"),
    ],
)
def test_everything_else_is_one_short_line(text: str, reason: str) -> None:
    with pytest.raises(MibenchError) as caught:
        parse_yaml(text, "mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml")
    assert reason in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_anything_but_a_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder"), (Path(os.devnull), "a device")):
        with pytest.raises(MibenchError, match=rf"cannot read {path}: {kind}, not a file"):
            read_yaml(path)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(b"\xff")
    with pytest.raises(MibenchError, match="not UTF-8 text; sweep it away"):
        read_text(path, cure="sweep it away")
    path.write_text("x" * 11)
    with pytest.raises(MibenchError, match="more than 10 bytes"):
        read_text(path, most=10)
    assert len(text_files.shown("x" * 10_000)) < 100


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", "9" * 30, "9" * 5000, "[" * 100_000, "{", ""])
def test_json_that_we_would_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".{1,300}"):
        parse_json(text)


def test_json_of_another_shape_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text("null")
    with pytest.raises(MibenchError, match=r"run\.json: expected a JSON object, got None"):
        read_object(path)
