"""``mibench fetch``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from mibench.errors import MibenchError

from .examples import CommandWithExamples
from .options import json_option
from .prose import say, tell

if TYPE_CHECKING:
    from mibench.downloads.catalogue import Known
    from mibench.downloads.download import Outcome


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench fetch                          list known files and which are present
  mibench fetch inception                FID's weights, to $MIBENCH_HOME/assets
  mibench fetch stylegan2@ffhq           StyleGAN2-ADA for FFHQ; prints the import command
  mibench fetch celeba                   how to get a data set that cannot be downloaded automatically
  mibench fetch --offline inception      check without network; says which file is missing
""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--list", "listing", is_flag=True, help="List known files and which are present.")
@click.option(
    "--to",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Destination folder.  [default: $MIBENCH_HOME/assets]",
)
@click.option("--sha256", "demanded", metavar="HEX", help="Accept only a file with this hash.")
@click.option("--offline", is_flag=True, help="Do not use the network (permanently: MIBENCH_OFFLINE=1).")
@json_option
@click.pass_context
def fetch(
    ctx: click.Context,
    *,
    names: tuple[str, ...],
    listing: bool,
    folder: Path | None,
    demanded: str | None,
    offline: bool,
    as_json: bool,
) -> None:
    """Download known weights, resumable and checked by hash, or print how to get them by hand.

    No other command uses the network. Exits with 2 if a file could not be fetched or must be fetched by hand.
    """
    from mibench.commands import fetch as fetch_files
    from mibench.downloads import catalogue

    from .progress import reporter

    if listing or not names:
        if demanded is not None:
            raise MibenchError("--sha256 needs the NAME of the file it belongs to")
        chosen = [catalogue.entry(name) for name in names] or list(catalogue.catalogue().values())
        show_list(chosen, folder, as_json)
        return
    outcomes = fetch_files(*names, out=folder, sha256=demanded, offline=offline, reporter=reporter())
    if as_json:
        click.echo(json.dumps([as_plain(outcome, folder) for outcome in outcomes], indent=2))
    else:
        for line in (line for outcome in outcomes for line in lines(outcome, folder)):
            tell(line)
    by_hand = [outcome.entry.name for outcome in outcomes if outcome.status == "by hand"]
    if by_hand:
        say(f"error: {', '.join(by_hand)} cannot be downloaded automatically: follow the instructions", err=True)
        ctx.exit(2)


def lines(outcome: Outcome, folder: Path | None) -> list[str]:
    """The outcome for a name, and the next command."""
    from mibench.downloads.catalogue import ByHand

    entry = outcome.entry
    if isinstance(entry, ByHand):
        if outcome.status == "by hand":
            return entry.instructions(folder)
        return [f"{entry.name}: already present: {outcome.path}", f"  check: {entry.check}"]
    how = "fetched to" if outcome.status == "fetched" else "already present, hash checked:"
    text = [f"{entry.name}: {how} {outcome.path}", f"  sha256 {outcome.sha256}, {outcome.size:,} bytes"]
    return text + ([f"  next: {next_command(outcome)}"] if entry.use else [])


def next_command(outcome: Outcome) -> str:
    """The command that uses the file."""
    from mibench.downloads.catalogue import Asset

    return outcome.entry.use.format(path=outcome.path) if isinstance(outcome.entry, Asset) else outcome.entry.check


def as_plain(outcome: Outcome, folder: Path | None) -> dict[str, object]:
    """An outcome as JSON."""
    from mibench.downloads.catalogue import ByHand

    entry = outcome.entry
    by_hand = isinstance(entry, ByHand) and outcome.status == "by hand"
    return {
        "name": entry.name,
        "status": outcome.status,
        "path": None if outcome.path is None else str(outcome.path),
        "sha256": outcome.sha256,
        "bytes": outcome.size,
        "licence": entry.licence,
        "next": next_command(outcome) or None,
        "instructions": entry.instructions(folder) if isinstance(entry, ByHand) and by_hand else None,
    }


def show_list(entries: list[Known], folder: Path | None, as_json: bool) -> None:
    """Names, what they are, whether they are present."""
    from mibench.downloads.catalogue import Asset

    rows = []
    for entry in entries:
        path = entry.path_in(folder)
        present = entry.path_in(folder).is_file() if isinstance(entry, Asset) else entry.present(folder)
        rows.append(
            {
                "name": entry.name,
                "what": entry.what,
                "fetched": isinstance(entry, Asset),
                "here": present,
                "path": None if path is None else str(path),
                "licence": entry.licence,
                "sha256": entry.sha256 or None if isinstance(entry, Asset) else None,
                "from": list(entry.urls) if isinstance(entry, Asset) else [entry.where],
            }
        )
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    width = max(len(str(row["name"])) for row in rows)
    for fetched, title in (
        (True, "fetched by `mibench fetch NAME`"),
        (False, "by hand: `mibench fetch NAME` says how"),
    ):
        group = [row for row in rows if row["fetched"] is fetched]
        if group:
            tell(title, title=True)
        for row in group:
            tell(f"  {'here' if row['here'] else '    '}  {row['name']:{width}}  {row['what']}")
