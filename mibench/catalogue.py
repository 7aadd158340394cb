"""What the referee itself offers. Names only: nothing is imported until it is asked for."""

from __future__ import annotations

from mibench.metrics import METRICS

CATALOGUE: dict[str, dict[str, str]] = {
    "dataset": {
        "synthfaces": "mibench.data.synthfaces:SynthFaces",
        "celeba": "mibench.data.celeba:CelebA",
        "celeba1000": "mibench.data.celeba1000:CelebA1000",
        "facescrub": "mibench.data.facescrub:FaceScrub",
        "stanford_dogs": "mibench.data.stanford_dogs:StanfordDogs",
        "folder": "mibench.data.folder:Folder",
        "ffhq": "mibench.data.ffhq:FFHQ",
        "metfaces": "mibench.data.metfaces:MetFaces",
        "afhq": "mibench.data.afhq:AFHQ",
    },
    "metric": METRICS,
    "protocol": {
        "mibench": "mibench.presets",
    },
    "suite": {
        "mibench": "mibench.suites",
    },
}
