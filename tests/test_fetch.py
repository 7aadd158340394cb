"""`mibench fetch`: where a file goes, what is said, what is there already."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import filelock
import pytest
from downloads import CONTENT, DOWNLOADED, QUOTA, SHA256, Server, fetch, files, refused, whole

from mibench.downloads import download


def test_a_file_comes_and_says_what_is_next(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    server.script = [whole()]
    done = fetch()
    assert done.exit_code == 0, done.output
    assert files(home) == {DOWNLOADED: CONTENT, f"{DOWNLOADED}.sha256": f"{SHA256}  net-{SHA256[:8]}.pth\n".encode()}
    assert f"next: mibench import {home / DOWNLOADED} --as backbone:net@toy" in done.stdout
    assert "licence: MIT" in done.stderr
    (request,) = server.seen
    assert request[1]["Accept-Encoding"] == "identity"
    again = fetch("net@toy", "--json")
    (row,) = json.loads(again.stdout)
    assert (row["status"], row["sha256"], row["bytes"]) == ("there", SHA256, len(CONTENT))
    assert len(server.seen) == 1


def test_fetch_stores_the_file_in_the_folder_of_to(server: Server, catalogue: Any, home: Path, tmp_path: Path) -> None:
    catalogue()
    server.script = [whole()]
    done = fetch("net@toy", "--to", tmp_path / "new" / "folder")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "folder" / f"net-{SHA256[:8]}.pth").read_bytes() == CONTENT
    assert not home.exists()


def test_what_lies_there_is_checked_and_never_overwritten(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    place = home / DOWNLOADED
    place.parent.mkdir(parents=True)
    for content, told in [
        (QUOTA.encode(), "quota is used up"),
        (b"", "an empty file"),
        (CONTENT + b"x", f"{SHA256[:8]} is published"),
    ]:
        place.write_bytes(content)
        refused(fetch(), told, "move it away and fetch it again")
        assert files(home) == {DOWNLOADED: content}
    place.unlink()
    place.mkdir()
    refused(fetch(), "is a folder")
    assert not server.seen


def test_a_file_that_a_person_put_there_counts(server: Server, catalogue: Any, home: Path) -> None:
    catalogue(sha256="")
    place = home / DOWNLOADED
    place.parent.mkdir(parents=True)
    place.write_bytes(CONTENT)
    assert fetch("--offline", "net@toy").exit_code == 0
    assert files(home)[f"{DOWNLOADED}.sha256"].startswith(SHA256.encode())
    assert not server.seen


def test_two_fetches_do_not_fight(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    place = home / DOWNLOADED
    place.parent.mkdir(parents=True)
    with filelock.FileLock(place.with_name(f".{place.name}.lock")):
        refused(fetch(), "is being fetched to", "by another process")
    assert not server.seen
    server.script = [whole()]
    assert fetch().exit_code == 0


def test_fetch_reports_progress(server: Server, catalogue: Any, home: Path) -> None:
    from mibench.system.progress import Reporter

    class Listener(Reporter):
        def __init__(self) -> None:
            self.told: list[tuple[float, float]] = []

        def update(self, done: float, total: float, text: str = "") -> None:
            self.told.append((done, total))

    listener = Listener()
    server.script = [whole()]
    download.Fetcher(reporter=listener).fetch([catalogue()])
    assert listener.told == sorted(listener.told)
    assert len(listener.told) > 3
    assert listener.told[-1] == (len(CONTENT), len(CONTENT))


def test_what_a_person_must_fetch_is_explained(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIBENCH_DATA", raising=False)
    done = fetch("celeba")
    assert done.exit_code == 2
    assert done.stderr == "error: celeba cannot be downloaded automatically: follow the instructions\n"
    for told in ("mmlab.ie.cuhk.edu.hk", str(home / "data" / "celeba"), "identity_CelebA.txt", "data verify celeba"):
        assert told in done.stdout
    (row,) = json.loads(fetch("celeba", "--json").stdout)
    assert row["status"] == "by hand"
    assert row["instructions"]
    root = tmp_path / "data" / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    (root / "identity_CelebA.txt").touch()
    (root / "list_eval_partition.txt").touch()
    monkeypatch.setenv("MIBENCH_DATA", str(tmp_path / "data"))
    there = fetch("celeba", "--offline")
    assert there.exit_code == 0
    assert "mibench data verify celeba" in there.stdout


def test_unknown_names_are_suggested(home: Path) -> None:
    refused(fetch("incption"), "unknown file 'incption'; did you mean 'inception'?")
    refused(fetch("celeba", "--sha256", SHA256), "belongs to one downloadable file")


def test_the_list_says_what_is_here(server: Server, catalogue: Any, home: Path) -> None:
    catalogue()
    assert not json.loads(fetch("--list", "--json").stdout)[0]["here"]
    server.script = [whole()]
    fetch()
    assert json.loads(fetch("--list", "--json").stdout)[0]["here"]
    assert "here  net@toy  a toy" in fetch("--list").stdout


def test_doctor_checks_what_was_fetched(server: Server, catalogue: Any, home: Path) -> None:
    from mibench.doctor import _fetched

    catalogue()
    (nothing,) = _fetched()
    assert nothing.ok
    assert "mibench fetch" in nothing.detail
    server.script = [whole()]
    fetch()
    (fine,) = _fetched()
    assert fine.ok
    assert "sha256 agrees" in fine.detail
    (home / DOWNLOADED).write_bytes(CONTENT + b"x")
    (bad,) = _fetched()
    assert not bad.ok
