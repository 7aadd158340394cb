"""DMMIA: Model Inversion Attack via Dynamic Memory Learning (Qi et al., arXiv 2309.00013).

For every identity the weights phi of a StyleGAN2 mapping network are optimised so that candidates drawn from the prior
become the identity. Two kinds of prototypes carry what was learnt before: learnable ones within a class (IMR, see
``prototypes.py``) and a momentum memory across classes (IDR, see ``memory.py``). The hyper-parameters and their sources
are in ``settings.py``, the loop is in ``optimisation.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from mibench.api import Access, Context, Queries, Reconstruction, State
from mibench.attacks.batching import micro_batches
from mibench.attacks.initial_selection import pool, pool_confidence
from mibench.attacks.rendering import decoder
from mibench.attacks.requirements import require_mapping, require_styles
from mibench.rng import Streams

from .memory import MemoryBank
from .optimisation import DMMIAOptimisation
from .prototypes import representation
from .settings import DMMIASettings


@dataclass(frozen=True, kw_only=True)
class DMMIA(DMMIASettings):
    """Dynamic Memory Model Inversion. The defaults are the paper's method with the released hyper-parameters."""

    name: ClassVar[str] = "dmmia"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str] = "epochs"

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image; once more for their features, where the memory starts warm."""
        warm = self.memory_start == "warm" and bool(self.lambda_idr)
        return Queries(forward=(3 if warm else 2) * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """Steps with gradients, what is looked at beside them, new pools, and the views of the final ranking."""
        probes = (
            identities if self.order == "sequential" else 1
        )  # one image for each DMMIAOptimisation tells the dimension
        second = self.prototype_features == "after" and self.lambda_imr * self.prototype_gradient_scale
        looks = int(bool(self.memory_first and self.lambda_idr)) + int(bool(second))
        pools = (self.epochs - 1) // self.resample_every if self.resample_every else 0
        each = self.candidates * (self.epochs * (1 + looks) + max(self.selection_transforms, 1))
        return Queries(
            forward=probes + identities * (each + 2 * pools * self.pool_size),
            backward=identities * self.candidates * self.epochs,
        )

    def prepare(self, context: Context, streams: Streams) -> State:
        """The pool of latents and the victim's confidence in every class; with ``memory_start=warm`` their features."""
        if self.optimise == "styles":
            require_styles(require_mapping(context.prior), self.name, instead="w")
        latents = pool(context.prior, self.pool_size, streams)
        state = {
            "latents": latents,
            "confidence": pool_confidence(context, latents, self.truncation, text="search candidates"),
        }
        if self.memory_start == "warm" and self.lambda_idr:
            state |= self._pool_memory(context, latents)
        return state

    def reconstruct(self, context: Context, state: State, labels: Tensor, streams: Streams) -> Reconstruction:
        """Optimise all identities of the unit, then render and rank every candidate."""
        if self.order == "lockstep":
            run = DMMIAOptimisation(self, context, state, labels, streams)
            run.optimise()
            return run.result()
        parts: list[Reconstruction] = []
        banks: list[MemoryBank] | None = None
        for k in range(len(labels)):
            run = DMMIAOptimisation(self, context, state, labels[k : k + 1], streams, banks=banks)
            run.optimise()
            if self.memory_scope == "unit":
                banks = run.banks
            parts.append(run.result())
        return _join(parts)

    @torch.no_grad()
    def _pool_memory(self, context: Context, latents: Tensor) -> dict[str, Tensor]:
        """Mean feature of the pool's images by predicted class: a memory to start from."""
        decode = decoder(require_mapping(context.prior), self.truncation)
        seen: list[tuple[Tensor, Tensor]] = []
        for part in micro_batches(latents.shape[0], context):
            images = context.fit(decode(latents[part].to(context.device)))
            features, logits = context.victim.features_and_logits(images)
            seen.append((representation(features, logits, self.features), logits.argmax(1)))
        # one product over the pool: a sum by pieces would depend on the micro-batch
        member = nn.functional.one_hot(torch.cat([y for _, y in seen]), context.victim.num_classes).float()
        sums, counts = member.T @ torch.cat([h for h, _ in seen]), member.sum(0)
        return {"memory": (sums / counts.clamp(min=1)[:, None]).cpu(), "memory_seen": (counts > 0).cpu()}


def _join(parts: list[Reconstruction]) -> Reconstruction:
    """One result from the results of identities that were attacked one after another."""
    return Reconstruction(
        images=torch.cat([p.images for p in parts]),
        labels=torch.cat([p.labels for p in parts]),
        confidence=torch.cat([p.confidence for p in parts]),
        latents=torch.cat([p.latents for p in parts]),
        curves={name: torch.cat([p.curves[name] for p in parts]) for name in parts[0].curves},
        notes=tuple(dict.fromkeys(note for p in parts for note in p.notes)),
    )
