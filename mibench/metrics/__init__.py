"""Metrics: pure functions on tensors, and for each group of metrics a function of
:class:`~mibench.metrics.inputs.ScoringInputs` that says about itself what it yields (:func:`mibench.api.metric`).

Names with ``legacy`` are what the field's code computes where that differs from the published definition.
"""

METRICS: dict[str, str] = {
    "accuracy": "mibench.metrics.accuracy:measure",
    "accuracy-legacy": "mibench.metrics.accuracy:measure_legacy",
    "knn-distance": "mibench.metrics.distance:measure_knn",
    "feature-distance": "mibench.metrics.distance:measure_feature",
    "centre-distance": "mibench.metrics.distance:measure_centre",
    "prdc": "mibench.metrics.prdc:measure",
    "prdc-ppa-legacy": "mibench.metrics.prdc:measure_ppa_legacy",
    "diversity": "mibench.metrics.diversity:measure",
    "frechet-judge": "mibench.metrics.frechet:measure_judge",
    "fid": "mibench.metrics.frechet:measure_fid",
    "fid-ppa-legacy": "mibench.metrics.frechet:measure_fid_ppa_legacy",
    "fid-success-only": "mibench.metrics.frechet:measure_fid_success_only",
    "true-identity": "mibench.metrics.identity:measure",
    "controls": "mibench.metrics.controls:measure",
    "gradients": "mibench.metrics.gradients:measure",
    "second-judge": "mibench.metrics.second_judge:measure",
}

DEFAULT_METRICS: tuple[str, ...] = (
    "accuracy",
    "knn-distance",
    "feature-distance",
    "prdc",
    "diversity",
    "frechet-judge",
    "fid",
    "true-identity",
    "controls",
    "accuracy-legacy",
)
