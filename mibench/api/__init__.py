"""The contract between the referee and the parties (attacks, targets, reports).

Conventions, stated once:

* Images are float32 tensors ``(N, 3, H, W)``, RGB, in [0, 1]. Stored images are uint8 ``(N, 3, H, W)``.
* Labels are int64 tensors ``(N,)``. ``C`` is the number of classes, ``D`` a feature dimension, ``U`` the number of
  identities in a unit.
* A network's own normalisation (mean, std) lives inside its wrapper, never in an attack.
"""

from mibench.api.attack import Attack, Context, Prior, Reconstruction, State
from mibench.api.metric import TOPICS, VIEWS, Estimate, Measured, Metric, MetricInfo, Topic, View, metric
from mibench.api.victim import Access, AccessError, ClassifierOutput, Queries, QueryLimit, Victim
from mibench.api.weights import (
    Checkpoint,
    Importer,
    PriorTrainingData,
    Recipe,
    TrainedWeights,
    TrainingContext,
    WeightsContents,
)
from mibench.errors import MibenchError, MisfitError, StateDictMismatch
from mibench.records import Card, ImageSpec, WeightsFile
from mibench.system.foreign_code import foreign, text_of, worded

__all__ = [
    "TOPICS",
    "VIEWS",
    "Access",
    "AccessError",
    "Attack",
    "Card",
    "Checkpoint",
    "ClassifierOutput",
    "Context",
    "Estimate",
    "ImageSpec",
    "Importer",
    "Measured",
    "Metric",
    "MetricInfo",
    "MibenchError",
    "MisfitError",
    "Prior",
    "PriorTrainingData",
    "Queries",
    "QueryLimit",
    "Recipe",
    "Reconstruction",
    "State",
    "StateDictMismatch",
    "Topic",
    "TrainedWeights",
    "TrainingContext",
    "Victim",
    "View",
    "WeightsContents",
    "WeightsFile",
    "foreign",
    "metric",
    "text_of",
    "worded",
]
