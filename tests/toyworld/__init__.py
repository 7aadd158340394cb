"""A whole toy world for tests: data, networks, a prior, attacks, a recipe and a report; seconds on a CPU, no download.

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
    "report": {"toyreport": "toyworld.reports:write_report"},
    "protocol": {"toy": "toyworld.protocols"},
}
