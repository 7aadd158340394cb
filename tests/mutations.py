"""Damaged and hostile files of weights, the same ones for a seed, and a process that reads them and is watched.

Run as a program (``python mutations.py FOLDER``) it reads every file of a folder as its container is read, and writes a
line of JSON for each: what came of it, how long it took, what it did besides, the most memory so far.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import resource
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MARKER = "executed"  # a file that a hostile pickle would make in the working directory
WATCHED = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)
CONTAINERS = ("zip", "legacy", "tar", "pickle", "safetensors", "matlab", "stylegan", "onnx", "torchscript")
RUNS = ("onnx", "torchscript")  # programs: their containers are opened, and what opens is run on noise
BOMBS = (  # instructions of pickles, to be put anywhere
    b"h\0\x85R", b"h\0h\1\x85R" * 50, b"\x85" * 500, b"h\0\x86q\0" * 60, b"0" * 20, b"r\xff\xff\xff\xff", b"}", b"](",
    b"\x8e" + struct.pack("<Q", 1 << 62), b"\x96" + struct.pack("<Q", 1 << 40), b"X\xff\xff\xff\x7f", b"cos\nsystem\n",
    b"c__builtin__\nset\nq\0", b"ccollections\nCounter\n", b"\x8b\0\x10\0\0" + b"\xff" * 64, b"P1\n", b"\x82\x01", b"b",
)  # fmt: skip


class Evil:
    """Makes the marker when it is unpickled the usual way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {MARKER}",)


def originals(container: str) -> list[bytes]:
    """Whole files of a container; among those that can, one that would run a command."""
    import torch

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    weights = network.state_dict()
    content = {"state_dict": weights, "epoch": 3, "opt": {"state": {0: {"step": 7}}}, "rates": [0.1, 0.2]}
    if container in ("zip", "legacy"):
        new = container == "zip"
        return [saved(content, new), saved(weights, new), saved({"w": weights, "x": Evil()}, new)]
    if container == "tar":
        import tarfile

        whole = io.BytesIO()
        with tarfile.open(fileobj=whole, mode="w") as archive:
            for name in ("storages", "tensors", "pickle"):
                member = tarfile.TarInfo(name)
                member.size = 600
                archive.addfile(member, io.BytesIO(pickle.dumps([1.0] * 60, 2).ljust(600, b"\0")))
        return [whole.getvalue()]
    if container == "pickle":
        plain = {"a": [1, 2.5, "x"], "b": {3: (4, None)}, "c": {5, 6}, "d": b"bytes", "e": 1 << 70}
        return [pickle.dumps(given, protocol) for protocol in (0, 2, 4) for given in (plain, [plain, Evil()])]
    if container == "safetensors":
        from safetensors.torch import save

        return [save(weights, metadata={"epoch": "3"})]
    if container == "matlab":
        return [matlab(packed) for packed in (False, True)]
    if container == "stylegan":
        from stylegan_standin import dumped, snapshot

        from mibench.attacks.priors.stylegan2.generator import Generator

        small = Generator(z_dim=4, w_dim=4, mapping_layers=1, resolution=8, channel_base=16, channel_max=4)
        return [dumped(snapshot(small, marker=MARKER), protocol) for protocol in (2, 4)]
    if container == "onnx":
        from own_files import onnx_file

        return [onnx_file()]
    whole = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3))
        torch.jit.save(torch.jit.trace(head, torch.zeros(2, 3, 8, 8)), whole)  # type: ignore[no-untyped-call]
    return [whole.getvalue()]


def saved(content: Any, new: bool) -> bytes:
    """What ``torch.save`` writes."""
    import torch

    whole = io.BytesIO()
    torch.save(content, whole, _use_new_zipfile_serialization=new)
    return whole.getvalue()


def matlab(packed: bool) -> bytes:
    """One of Stanford Dogs' lists."""
    import numpy as np
    from scipy.io import savemat

    names = np.array([f"n0{n}/dog_{n}.jpg" for n in range(6)], dtype=object).reshape(-1, 1)
    whole = io.BytesIO()
    savemat(whole, {"file_list": names, "labels": np.arange(1, 7).reshape(-1, 1)}, do_compression=packed)
    return whole.getvalue()


