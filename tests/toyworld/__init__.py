"""A whole toy world for tests: data, networks, a prior, attacks, a recipe, a metric and a report; seconds on a CPU.

It plugs in through the same door as any other distribution. Names only here, as in every catalogue.
"""

from __future__ import annotations

CATALOGUE: dict[str, dict[str, str]] = {
    "attack": {
        "toyattack": "toyworld.attacks:ToyAttack",
        "floor": "toyworld.attacks:ToyFloor",
        "badattack": "toyworld.attacks:BadAttack",
    },
    "prior": {"toygan": "toyworld.networks:ToyPrior", "toyaimed": "toyworld.networks:ToyAimedPrior"},
    "target": {"toynet": "toyworld.networks:ToyClassifier"},
    "judge": {"toyjudge": "toyworld.networks:ToyClassifier"},
    "regressor": {"toyregressor": "toyworld.networks:ToyRegressor"},
    "dataset": {"toyfaces": "toyworld.data:ToyFaces"},
    "recipe": {
        "target": "toyworld.training:TrainToy",
        "prior:toygan": "toyworld.training:TrainToyPrior",
        "prior:toyaimed": "toyworld.training:TrainToyAimed",
    },
    "metric": {"brightness": "toyworld.metrics:brightness"},
    "report": {"toyreport": "toyworld.reports:write_report"},
    "protocol": {"toy": "toyworld.protocols"},
    "role": {"baseline": "floor", "default_attack": "toyattack", "default_target": "toynet"},
}

# Own models are real ones in every world; a test that wants them here adds this catalogue (`own_models` in conftest).
OWN: dict[str, dict[str, str]] = {
    "target": {
        "module": "mibench.targets.custom.module:ModuleNetwork",
        "onnx": "mibench.targets.custom.onnx:OnnxNetwork",
        "torchscript": "mibench.targets.custom.torchscript:TorchScriptNetwork",
    },
    "importer": {
        "target:module": "mibench.targets.custom.importing:import_module",
        "target:onnx": "mibench.targets.custom.importing:import_onnx",
        "target:torchscript": "mibench.targets.custom.importing:import_torchscript",
    },
}

# A metric of somebody else's; a test that wants one adds this catalogue. What it yields shows when it has run.
THEIRS: dict[str, dict[str, str]] = {"metric": {"theirs": "toyworld.reports:measure_theirs"}}
