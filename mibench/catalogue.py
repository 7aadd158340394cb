"""What the referee itself offers. Names only: nothing is imported until it is asked for."""

from __future__ import annotations

from mibench.metrics import METRICS

CATALOGUE: dict[str, dict[str, str]] = {
    "dataset": {
        "synthfaces": "mibench.data.datasets.synthfaces:SynthFaces",
        "celeba": "mibench.data.datasets.celeba:CelebA",
        "celeba1000": "mibench.data.datasets.celeba1000:CelebA1000",
        "facescrub": "mibench.data.datasets.facescrub:FaceScrub",
        "stanford_dogs": "mibench.data.datasets.stanford_dogs:StanfordDogs",
        "folder": "mibench.data.datasets.folder:Folder",
        "ffhq": "mibench.data.datasets.ffhq:FFHQ",
        "metfaces": "mibench.data.datasets.metfaces:MetFaces",
        "afhq": "mibench.data.datasets.afhq:AFHQ",
    },
    "metric": METRICS,
    "executor": {
        "local": "mibench.sweeps.executors.local:LocalExecutor",
        "ray": "mibench.sweeps.executors.ray_cluster:RayExecutor",
    },
    "protocol": {
        "mibench": "mibench.protocols",
    },
    "suite": {
        "mibench": "mibench.suites",
    },
}
