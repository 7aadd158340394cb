"""A plug-in with a party of each kind, which does what a test says when it says so."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mibench
from mibench import plugins, registry

TOY = {"target": "toynet", "dataset": "toyfaces", "protocol": "toy"}
CATALOGUE = {
    "attack": {"climb": "climbing.attack:Climb", "slope": "climbing.attack:Slope"},
    "metric": {"height": "climbing.metric:height"},
    "dataset": {"hills": "climbing.data:Hills"},
    "report": {"view": "climbing.report:write_report"},
    "recipe": {"target:toynet": "climbing.recipe:Recipe"},
}
PARTS = {
    "attack": """
from dataclasses import dataclass
from toyworld.attacks import ToyAttack
from climbing import deeds

@dataclass(frozen=True, kw_only=True)
class Climb(ToyAttack):
    name = "climb"
    def __post_init__(self):
        deeds.do("settings")
    def planned_queries(self, identities):
        deeds.do("plan")
        return super().planned_queries(identities)
    def prepare(self, context, streams):
        return deeds.do("prepare", super().prepare(context, streams))
    def reconstruct(self, context, state, labels, streams):
        return deeds.do("reconstruct", super().reconstruct(context, state, labels, streams), context)

@dataclass(frozen=True, kw_only=True)
class Slope(Climb):
    name = "slope"
""",
    "metric": """
from mibench.api import Estimate
from climbing import deeds

def height(inputs):
    return deeds.do("metric", [Estimate("height", 1.0)])
""",
    "data": """
from dataclasses import dataclass
from toyworld.data import ToyFaces
from climbing import deeds

@dataclass(frozen=True, kw_only=True)
class Hills(ToyFaces):
    name = "hills"
    def __post_init__(self):
        deeds.do("set up")
    @property
    def digest(self):
        deeds.do("digest")
        return super().digest
    def private(self, part, size, labels=None):
        return deeds.do("private", super().private(part, size, labels))
""",
    "report": """
from climbing import deeds

def write_report(run, *, floor=None, private=None):
    deeds.do("report")
    return []
""",
    "recipe": """
from dataclasses import dataclass
from toyworld.training import TrainToy
from climbing import deeds

@dataclass(frozen=True, kw_only=True)
class Recipe(TrainToy):
    def run(self, data, context):
        return deeds.do("train", super().run(data, context))
""",
    "deeds": """
when, deed = "", None

def do(stage, result=None, context=None):
    if stage == when:
        changed = deed(result, context)
        return result if changed is None else changed
    return result
""",
}
Deed = Callable[..., object]


@pytest.fixture
def climbing(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Deed], None]]:
    """A plug-in with a party of each kind; yields what says which of them does what when."""
    package = tmp_path / "plugin" / "climbing"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"CATALOGUE = {CATALOGUE!r}\n")
    for name, text in PARTS.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv(plugins.VARIABLE, "")
    registry.add_plugin(str(package))
    import climbing.deeds as deeds  # type: ignore[import-not-found]

    def arrange(when: str, source: str) -> None:
        """The deed is code of the plug-in: it lies in a file of it."""
        (package / "mischief.py").write_text(source)
        sys.modules.pop("climbing.mischief", None)
        importlib.invalidate_caches()
        deeds.when = when
        deeds.deed = importlib.import_module("climbing.mischief").deed

    yield arrange  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "climbing"]:
        del sys.modules[name]
    registry.catalogue.cache_clear()


def run_it(out: Path, stage: str, attack: str = "climb") -> object:
    """Run the attack; for stages of the data set, a training on it (there are no weights for it)."""
    if stage in ("set up", "digest", "private"):
        return mibench.train("target", "toynet", dataset="hills", tag="new", out=out, device="cpu")
    metrics = {"protocol.metrics": ["accuracy", "height"], "protocol.required": ["acc1"]}
    settings = metrics if stage == "metric" else {}
    return mibench.run(attack, **TOY, settings=settings, out=out, device="cpu")  # type: ignore[arg-type]
