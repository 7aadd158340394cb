"""Gradients of the attacked model: does a defence hide them, or what they lead to?

Measured by the referee on the network itself, whatever access an attack had. A white-box attack that fails on a network
whose gradients vanish, vary from draw to draw or are flat has not shown that there is nothing to get
(:mod:`mibench.reports.masking` looks for such signs).

Source: Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018 (shattered,
stochastic and vanishing gradients), there for adversarial examples.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from mibench.api import Estimate, Measured, MetricInfo, metric

from . import estimates
from .inputs import ScoringInputs
from .loss_gradients import NoGradientError

PUBLIC = 16  # images for each identity
CONFIDENT = 0.999  # a probability above it ...
FLAT = 1e-6  # ... with a gradient norm below it: the loss is flat
LEAST = 1e-20  # of a norm before its logarithm: what has vanished is not infinitely far from what has not
EXTRACTOR = "attacked model"
_AT_PUBLIC = ("log_gradient_norm_public", "vanished_gradient_public", "gradient_cosine")
_AT_OWN = ("log_gradient_norm", "vanished_gradient", "flat_confident")

Array = NDArray[np.float64]


def _info(name: str, title: str, *, share: bool = False) -> MetricInfo:
    return MetricInfo(name, title, percent=share, proportion=share, column=name, topic="victim", views=(), tested=False)


@metric(
    _info("log_gradient_norm_public", "log10 of the gradient norm, public images"),
    _info("vanished_gradient_public", "gradient vanishes, public images", share=True),
    _info("gradient_cosine", "cosine of repeated gradients"),
    _info("log_gradient_norm", "log10 of the gradient norm"),
    _info("vanished_gradient", "gradient vanishes", share=True),
    _info("flat_confident", "confident where the loss is flat", share=True),
)
def measure(inputs: ScoringInputs) -> Measured:
    """Of the cross entropy with respect to pixels: its gradient at public images and at selected reconstructions.

    At public images every identity has one value, the median or mean over them, which all its rows repeat.
    """
    names = (*_AT_PUBLIC, *_AT_OWN)
    if inputs.gradients is None:
        reason = inputs.reasons.get("gradients", "the attacked model was not given to the scoring")
        return Measured([estimates.null(name, reason, extractor=EXTRACTOR) for name in names], {})
    identities = inputs.samples["identity"].to_numpy(dtype=np.int64, copy=True)
    try:
        columns = _at_public(inputs, identities) | _at_own(inputs, identities)
    except NoGradientError as error:
        return Measured([estimates.null(name, error.cause, extractor=EXTRACTOR) for name in names], {})
    return Measured([_estimate(inputs, name, columns) for name in names], columns)


def _estimate(inputs: ScoringInputs, name: str, columns: dict[str, Array]) -> Estimate:
    if name not in columns:
        return estimates.null(name, "there is no public image (protocol.public_control)", extractor=EXTRACTOR)
    params = {"images_per_identity": PUBLIC} if name in _AT_PUBLIC else {}
    return inputs.mean_of(name, columns[name], extractor=EXTRACTOR, params=params)


def _at_public(inputs: ScoringInputs, identities: NDArray[np.int64]) -> dict[str, Array]:
    assert inputs.gradients is not None
    labels, rows = np.unique(identities, return_inverse=True)
    found = inputs.gradients.at_public(torch.from_numpy(labels), PUBLIC)
    if found is None:
        return {}
    logarithms = np.log10(found.norm.clamp_min(LEAST).numpy())
    values = (np.median(logarithms, axis=1), found.vanished.double().mean(dim=1).numpy(), found.cosine.mean(1).numpy())
    return {name: each[rows] for name, each in zip(_AT_PUBLIC, values, strict=True)}


def _at_own(inputs: ScoringInputs, identities: NDArray[np.int64]) -> dict[str, Array]:
    assert inputs.gradients is not None
    selected = torch.from_numpy(inputs.selected.nonzero()[0])
    found = inputs.gradients.at_reconstructions(selected, torch.from_numpy(identities)[selected])
    flat = (found.confidence > CONFIDENT) & (found.norm < FLAT)
    columns = {}
    values = (found.norm.clamp_min(LEAST).log10(), found.vanished.double(), flat.double())
    for name, each in zip(_AT_OWN, values, strict=True):
        columns[name] = np.full(len(identities), np.nan)  # rows that are not selected are not looked at
        columns[name][selected.numpy()] = each.numpy()
    return columns
