"""What attacks on StyleGAN2 optimise: the mapping network's weights (DMMIA's paper), or styles themselves: one for all
layers of the synthesis network (PPA, DMMIA's released code), or one for each.

Legend: U identities of a unit, K candidates of each, B of them in a step, Z and W dimensions of latents and of w, L
layers that take a style.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from mibench.api import MappingPrior


class StyleParameters(ABC):
    """Candidates of a unit as a function of something that is optimised, per identity.

    Args:
        prior: whose candidates they are.
        latents: ``(U, K, Z)``.
        learning_rate: of Adam.
        betas: of Adam.
        psi: truncation at which candidates are rendered.
    """

    def __init__(
        self, prior: MappingPrior, latents: Tensor, learning_rate: float, betas: tuple[float, float], *, psi: float
    ) -> None:
        self.prior, self.psi = prior, psi
        self.learning_rate, self.betas = learning_rate, betas
        self.restart(latents)

    def restart(self, latents: Tensor) -> None:
        """Take new candidates; :meth:`drift` is measured from where the pretrained mapping puts them."""
        self.latents = latents
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            flat = self.prior.mapping(latents.flatten(0, 1))
        self.start = flat.float().view(*latents.shape[:2], -1)

    @abstractmethod
    def w(self, rows: Tensor) -> Tensor:
        """Candidates ``rows`` ``(U, B)`` as ``(U, B, W)``, or ``(U, B, L, W)`` where each layer has a style; the graph
        leads to what is optimised."""

    @abstractmethod
    def styles(self, w: Tensor) -> Tensor:
        """The input of the synthesis network for ``w`` as :meth:`w` returns it."""

    @abstractmethod
    def untruncated(self, w: Tensor) -> Tensor:
        """The styles before truncation that ``w`` ``(..., W)`` stands for, as a result keeps them."""

    @abstractmethod
    def step(self, rows: Tensor) -> None:
        """One Adam step from the gradients that the last backward pass left."""

    @abstractmethod
    def map_now(self, latents: Tensor, identity: int) -> Tensor:
        """New latents ``(N, Z)`` as identity number ``identity`` would map them now: ``(N, W)``, like :meth:`w`."""

    def drift(self, w: Tensor, rows: Tensor) -> Tensor:
        """Mean ``|w - w_start|`` before truncation, in standard deviations of the prior's w, per identity ``(U,)``."""
        moved = (self.untruncated(w.detach()) - self.untruncated(gather_rows(self.start, rows))).abs()
        return (moved / self.prior.w_std.to(w)).mean(dim=tuple(range(1, moved.dim())))

    @torch.no_grad()
    def finished(self) -> Tensor:
        """All candidates ``(U, K, ...)``, like :meth:`w`."""
        rows = torch.arange(self.latents.shape[1], device=self.latents.device).expand(self.latents.shape[:2])
        return self.w(rows)


class MappingNetworks(StyleParameters):
    """phi: every identity has a copy of all weights and biases of the mapping network, stacked into batched matrices.

    With ``shared=True`` one copy serves all identities of the unit (the catastrophic-forgetting study).
    """

    def __init__(
        self,
        prior: MappingPrior,
        latents: Tensor,
        learning_rate: float,
        betas: tuple[float, float],
        *,
        psi: float,
        shared: bool = False,
    ) -> None:
        super().__init__(prior, latents, learning_rate, betas, psi=psi)
        copies = 1 if shared else latents.shape[0]
        self.parameters = [
            (_stacked(weight, copies).requires_grad_(), _stacked(bias, copies).requires_grad_())
            for weight, bias in prior.mapping_parameters()
        ]
        leaves = [tensor for layer in self.parameters for tensor in layer]
        self.optimiser = torch.optim.Adam(leaves, lr=learning_rate, betas=betas, foreach=True)

    def w(self, rows: Tensor) -> Tensor:
        z = gather_rows(self.latents, rows)
        # w moves by hundredths of its standard deviation: too fine for half precision
        with torch.autocast(z.device.type, enabled=False):
            layers = [(self._of_each(weight, len(z)), self._of_each(bias, len(z))) for weight, bias in self.parameters]
            return self.prior.stacked_mapping(layers, z)

    @staticmethod
    def _of_each(parameter: Tensor, identities: int) -> Tensor:
        """A parameter ``(U, ...)``, or the shared one ``(1, ...)``, for each of ``U`` identities."""
        return parameter.expand(identities, *parameter.shape[1:])

    def styles(self, w: Tensor) -> Tensor:
        return self.prior.truncate(w, self.psi)

    def untruncated(self, w: Tensor) -> Tensor:
        return w

    def step(self, rows: Tensor) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def map_now(self, latents: Tensor, identity: int) -> Tensor:
        copy = 0 if self.parameters[0][0].shape[0] == 1 else identity
        own = [(weight[copy : copy + 1], bias[copy : copy + 1]) for weight, bias in self.parameters]
        with torch.autocast(latents.device.type, enabled=False):
            return self.prior.stacked_mapping(own, latents[None])[0]


