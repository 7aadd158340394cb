"""The contract between the referee and the parties (attacks, targets, reports).

Conventions, stated once:

* Images are float32 tensors ``(N, 3, H, W)``, RGB, in [0, 1]. Stored images are uint8 ``(N, 3, H, W)``.
* Labels are int64 tensors ``(N,)``. ``C`` is the number of classes, ``D`` a feature dimension, ``U`` the number of
  identities in a unit.
* A network's own normalisation (mean, std) lives inside its wrapper, never in an attack.
"""

from mibench.api.accuracy import Accuracy
from mibench.api.answer_filter import AnswerFilter, AnswerStage, FilteredAnswers, ReferenceAnswers
from mibench.api.attack import Attack, Context, MappingPrior, Prior, Reconstruction, State
from mibench.api.defence import Batch, Defence, TrainingHooks, TrainingTask
from mibench.api.metric import TOPICS, VIEWS, Estimate, Measured, Metric, MetricInfo, Topic, View, metric
from mibench.api.network import Network, network_traits
from mibench.api.state_dict import load_strictly, mismatch_of
from mibench.api.victim import Access, AccessError, BatchStatistics, ClassifierOutput, Queries, QueryLimit, Victim
from mibench.api.weights import (
    Checkpoint,
    ExplainingImporter,
    Importer,
    PriorTrainingData,
    Recipe,
    TrainedWeights,
    TrainingContext,
    WeightsContents,
)
from mibench.errors import MibenchError, MisfitError, Problem, StateDictMismatch, suggest
from mibench.records import AccessName, Card, CardDefence, CardName, ImageSpec, WeightsFile
from mibench.system.foreign_code import foreign, text_of, worded
from mibench.system.source_code import modules_of, source_digest

__all__ = [
    "TOPICS",
    "VIEWS",
    "Access",
    "AccessError",
    "AccessName",
    "Accuracy",
    "AnswerFilter",
    "AnswerStage",
    "Attack",
    "Batch",
    "BatchStatistics",
    "Card",
    "CardDefence",
    "CardName",
    "Checkpoint",
    "ClassifierOutput",
    "Context",
    "Defence",
    "Estimate",
    "ExplainingImporter",
    "FilteredAnswers",
    "ImageSpec",
    "Importer",
    "MappingPrior",
    "Measured",
    "Metric",
    "MetricInfo",
    "MibenchError",
    "MisfitError",
    "Network",
    "Prior",
    "PriorTrainingData",
    "Problem",
    "Queries",
    "QueryLimit",
    "Recipe",
    "Reconstruction",
    "ReferenceAnswers",
    "State",
    "StateDictMismatch",
    "Topic",
    "TrainedWeights",
    "TrainingContext",
    "TrainingHooks",
    "TrainingTask",
    "Victim",
    "View",
    "WeightsContents",
    "WeightsFile",
    "foreign",
    "load_strictly",
    "metric",
    "mismatch_of",
    "modules_of",
    "network_traits",
    "source_digest",
    "suggest",
    "text_of",
    "worded",
]
