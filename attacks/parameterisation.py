"""What DMMIA and PPA optimise: the mapping network's weights (DMMIA's paper) or styles themselves (released code, PPA).

Legend: U identities of a unit, K candidates of each, B of them in a step, Z and W dimensions of latents and of w.
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
        """Candidates ``rows`` ``(U, B)`` as ``(U, B, W)``; the graph leads to what is optimised."""

    @abstractmethod
    def styles(self, w: Tensor) -> Tensor:
        """The input of the synthesis network for ``w`` ``(..., W)`` as :meth:`w` returns it."""

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
        return (moved / self.prior.w_std.to(w)).mean(dim=(1, 2))

    @torch.no_grad()
    def finished(self) -> Tensor:
        """All candidates ``(U, K, W)``, like :meth:`w`."""
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
        self.start = self.prior.truncate(self.start, self.psi)
        self.vectors = self.start.clone()
        self.mean, self.square = torch.zeros_like(self.start), torch.zeros_like(self.start)
        self.steps = torch.zeros(self.start.shape[:2], device=self.start.device)
        self.owners = torch.arange(self.start.shape[0], device=self.start.device)[:, None]  # (U, 1)

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
        corrected = mean / (1 - first**steps)[..., None]
        scale = (square / (1 - second**steps)[..., None]).sqrt() + 1e-8
        where = self.owners, rows  # not scatter_: on a GPU its deterministic form sorts by every number of a row
        self.vectors[where] = self._leaf.detach() - self.learning_rate * corrected / scale
        self.mean[where], self.square[where], self.steps[where] = mean, square, steps


def _stacked(parameter: Tensor, copies: int) -> Tensor:
    """``copies`` of a parameter along a new first axis, without a graph."""
    return parameter.detach().expand(copies, *parameter.shape).clone()


def gather_rows(table: Tensor, rows: Tensor) -> Tensor:
    """``table[u, rows[u, b]]``: ``(U, K, X)`` and ``(U, B)`` give ``(U, B, X)``."""
    return table.gather(1, rows[..., None].expand(-1, -1, table.shape[2]))
