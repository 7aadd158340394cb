"""``mibench show``: one thing in full."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import rich_click as click
import yaml

from mibench import registry, settings
from mibench.errors import MibenchError
from mibench.system.canonical import plain
from mibench.weights import cards

from .examples import CommandWithExamples
from .options import json_option, plugin_option
from .output import on_terminal
from .prose import tell


@click.command(
    cls=CommandWithExamples,
    epilog="""Examples:

\b
  mibench show attack dmmia              settings and their defaults
  mibench show preset dmmia:paper        values and their sources
  mibench show defence midre
  mibench show protocol standard
  mibench show card vgg16@synthfaces
  mibench show dataset synthfaces
  mibench show run runs/dmmia-vgg16-synthfaces-1f3a9c2e
""",
)
@click.argument("kind", metavar="KIND")
@click.argument("name", metavar="NAME")
@plugin_option
@json_option
def show(*, kind: str, name: str, as_json: bool) -> None:
    """Show an attack, defence, preset, protocol, card, dataset or run in full."""
    shown: dict[str, Callable[[str], dict[str, object]]] = {
        "attack": lambda name: _settings("attack", name),
        "defence": lambda name: _settings("defence", name),
        "dataset": lambda name: _settings("dataset", name),
        "preset": _preset,
        "protocol": _protocol,
        "card": _card,
        "run": _run,
    }
    if kind not in shown:
        raise MibenchError(registry.unknown("kind", kind, shown))
    content = shown[kind](name)
    if as_json:
        click.echo(json.dumps(plain(content), indent=2))
    else:
        width = min(110, shutil.get_terminal_size((110, 24)).columns - 2) if on_terminal(sys.stdout) else 110
        text = yaml.safe_dump(plain_in_order(content), sort_keys=False, allow_unicode=True, width=width)
        for line in text.rstrip().split("\n"):
            tell(line)


def plain_in_order(value: object) -> object:
    """JSON types only, mappings in the order they have."""
    if isinstance(value, Mapping):
        return {str(key): plain_in_order(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_in_order(item) for item in value]
    return plain(value)


def _settings(kind: str, name: str) -> dict[str, object]:
    party = registry.load(kind, name)
    document = (party.__doc__ or "").strip().splitlines()
    content: dict[str, object] = {
        "name": name,
        "about": document[0] if document else "",
        "from": registry.entry(kind, name).distribution,
    }
    if kind == "attack":
        content["access"] = party.access.word
        if party.uses_up_to is not None:
            content["uses_up_to"] = party.uses_up_to.word
    if kind == "defence":
        from mibench.api import AnswerFilter  # here, since it imports torch

        content["control"] = party.control
        content["adaptive"] = list(party.adaptive)
        if issubclass(party, AnswerFilter):
            content["grants"] = party.grants.word
        content["applies_to"] = list(party.compatible) if party.compatible is not None else "every target"
        content |= _trainings(name, party.compatible)
    if kind in ("attack", "defence"):
        content["presets"] = sorted(settings.presets_of(kind, name).presets)
        if variants := sorted(settings.presets_of(kind, name).variants):
            content["variants"] = variants
    content["settings"] = {
        field.name: _default(field) for field in (dataclasses.fields(party) if dataclasses.is_dataclass(party) else ())
    }
    return content


def _trainings(defence: str, applies_to: Sequence[str] | None) -> dict[str, object]:
    """Shipped weights that one defence made, with the commands that did, and the command for weights of one's own.

    That one is for the architecture of which most weights are shipped, of those that the defence applies to.
    """
    from mibench.weights.training import Training, with_free_tag

    shipped = [file for file in cards.shipped_cards().values() if file.kind == "target"]
    named = [(file.name, file.card()) for file in shipped]
    made = {name: card.recipe.get("command") for name, card in named if card.defence and card.defence.name == defence}
    usual = Counter(file.card_name.architecture for file in shipped).most_common()
    known = [each for each, _ in usual if applies_to is None or each in applies_to] + list(applies_to or ())
    own = Training(kind="target", architecture=known[0], defences=(defence,)) if known else None
    return {"shipped": made} | ({} if own is None else {"train": with_free_tag(own).command})


def _default(field: dataclasses.Field[object]) -> object:
    if field.default is not dataclasses.MISSING:
        return plain(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return plain(field.default_factory())
    return "(no default)"


def _preset(name: str) -> dict[str, object]:
    party, colon, preset = name.partition(":")
    kind = "defence" if party in registry.names("defence") and party not in registry.names("attack") else "attack"
    file = settings.presets_of(kind, party)
    presets = {**file.presets, **file.variants}
    if not colon:
        raise MibenchError(f"name a preset as {kind.upper()}:PRESET, such as {party}:{next(iter(presets), 'NAME')}")
    if preset not in presets:
        raise MibenchError(registry.unknown(f"preset of {kind} {party!r}", preset, presets))
    _, origins = settings.resolve(registry.load(kind, party), [presets[preset]], scope=kind)
    return {
        "variant" if preset in file.variants else "preset": name,
        "settings": {key: {"value": s.value, "origin": s.origin} for key, s in origins.items()},
    }


def _protocol(name: str) -> dict[str, object]:
    from mibench.runs.protocol import load_protocol

    protocol, _ = load_protocol(name)
    return dataclasses.asdict(protocol)


def _card(name: str) -> dict[str, object]:
    known = cards.all_cards()
    if name not in known:
        raise MibenchError(registry.unknown("card", name, known))
    file = known[name]
    content = dict(yaml.safe_load(cards.card_text(file.card())))
    return {**content, "file": str(file.path), "from": file.origin}


def _run(name: str) -> dict[str, object]:
    from mibench.results import damaged, open_run
    from mibench.results.run_record import read_estimates
    from mibench.runs.store import RunDir

    folder = RunDir(Path(name))
    if not folder.exists():
        raise MibenchError(f"{name} is not a run directory: it has no run.json", cure="start one with mibench run")
    content = folder.record()
    if reason := damaged(open_run(folder.path)):
        raise MibenchError.several([reason.of(f"{folder.path} ")])
    metrics = folder.path / "metrics.json"
    content["cost"] = open_run(folder.path).cost()
    content["metrics"] = read_estimates(metrics) if metrics.exists() else None
    return content
