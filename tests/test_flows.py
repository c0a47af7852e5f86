"""flow and velocity: the plain loop, its schedules, its records and its refusals."""

import pytest
import torch

import dmmd_kernels as dk
from tests.cases import DEVICE, each_kernel, problem


def particles_and_data(n=20, m=25, d=2):
    x, y, _, _ = problem(n, m, d, dtype=torch.float64)
    return x + 1.5, y


def test_is_the_loop_it_says_it_is():
    x, y = particles_and_data()
    k = dk.gaussian(1.0)
    expected = x
    for size in (0.3, 0.2, 0.1):
        expected = expected - size * dk.witness_grad(expected, expected, y, k)
    got = dk.flow(x, y, k, step_size=[0.3, 0.2, 0.1], steps=3)
    torch.testing.assert_close(got.particles, expected)
    assert got.trajectory is None
    assert got.mmd2 is None


def test_noise_moves_where_the_gradient_is_read_and_nothing_else():
    x, y = particles_and_data()
    k = dk.gaussian(1.0)
    xi = torch.randn(
        x.shape, generator=torch.Generator(DEVICE).manual_seed(3), dtype=x.dtype, device=DEVICE
    )
    expected = x - 0.3 * dk.witness_grad(x + 0.5 * xi, x, y, k)
    got = dk.flow(
        x, y, k, step_size=0.3, steps=1, noise=0.5,
        generator=torch.Generator(DEVICE).manual_seed(3),
    )  # fmt: skip
    torch.testing.assert_close(got.particles, expected)


@each_kernel
def test_a_small_step_lowers_mmd2(kernel):
    x, y = particles_and_data()
    after = dk.flow(x, y, kernel, step_size=1e-3, steps=1).particles
    before = dk.mmd2(x, y, kernel, estimator="biased")
    assert dk.mmd2(after, y, kernel, estimator="biased") < before


def test_records_particles_and_mmd2():
    x, y = particles_and_data()
    k = dk.imq(1.0)
    result = dk.flow(x, y, k, step_size=0.5, steps=10, record_every=5)
    assert result.trajectory.shape == (2, *x.shape)
    torch.testing.assert_close(result.trajectory[-1], result.particles)
    torch.testing.assert_close(result.mmd2[-1], dk.mmd2(result.particles, y, k))


def test_many_flows_to_shared_data_are_the_flows_one_by_one():
    x, y = particles_and_data()
    many = torch.stack([x, x + 1, x - 2])
    together = dk.flow(many, y, dk.gaussian(2.0), step_size=0.5, steps=5).particles
    for block, start in zip(together, many, strict=True):
        alone = dk.flow(start, y, dk.gaussian(2.0), step_size=0.5, steps=5).particles
        torch.testing.assert_close(block, alone)


def test_the_input_stays():
    x, y = particles_and_data()
    kept = x.clone()
    dk.flow(x, y, dk.gaussian(1.0), step_size=1.0, steps=3)
    assert torch.equal(x, kept)


def test_errors_say_what_must_hold_and_what_came():
    x, y = particles_and_data()
    k = dk.gaussian(1.0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        dk.flow(x, y, k, step_size=0.1, steps=0)
    with pytest.raises(ValueError, match="step_size must be one number or 3, one per step, got 2"):
        dk.flow(x, y, k, step_size=[0.1, 0.2], steps=3)
    with pytest.raises(ValueError, match="must not require grad"):
        dk.flow(x.requires_grad_(), y, k, step_size=0.1, steps=1)
    with pytest.raises(FloatingPointError, match="not finite after step 2"):
        dk.flow(x.detach(), y, dk.polynomial(3), step_size=1e300, steps=2)
