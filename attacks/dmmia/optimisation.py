"""One unit of DMMIA: its variables, prototypes and memory, and the loop over them (see ``attack.py`` for the method).

Legend: U identities of a unit, K candidates, B candidates in a step, W dimension of w, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from mibench.api import Context, Reconstruction, State
from mibench.attacks.batching import blocks, micro_batches, scatter_into_step, shuffled_candidates
from mibench.attacks.diagnostics import by_epoch, stacked, stray_note
from mibench.attacks.final_ranking import robust_confidence
from mibench.attacks.initial_selection import choose
from mibench.attacks.losses import IDENTITY_LOSSES
from mibench.attacks.parameterisation import DirectStyles, LayerStyles, MappingNetworks, StyleParameters, gather_rows
from mibench.attacks.rendering import render_images
from mibench.attacks.requirements import require_mapping
from mibench.attacks.views import apply_views, draw_views
from mibench.rng import Streams

from .memory import MemoryBank
from .prototypes import LikelihoodForm, draw_prototypes, imr_loss, representation
from .settings import DMMIASettings

SATURATED = 0.05  # an L_imr below this carries hardly any gradient


class DMMIAOptimisation:
    """One unit: its variables, prototypes and memory, and the loop over them."""

    def __init__(
        self,
        attack: DMMIASettings,
        context: Context,
        state: State,
        labels: Tensor,
        streams: Streams,
        banks: list[MemoryBank] | None = None,
    ) -> None:
        self.attack, self.context, self.streams, self.state = attack, context, streams, state
        self.prior = require_mapping(context.prior)
        self.form = LikelihoodForm(attack.normalise_prototypes, attack.likelihood, attack.objective)
        self.labels = labels.to(context.device)
        self.names = labels.tolist()
        latents = choose(state, labels, attack.candidates).to(context.device)  # (U, K, Z)
        self.variable: StyleParameters
        if attack.optimise == "mapping":
            self.variable = MappingNetworks(
                self.prior,
                latents,
                attack.learning_rate,
                attack.betas,
                psi=attack.truncation,
                shared=attack.scope == "shared",
            )
        else:
            kind = LayerStyles if attack.optimise == "styles" else DirectStyles
            self.variable = kind(self.prior, latents, attack.learning_rate, attack.betas, psi=attack.truncation)
        with torch.no_grad():  # one image tells the dimension of the representation
            probe = self._forward(self.variable.start[:1, 0], None)[0]
        self.banks = banks or self._build_banks(probe.shape[1])
        self.prototypes, self.prototype_optimiser = self._build_prototypes(probe.shape[1])
        self.first_prototypes = None if self.prototypes is None else self.prototypes.detach().clone()
        self.curves: dict[str, list[Tensor]] = {}
        self.epoch = 0

    # -- the loop ---------------------------------------------------------------------------------------------------

    def optimise(self) -> None:
        """Epochs over shuffled candidates: step phi, then W, then M, on the features of one forward pass."""
        attack, context = self.attack, self.context
        count, size = attack.candidates, attack.batch_size
        steps = attack.epochs * -(-count // size)
        done = 0
        for epoch in range(attack.epochs):
            self.epoch = epoch
            if attack.resample_every and epoch and epoch % attack.resample_every == 0:
                self._resample(epoch)
            order = shuffled_candidates(count, self.names, epoch, self.streams)
            views = draw_views(attack.views, self.names, count, epoch, self.streams, attack.crop_scale)
            views = gather_rows(views, order)  # (U, K, X): a view belongs to a candidate, whatever its position
            order = order.to(context.device, non_blocking=True)
            for start in range(0, count, size):
                batch = slice(start, start + size)
                self._step(order[:, batch], views[:, batch])
                done += 1
                context.progress(done, steps, f"epoch {epoch + 1}/{attack.epochs}")
            if self.prototypes is not None and self.first_prototypes is not None:
                moved = (self.prototypes.detach() - self.first_prototypes).norm(dim=2)
                self._record(
                    "prototype_displacement", (moved / self.first_prototypes.norm(dim=2).clamp(min=1e-12)).mean(dim=1)
                )

    def _step(self, rows: Tensor, views: Tensor) -> None:
        """One step of every identity of the unit on candidates ``rows`` ``(U, B)``."""
        attack = self.attack
        if attack.memory_first and attack.lambda_idr:
            self._remember(*self._look(rows, views))
        w = self.variable.w(rows)  # (U, B, ...)
        self._record("drift", self.variable.drift(w, rows))
        leaf = w.detach().requires_grad_()
        outputs: list[tuple[Tensor, Tensor]] = []  # features and logits of each block
        terms: dict[str, list[Tensor]] = {}
        for identities, block in blocks(rows.shape, self.context):
            features, logits = self._forward(leaf[identities, block].flatten(0, 1), views[identities, block])
            position = (rows.shape, identities, block)
            parts = self._losses(scatter_into_step(features, *position), scatter_into_step(logits, *position))
            parts = {name: value.view(rows.shape)[identities, block].flatten() for name, value in parts.items()}
            loss = torch.stack([self._weights[name] * value.sum() for name, value in parts.items()]).sum()
            (loss / rows.shape[1]).backward()
            outputs.append((features.detach(), logits.detach()))
            for name, value in parts.items():
                terms.setdefault(name, []).append(value.detach())
        w.backward(leaf.grad)
        self.variable.step(rows)
        features = torch.cat([f for f, _ in outputs])
        self._step_prototypes(features, rows, views)
        if attack.lambda_idr and not attack.memory_first:
            self._remember(features, torch.cat([o for _, o in outputs]))
        for name, values in terms.items():
            self._record(name, torch.cat(values).view(rows.shape).mean(dim=1))

    def _losses(self, features: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """The terms of L = L_ce + lambda_1 L_imr + lambda_2 L_idr for every sample of the step, ``(U B,)`` each, from
        representations ``(U, B, D)`` and logits ``(U, B, C)``."""
        attack, each = self.attack, features.shape[1]
        labels = self.labels.repeat_interleave(each)
        terms = {"L_ce": IDENTITY_LOSSES[attack.loss](logits.float().flatten(0, 1), labels)}
        if self.prototypes is not None:
            stack = self.prototypes.detach()
            terms["L_imr"] = imr_loss(features, stack, attack.positives, attack.temperature, self.form).flatten()
        if attack.lambda_idr:
            parts = zip(
                features.flatten(0, 1).tensor_split(len(self.banks)), labels.tensor_split(len(self.banks)), strict=True
            )
            terms["L_idr"] = torch.cat(
                [bank.loss(h, y, attack.temperature, self.form) for bank, (h, y) in zip(self.banks, parts, strict=True)]
            )
        return terms

    def _step_prototypes(self, features: Tensor, rows: Tensor, views: Tensor) -> None:
        """W step: SGD on L_imr with the features ``(U B, D)`` of the phi step, or new ones, held fixed.

        A gradient of its own over the whole step, not a by-product of the blocks: lambda_1 has no part in it, and the
        sum over samples is not grouped by the micro-batch.
        """
        if self.prototypes is None or self.prototype_optimiser is None:
            return
        if self.attack.prototype_features == "after":
            features, _ = self._look(rows, views)
        stack = features.view(*rows.shape, -1)
        loss = imr_loss(stack, self.prototypes, self.attack.positives, self.attack.temperature, self.form)
        (loss.sum() / rows.shape[1]).backward()
        self.prototype_optimiser.step()
        self.prototype_optimiser.zero_grad(set_to_none=True)

    @property
    def _imr_weight(self) -> float:
        return self.attack.prototype_gradient_scale * self.attack.lambda_imr

    @property
    def _weights(self) -> dict[str, float]:
        begun = self.epoch >= self.attack.idr_from
        idr = self.attack.prototype_gradient_scale * self.attack.lambda_idr if begun else 0.0
        return {"L_ce": 1.0, "L_imr": self._imr_weight, "L_idr": idr}

    def _remember(self, features: Tensor, logits: Tensor) -> None:
        """M step: store the step's features under the predicted class (or, as released, under the target)."""
        attack = self.attack
        targets = self.labels.repeat_interleave(features.shape[0] // self.labels.shape[0])
        predicted = logits.argmax(dim=1)
        keys = predicted if attack.memory_key == "predicted" else targets
        use = predicted == targets if attack.memory_samples == "correct" else None
        each = features.shape[0] // len(self.banks)
        for k, bank in enumerate(self.banks):
            part = slice(k * each, (k + 1) * each)
            bank.update(features[part], keys[part], None if use is None else use[part])

    # -- parts ------------------------------------------------------------------------------------------------------

    def _forward(self, w: Tensor, views: Tensor | None) -> tuple[Tensor, Tensor]:
        """Representation ``(N, D)`` and logits ``(N, C)`` of the images of ``w`` ``(N, ...)``, in views or whole."""
        images = self.context.fit(self.prior.synthesis(self.variable.styles(w)))
        if views is not None:
            images = apply_views(self.attack.views, images, views.flatten(0, 1))
        features, logits = self.context.victim.features_and_logits(images)
        return representation(features, logits, self.attack.features), logits

    @torch.no_grad()
    def _look(self, rows: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Representation and logits of candidates as they are now, without gradients."""
        w = self.variable.w(rows)
        seen = [self._forward(w[i, b].flatten(0, 1), views[i, b]) for i, b in blocks(rows.shape, self.context)]
        return torch.cat([f for f, _ in seen]), torch.cat([o for _, o in seen])

    def _build_prototypes(self, dim: int) -> tuple[Tensor | None, torch.optim.SGD | None]:
        attack = self.attack
        if not self._imr_weight:
            return None, None
        drawn = draw_prototypes(attack.prototypes, dim, attack.prototype_std, self.names, self.streams)
        prototypes = drawn.to(self.context.device).requires_grad_()
        return prototypes, torch.optim.SGD(
            [prototypes],
            lr=attack.prototype_rate,
            momentum=attack.prototype_momentum,
            weight_decay=attack.prototype_decay,
        )

    def _build_banks(self, dim: int) -> list[MemoryBank]:
        attack = self.attack
        if not attack.lambda_idr:
            return []
        initial: Tensor | None = None
        known: Tensor | None = None
        if attack.memory_start == "random":
            drawn = torch.randn(self.context.victim.num_classes, dim, generator=self.streams.generator("memory"))
            initial = nn.functional.normalize(drawn, dim=1)
        elif attack.memory_start == "warm":
            initial, known = self.state["memory"], self.state["memory_seen"]
        return [
            MemoryBank(
                self.context.victim.num_classes,
                dim,
                momentum=attack.momentum,
                slots=attack.memory_slots,
                sequential=attack.memory_update == "sequential",
                growing=attack.memory_update == "growing",
                renormalise=attack.memory_renormalise,
                initial=initial,
                initial_seen=known,
                placeholder=attack.memory_start == "random",
                device=self.context.device,
            )
            for _ in range(1 if attack.memory_scope == "unit" else len(self.names))
        ]

    def _resample(self, epoch: int) -> None:
        """New candidates: a fresh pool for every identity, rated through its own phi."""
        attack, device = self.attack, self.context.device
        best = []
        for k, y in enumerate(self.names):
            latents = self.prior.sample(attack.pool_size, self._stream(y, "pool", epoch)).to(device, non_blocking=True)
            scores = []
            with torch.no_grad():
                for part in micro_batches(attack.pool_size, self.context):
                    w = self.variable.map_now(latents[part], k)
                    images = self.context.fit(self.prior.synthesis(self.variable.styles(w)))
                    both = self.context.victim.scores(images) + self.context.victim.scores(images.flip(3))
                    scores.append(both[:, y])
            best.append(latents[torch.cat(scores).topk(attack.candidates).indices])
        self.variable.restart(torch.stack(best))

    def _stream(self, label: int, *names: str | int) -> torch.Generator:
        return self.streams.generator("identity", label, *names)

    def _record(self, name: str, values: Tensor) -> None:
        """Keep ``(U,)`` on the device; nothing is read back before the loop is over."""
        self.curves.setdefault(name, []).append(values)

    # -- the end ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def result(self) -> Reconstruction:
        """Every candidate with the final phi, ranked by the victim under random views."""
        attack, context = self.attack, self.context
        w = self.variable.finished()  # (U, K, ...)
        flat = w.detach().flatten(0, 1)
        images = render_images(context, self.variable.styles(flat), self.prior.synthesis)
        grouped = images.view(*w.shape[:2], *images.shape[1:])
        confidence = robust_confidence(
            context, grouped, self.labels.cpu(), self.streams, transforms=attack.selection_transforms
        )
        curves = stacked(self.curves)
        context.log(event="dmmia", identities=self.names, **by_epoch(curves, attack.epochs))
        return Reconstruction(
            images=images,
            labels=self.labels.cpu().repeat_interleave(w.shape[1]),
            confidence=confidence.flatten(),
            latents=self.variable.untruncated(flat).float().cpu(),
            curves=curves,
            notes=(*_warnings(attack, curves), *self._without_rivals()),
        )

    def _without_rivals(self) -> Iterator[str]:
        """A note on identities whose L_idr was 0 from the first step to the last."""
        if not self.banks:
            return
        banks = self.banks * len(self.names) if len(self.banks) == 1 else self.banks
        alone = [str(y) for y, bank in zip(self.names, banks, strict=True) if not bank.has_rival(y)]
        if alone:
            yield (
                f"L_idr was 0 throughout for class {', '.join(alone)}: no other class entered the memory, so IDR had "
                "no part in it; give a unit more identities (unit_size), fill the memory (memory_start=warm), or set "
                "lambda_idr=0"
            )


def _warnings(attack: DMMIASettings, curves: dict[str, Tensor]) -> Iterator[str]:
    """What a reader of the run must know: a saturated L_imr, candidates that left the prior."""
    imr = curves.get("L_imr")
    if imr is not None and attack.objective == "neg_log":
        mean = imr.mean(dim=0)
        low = (mean < SATURATED).nonzero()
        if len(low) and int(low[0]) < imr.shape[1] // 2:
            yield (
                f"L_imr fell below {SATURATED} at step {int(low[0]) + 1} of {imr.shape[1]}: it is saturated and "
                "carries no gradient; lower prototype_rate or raise temperature"
            )
    yield from stray_note(curves["drift"])
