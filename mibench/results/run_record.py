"""What ``run.json`` and ``metrics.json`` hold: the kind of each field, checked when it is read back.

A record may have been cut off, edited or written by something else. Whoever asks for a field gets one of its kind, so
that nothing further on has to doubt it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mibench.errors import MibenchError
from mibench.system.canonical import JsonObject
from mibench.system.text_files import read_object, shown, typed

Check = Callable[[object], bool]
CURE = "delete it and run the same command again: finished units are kept"


def _text(value: object) -> bool:
    return isinstance(value, str)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _object(value: object) -> bool:
    return isinstance(value, dict)


def _texts(value: object) -> bool:
    return isinstance(value, dict) and all(map(_text, value.values()))


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _or_null(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _bare_name(value: object) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and Path(value).name == value


def _inside(value: object) -> bool:
    """File -> hash, each a path below the run."""
    return (
        isinstance(value, dict)
        and _texts(value)
        and all(name and not Path(name).is_absolute() and ".." not in Path(name).parts for name in value)
    )


METRIC_INFO: dict[str, Check] = {
    **dict.fromkeys(("name", "title", "unit", "topic"), _text),
    **dict.fromkeys(("percent", "proportion", "tested"), _flag),
    "higher_is_better": _or_null(_flag),
    "column": _or_null(_text),
    "equals": _or_null(_real),
    "views": _list_of(_text),
}


def _metric_info(value: object) -> bool:
    """What a metric says about itself: a name and a title at least; fields of a later version may stand beside them."""
    return (
        isinstance(value, dict)
        and {"name", "title"} <= set(value)
        and all(check(value[name]) for name, check in METRIC_INFO.items() if name in value)
    )


def _classifier(value: object) -> bool:
    """Utility, cost and defence of the attacked classifier."""
    if not isinstance(value, dict):
        return False
    if not all(_or_null(_number)(value.get(name)) for name in ("test_accuracy", "test_images", "seconds")):
        return False
    defence = value.get("defence")
    if defence is None:
        return True
    return isinstance(defence, dict) and _text(defence.get("name")) and _object(defence.get("settings"))


FIELDS: dict[str, tuple[Check, str]] = {
    "schema": (_whole, "a whole number"),
    "status": (_text, "text"),
    "digest": (_text, "text"),
    "spec": (_object, "an object"),
    "settings": (_object, "an object"),
    "environment": (_object, "an object"),
    "code": (_texts, "an object of hashes"),
    "code_history": (_list_of(_object), "a list of objects"),
    "argv": (_list_of(_text), "a list of texts"),
    "pid": (_whole, "a whole number"),
    "started": (_text, "text"),
    "finished": (_text, "text"),
    "scored": (_text, "text"),
    "seconds": (_number, "a number"),
    "units": (_whole, "a whole number"),
    "sees_private": (_flag, "true or false"),
    "prior_queries_forward": (_or_null(_whole), "a whole number or null"),
    "attacked": (_classifier, "an object with test_accuracy, test_images, seconds and defence"),
    "floor": (_or_null(_bare_name), "the name of a folder or null"),
    "missing": (_texts, "an object of metrics and reasons"),
    "reading": (_texts, "an object of hashes"),
    "metrics": (_list_of(_metric_info), "a list of objects with a name and a title"),
    "diagnostics": (_list_of(_text), "a list of names"),
    "outputs": (_inside, "an object of files and their hashes"),
    "error": (_or_null(_text), "text or null"),
}


def check_record(record: JsonObject, path: Path) -> JsonObject:
    """The record itself, when each field that it has is of its kind.

    Raises:
        MibenchError: one is not; names the file, the field and what to do.
    """
    for name, (check, kind) in FIELDS.items():
        if name in record and not check(record[name]):
            raise MibenchError(f"cannot read {path}: {name} should be {kind}, got {shown(record[name])}", cure=CURE)
    return record


ESTIMATE: dict[str, Check] = {
    **dict.fromkeys(("value", "low", "high"), _or_null(_real)),
    **dict.fromkeys(("unit", "version"), _text),
    **dict.fromkeys(("extractor", "reason"), _or_null(_text)),
    "n": _whole,
    "higher_is_better": _or_null(_flag),
    "params": _object,
}


def read_estimates(file: Path) -> dict[str, JsonObject]:
    """``metrics.json``: name -> the fields of an :class:`~mibench.api.Estimate` but its name.

    Raises:
        MibenchError: it is missing, or not what a scoring writes.
    """
    estimates = read_object(file, cure="score the run again")
    for name, content in estimates.items():
        wrong = "an object with a value" if not isinstance(content, dict) or "value" not in content else None
        for key, value in content.items() if isinstance(content, dict) else ():
            if key not in ESTIMATE or not ESTIMATE[key](value):
                wrong = f"another {key}, got {shown(value)}"
        if wrong is not None:
            raise MibenchError(
                f"{file} was spoilt, or written by another version: {typed(name)} should have {wrong}",
                cure=f"score the run again: mibench score {file.parent}",
            )
    return estimates
