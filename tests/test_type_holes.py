"""Where types say nothing: ``Any``, ``getattr`` with a written-out name and ``# type: ignore`` are few, for a reason in
each file, and only become fewer. docs/architecture.md has the sums."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from test_imports import modules

ROOT = Path(__file__).parents[1]
# Reason -> module -> the most uses of ``Any`` that it may have.
ANY = {
    "a registered name, a setting or the output of a network can be anything": {
        "mibench.api.attack": 7,
        "mibench.api.weights": 1,
        "mibench.metrics.extractors": 1,
        "mibench.metrics.returned": 1,
        "mibench.registry": 3,
        "mibench.settings": 3,
        "mibench.weights.training_inputs": 1,
    },
    "what JSON and YAML hold is checked field by field where it is read": {
        "mibench.api.metric": 1,
        "mibench.metrics.estimates": 1,
        "mibench.records": 4,
        "mibench.system.canonical": 2,
        "mibench.system.strict_yaml": 1,
        "mibench.system.text_files": 2,
        "mibench.weights.save": 2,
    },
    "torch and safetensors give back untyped contents of files": {
        "mibench.api.weights": 1,
        "mibench.results.stored_run": 1,
    },
    "a foreign pickle holds anything, and pickle's interpreter is untyped": {
        "mibench.weights.importing.containers": 3,
        "mibench.weights.importing.metered_unpickler": 5,
        "mibench.weights.importing.pickle_inspector": 3,
        "mibench.weights.importing.stylegan_pickle": 2,
        "mibench.weights.importing.stylegan_records": 1,
    },
    "numpy, torch, click and the standard library say Any themselves": {
        "mibench.cli": 3,
        "mibench.cli.examples": 1,
        "mibench.data.pixel_cache": 4,
        "mibench.downloads.http": 1,
        "mibench.system.devices": 3,
        "mibench.system.process_state": 6,
        "mibench.system.stdout_guard": 3,
    },
}
ANY_OF_OTHERS = {
    "mibench.attacks": 2,
    "mibench.targets": 53,
    "mibench.reports": 9,
}  # pages: what jinja2 takes
# Attributes of modules, streams and networks that other people wrote, and of torch's private ones.
GETATTR = {
    "mibench.api.attack": 1,
    "mibench.cli.output": 2,
    "mibench.plugins": 3,
    "mibench.system.devices": 1,
    "mibench.targets.custom.onnx": 1,
    "mibench.targets.defences.bido": 1,
    "mibench.targets.networks.timm_networks": 2,
    "mibench.targets.training.backbones": 1,
    "mibench.weights.importing.metered_unpickler": 1,
}
# Stubs that are wrong or missing, and streams and switches of the process that are swapped on purpose.
IGNORED = {
    "mibench.data.public_data": 1,
    "mibench.downloads.http": 2,
    "mibench.settings": 2,
    "mibench.system.process_state": 7,
    "mibench.system.stdout_guard": 2,
    "mibench.system.strict_yaml": 1,
    "mibench.targets.custom.module": 1,
    "mibench.targets.custom.torchscript": 1,
    "mibench.targets.defences.mid": 1,
    "mibench.targets.networks.bottleneck": 1,
    "mibench.targets.networks.narrowing": 4,
    "mibench.targets.networks.torchvision_networks": 1,
    "mibench.targets.networks.vgg16": 1,
    "mibench.targets.training.supervised": 1,
    "mibench.weights.importing.metered_unpickler": 2,
}


def anys(source: str) -> int:
    """Uses of ``Any``; its import is none."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(source)))


def getattrs(source: str) -> int:
    """Calls of ``getattr`` whose name is written out, where a type could declare it."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sum(
        isinstance(call.func, ast.Name) and call.func.id == "getattr" and isinstance(call.args[1], ast.Constant)
        for call in calls
    )


def ignores(source: str) -> int:
    return len(re.findall(r"# type: ignore", source))


def sources() -> dict[str, str]:
    return {module: path.read_text(encoding="utf-8") for module, path in modules().items()}


def ceilings_of_any() -> Counter[str]:
    return sum((Counter(files) for files in ANY.values()), Counter())


def party_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def test_any_stands_only_where_a_library_or_a_file_forces_it() -> None:
    ceilings = ceilings_of_any()
    of_others: Counter[str] = Counter()
    for module, source in sources().items():
        if party_of(module) in ANY_OF_OTHERS:
            of_others[party_of(module)] += anys(source)
        else:
            assert anys(source) <= ceilings[module], (
                f"{module} uses Any {anys(source)} times, {ceilings[module]} at most: write object, a Protocol, a "
                "TypedDict or JsonObject; where a library forces it, raise the number beside its reason"
            )
    assert of_others <= Counter(ANY_OF_OTHERS), "more Any than before: write the type"


def test_optional_members_are_declared_not_looked_up() -> None:
    for module, source in sources().items():
        assert getattrs(source) <= GETATTR.get(module, 0), (
            f"{module}: getattr with a written-out name: declare the member with a default in its type"
        )


def test_type_errors_are_mended_not_ignored() -> None:
    for module, source in sources().items():
        assert ignores(source) <= IGNORED.get(module, 0), f"{module}: another '# type: ignore'"


@pytest.mark.parametrize("ceilings", [ceilings_of_any(), GETATTR, IGNORED])
def test_no_ceiling_outlives_its_module(ceilings: dict[str, int]) -> None:
    assert not set(ceilings) - set(modules())


def test_the_architecture_page_has_the_sums() -> None:
    page = " ".join((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split())
    assert f"`Any` {sum(ceilings_of_any().values())} times" in page
    for reason, files in ANY.items():
        assert f"| {sum(files.values())} | {reason} |" in page


def test_each_kind_of_hole_is_noticed() -> None:
    """The tests above can fail."""
    assert anys("from typing import Any\ndef f(x: Any) -> dict[str, Any]: ...\n") == 2
    assert getattrs('getattr(x, "name", None)\ngetattr(x, name)\n') == 1
    assert ignores("x = f()  # type" + ": ignore[misc]\n") == 1
