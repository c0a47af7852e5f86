"""The approximate flow follows the witness of the noised data, one particle at a time."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.approximate import approximate_flow, mean_witness
from dmmd_kernels.diffusion import LinearBeta
from dmmd_kernels.models import ConvFeatures, DeepKernel, IdentityFeatures, Width


def deep_kernel() -> DeepKernel:
    torch.manual_seed(0)
    return DeepKernel(ConvFeatures((1, 4, 4), 5, width=2), "linear").double()


def clouds(n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    z, x = (torch.randn(k, 1, 4, 4, generator=g, dtype=torch.float64) for k in (n, m))
    return z, x


def flow(deep, z, x, **change):
    options = {"step_size": 0.3, "steps": 2, "generator": torch.Generator().manual_seed(1)} | change
    *_, (_, moved) = approximate_flow(deep, z, x, [0.5, 0.2], LinearBeta(), **options)
    return moved


def test_a_step_follows_the_witness_of_the_noised_data():
    deep, (z, x), t = deep_kernel(), clouds(3, 9), torch.tensor([0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    x_t = LinearBeta().noised(x, t[0], noise)
    z.requires_grad_()
    f = dk.witness(deep(z[None], t), deep(x_t[None], t), deep(x[None], t), dk.linear())
    (slope,) = torch.autograd.grad(f.sum(), z)
    _, moved = next(
        approximate_flow(
            deep, z.detach(), x, [0.5], LinearBeta(), step_size=0.1, steps=1, generator=generator
        )
    )
    torch.testing.assert_close(moved, z.detach() - 0.1 * slope)


def test_particles_do_not_feel_each_other():
    deep, (z, x) = deep_kernel(), clouds(4, 9)
    torch.testing.assert_close(flow(deep, z, x)[:2], flow(deep, z[:2], x))


def test_the_flow_follows_its_generator_and_keeps_its_input():
    deep, (z, x) = deep_kernel(), clouds(4, 9)
    before = z.clone()
    assert torch.equal(flow(deep, z, x), flow(deep, z, x))
    assert not torch.equal(flow(deep, z, x), flow(deep, z, x, generator=torch.Generator()))
    assert torch.equal(z, before)


def test_only_a_linear_kernel_has_a_mean_witness():
    deep = DeepKernel(IdentityFeatures(), "gaussian", Width(4))
    with pytest.raises(ValueError, match="the kernel must be linear"):
        mean_witness(deep, torch.randn(5, 2), 0.5, LinearBeta())
