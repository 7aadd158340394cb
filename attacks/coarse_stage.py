"""C2FMI's first stage: codes whose images lie, for an embedding network, where the victim's class would lie.

Published, the embedding network tells 10,575 public people apart. An attack here is handed public images without names,
so each image is a class of its own, shown in views of which the network must not care (Dosovitskiy et al., NIPS 2014,
arXiv 1406.6909: exemplars). A second network, the inverse map, learns the way from the victim's scores of the pool to
the embedding of its images; given the scores of a certain y, it says where y would lie.

Legend: U identities, B images, S codes of a stage, C classes of the victim, D of the embedding, W dimension of a code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, leaky_relu, mse_loss, normalize

from mibench.api import Context, MibenchError, Prior
from mibench.api.training import initial_weights
from mibench.rng import Streams

from .batching import blocks, stage
from .mirror_space import codes_of
from .rendering import Decoder
from .strong_views import apply_strong_views, draw_strong_views
from .surrogate_networks import SmallNetwork
from .surrogate_training import half_cosine, train

LIFT, LEAST = 50.0, -1000.0  # released: added to logarithms of scores; the least logarithm
CERTAIN = 1e18  # released: y's share of the scores that the inverse map is given, beside |N(0, 1)|
SLOPE, DROPPED = 0.2, 0.25  # released: of the inverse map
RATE, BATCH = 1e-3, 128  # released: Adam of the inverse map; ours: of the embedding as well
AVERAGED = 2  # released: codes of the prior whose mean a start is


def inverse_input(scores: Tensor, keep: int | None = None) -> Tensor:
    """What the inverse map is given of scores ``(B, C)``: logarithms, lifted, of length 1.

    Args:
        scores: probabilities.
        keep: how many of the highest are told; the others become 0 after the lifting, as vectors of the released code
            show. None: all.
    """
    h = scores.log().clamp(min=LEAST) + LIFT
    h = h + (-h.amin(dim=1, keepdim=True)).clamp(min=0)
    if keep is not None:
        told = h.topk(min(keep, h.shape[1]), dim=1)
        h = torch.zeros_like(h).scatter(1, told.indices, told.values)
    return normalize(h, dim=1)


class InverseMap(nn.Module):
    """From scores ``(B, C)``, of which it is told the ``keep`` highest, to the embedding's logits ``(B, D)``."""

    def __init__(self, num_classes: int, embedded: int, hidden: int, keep: int | None) -> None:
        super().__init__()
        self.keep = keep
        self.first, self.second = nn.Linear(num_classes, hidden), nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, embedded)

    def forward(self, scores: Tensor, kept: Tensor | None = None) -> Tensor:
        """Logits of the embedding; ``kept`` ``(B, hidden)`` says, in training, which hidden units dropout leaves."""
        h = leaky_relu(self.first(inverse_input(scores, self.keep)), SLOPE)
        h = leaky_relu(self.second(h), SLOPE)
        logits: Tensor = self.out(h if kept is None else h * kept / (1 - DROPPED))
        return logits


def falling(t: float) -> float:
    """The inverse map's rate (released): by 0.8 after every second of 20 epochs."""
    return 0.8 ** int(10 * t)


