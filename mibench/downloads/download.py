"""``mibench fetch``: what is there already, what may be fetched, what is checked before a file gets its name."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import filelock

from mibench.downloads.catalogue import Asset, ByHand, Known
from mibench.downloads.http import NotServed, Transfer, host_of
from mibench.downloads.partial_file import PartialFile, cannot_write
from mibench.errors import MibenchError, Problem
from mibench.system import file_type
from mibench.system.files import atomic_write, file_sha256
from mibench.system.progress import Reporter

from .content_check import complaint

OFFLINE_VARIABLE = "MIBENCH_OFFLINE"
SPARE = 50_000_000  # bytes that stay free on the disk

Status = Literal["fetched", "there", "by hand"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one name: fetched now, there already, or only a person can fetch it (and has not)."""

    entry: Known
    status: Status
    path: Path | None
    sha256: str | None = None
    size: int | None = None


def offline_wanted(flag: bool = False) -> bool:
    """Whether no network may be touched: ``--offline``, or ``MIBENCH_OFFLINE`` set to anything but 0."""
    return flag or os.environ.get(OFFLINE_VARIABLE, "0").strip().lower() not in ("", "0", "false", "no")


@dataclass(frozen=True, kw_only=True)
class Fetcher:
    """Brings files to their place.

    Attributes:
        folder: where files go; None: each to its own place below ``$MIBENCH_HOME``.
        demanded: a sha256 (or its first digits) that the file must have on top of what is known about it.
        offline: touch no network.
        reporter: hears of progress.
    """

    folder: Path | None = None
    demanded: str = ""
    offline: bool = False
    reporter: Reporter = dataclasses.field(default_factory=Reporter)

    def fetch(self, entries: Sequence[Known]) -> list[Outcome]:
        """Bring every file, in order; with ``offline``, say all that is missing at once.

        Raises:
            MibenchError: one line for each file that is missing, damaged or cannot be fetched.
        """
        outcomes: list[Outcome] = []
        problems: list[Problem] = []
        for entry in entries:
            try:
                outcomes.append(self._asset(entry) if isinstance(entry, Asset) else self._by_hand(entry))
            except MibenchError as error:
                if not self.offline:
                    raise
                problems += error.problems
        if problems:
            raise MibenchError.several(problems)
        return outcomes

    def _by_hand(self, entry: ByHand) -> Outcome:
        path = entry.path_in(self.folder)
        if entry.present(self.folder):
            return Outcome(entry=entry, status="there", path=path)
        if self.offline:
            wanted = f"{', '.join(entry.files)} in {path}" if entry.files and path else f"files from {entry.where}"
            raise MibenchError(
                f"offline: {entry.name} is not here: it wants {wanted}", cure=f"`mibench fetch {entry.name}` says how"
            )
        return Outcome(entry=entry, status="by hand", path=path)

    def _asset(self, asset: Asset) -> Outcome:
        target = asset.path_in(self.folder)
        if (outcome := self._existing_file(asset, target)) is not None:
            return outcome
        if self.offline:
            raise MibenchError(
                f"offline: {asset.name} is not at {target}",
                cure=(
                    f"put {asset.file} there ({asset.hash_in_words}; from {asset.urls[0]}), or run `mibench fetch "
                    f"{asset.name}` with a network"
                ),
            )
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(target, error) from error
        lock = filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=0)
        try:
            with lock:
                return self._existing_file(asset, target) or self._download(asset, target)
        except filelock.Timeout as error:
            raise MibenchError(
                f"{asset.name} is being fetched to {target} by another process", cure="wait for it"
            ) from error
        except OSError as error:
            raise cannot_write(target, error) from error

    def _existing_file(self, asset: Asset, target: Path) -> Outcome | None:
        """The file that lies there already, checked as a download would be; None when there is none."""
        if not target.exists():
            return None
        if not target.is_file():
            raise MibenchError(f"{target} is a folder, {asset.file} belongs there", cure="move it away")
        try:
            with target.open("rb") as file:
                head = file.read(file_type.HEAD)
            digest, size = file_sha256(target), target.stat().st_size
        except OSError as error:
            raise MibenchError(f"{target} cannot be read: {error.strerror}", cure="repair its permissions") from error
        cure = "move it away and fetch it again"
        if file_type.is_page(head):
            raise MibenchError(f"{target} is {file_type.page_reason(head)}", cure=cure)
        if (problem := complaint(head, asset.kind)) is not None:
            raise MibenchError(f"{target} is {problem}", cure=cure)
        self._check_hash(asset, target, digest, f"{target} is not {asset.file}", cure)
        if os.access(target.parent, os.W_OK):  # a shared folder that only reads is fine without a pin
            self._pin(asset, target, digest)
        return Outcome(entry=asset, status="there", path=target, sha256=digest, size=size)

    def _download(self, asset: Asset, target: Path) -> Outcome:
        self.reporter.say(f"{asset.name}: {asset.what}; licence: {asset.licence}")
        problems: list[str] = []
        expected = asset.sha256 or self.demanded or _pinned(target)
        with PartialFile(target) as part:
            transfer = Transfer(
                kind=asset.kind,
                size=asset.size,
                hash_known=bool(expected),
                room=lambda needed: self._room(target, needed),
                reporter=self.reporter,
            )
            if asset.size is not None:
                self._room(target, asset.size - part.size)
            for url in asset.urls:
                self.reporter.start(f"fetching {asset.file}")
                try:
                    transfer.bring(url, part)
                    self._check_download(asset, target, part, url)
                except NotServed as error:
                    problems.append(f"{host_of(url)}: {error}")
                    continue
                finally:
                    self.reporter.stop()
                digest, size = part.sha256, part.size
                self._pin(asset, target, digest)
                part.finish(target)
                return Outcome(entry=asset, status="fetched", path=target, sha256=digest, size=size)
            kept = f"; {part.size} bytes are kept in {part.path}, the same command continues" if part.size else ""
        raise MibenchError(
            f"cannot fetch {asset.name}: {'; '.join(problems)}{kept}",
            cure=f"try again later, or download {asset.file} elsewhere and put it at {target}",
        )

    def _check_download(self, asset: Asset, target: Path, part: PartialFile, url: str) -> None:
        """Refuse what came whole but is another file; nothing of it is kept, since it could not be continued."""
        try:
            self._check_hash(
                asset, target, part.sha256, f"what {host_of(url)} sent is not {asset.file}", "nothing is kept"
            )
        except MibenchError:
            part.restart()
            raise

    def _check_hash(self, asset: Asset, target: Path, digest: str, what: str, cure: str) -> None:
        wanted = (
            (asset.sha256, "published", ""),
            (self.demanded, "demanded by --sha256", ""),
            (
                _pinned(target),
                f"pinned in {_pin_path(target).name} by the first download",
                " (delete it if you trust the change)",
            ),
        )
        for expected, origin, remark in wanted:
            if expected and not digest.startswith(expected):
                raise MibenchError(f"{what}: its sha256 is {digest}, {expected} is {origin}{remark}", cure=cure)

    def _pin(self, asset: Asset, target: Path, digest: str) -> None:
        """Write the hash beside the file, in the form that ``sha256sum --check`` reads; it may not change later."""
        if len(asset.sha256) < 64 and not _pinned(target):
            atomic_write(_pin_path(target), f"{digest}  {target.name}\n".encode(), sweep=True)

    def _room(self, target: Path, needed: int) -> None:
        try:
            free = shutil.disk_usage(target.parent).free
        except OSError as error:
            raise cannot_write(target, error) from error
        if free < needed + SPARE:
            raise MibenchError(
                f"no room for {target.name}: {needed / 1000000.0:,.0f} MB are still to come, "
                f"{free / 1000000.0:,.0f} MB are free at {target.parent}",
                cure="make room or choose another folder with --to",
            )


def _pin_path(target: Path) -> Path:
    return target.with_name(f"{target.name}.sha256")


def _pinned(target: Path) -> str:
    """The hash written beside the file; empty when there is none.

    Raises:
        MibenchError: the pin cannot be read: going on without it would undo what it is for.
    """
    path = _pin_path(target)
    if not path.exists():
        return ""
    try:
        digest = path.read_text(encoding="utf-8").partition(" ")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MibenchError(f"cannot read {path}: {error}", cure="delete it to pin the next download anew") from error
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise MibenchError(f"{path} holds no sha256", cure="delete it to pin the next download anew")
    return digest
