"""``mibench list``: names only, so it imports neither torch nor any party."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import rich_click as click

from mibench import registry, settings
from mibench.system.strict_yaml import as_mapping
from mibench.weights import cards

from .examples import CommandWithExamples
from .options import json_option, plugin_option
from .prose import say, tell

PLURALS = {
    "attacks": "attack",
    "targets": "target",
    "defences": "defence",
    "datasets": "dataset",
    "protocols": "protocol",
    "suites": "suite",
    "priors": "prior",
    "judges": "judge",
    "regressors": "regressor",
    "backbones": "backbone",
    "metrics": "metric",
    "reports": "report",
    "weights": "weights",
}
EMPTY = {"defences": "none is installed; a catalogue offers them under the kind 'defence'"}


@click.command(
    cls=CommandWithExamples,
    name="list",
    epilog="""Examples:

\b
  mibench list                 everything
  mibench list attacks         one kind
  mibench list weights --json  trained weights, for a program
""",
)
@click.argument("kind", required=False, metavar="[KIND]")
@plugin_option
@json_option
def list_command(*, kind: str | None, as_json: bool) -> None:
    """List what is installed: attacks, targets, defences, datasets, protocols, priors, judges, metrics, reports ..."""
    from mibench.errors import MibenchError

    if kind is not None:
        wanted = kind if kind in PLURALS else f"{kind}s"
        if wanted not in PLURALS:
            raise MibenchError(registry.unknown("kind", kind, PLURALS))
        kinds = [wanted]
    else:
        kinds = list(PLURALS)
    tables = {name: rows(PLURALS[name]) for name in kinds}
    if as_json:
        click.echo(json.dumps(tables, indent=2))
        return
    for number, (name, entries) in enumerate(tables.items()):
        if number:
            click.echo()
        tell(name, title=True)
        width = max((len(str(entry["name"])) for entry in entries), default=0)
        for entry in entries:
            detail = entry.get("detail", "")
            say(f"  {entry['name']:{width}}  {detail}".rstrip(), hang=width + 2 if width < 40 else 4)
        if not entries:
            click.echo(f"  {EMPTY.get(name, 'none')}")


def rows(kind: str) -> list[dict[str, object]]:
    """Name, owner and a detail of every entry of a kind."""
    special: dict[str, Callable[[], list[dict[str, object]]]] = {
        "weights": _weights,
        "protocol": lambda: _described("protocol"),
        "suite": lambda: _described("suite"),
    }
    if kind in special:
        return special[kind]()
    entries = []
    for entry in registry.catalogue()[kind].values():
        row: dict[str, object] = {"name": entry.name, "from": entry.distribution}
        if kind in ("attack", "defence"):
            file = settings.presets_of(kind, entry.name)
            presets, variants = sorted(file.presets), sorted(file.variants)
            row |= {"presets": presets, "detail": "presets: " + (", ".join(presets) or "none")}
            if variants:
                row |= {"variants": variants, "detail": f"{row['detail']}; variants: {', '.join(variants)}"}
        elif entry.distribution != "mibench":
            row["detail"] = f"from {entry.distribution}"
        entries.append(row)
    return entries


def _weights() -> list[dict[str, object]]:
    entries = []
    for file in cards.all_cards().values():
        measured = settings.read_yaml(file.path).get("measured")  # a card itself would import torch
        measured = measured if isinstance(measured, dict) else {}
        accuracy = measured.get("test_accuracy")
        accuracy = accuracy if isinstance(accuracy, int | float) and not isinstance(accuracy, bool) else None
        parts = [file.kind]
        parts += [] if accuracy is None else [f"test accuracy {accuracy:.1%} ({_counted(measured)})"]
        parts += [] if file.origin == "mibench" else [f"from {file.origin}"]
        row: dict[str, object] = {"name": file.name, "kind": file.kind, "from": file.origin, "file": str(file.path)}
        entries.append(row | {"test_accuracy": accuracy, "detail": ", ".join(parts)})
    return entries


def _counted(measured: Mapping[str, object]) -> str:
    """``1,000 held-out images``, or without the number if the card does not say."""
    images = measured.get("test_images")
    return f"{images:,} held-out images" if isinstance(images, int) else "held-out images"


def _described(kind: str) -> list[dict[str, object]]:
    """YAML files of a kind with their one-line description."""
    entries = []
    for name, (source, text) in registry.yaml_files(kind).items():
        content = as_mapping(settings.parse_yaml(text, source), source)
        row = {"name": name, "detail": " ".join(str(content.get("description", "")).split())}
        entries.append(row | ({"version": content.get("version", 1)} if kind == "protocol" else {}))
    return entries
