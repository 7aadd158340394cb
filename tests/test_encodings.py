"""Every help and list in any encoding and at any width: other characters in the place of some, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WALK = r"""
from mibench.cli import cli
from mibench.cli.output import replace_unencodable

import click

replace_unencodable()

def walk(group, path=()):
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from walk(command, (*path, name))
        else:
            yield (*path, name)

calls = [[*path, "--help"] for path in walk(cli)]
calls += [["list"], ["show", "protocol", "standard"], ["show", "preset", "dmmia:paper"]]
calls += [["fetch", "--list"], ["fetch", "celeba"]]
calls += [["show", "card", "\u00e9\u4e2d\udcff"], ["list", "\u00e9"]]
calls += [["run", "--atack"]]
for words in calls:
    try:
        cli(words)
    except SystemExit as end:
        assert end.code in (0, 2), words
print("walked", len(calls))
"""
ENCODINGS = {
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "40"},
    "ascii": {"PYTHONIOENCODING": "ascii", "COLUMNS": "40"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
}


@pytest.mark.parametrize("name", ["C", pytest.param("ascii", marks=pytest.mark.slow), "cp1252"])
def test_words_survive_any_encoding(name: str) -> None:
    left_out = ("LC_", "LANG", "PYTHONIO", "PYTHONUTF8")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(left_out)}
    done = subprocess.run(
        [sys.executable, "-c", WALK], env={**environment, **ENCODINGS[name]}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:].decode("ascii", "replace")
    assert b"walked" in done.stdout
    assert b"Traceback" not in done.stdout + done.stderr
    for stream in (done.stdout, done.stderr):
        stream.decode("cp1252" if name == "cp1252" else "utf-8")  # which click takes a stream of ASCII for
