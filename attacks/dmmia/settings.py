"""The hyper-parameters of DMMIA. Where a value comes from stands behind it.

Where the paper is silent the values come from the released code (easyrobust); where that contradicts the paper (it does
not run as published), the paper wins and the released behaviour is an option.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from mibench.api import Attack, MibenchError
from mibench.attacks.losses import identity_loss
from mibench.attacks.requirements import check_ranges
from mibench.attacks.views import Views


@dataclass(frozen=True, kw_only=True)
class DMMIASettings(Attack):
    """The hyper-parameters of DMMIA, each with its source behind it, and what they refuse."""

    later_settings: ClassVar[tuple[str, ...]] = ("views", "idr_from")

    unit_size: int = 10  # ours: identities attacked in lock-step, sharing one memory
    pool_size: int = 5000  # released configuration, CelebA with FFHQ
    candidates: int = 200  # released configuration = PPA
    epochs: int = 70  # figure 1 of the paper; released configuration, CelebA
    batch_size: int = 8  # released configuration (4 x 2)
    truncation: float = 0.5  # released configuration = PPA
    crop_scale: tuple[float, float] = (0.9, 1.0)  # released configuration = PPA
    resample_every: int = 0  # epochs between new candidates; 0: once (released), 1: the paper's pseudo-code

    optimise: Literal["mapping", "w", "styles"] = "mapping"  # paper; w: released code; styles: ours, a w for each layer
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
    memory_update: Literal["mean", "sequential", "growing"] = "mean"  # paper; released code; the paper's pseudo-code
    memory_start: Literal["empty", "random", "warm"] = "empty"  # paper; random: released intent; warm: pool features
    memory_scope: Literal["unit", "identity"] = "unit"  # ours: shared in lock-step; identity: a bank of its own
    memory_samples: Literal["all", "correct"] = "all"  # which samples are remembered
    memory_renormalise: bool = False  # rows back to unit length after each update
    memory_first: bool = False  # released code updates M before phi
    idr_from: int = 0  # ours: epochs without L_idr, while the memory fills
    order: Literal["lockstep", "sequential"] = "lockstep"  # sequential: one class after another, M handed on (released)

    selection_transforms: int = 100  # PPA, final selection

    views: Views = "crops"  # in each step; strong, nuisance: ours, docs/consensus.md

    def __post_init__(self) -> None:
        identity_loss(self.loss)
        if not 0 < self.positives < self.prototypes:
            raise MibenchError(
                f"dmmia: positives must lie between 1 and prototypes - 1, got {self.positives} of {self.prototypes}"
            )
        check_ranges(
            self,
            at_least_one=("pool_size", "candidates", "epochs", "batch_size", "unit_size", "memory_slots"),
            positive=("learning_rate", "temperature"),
            not_negative=(
                *("resample_every", "prototype_rate", "selection_transforms", "truncation", "prototype_std"),
                *("lambda_imr", "lambda_idr", "prototype_gradient_scale", "prototype_decay", "idr_from"),
            ),
        )
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise MibenchError(
                f"dmmia: crop_scale must be two areas in (0, 1], the smaller first, got {self.crop_scale}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise MibenchError(f"dmmia: betas must lie in [0, 1), got {self.betas}")
        if not 0 <= self.prototype_momentum < 1:
            raise MibenchError(f"dmmia: prototype_momentum must lie in [0, 1), got {self.prototype_momentum}")
        if self.scope == "shared" and (self.optimise != "mapping" or self.order == "sequential"):
            raise MibenchError(
                "dmmia: scope=shared is one mapping network for a unit attacked in lock-step; it goes with "
                "optimise=mapping and order=lockstep only"
            )
        if self.optimise != "mapping" and not self.truncation:
            raise MibenchError(
                f"dmmia: optimise={self.optimise} steps truncated styles; truncation must be above 0, got 0"
            )
        if self.candidates > self.pool_size:
            raise MibenchError(
                f"dmmia: candidates ({self.candidates}) are chosen from the pool",
                cure=f"raise pool_size ({self.pool_size})",
            )
        if reason := self._no_rival_possible():
            raise MibenchError(
                f"dmmia: with {reason} no other class can enter the memory of an identity, so that L_idr is 0 in "
                "every step",
                cure="set lambda_idr=0 to attack without IDR, or memory_start=warm",
            )
        if self.lambda_idr and self.idr_from >= self.epochs:
            raise MibenchError(
                f"dmmia: idr_from ({self.idr_from}) is not reached in {self.epochs} epochs",
                cure="set lambda_idr=0 to attack without IDR",
            )
        if self.memory_update == "growing" and self.memory_slots > 1:
            raise MibenchError(
                "dmmia: memory_update=growing keeps one mean of all that a class ever got",
                cure=f"leave memory_slots at 1, got {self.memory_slots}",
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