@dataclass(frozen=True)
class CoarseStage:
    """Settings of the stage.

    Attributes:
        embedded: public images, each a class of the embedding.
        width: of the embedding network.
        embedding_steps, inverse_steps: batches that the two networks are trained for.
        hidden: units of the inverse map's two hidden layers.
        keep: highest scores that the inverse map is told; None: all.
        starts: ``S``.
        steps, rate: of Adam on codes.
    """

    embedded: int
    width: int
    embedding_steps: int
    inverse_steps: int
    hidden: int
    keep: int | None
    starts: int
    steps: int
    rate: float

    def networks(self, context: Context) -> nn.ModuleDict:
        """Both networks, untrained."""
        inverse = InverseMap(context.victim.num_classes, self.embedded, self.hidden, self.keep)
        return nn.ModuleDict({"embedding": SmallNetwork(self.embedded, self.width), "inverse": inverse})

    def learn(self, context: Context, images: Tensor, scores: Tensor, streams: Streams) -> nn.ModuleDict:
        """Train the embedding on public images, then the inverse map on the pool's images and scores.

        Args:
            context: public images.
            images: of the pool, uint8 ``(N, 3, S, S)`` on the CPU.
            scores: the victim's ``(N, C)`` on the CPU.
            streams: weights, batches and views.

        Raises:
            MibenchError: there are fewer public images than ``embedded``.
        """
        public = None if context.public is None else context.public(self.embedded)
        if public is None or len(public) < self.embedded:
            raise MibenchError(
                f"c2fmi: the embedding learns {self.embedded} public images, there are "
                f"{0 if public is None else len(public)}",
                cure="lower public_images, or set embedding=none",
            )
        exemplars = (255 * public).round().to(torch.uint8).cpu()
        networks = initial_weights(streams, "weights", build=lambda: self.networks(context)).to(context.device)
        embedding, inverse = networks["embedding"], networks["inverse"]
        known = scores.to(context.device)

        def told_apart(shown: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
            seen = apply_strong_views(shown, draw_strong_views(len(rows), generator))
            return cross_entropy(embedding((seen - 0.5) / 0.25), rows.to(context.device, non_blocking=True))

        def mapped(shown: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
            with torch.no_grad():
                wanted = embedding((shown - 0.5) / 0.25)
            kept = torch.rand(len(rows), self.hidden, generator=generator) >= DROPPED
            rows, kept = (drawn.to(context.device, non_blocking=True) for drawn in (rows, kept))
            return mse_loss(inverse(known[rows], kept), wanted)

        for number, name, loss, shown, steps, schedule in (
            (1, "embedding", told_apart, exemplars, self.embedding_steps, half_cosine),
            (2, "inverse", mapped, images, self.inverse_steps, falling),
        ):
            train(
                networks[name],
                torch.optim.Adam(networks[name].parameters(), lr=RATE),
                loss,
                shown,
                steps=steps,
                batch_size=BATCH,
                schedule=schedule,
                context=stage(context, number, 3),  # the first was the pool
                streams=streams.child(name),
            )
        return networks

    def search(
        self, networks: nn.ModuleDict, context: Context, prior: Prior, decode: Decoder, labels: Tensor, streams: Streams
    ) -> Tensor:
        """Codes ``(U, S, W)`` of identities ``labels`` ``(U,)``; the victim is shown nothing."""
        names, classes = labels.tolist(), context.victim.num_classes
        drawn = [prior.sample(AVERAGED * self.starts, streams.generator("identity", name, "coarse")) for name in names]
        codes = codes_of(prior, torch.cat(drawn), context).view(len(names), self.starts, AVERAGED, -1).mean(dim=2)
        codes = codes.to(context.device).requires_grad_()
        adam = torch.optim.Adam([codes], lr=self.rate)
        for step in range(self.steps):
            generators = [streams.generator("identity", name, "coarse", step) for name in names]
            noise = torch.stack([torch.randn(self.starts, classes, generator=own).abs() for own in generators])
            noise = noise.to(context.device, non_blocking=True)
            certain = noise.scatter(2, labels.to(context.device)[:, None, None].expand(-1, self.starts, 1), CERTAIN)
            with torch.no_grad():
                wanted = networks["inverse"](normalize(certain.flatten(0, 1), dim=1)).view(*codes.shape[:2], -1)
            adam.zero_grad()
            for identities, block in blocks(codes.shape[:2], context):
                images = context.fit(decode(codes[identities, block].flatten(0, 1)))
                found = networks["embedding"]((images - 0.5) / 0.25)
                (found - wanted[identities, block].flatten(0, 1)).square().mean(dim=1).sum().backward()
            adam.step()
            context.progress(step + 1, self.steps, "coarse")
        return codes.detach()
