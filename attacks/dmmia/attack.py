"""DMMIA: Model Inversion Attack via Dynamic Memory Learning (Qi et al., arXiv 2309.00013).

For every identity the weights phi of a StyleGAN2 mapping network are optimised so that candidates drawn from the prior
become the identity. Two kinds of prototypes carry what was learnt before: learnable ones within a class (IMR, see
``prototypes.py``) and a momentum memory across classes (IDR, see ``memory.py``). Where the paper is silent the values
come from the released code (easyrobust); where that contradicts the paper (it does not run as published), the paper
wins and the released behaviour is an option. The loop itself is in ``dmmia_unit.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mibench.api import Access, Attack, Context, MibenchError, Queries, Reconstruction, State
from mibench.attacks.initial_selection import pieces, pool, pool_confidence
from mibench.attacks.losses import identity_loss
from mibench.rng import Streams

from .memory import MemoryBank
from .optimisation import UnitRun


@dataclass(frozen=True, kw_only=True)
class DMMIA(Attack):
    """Dynamic Memory Model Inversion. The defaults are the paper's method with the released hyper-parameters."""

    name: ClassVar[str] = "dmmia"
    access: ClassVar[Access] = Access.GRADIENTS
    needs_mapping: ClassVar[bool] = True
    budget_setting: ClassVar[str] = "epochs"

    unit_size: int = 10  # ours: identities attacked in lock-step, sharing one memory
    pool_size: int = 5000  # released configuration, CelebA with FFHQ
    candidates: int = 200  # released configuration = PPA
    epochs: int = 70  # figure 1 of the paper; released configuration, CelebA
    batch_size: int = 8  # released configuration (4 x 2)
    truncation: float = 0.5  # released configuration = PPA
    crop_scale: tuple[float, float] = (0.9, 1.0)  # released configuration = PPA
    resample_every: int = 0  # epochs between new candidates; 0: once (released), 1: the paper's pseudo-code

    optimise: Literal["mapping", "w"] = "mapping"  # paper: mapping; released code: w
    scope: Literal["identity", "shared"] = "identity"  # one phi for each identity, or one for the unit
    learning_rate: float = 5e-4  # ours: matches the displacement of w in PPA; the released 0.005 belongs to w
    betas: tuple[float, float] = (0.1, 0.1)  # released configuration = PPA
    loss: str = "cross_entropy"  # paper: L_ce; released code: poincare
    lambda_imr: float = 1.0  # lambda_1, released code
    lambda_idr: float = 1.0  # lambda_2, released code
    prototype_gradient_scale: float = 1.0  # ours; released code: 1e-6

    features: Literal["normalised", "raw", "logits"] = "normalised"  # h / |h|; raw h; o / |o|
    temperature: float = 1.0  # implicit in the released code
    likelihood: Literal["softmax", "mean"] = "softmax"  # paper; mean: released code
    objective: Literal["neg_log", "ratio"] = "neg_log"  # paper; ratio: released code (its sign is reversed)
    normalise_prototypes: bool = True  # W and M rows at use; False: released IMR

    prototypes: int = 800  # N_w, released code
    positives: int = 400  # rho, released code
    prototype_std: float = 0.01  # released code
    prototype_rate: float = 1e-5  # released code (SGD)
    prototype_momentum: float = 0.9  # released code
    prototype_decay: float = 5e-4  # released code
    prototype_features: Literal["before", "after"] = "before"  # features of the phi-step, or of a second forward pass

    momentum: float = 0.7  # r, paper's update, released value
    memory_slots: int = 1  # N_m, released code
    memory_key: Literal["predicted", "target"] = "predicted"  # paper; target: released code
    memory_update: Literal["mean", "sequential"] = "mean"  # paper; sequential: released code
    memory_start: Literal["empty", "random", "warm"] = "empty"  # paper; random: released intent; warm: pool features
    memory_scope: Literal["unit", "identity"] = "unit"  # ours: shared in lock-step; identity: a bank of its own
    memory_samples: Literal["all", "correct"] = "all"  # which samples are remembered
    memory_renormalise: bool = False  # rows back to unit length after each update
    memory_first: bool = False  # released code updates M before phi
    order: Literal["lockstep", "sequential"] = "lockstep"  # sequential: one class after another, M handed on (released)

    selection_transforms: int = 100  # PPA, final selection

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        if not 0 < self.positives < self.prototypes:
            raise MibenchError(
                f"dmmia: positives must lie between 1 and prototypes - 1, got {self.positives} of {self.prototypes}"
            )
        for name in ("pool_size", "candidates", "epochs", "batch_size", "unit_size", "memory_slots"):
            if getattr(self, name) < 1:
                raise MibenchError(f"dmmia: {name} must be at least 1, got {getattr(self, name)}")
        for name in (
            *("resample_every", "prototype_rate", "selection_transforms", "truncation", "prototype_std"),
            *("lambda_imr", "lambda_idr", "prototype_gradient_scale", "prototype_decay"),
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise MibenchError(f"dmmia: {name} must be finite and not negative, got {getattr(self, name)}")
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise MibenchError(f"dmmia: {name} must be positive and finite, got {getattr(self, name)}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise MibenchError(
                f"dmmia: crop_scale must be two areas in (0, 1], the smaller first, got {self.crop_scale}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"dmmia: betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.prototype_momentum < 1:
            raise MibenchError(f"dmmia: prototype_momentum must lie in [0, 1), got {self.prototype_momentum}")
        if self.scope == "shared" and (self.optimise == "w" or self.order == "sequential"):
            raise MibenchError(
                "dmmia: scope=shared is one mapping network for a unit attacked in lock-step; it goes with "
                "optimise=mapping and order=lockstep only"
            )
        if self.optimise == "w" and not self.truncation:
            raise MibenchError("dmmia: optimise=w steps truncated styles; truncation must be above 0, got 0")
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"dmmia: candidates ({self.candidates}) are chosen from the pool; raise pool_size ({self.pool_size})"
            )
        if reason := self._no_rival_possible():
            raise MibenchError(
                f"dmmia: with {reason} no other class can enter the memory of an identity, so that L_idr is 0 in every "
                "step; set lambda_idr=0 to attack without IDR, or memory_start=warm"
            )
        if not 0 <= self.momentum <= 1:
            raise MibenchError(f"dmmia: momentum must lie in [0, 1], got {self.momentum}")

    def _no_rival_possible(self) -> str | None:
        """The settings that leave a memory with nothing but its identity's own class, in words; None elsewhere."""
        if not self.lambda_idr or self.memory_start != "empty":
            return None
        own = ["memory_key=target"] if self.memory_key == "target" else []
        own += ["memory_samples=correct"] if self.memory_samples == "correct" else []
        alone = ["memory_scope=identity"] if self.memory_scope == "identity" else []
        alone += ["unit_size=1"] if self.unit_size == 1 else []
        return f"{own[0]} and {alone[0]}" if own and alone else None

    def planned_preparation(self) -> Queries:
        """Every image of the pool and its mirror image; once more for their features, where the memory starts warm."""
        warm = self.memory_start == "warm" and bool(self.lambda_idr)
        return Queries(forward=(3 if warm else 2) * self.pool_size)

    def planned_queries(self, identities: int) -> Queries:
        """Steps with gradients, what is looked at beside them, new pools, and the views of the final ranking."""
        probes = identities if self.order == "sequential" else 1  # an image for each UnitRun tells the dimension
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
            run = UnitRun(self, context, state, labels, streams)
            run.optimise()
            return run.result()
        parts: list[Reconstruction] = []
        banks: list[MemoryBank] | None = None
        for k in range(len(labels)):
            run = UnitRun(self, context, state, labels[k : k + 1], streams, banks=banks)
            run.optimise()
            if self.memory_scope == "unit":
                banks = run.banks
            parts.append(run.result())
        return _join(parts)

    @torch.no_grad()
    def _pool_memory(self, context: Context, latents: Tensor) -> dict[str, Tensor]:
        """Mean feature of the pool's images by predicted class: a memory to start from."""
        prior: Any = context.prior
        seen: list[tuple[Tensor, Tensor]] = []
        for part in pieces(latents.shape[0], context):
            w = prior.truncate(prior.mapping(latents[part].to(context.device)), self.truncation)
            features, logits = context.victim.features_and_logits(context.fit(prior.synthesis(w)))
            seen.append((self.representation(features, logits), logits.argmax(1)))
        # one product over the pool: a sum by pieces would depend on the micro-batch
        member = nn.functional.one_hot(torch.cat([y for _, y in seen]), context.victim.num_classes).float()
        sums, counts = member.T @ torch.cat([h for h, _ in seen]), member.sum(0)
        return {"memory": (sums / counts.clamp(min=1)[:, None]).cpu(), "memory_seen": (counts > 0).cpu()}

    def representation(self, features: Tensor, logits: Tensor) -> Tensor:
        """What prototypes are compared with ``(N, D)``, float32."""
        if self.features == "raw":
            return features.float()
        return nn.functional.normalize((logits if self.features == "logits" else features).float(), dim=1)


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
