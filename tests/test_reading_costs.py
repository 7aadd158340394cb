"""Small files that ask for much: what they cost grows with their size and no faster, and each is a line."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mibench.data.formats.matlab import read_list
from mibench.errors import MibenchError
from mibench.weights.importing import metered_unpickler
from mibench.weights.importing.reader import read_weights

MOST_MEMORY = 1.5e9  # bytes, of which an idle process with torch takes 0.6
NUMBERS = b"](" + b"".join(b"J" + struct.pack("<i", n) for n in range(200_000)) + b"e"
TEXT = b"X" + struct.pack("<I", 400_000) + b"x" * 400_000
PROGRAM = """
import json, sys, time
from pathlib import Path
import torch
from mibench.system.devices import peak_memory  # of this program: what getrusage gives begins at what its parent held
from mibench.errors import MibenchError
from mibench.weights.importing.reader import read_weights
said, taken = {}, {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    try:
        read_weights(path)
        said[path.name] = "read"
    except MibenchError as error:
        said[path.name] = str(error)
    taken[path.name] = time.monotonic() - start
print(json.dumps([said, taken, peak_memory(torch.device("cpu"))]))
"""


def repeated(module: bytes, name: bytes, value: bytes, times: int = 100_000) -> bytes:
    """A pickle that calls a name on one value again and again."""
    return b"\x80\x02](c" + module + b"\n" + name + b"\nq\0" + value + b"q\1" + b"h\0h\1\x85R" * times + b"e."


def number(value: int) -> bytes:
    raw = value.to_bytes(12, "little")
    return b"\x8a" + bytes([len(raw)]) + raw


def floods() -> dict[str, bytes]:
    """Keys of one hash, wherever values of a file become keys."""
    modulus = (1 << 61) - 1
    alike = [number(n * modulus) for n in range(1, 50_000)]
    return {
        "mapping": b"\x80\x02}(" + b"".join(key + b"N" for key in alike) + b"u.",
        "one at a time": b"\x80\x02}" + b"".join(key + b"Ns" for key in alike) + b".",
        "set": b"\x80\x04\x8f(" + b"".join(alike) + b"\x90.",
        "frozen set": b"\x80\x04(" + b"".join(alike) + b"\x91.",
        "called set": b"\x80\x02c__builtin__\nset\n](" + b"".join(alike) + b"e\x85R.",
        "counter": b"\x80\x02ccollections\nCounter\n](" + b"".join(alike) + b"e\x85R.",
        "ordered": b"\x80\x02ccollections\nOrderedDict\n]("
        + b"".join(b"](" + key + b"Ne" for key in alike)
        + b"e\x85R.",
        "tuples": b"\x80\x02}(" + b"".join(key + b"\x85N" for key in alike) + b"u.",
        "memory": b"\x80\x02" + b"".join(b"Np%d\n0" % (n * modulus) for n in range(1, 30_000)) + b"N.",
    }


def bombs() -> dict[str, bytes]:
    """Values that are handed out again and again, and structures without end."""
    double = b"]q\0" + b"](h\0h\0eq\0" * 40
    pairs = b"](" + b"](K\1Ne" * 50_000 + b"e"
    digits = b"\x8b" + struct.pack("<i", 9000) + b"\x7f" * 9000
    storage = b"((X\7\0\0\0storagectorch\nFloatStorage\n"
    unused = b"](cx\ny\nq\0(" + b"N" * 200_000 + b"tq\1"
    long = b"X" + struct.pack("<I", 300_000) + b"x" * 300_000 + b"q\0"
    return {
        "set of numbers": repeated(b"__builtin__", b"set", NUMBERS, 250),
        "counter of numbers": repeated(b"collections", b"Counter", NUMBERS, 250),
        "ordered pairs": repeated(b"collections", b"OrderedDict", pairs),
        "sizes": repeated(b"torch", b"Size", NUMBERS),
        "bytes of text": repeated(b"_codecs", b"encode", TEXT),
        "many arguments": b"\x80\2" + unused + b"h\0h\1R" * 100_000 + b"e.",
        "made with many arguments": b"\x80\2" + unused + b"h\0h\1\x81" * 100_000 + b"e.",
        "long names": b"\x80\4](" + long + b"h\0h\0\x930" * 100_000 + b"e.",
        "key of a storage": b"\x80\2" + double + b"0" + storage + b"h\0X\3\0\0\0cpuK\1tQ.",
        "length of thousands of digits": b"\x80\2" + storage + b"X\1\0\0\0aX\3\0\0\0cpu" + digits + b"tQ.",
        "dtype of lists": b"\x80\2" + double + b"0cnumpy\ndtype\nh\0\x85R.",
        "mappings": b"\x80\2(" + b"}" * 1_000_000 + b"l.",
        "tuples in tuples": b"\x80\2)" + b"\x85" * 1_000_000 + b".",
        "number of thousands of digits": b"\x80\2}(X\1\0\0\0a" + digits + b"u.",
        "key of thousands of digits": b"\x80\2}" + digits + b"Ns.",
        "text many times": b"\x80\2}(X\1\0\0\0a" + TEXT + b"q\0](" + b"h\0" * 100_000 + b"eX\1\0\0\0bNu.",
    }


def test_bombs_and_floods_cost_little(tmp_path: Path) -> None:
    """In a process of its own, whose memory is measured."""
    for name, content in {**bombs(), **{f"flood, {name}": content for name, content in floods().items()}}.items():
        (tmp_path / name).write_bytes(content)
        assert len(content) < 1_700_000
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    said, taken, memory = json.loads(done.stdout)
    assert all(line.startswith(str(tmp_path)) and line.isprintable() for line in said.values()), said
    assert memory < MOST_MEMORY
    assert max(taken.values()) < 20, taken


def saved(folder: Path, content: Any, **options: Any) -> Path:
    torch.save(content, folder / "a.pth", **options)
    return folder / "a.pth"


def test_what_a_file_says_besides_is_no_novel(tmp_path: Path) -> None:
    """A text that is referred to a hundred thousand times would be written as often."""
    text = "x" * 50_000
    found = read_weights(saved(tmp_path, {"w": torch.zeros(2), "said": [text] * 10_000, "big": 1 << 2000}))
    assert len(json.dumps(found.extras)) < 2_000_000
    assert "big" not in found.extras


def test_tensors_that_share_their_numbers_do_not_multiply(tmp_path: Path) -> None:
    whole = torch.zeros(500_000)
    fits = read_weights(saved(tmp_path, {"a": whole, "b": whole, "c": whole.view(500, 1000)}))
    assert fits.tensors["a"].untyped_storage().data_ptr() == fits.tensors["c"].untyped_storage().data_ptr()
    with pytest.raises(MibenchError, match="claims more than 16 times what it holds"):
        read_weights(saved(tmp_path, {str(n): whole for n in range(100)}))


def test_honest_keys_of_other_kinds_are_taken(tmp_path: Path) -> None:
    odd = {(1, "a"): 2, (2, "b"): 3, 1.5: "x", None: 4, True: 5, -3: 6}
    found = read_weights(saved(tmp_path, {"w": torch.zeros(2), "said": odd}))
    assert found.extras["said"] == {"1.5": "x", "None": 4, "True": 5, "-3": 6}


def test_the_limits_are_far_from_honest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of each limit does for a network of three hundred layers."""
    monkeypatch.setattr(metered_unpickler, "MOST_WORK", metered_unpickler.MOST_WORK // 10)
    monkeypatch.setattr(metered_unpickler.Steps, "left", metered_unpickler.MOST_STEPS // 10)
    weights = {
        f"layers.{n}.{part}": torch.zeros(3, 2) for n in range(300) for part in ("weight", "bias", "mean", "var")
    }
    state = {n: {"step": 3, "exp_avg": torch.zeros(2)} for n in range(1200)}
    for legacy in (True, False):
        path = saved(tmp_path, {"model": weights, "opt": {"state": state}}, _use_new_zipfile_serialization=not legacy)
        assert read_weights(path).tensors.keys() == weights.keys()


def mat(*variables: bytes, packed: bool = True) -> bytes:
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    parts = [zlib.compress(variable) if packed else variable for variable in variables]
    return head + b"".join(struct.pack("<II", 15 if packed else 14, len(part)) + part for part in parts)


def cells(count: int) -> bytes:
    """A cell array of ``count`` empty cells under the name of a list."""
    flags = struct.pack("<IIII", 6, 8, 1, 0)
    sides = struct.pack("<IIii", 5, 8, count, 1)
    name = struct.pack("<II", 1, 9) + b"file_list".ljust(16, b"\0")
    inside = flags + sides + name + struct.pack("<II", 14, 0) * count
    return struct.pack("<II", 14, len(inside)) + inside


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mat(cells(3_000_000)), "it claims 3,000,000 cells"),
        (lambda: mat(cells(12_000_000)), "unpacks to more than any list|claims 12,000,000 cells"),
        (lambda: mat(b"\0" * (1 << 26)), "unpacks to more than any list"),
    ],
    ids=["cells", "many cells", "nothing but zeros"],
)
def test_lists_of_matlab_do_not_unfold(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "list.mat"
    path.write_bytes(make())
    assert path.stat().st_size < 1_000_000
    with pytest.raises(MibenchError, match=message):
        read_list(path)
