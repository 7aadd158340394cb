"""The canonical form of values, and the hash of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]  # a mapping that JSON or YAML gave back: whoever reads a field checks its kind


def plain(value: object) -> Any:
    """The JSON form of a setting: mappings with sorted text keys, lists, numbers, text, booleans, None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)  # paths and enumerations


def hash_of(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of ``value``."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
