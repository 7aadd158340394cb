"""IDR: the inter-class discriminative representation of DMMIA (the paper's momentum memory bank).

The bank keeps, for every class of the victim, one or more momentum averages of features of generated images that the
victim took for that class. Everything stays on the device: no step waits for it.
Legend: N features of one step, C classes, K slots of a class, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .prototypes import LikelihoodForm


class MemoryBank:
    """Momentum memory ``M`` with ``seen`` flags.

    Args:
        classes: ``C``.
        dim: ``D``.
        momentum: ``r`` in ``M <- r M + (1 - r) M'``.
        slots: memories per class, filled and updated in turn (1 in the paper).
        sequential: update sample by sample (released code) instead of by the mean of a step (paper).
        growing: ``M'`` is the mean of all features that a class ever got, and every class that has any moves towards it
            in each update (the paper's pseudo-code, which appends to ``M[c]`` and averages).
        renormalise: bring stored rows back to unit length after each update.
        initial: rows ``(C, D)`` to start from, or None for an empty bank.
        initial_seen: which of them count as seen ``(C,)``; all when None.
        placeholder: the rows to start from hold no features: they are rivals of other classes like any row, but the
            first features of a class replace its own row instead of being averaged with it (released code).
        device: where the bank lives.
    """

    def __init__(
        self,
        classes: int,
        dim: int,
        *,
        momentum: float,
        slots: int = 1,
        sequential: bool = False,
        growing: bool = False,
        renormalise: bool = False,
        initial: Tensor | None = None,
        initial_seen: Tensor | None = None,
        placeholder: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        self.momentum, self.slots, self.sequential, self.renormalise = momentum, slots, sequential, renormalise
        self.growing = growing
        self.sums, self.counts = torch.zeros(classes, dim, device=device), torch.zeros(classes, device=device)
        self.rows = torch.zeros(classes, slots, dim, device=device)
        self.seen = torch.zeros(classes, slots, dtype=torch.bool, device=device)
        self.turn = torch.zeros(classes, dtype=torch.int64, device=device)
        if initial is not None:
            self.rows[:, 0] = initial.to(device)
            self.seen[:, 0] = True if initial_seen is None else initial_seen.to(device)
            self.turn = self.turn if placeholder else self.seen[:, 0].long() % slots
        self.learnt = torch.zeros_like(self.seen) if placeholder else self.seen.clone()  # rows that hold features

    def loss(
        self,
        features: Tensor,
        labels: Tensor,
        temperature: float,
        form: LikelihoodForm | None = None,
    ) -> Tensor:
        """L_idr of every sample: ``-log( exp S(h, m_y) / sum_{c seen} exp S(h, m_c) )``; 0 while ``y`` is unseen.

        With several slots a class weighs the mean of its seen memories.

        Args:
            features: ``(N, D)``.
            labels: target classes ``(N,)``.
            temperature: of the similarity.
            form: of the likelihood; the paper's when None.

        Returns:
            ``(N,)``.
        """
        form = form or LikelihoodForm()
        rows = nn.functional.normalize(self.rows, dim=2) if form.normalise else self.rows
        with torch.autocast(features.device.type, enabled=False):  # a small temperature needs float32
            similarity = torch.einsum("nd,ckd->nck", features, rows) / temperature
        similarity = similarity.masked_fill(~self.seen, -torch.inf)
        known = self.seen.any(dim=1)
        filled = self.seen.sum(dim=1).clamp(min=1).log()
        # an unseen class has only -inf; logsumexp's gradient there would be NaN, so it is replaced beforehand
        weight = torch.where(known[:, None], similarity, torch.zeros_like(similarity)).logsumexp(dim=2) - filled
        weight = weight.masked_fill(~known, -torch.inf)
        own = weight.gather(1, labels[:, None]).squeeze(1)
        mine = nn.functional.one_hot(labels, known.shape[0]).bool()
        rivals = weight.masked_fill(mine, -torch.inf)
        has_rival = (known & ~mine).any(dim=1)
        others = torch.where(has_rival[:, None], rivals, torch.zeros_like(rivals)).logsumexp(dim=1)
        if form.likelihood == "mean":
            others = others - (known & ~mine).sum(dim=1).clamp(min=1).log()
        usable = known[labels] & has_rival
        own, others = torch.where(usable, own, 0.0), torch.where(usable, others, 0.0)
        return torch.where(usable, form.objective_of(own, others), 0.0)

    def has_rival(self, label: int) -> bool:
        """Whether any other class has been seen; while none has, the loss of ``label`` is 0. Waits for the device."""
        known = self.seen.any(dim=1)
        return bool(known[:label].any() | known[label + 1 :].any())

    @torch.no_grad()
    def update(self, features: Tensor, classes: Tensor, use: Tensor | None = None) -> None:
        """Remember a step's features.

        Args:
            features: ``(N, D)``, normalised as the attack normalises them.
            classes: the class under which each is stored ``(N,)``.
            use: boolean ``(N,)``; only these samples are stored (all when None).
        """
        if self.sequential:
            for k in range(features.shape[0]):
                part = slice(k, k + 1)
                self._store(features[part], classes[part], None if use is None else use[part])
        else:
            self._store(features, classes, use)

    def _store(self, features: Tensor, classes: Tensor, use: Tensor | None) -> None:
        # a product with the one-hot matrix: a scatter-add would not be deterministic on a GPU
        member = nn.functional.one_hot(classes, self.seen.shape[0]).to(features.dtype)
        if use is not None:
            member = member * use[:, None].to(features.dtype)
        count = member.sum(dim=0)
        with torch.autocast(features.device.type, enabled=False):
            total = member.T @ features
        if self.growing:
            self.sums, self.counts = self.sums + total, self.counts + count
            total, count = self.sums, self.counts
        mean = total / count.clamp(min=1)[:, None]
        index = torch.arange(self.seen.shape[0], device=self.rows.device)
        old, was_seen = self.rows[index, self.turn], self.seen[index, self.turn]
        was_learnt = self.learnt[index, self.turn]
        new = torch.where(was_learnt[:, None], self.momentum * old + (1 - self.momentum) * mean, mean)
        if self.renormalise:
            new = nn.functional.normalize(new, dim=1)
        touched = count > 0
        self.rows[index, self.turn] = torch.where(touched[:, None], new, old)
        self.seen[index, self.turn] = was_seen | touched
        self.learnt[index, self.turn] = was_learnt | touched
        self.turn = torch.where(touched, (self.turn + 1) % self.slots, self.turn)
