"""The recipe of the identity regressor: public identities only, validated on public identities held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mibench.api import MibenchError, TrainedWeights, TrainingContext
from mibench.api.training import stored_weights
from mibench.data.split import GroundTruth, IdentitySplit
from mibench.rng import Streams

from .augment import channels_last_store
from .evaluation import LEAST_VARIANCE, explained_variance, identity_ranks, predictions, root_mean_squares
from .recipes import build
from .supervised import SupervisedRecipe, fit

FOREIGN = 1000  # distractors of the identification ranks, as many as the referee uses


@dataclass(frozen=True, kw_only=True)
class TrainRegressor(SupervisedRecipe):
    """Image to ground-truth identity vector, by weighted squared error on *public* images.

    Each coordinate's squared error is divided by the coordinate's variance over the training identities: the loss is
    then the mean unexplained variance (1 - R^2), in which a nose width that varies by 0.1 weighs as much as glasses
    that are 0 or 1. Without it the coordinates that vary most would take all of a small network.

    Faces are neither mirrored nor recoloured by default: a mirrored face has another parting, a recoloured one another
    skin, and the vector would no longer be true.
    """

    kind: ClassVar[str] = "regressor"

    architecture: str = "identity"
    width: float = 0.25
    epochs: int = 20
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    schedule: str = "cosine"
    warmup_epochs: float = 0.5
    batch_size: int = 128
    flip: bool = False
    augment: str = "shift"
    held_out: float = 0.1  # share of the public identities that validate
    images: int = 0  # at most so many public images; 0: all

    def run(self, data: IdentitySplit, context: TrainingContext) -> TrainedWeights:
        """Train on public images, from the checkpoint when there is one, and measure on held-out identities."""
        self.check()
        if not isinstance(data, GroundTruth):
            raise MibenchError(
                f"data set {data.name!r} does not know the truth about its identities",
                cure="train the regressor on one that does, such as synthfaces",
            )
        if not 0 < self.held_out < 1:
            raise MibenchError(f"held_out must lie between 0 and 1, got {self.held_out}")
        public = data.public(self.size, self.images or None)
        vectors = data.public_identity_vectors(len(public)).float()
        held = held_out_images(public.identities, self.held_out, context.seed)
        if bool(held.all()) or not bool(held.any()):
            raise MibenchError("too few public identities to hold any out", cure="use more images or another held_out")
        device = context.device
        train_store, test_store = (channels_last_store(public.pixels[part], device) for part in (~held, held))
        train_vectors, test_vectors = vectors[~held].to(device), vectors[held].to(device)
        streams = Streams(context.seed, ("train", self.kind, self.architecture))
        network, _, arguments = build(self, streams, identity_dim=data.identity_dim)
        weight = coordinate_weights(train_vectors)

        def loss(output: Tensor, goals: Tensor, epoch: int) -> Mapping[str, Tensor]:
            return {"loss": ((output.float() - goals).square() * weight).mean(dim=0).sum()}

        def evaluate(net: torch.nn.Module) -> Mapping[str, float]:
            predicted = predictions(net, test_store, context)
            return {"test_r2": float(explained_variance(predicted, test_vectors).nanmean())}

        fitted = fit(
            network,
            train_store,
            train_vectors,
            recipe=self,
            context=context,
            streams=streams,
            loss=loss,
            evaluate=evaluate,
        )
        weights = stored_weights(network, self.storage)
        network.load_state_dict(weights)  # what is measured below is what is stored
        predicted = predictions(network, test_store).cpu()
        names = [name for name, out in zip(public.identities, held.tolist(), strict=True) if out]
        return TrainedWeights(
            architecture=self.architecture,
            arguments=arguments,
            image=self.image,
            weights=weights,
            measured={
                **regression_report(predicted, vectors[held], names, data.foreign_identity_vectors(FOREIGN)),
                "train_images": len(train_store),
                "epoch": fitted.epoch,
                "selection": fitted.selection,
                "storage": self.storage,
            },
        )


def held_out_images(identities: tuple[str, ...], share: float, seed: int) -> Tensor:
    """Which images validate, bool ``(N,)``: all images of about ``share`` of the identities.

    By hash of the identity, so that an identity stays on its side when others come or go.
    """
    side: dict[str, bool] = {}
    for identity in identities:
        if identity not in side:
            digest = hashlib.sha256(f"{seed}/{identity}".encode()).digest()
            side[identity] = int.from_bytes(digest[:8], "big") / 2**64 < share
    return torch.tensor([side[identity] for identity in identities])


def coordinate_weights(vectors: Tensor) -> Tensor:
    """Weights ``(D,)`` of squared errors: 1 / variance, shared over the coordinates that vary; 0 for the others."""
    variance = vectors.var(dim=0, unbiased=False)
    varies = variance > LEAST_VARIANCE
    if not bool(varies.any()):
        raise MibenchError("all public identities are the same; a regressor has nothing to learn")
    return torch.where(varies, 1 / variance.clamp_min(LEAST_VARIANCE), 0.0) / varies.sum()


def regression_report(predicted: Tensor, truth: Tensor, identities: list[str], foreign: Tensor) -> dict[str, object]:
    """Errors of predictions ``(N, D)`` for held-out images, as plain numbers for a card.

    ``identification``: the rank of the true identity among all held-out and ``foreign`` ``(F, D)`` ones, from a single
    image, 1 = nearest; distances are plain Euclidean, or with each coordinate divided by the regressor's own error.
    """
    errors = root_mean_squares(predicted - truth)
    explained = explained_variance(predicted, truth)
    index: dict[str, int] = {}
    for identity in identities:
        index.setdefault(identity, len(index))
    own = torch.tensor([index[identity] for identity in identities])
    first = torch.tensor([identities.index(identity) for identity in index])
    candidates = torch.cat([truth[first], foreign.to(truth)])
    report: dict[str, object] = {
        "rmse": _rounded(errors.mean()),
        "rmse_per_coordinate": [_rounded(value) for value in errors],
        "r2": _rounded(explained.nanmean()),
        "r2_per_coordinate": [None if value.isnan() else _rounded(value) for value in explained],
        "held_out_images": len(truth),
        "held_out_identities": len(index),
    }
    identification: dict[str, object] = {"candidates": len(candidates)}
    for name, scale in (("euclidean", None), ("error_weighted", errors.clamp_min(1e-3))):
        ranks = identity_ranks(predicted, own, candidates, scale)
        identification[name] = {
            "first": _rounded((ranks == 1).double().mean()),
            "among_first_10": _rounded((ranks <= 10).double().mean()),
            "median_rank": int(ranks.median()),
        }
    return report | {"identification": identification}


def _rounded(value: Tensor) -> float:
    return round(float(value), 5)
