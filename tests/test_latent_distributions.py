"""What VMI recovers: the released flow's vectors, divergences, and flows that start as the prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from field_vectors import VECTORS, sines
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from mibench.attacks.latent_distributions import Coupling, FlowLatents, NormalLatents, log_normal, sampled
from mibench.rng import Streams, stream

RUN = VECTORS["vmi"]["flow_d8_K2_L1"]
CPU = torch.device("cpu")


def released(steps: int, dimension: int, hidden: int, start: int = 0) -> list[Coupling]:
    """Couplings with the vectors' parameters, from the ``start``-th on."""
    order = torch.tensor([[(3 * i + 1) % dimension for i in range(dimension)]])
    flow = [Coupling(1, dimension, hidden, order) for _ in range(steps)]
    for number, coupling in enumerate(flow):
        for k, name in enumerate(Coupling.NAMES):
            shape = tuple(getattr(coupling, name).shape[1:])
            j, size = start + len(Coupling.NAMES) * number + k, 0.1
            if name in ("first", "last"):  # kernels of 3 x 3 on one pixel: their centre counts
                values = sines((*shape, 3, 3), 0.37, 1.3 * j, 0.2)[:, :, 1, 1]
            else:
                values = sines(shape, 0.37, 1.3 * j, size)
            setattr(coupling, name, values[None].requires_grad_())
    return flow


Z = sines((3, 8), 0.7, 0.2, 1.1)[None]


def test_the_flow_and_its_density_are_the_released_ones() -> None:
    flow = released(2, 8, 100)
    x, log_q = sampled(flow, Z)
    assert x[0, 0].tolist() == pytest.approx(RUN["x_row0"], abs=1e-5)
    assert x[0, 2].tolist() == pytest.approx(RUN["x_row2"], abs=1e-5)
    assert log_q[0].tolist() == pytest.approx(RUN["logp"], rel=1e-5)
    kl = (log_q - log_normal(x)).mean()
    assert float(kl.detach()) == pytest.approx(RUN["kl_term_mean"], abs=1e-5)
    (gradient,) = torch.autograd.grad(kl, flow[0].parameters[0])
    assert gradient[0].tolist() == pytest.approx(RUN["dKL_d_first_parameter"], abs=1e-4)


def test_two_levels_written_out_are_the_released_ones() -> None:
    """A level draws half of its latents itself, given the other half: not offered, but its couplings are the same."""
    wanted = VECTORS["vmi"]["flow_d8_K1_L2"]
    outer, inner = released(1, 8, 100)[0], released(1, 4, 100, 14)[0]
    first = Z[:, :, :4]
    one, added = inner.sample(first)
    log_scale, bias = sines((8,), 0.37, 1.3 * 11, 0.1), sines((8,), 0.37, 1.3 * 13, 0.1)
    given = (one @ sines((8, 4, 3, 3), 0.37, 1.3 * 12, 0.2)[:, :, 1, 1].T + bias) * (3 * log_scale).exp()
    mean, log_std = given[..., 0::2], given[..., 1::2]
    eps = sines((3, 4), 0.23, 0.9)[None]
    x, more = outer.sample(torch.cat([one, mean + log_std.exp() * eps], dim=2))
    log_q = log_normal(first) + log_normal(eps) - log_std.sum(dim=2) + (added + more)[:, None]
    assert x[0, 0].tolist() == pytest.approx(wanted["x_row0"], abs=1e-5)
    assert log_q[0].tolist() == pytest.approx(wanted["logp"], rel=1e-5)


def test_the_divergence_of_normal_distributions_is_exact_and_layers_share_their_noise() -> None:
    q, noise = NormalLatents(2, 3, 5, CPU), torch.randn(2, 4, 5, generator=stream(0, "noise"))
    with torch.no_grad():
        q.mu.copy_(torch.randn(2, 3, 5, generator=stream(0, "mu")))
        q.log_sigma.copy_(torch.randn(2, 3, 5, generator=stream(0, "sigma")))
    z, kl = q.draw(noise)
    expected = kl_divergence(Normal(q.mu, q.log_sigma.exp()), Normal(torch.zeros(()), torch.ones(()))).sum(dim=-1)
    assert torch.allclose(kl, expected, rtol=1e-5, atol=1e-5)
    assert torch.allclose(z[1, 0, 2], q.mu[1, 0] + q.log_sigma[1, 0].exp() * noise[1, 2])
    assert torch.allclose(z[1, 2, 3], q.mu[1, 2] + q.log_sigma[1, 2].exp() * noise[1, 3])


def flow(names: list[int]) -> FlowLatents:
    return FlowLatents(names, 3, 6, CPU, Streams(4), steps=2, hidden=7)


def test_a_flow_starts_as_the_prior_with_its_noise_permuted() -> None:
    noise = torch.randn(2, 4, 6, generator=stream(0, "noise"))
    z, kl = flow([1, 8]).draw(noise)
    assert torch.allclose(kl, torch.zeros(2, 3), atol=1e-5)
    assert torch.allclose(z.sort(dim=-1).values, noise[:, None].sort(dim=-1).values.expand_as(z), atol=1e-6)
    assert not torch.equal(z[:, 0], z[:, 1]), "each layer has permutations of its own"
    assert torch.equal(flow([8]).parameters[2], flow([1, 8]).parameters[2][3:]), "whoever shares the unit"


def test_the_density_of_a_flow_is_that_of_its_samples() -> None:
    """By the determinant of the Jacobian."""
    moved = flow([1])
    with torch.no_grad():
        for k, tensor in enumerate(moved.parameters):
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=stream(1, "moved", k)))
    noise = torch.randn(1, 1, 6, generator=stream(0, "noise"))
    z, log_q = sampled(moved.steps, noise[:, None].expand(-1, 3, -1, -1).flatten(0, 1))

    def third(x: Tensor) -> Tensor:
        return moved.draw(x[None, None])[0][0, 2, 0]

    jacobian: Any = torch.autograd.functional.jacobian(third, noise[0, 0])
    expected = log_normal(noise[0, 0]) - torch.linalg.slogdet(jacobian).logabsdet
    assert float(log_q[2, 0].detach()) == pytest.approx(float(expected), abs=1e-4)
    assert torch.allclose(third(noise[0, 0]), z[2, 0])