class DirectStyles(StyleParameters):
    """Truncated styles, one vector per candidate: what PPA and the released code of DMMIA step. Adam's moments belong
    to a candidate, which is stepped once per epoch, so a candidate's path does not depend on the others in its batch
    (given the same losses). ``psi`` must be positive."""

    def restart(self, latents: Tensor) -> None:
        super().restart(latents)
        self._begin(self.prior.truncate(self.start, self.psi))

    def _begin(self, start: Tensor) -> None:
        """Candidates ``(U, K, ...)`` with moments of Adam that know nothing yet."""
        self.start, self.vectors = start, start.clone()
        self.mean, self.square = torch.zeros_like(start), torch.zeros_like(start)
        self.steps = torch.zeros(start.shape[:2], device=start.device)
        self.owners = torch.arange(start.shape[0], device=start.device)[:, None]  # (U, 1)

    def spread(self) -> Tensor:
        """How far candidates of an identity lie apart ``(U,)``: the standard deviation between them before truncation,
        in standard deviations of the prior's w, averaged over the numbers of a candidate."""
        between = self.untruncated(self.vectors).std(dim=1, correction=0)
        return (between / self.prior.w_std.to(between)).flatten(1).mean(dim=1)

    @torch.no_grad()
    def replace_by_means(self, subsets: Tensor) -> None:
        """Replace every candidate by the mean of candidates ``subsets`` ``(U, K, M)`` of its identity, all at once.

        Its start becomes the mean of their starts, so that drift remains what steps have moved; Adam begins anew.
        """
        moved = _means(self.vectors, subsets)
        self._begin(_means(self.start, subsets))
        self.vectors = moved

    def w(self, rows: Tensor) -> Tensor:
        self._leaf = gather_rows(self.vectors, rows).requires_grad_()
        return self._leaf

    def styles(self, w: Tensor) -> Tensor:
        return w

    def untruncated(self, w: Tensor) -> Tensor:
        return self.prior.truncate(w, 1 / self.psi)

    def map_now(self, latents: Tensor, identity: int) -> Tensor:
        # nothing learnt carries over to new latents
        return self.prior.truncate(self.prior.mapping(latents), self.psi)

    @torch.no_grad()
    def step(self, rows: Tensor) -> None:
        gradient = self._leaf.grad
        if gradient is None:
            return
        first, second = self.betas
        mean = first * gather_rows(self.mean, rows) + (1 - first) * gradient
        square = second * gather_rows(self.square, rows) + (1 - second) * gradient.square()
        steps = self.steps.gather(1, rows) + 1
        steps_of_each = steps.view(*steps.shape, *(1,) * (mean.dim() - 2))
        corrected = mean / (1 - first**steps_of_each)
        scale = (square / (1 - second**steps_of_each)).sqrt() + 1e-8
        where = self.owners, rows  # not scatter_: on a GPU its deterministic form sorts by every number of a row
        self.vectors[where] = self._leaf.detach() - self.learning_rate * corrected / scale
        self.mean[where], self.square[where], self.steps[where] = mean, square, steps


class LayerStyles(DirectStyles):
    """Truncated styles, one for each layer (the space W+): a candidate is ``(L, W)``. All layers start alike.

    Attributes:
        tied: layers share a style: a step moves all of them by the gradient that one style for all would have. For
            first steps only, while they are still alike.
    """

    tied: bool = False

    def restart(self, latents: Tensor) -> None:
        super().restart(latents)
        self._begin(self.start[:, :, None].repeat(1, 1, self.prior.num_styles, 1))

    def map_now(self, latents: Tensor, identity: int) -> Tensor:
        return super().map_now(latents, identity)[:, None].expand(-1, self.prior.num_styles, -1)

    def step(self, rows: Tensor) -> None:
        gradient = self._leaf.grad
        if self.tied and gradient is not None:
            self._leaf.grad = gradient.sum(dim=2, keepdim=True).expand_as(gradient)
        super().step(rows)


def _means(table: Tensor, subsets: Tensor) -> Tensor:
    """Means of the rows ``subsets`` ``(U, K, M)`` of each identity: from ``(U, K, ...)`` to the same shape."""
    owners = torch.arange(table.shape[0], device=table.device)[:, None]
    total = table[owners, subsets[:, :, 0]]
    for number in range(1, subsets.shape[2]):  # one after another: how a sum is grouped must not depend on the batch
        total = total + table[owners, subsets[:, :, number]]
    return total / subsets.shape[2]


def _stacked(parameter: Tensor, copies: int) -> Tensor:
    """``copies`` of a parameter along a new first axis, without a graph."""
    return parameter.detach().expand(copies, *parameter.shape).clone()


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """``table[u, rows[u, b]]``: ``(U, K, ...)`` and ``(U, B)`` give ``(U, B, ...)``."""
    return table.gather(1, rows.view(*rows.shape, *(1,) * (table.dim() - 2)).expand(-1, -1, *table.shape[2:]))
