"""mean_sigma and median_sigma are the rules their docstrings state."""

import pytest
import torch

import dmmd_kernels as dk
from tests.cases import problem


def pooled_squares(x, y):
    u = torch.cat([x, y]).double()
    distances = (u[:, None] - u).square().sum(-1)
    return distances[~torch.eye(len(u), dtype=torch.bool, device=u.device)]


def test_mean_sigma_is_its_definition():
    x, y, _, _ = problem(20, 31, 3)
    expected = (pooled_squares(x, y).mean() / 2).sqrt()
    torch.testing.assert_close(dk.mean_sigma(x, y).double(), expected, rtol=1e-6, atol=0)
    far = dk.mean_sigma(x.double() + 1e6, y.double() + 1e6)
    torch.testing.assert_close(far, expected, rtol=1e-6, atol=0)


def test_median_sigma_is_its_definition():
    x, y, _, _ = problem(20, 31, 3)
    expected = (pooled_squares(x, y).median() / 2).sqrt()
    torch.testing.assert_close(dk.median_sigma(x, y).double(), expected, rtol=1e-6, atol=0)


def test_batches_and_thinning():
    x, y, _, _ = problem(40, 60, 2)
    stacked = dk.median_sigma(torch.stack([x, 2 * x]), torch.stack([y, 2 * y]))
    torch.testing.assert_close(stacked[1], 2 * dk.median_sigma(x, y))
    torch.testing.assert_close(dk.mean_sigma(2 * x, 2 * y), 2 * dk.mean_sigma(x, y))
    assert dk.median_sigma(x, y, max_points=50) == pytest.approx(
        dk.median_sigma(x, y).item(), rel=0.25
    )


def test_the_rules_are_detached_and_scale_free():
    x, y, _, _ = problem(10, 12, 3)
    x.requires_grad_()
    assert not dk.median_sigma(x, y).requires_grad
    assert not dk.mean_sigma(x, y).requires_grad
    value = dk.mmd2(x, y, dk.gaussian(dk.median_sigma(x, y)))
    scaled = dk.mmd2(7 * x, 7 * y, dk.gaussian(dk.median_sigma(7 * x, 7 * y)))
    torch.testing.assert_close(scaled, value, rtol=1e-3, atol=1e-5)


def test_too_few_points():
    x = torch.zeros(1, 2)
    with pytest.raises(ValueError, match="at least two points together, got 1"):
        dk.median_sigma(x, x[:0])
