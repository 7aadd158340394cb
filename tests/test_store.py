"""The run directory: atomic, locked, verified; a full disk or a forbidden folder loses nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mibench.errors import MibenchError
from mibench.runs.store import RunDir
from mibench.system import files, tensor_files
from mibench.system.files import atomic_write, write_json
from mibench.system.tensor_files import read_tensors, write_tensors

needs_permissions = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere"
)


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def full_disk(monkeypatch: pytest.MonkeyPatch, code: int = errno.ENOSPC) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", refuse)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_disk_that_refuses_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    path = tmp_path / "metrics.json"
    atomic_write(path, b"old")
    full_disk(monkeypatch, code)
    with pytest.raises(MibenchError, match=rf"cannot write .*metrics\.json: {os.strerror(code)}") as caught:
        atomic_write(path, b"new")
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MibenchError, match=r"cannot write .*: (Not a directory|File exists)"):
        atomic_write(tmp_path / "file" / "inner" / "x", b"")
    with (
        pytest.raises(MibenchError, match=r"cannot write .*; make room or choose another folder with --output"),
        RunDir(tmp_path / "file" / "run").writing(),
    ):
        pass


@needs_permissions
def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(MibenchError, match="Permission denied"), RunDir(tmp_path / "run").writing():
            pass
    finally:
        tmp_path.chmod(0o700)


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2), "c": torch.empty(0)}
    metadata = {"z": 1, "a": [1, 2], "notes": ["über"]}
    first = write_tensors(tmp_path / "1", tensors, metadata)
    second = write_tensors(tmp_path / "2", dict(reversed(tensors.items())), dict(reversed(metadata.items())))
    assert first == second
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    loaded, facts = read_tensors(tmp_path / "1")
    assert facts == metadata
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_tensors_that_are_no_safetensors_are_named(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"PK\x03\x04 a pickle perhaps")
    with pytest.raises(MibenchError, match=r"cannot read .*state\.safetensors"):
        read_tensors(path)


def test_json_refuses_numbers_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"value": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_unit_counts_only_with_its_sidecar(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    write_tensors(folder.tensors_path("units/000"), {"a": torch.ones(1)}, {})
    assert not folder.intact("units/000")
    folder.save("units/000", {"a": torch.ones(1)}, {"attack": "x"}, seconds=1.5)
    assert folder.intact("units/000")
    assert json.loads((tmp_path / "units" / "000.json").read_text())["seconds"] == 1.5
    (tmp_path / "units" / "000.json").write_text("[]")
    assert not folder.intact("units/000")


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from mibench.runs.store import RunDir\n"
        "folder = RunDir(pathlib.Path(sys.argv[1]))\n"
        "with folder.writing():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    try:
        busy = rf"written by another process \(pid {other.pid}\)"
        with pytest.raises(MibenchError, match=busy), RunDir(tmp_path).writing():
            pass
    finally:
        other.kill()  # it dies without releasing anything ...
        other.communicate()
    with RunDir(tmp_path).writing():  # ... and yet nothing stays locked
        pass


def test_leftovers_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    leftovers = [tmp_path / ".run.json.77.tmp", tmp_path / "units" / ".000.safetensors.77.tmp"]
    for path in leftovers:
        path.write_bytes(b"half")
    with RunDir(tmp_path).writing():
        assert not any(path.exists() for path in leftovers)


def test_a_log_line_cut_off_by_a_crash_harms_no_other(tmp_path: Path) -> None:
    from mibench.results import StoredRun

    folder = RunDir(tmp_path)
    folder.log(event="one")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "tw')
    folder.log(event="three")
    assert [record["event"] for record in StoredRun(tmp_path).log] == ["one", "three"]


def test_a_disk_that_fills_up_during_a_run_loses_no_unit(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mibench

    names: dict[str, Any] = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy", "out": tmp_path}
    mibench.run("floor", device="cpu", **names)
    original = tensor_files.atomic_write

    with monkeypatch.context() as patched:

        def fills_up(path: Path, content: bytes) -> None:
            if path.name == "002.safetensors":
                full_disk(patched)
            original(path, content)

        patched.setattr(tensor_files, "atomic_write", fills_up)
        with pytest.raises(MibenchError, match=r"cannot write .*002\.safetensors: No space left on device"):
            mibench.run("toyattack", device="cpu", **names)
    (folder,) = tmp_path.glob("toyattack-*")
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "units").glob("*.safetensors")}
    assert set(before) == {"000.safetensors", "001.safetensors"}
    found = mibench.run("toyattack", device="cpu", **names)
    after = {path.name: path.stat().st_mtime_ns for path in (found.path / "units").glob("*.safetensors")}
    assert {name: after[name] for name in before} == before
    assert found.metrics["acc1"].n == 6


SPOILT = {
    "null": "null",
    "nested": "[" * 100_000,
    "text": '"run"',
    "a list": "[1]",
    "status": '{"status": 5}',
    "outputs": '{"status": "complete", "outputs": ["a"]}',
    "outside": '{"status": "complete", "outputs": {"../../x": "0"}}',
    "code": '{"code": {"mibench.api": null}}',
    "seconds": '{"seconds": "long"}',
    "floor": '{"floor": "../elsewhere"}',
    "infinite": '{"seconds": 1e999}',
}


@pytest.mark.parametrize("content", SPOILT.values(), ids=SPOILT)
def test_a_record_of_another_shape_is_one_line_everywhere(toy: Path, tmp_path: Path, content: str) -> None:
    from click.testing import CliRunner

    import mibench
    from mibench.cli import cli

    names = ["--attack", "floor", "--target", "toynet", "--dataset", "toyfaces", "--protocol", "toy", "--device", "cpu"]
    folder = mibench.run(
        "floor", target="toynet", dataset="toyfaces", protocol="toy", out=tmp_path / "runs", device="cpu"
    ).path
    (folder / "run.json").write_text(content)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for command in (
        ["run", *names, "--output", tmp_path / "runs"],
        ["show", "run", folder],
        ["score", folder, "--device", "cpu"],
        ["compare", folder],
    ):
        done = CliRunner().invoke(cli, [str(word) for word in command])
        assert done.exit_code == 2, (command[0], done.output, done.exception)
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(line) < 500
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "content",
    [
        *("null", '{"acc1": null}', '{"acc1": {"value": "high"}}', '{"acc1": {"low": 0.1}}'),
        *('{"acc1": {"value": 1, "n": "many"}}', '{"acc1": {"value": 1, "added": 1}}', '{"acc1": {"value": NaN}}'),
    ],
)
def test_estimates_of_another_shape_are_one_line(tmp_path: Path, content: str) -> None:
    from mibench.results import open_run

    (tmp_path / "run.json").write_text('{"status": "complete"}')
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(MibenchError, match=r"metrics\.json") as caught:
        _ = open_run(tmp_path).metrics
    assert "score the run again" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_samples_of_another_shape_are_one_line(tmp_path: Path) -> None:
    from mibench.results import open_run

    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "samples.csv").write_text("identity,sample,selected,hit1,hit5\n0,0,banana,True,True\n")
    with pytest.raises(MibenchError, match="the column 'selected' should hold True and False"):
        _ = open_run(tmp_path).samples


def test_metadata_that_is_no_json_is_one_line(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "state.safetensors", metadata={"mibench": "[" * 100_000})
    with pytest.raises(MibenchError, match="its metadata is not JSON"):
        read_tensors(tmp_path / "state.safetensors")
