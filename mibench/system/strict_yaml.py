"""YAML as settings, suites and cards are written in it: plain values, nothing that surprises.

YAML 1.1 as PyYAML reads it has tags that build objects, dates, numbers to the base 60, and aliases that make a short
text stand for a value without end. None of that is of use here, and each has spoilt somebody's numbers elsewhere: what
is not a plain text, number, truth value, list or mapping is refused, with its line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mibench.errors import MibenchError
from mibench.system.canonical import JsonObject
from mibench.system.text_files import read_text, shown

MOST_BYTES = 1_000_000  # of a text; the largest shipped file has 8 kB
MOST_DEEP = 32  # lists and mappings inside each other
MOST_VALUES = 100_000  # written out, every alias counted as what it stands for
MOST_DIGITS = 300  # characters of a number
TOO_DEEP = f"more than {MOST_DEEP} lists or mappings inside each other"
PLAIN_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")}
SURPRISING = re.compile(r"^[-+]?(?:0[0-7_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)$")  # base 8, base 60


class _StrictLoader(yaml.SafeLoader):
    """Plain values only, each key once, ``1e-3`` is a number (YAML 1.1 reads it as text) and a date is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML reads it from the class)
        first: [(tag, pattern) for tag, pattern in found if tag in PLAIN_TAGS]
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _refuse(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[str | int | float | bool, object]:
    if not isinstance(node, yaml.MappingNode):
        raise _refuse("the tag !!map does not fit what follows it", node)
    mapping: dict[str | int | float | bool, object] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str | int | float | bool):
            raise _refuse(f"a key must be plain text, got {shown(key)}", key_node)
        if key in mapping:
            raise _refuse(f"the key {shown(key)} stands twice", key_node)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


def _scalar(loader: _StrictLoader, node: yaml.ScalarNode) -> object:
    """A number or a boolean. The tag may have been written by hand, so the text is checked again."""
    if not isinstance(node, yaml.ScalarNode):
        raise _refuse(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} does not fit what follows it", node)
    text = str(node.value)
    if len(text) > MOST_DIGITS:
        raise _refuse(f"a number of {len(text):,} characters is no setting", node)
    if SURPRISING.match(text):
        raise _refuse(f"{text!r} is a number to the base 8 or 60 in YAML: write it plainly, or in quotes", node)
    resolved = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
    if resolved != node.tag:
        raise _refuse(f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} does not fit {shown(text)}", node)
    try:
        return _PLAIN[node.tag](loader, node)
    except ValueError as error:  # the grammar takes 0b_ for a number, Python does not
        raise _refuse(f"{shown(text)} is no number", node) from error


_PLAIN = {
    f"tag:yaml.org,2002:{name}": getattr(yaml.SafeLoader, f"construct_yaml_{name}")
    for name in ("null", "bool", "int", "float")
}
for _tag in _PLAIN:
    _StrictLoader.add_constructor(_tag, _scalar)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _written_out(node: yaml.Node, known: dict[int, tuple[int, int]], above: set[int]) -> tuple[int, int]:
    """How many values a node stands for and how deep they lie, when every alias is written out.

    Anchors come before their aliases, so going through the document in its order never goes deeper than the text is
    nested: what an alias leads to is known by then.
    """
    key = id(node)
    if key in above:
        raise _refuse("a value contains itself", node)
    if key in known:
        return known[key]
    if node.tag not in PLAIN_TAGS:
        raise _refuse(f"the tag {shown(node.tag.replace('tag:yaml.org,2002:', '!!'))} is not understood", node)
    count, depth = 1, 0
    if isinstance(node, yaml.CollectionNode):
        above.add(key)
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                values, deep = _written_out(part, known, above)
                count, depth = count + values, max(depth, deep + 1)
        above.discard(key)
    if count > MOST_VALUES:
        raise _refuse(f"more than {MOST_VALUES:,} values, aliases written out", node)
    if depth > MOST_DEEP:
        raise _refuse(TOO_DEEP, node)
    known[key] = count, depth
    return known[key]


def _too_deep(text: str) -> int | None:
    """The line where a text is nested too deeply, found before anything follows it downwards; None: nowhere."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MOST_DEEP:
                return 1 if event.start_mark is None else event.start_mark.line + 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def parse_yaml(text: str, source: str) -> Any:
    """Read YAML strictly. ``source`` names the text in messages.

    Raises:
        MibenchError: it is not YAML, or holds something else than plain values; one line with the place.
    """
    if len(text) > MOST_BYTES:
        raise MibenchError(f"{source}: {len(text):,} characters are no settings; at most {MOST_BYTES:,}")
    try:
        if (line := _too_deep(text)) is not None:
            raise MibenchError(f"{source} line {line}: not valid YAML: {TOO_DEEP}")
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _written_out(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        marked = error if isinstance(error, yaml.MarkedYAMLError) else None
        problem, mark = (None, None) if marked is None else (marked.problem, marked.problem_mark)
        reason = " ".join(str(problem or error).split())
        at_line = f" line {mark.line + 1}" if mark is not None else ""
        raise MibenchError(f"{source}{at_line}: not valid YAML: {reason}") from error
    except (ValueError, OverflowError) as error:  # PyYAML's scanner: "\\UFFFFFFFF", a %YAML directive of 5,000 digits
        raise MibenchError(f"{source}: not valid YAML: {shown(str(error))}") from error


def read_yaml(path: Path) -> JsonObject:
    """Read a YAML file that holds a mapping."""
    return as_mapping(parse_yaml(read_text(path, most=MOST_BYTES), str(path)), str(path))


def as_mapping(value: object, source: str) -> JsonObject:
    """A mapping with text keys; nothing stands for an empty one.

    Raises:
        MibenchError: another kind of value; ``source`` names it.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise MibenchError(f"{source}: expected a mapping of names to values, got {type(value).__name__}")
    mapping = {str(key): item for key, item in value.items()}
    if len(mapping) != len(value):
        raise MibenchError(f"{source}: two keys read alike, one as text and one as a number")
    return mapping