def mutated(container: str, count: int) -> Iterator[bytes]:
    """``count`` files, the same ones each time: bytes, lengths, places and records changed, instructions put in."""
    draw = random.Random(f"mutations 1 {container}")
    whole = originals(container)
    for _ in range(count):
        content = draw.choice(whole)
        if container in ("zip", "torchscript") and draw.random() < 0.5:
            content = repacked(content, draw)  # checksums are right, so that what is inside is looked at
        else:
            content = changed(content, draw)
        yield content


def changed(content: bytes, draw: random.Random) -> bytes:
    """A few mutations."""
    given = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        place = draw.randrange(len(given) + 1)
        end = min(len(given), place + draw.choice((1, 4, 8, 64, 512)))
        kind = draw.randrange(8)
        if kind <= 2 and place < len(given):
            given[place] = draw.randrange(256)
        elif kind == 3:
            given[place:place] = draw.choice(BOMBS)
        elif kind == 4:
            given[place:end] = b"\xff" * (end - place)
        elif kind == 5:
            del given[place:end]
        elif kind == 6:
            given[place:place] = given[place:end] * draw.choice((1, 2, 50))
        else:
            other = draw.randrange(len(given) + 1)
            given[place:end] = given[other : other + end - place]
        if draw.random() < 0.03:
            del given[draw.randrange(len(given) + 1) :]
        given = given or bytearray(b"\0")
    return bytes(given)


def repacked(content: bytes, draw: random.Random) -> bytes:
    """A zip file whose records were changed, renamed, left out, doubled or compressed."""
    whole = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(whole, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two records of one name
        for name in old.namelist():
            record = old.read(name)
            chance = draw.random()
            if chance < 0.4 and record:
                record = changed(record, draw)
            how = draw.choice((zipfile.ZIP_STORED,) * 12 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2))
            if draw.random() > 0.03:
                new.writestr(name if draw.random() > 0.02 else name.upper(), record, how)
    return whole.getvalue()


def reader(container: str) -> Callable[[Path], Any]:
    """What reads files of a container."""
    if container == "matlab":
        from mibench.data.formats.matlab import read_list

        return read_list
    if container not in RUNS:
        from mibench.weights.importing.reader import read_weights

        return read_weights
    from mibench.audits.target import _whole, architecture_of
    from mibench.targets.custom.importing import import_onnx, import_torchscript

    take = import_onnx if container == "onnx" else import_torchscript

    def taken(path: Path) -> Any:
        settings = {"classes": 5 if container == "onnx" else 3, "size": 8}
        return take(architecture_of(str(path)), [_whole(path, container)], settings)

    return taken


def say(facts: dict[str, Any]) -> None:
    """A line at once: a file may end the process."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main(folder: Path) -> None:
    """Read every file of a folder, in the order of their names."""
    import torch

    from mibench.errors import MibenchError
    from mibench.system.devices import peak_memory

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read = reader(folder.name)
    os.chdir(folder)
    done: list[str] = []
    armed = [False]

    def watch(event: str, arguments: Any) -> None:
        if armed[0] and event in WATCHED:
            done.append(event)

    sys.addaudithook(watch)
    for path in sorted(folder.glob("[0-9]*")):
        say({"file": path.name})
        start, answer = time.monotonic(), "read"
        armed[0] = True
        try:
            read(path)
        except MibenchError as error:
            answer = "refused" if str(error).isprintable() else f"a message that is no line: {error!r}"
        except Exception as error:  # noqa: BLE001 (what else it may be is what is asked)
            answer = f"{type(error).__name__}: {error}"[:300]
        armed[0] = False
        memory = peak_memory(torch.device("cpu"))
        taken = time.monotonic() - start
        say({"answer": answer, "seconds": taken, "did": done, "memory": memory})


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main(Path(sys.argv[1]))
