"""Pages of finished runs: as a file, and served to a browser on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mibench import registry
from mibench.commands.settings_by_scope import Settings, scoped
from mibench.errors import MibenchError
from mibench.party_errors import parties_named

if TYPE_CHECKING:
    from mibench.results import ComparedBy, PageFunction
    from mibench.viewer import Viewer


@parties_named()
def report(
    runs: Path | str | Sequence[Path | str],
    output: Path | str,
    *,
    by: ComparedBy | None = None,
    show_faces: bool = False,
    settings: Settings | None = None,
) -> Path:
    """Write one self-contained page of HTML about a run, or about several: ``mibench report``.

    >>> import mibench
    >>> run = mibench.run(protocol="smoke", out="runs", device="cpu")
    >>> mibench.report(run.path, "page.html").name
    'page.html'

    Args:
        runs: a run directory, several, or folders of them.
        output: the file to write.
        by: what the rows of several runs are: ``attack`` or ``defence``; None: defences where some target has one.
        show_faces: show faces although the people may be real: private images, and reconstructions in full.
        settings: of the data set that private images come from, such as ``{"dataset.root": "faces"}``.

    Raises:
        MibenchError: runs that are unfinished, damaged or must not be compared; a file that cannot be written.
    """
    from mibench.commands.private_images import private_images
    from mibench.system.files import atomic_write, check_writable

    file = Path(output)
    if file.is_dir():
        raise MibenchError(f"{file} is a folder", cure=f"name a file, such as {file / 'page.html'}")
    check_writable(file.parent)
    page: PageFunction = registry.load("page", "runs")
    loader = private_images(scoped(settings or {}).get("dataset", {}), show_faces=show_faces)
    sources = [runs] if isinstance(runs, str | Path) else list(runs)
    content = page(sources, by=by, private=loader, show_faces=show_faces)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, content.encode(), sweep=True)
    return file


@parties_named()
def view(folder: Path | str, *, port: int = 0, show_faces: bool = False, settings: Settings | None = None) -> Viewer:
    """Serve the pages of a folder of runs to a browser on this machine: ``mibench view``.

    Only the loopback address is listened on, and nothing can be changed through it.

    >>> import mibench
    >>> _ = mibench.run(protocol="smoke", out="runs", device="cpu")
    >>> with mibench.view("runs") as viewer:
    ...     viewer.url.startswith("http://127.0.0.1:")
    True

    Args:
        folder: of run directories, at any depth.
        port: 0: a free one.
        show_faces, settings: as in :func:`report`.

    Returns:
        The server, listening already: ``serve_forever()`` answers, ``close()`` (or ``with``) ends it.

    Raises:
        MibenchError: no folder, or a port that is taken.
    """
    from mibench.commands.private_images import private_images
    from mibench.viewer import Viewer

    loader = private_images(scoped(settings or {}).get("dataset", {}), show_faces=show_faces)
    return Viewer(Path(folder), port=port, private=loader, show_faces=show_faces)
