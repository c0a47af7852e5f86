"""The flows: which way particles move at a level, how far, and from what features of the data."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.evaluation import comparison
from dmmd_kernels.networks.features import IdentityFeatures, MLPFeatures, Width
from dmmd_kernels.systems.dmmd import samplers
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel, pulled_back
from dmmd_kernels.systems.dmmd.samplers import Step, adaptive_flow, data_features, step_length


def test_data_features_of_a_linear_kernel_are_their_mean():
    """The witness of the whole set and of its mean features have one gradient (DMMD, eq. 12)."""
    deep = DeepKernel(MLPFeatures(2, 4, 8), "linear").double()
    z, x_0 = torch.randn(1, 6, 2).double(), torch.randn(30, 2).double()
    t = torch.tensor([0.3], dtype=torch.float64)
    mean = data_features(deep, x_0, t, rows=7)
    assert mean.shape == (1, 4)
    kernel, a = deep.kernel(t), deep(z, t).detach()
    slopes = [
        pulled_back(deep, z, t, lambda at: dk.witness_grad(at, a, b, kernel, backend="reference"))  # noqa: B023
        for b in (mean, deep(x_0[None], t)[0].detach())
    ]
    torch.testing.assert_close(*slopes)


def test_data_features_of_another_kernel_are_all_of_them():
    deep = DeepKernel(MLPFeatures(2, 4, 8), "gaussian", Width(4)).double()
    x = torch.randn(30, 2).double()
    want = deep(x[None], torch.tensor([0.3]).double())[0].detach()
    torch.testing.assert_close(data_features(deep, x, 0.3, rows=7), want)


@pytest.mark.parametrize("step", [Step(1.5, True), Step(0.01)], ids=str)
def test_a_flow_of_points_is_the_flow_of_their_features(monkeypatch, step):
    """One call with a table of widths gives what level by level through a network gives."""
    x_0, start, ts = torch.randn(50, 2), torch.randn(3, 20, 2), [0.9, 0.5, 0.1]
    deep = comparison.FixedWidth(comparison.BY_HAND["linear"])
    run = lambda: list(adaptive_flow(deep, start, x_0, ts, step, 2, backend="reference"))
    at_once = run()
    monkeypatch.setattr(comparison.FixedWidth, "on_points", False)
    for (t, whole), (same, by_level) in zip(at_once, run(), strict=True):
        assert t == pytest.approx(same)
        assert not torch.equal(whole, start)
        torch.testing.assert_close(whole, by_level)


def test_flows_leave_their_particles_as_they_were():
    x_0, start = torch.randn(50, 2), torch.randn(3, 20, 2)
    before = start.clone()
    for deep in (
        DeepKernel(IdentityFeatures(), "gaussian", Width(4)),
        DeepKernel(MLPFeatures(2, 4, 8), "gaussian", Width(4)),
    ):
        first, second = adaptive_flow(deep, start, x_0, [0.9, 0.5], Step(1.0, True), 1)
        assert torch.equal(start, before)
        assert not torch.equal(first[1], second[1]), "a level's particles are its own"


@pytest.mark.parametrize("sigma", [0.1, 0.5, 2.0])
def test_a_stable_step_is_its_rule(sigma):
    """η = c σ²/mean k(x, x') over the first 1000 clean samples, pairs of itself included."""
    x = torch.randn(1200, 2).double()
    deep = comparison.FixedWidth(lambda t: torch.full_like(t, sigma))
    t = torch.tensor([0.5]).double()
    mean = torch.exp(-torch.cdist(x[:1000], x[:1000]).square() / (2 * sigma**2)).mean().item()
    got = step_length(deep, Step(1.5, True), x, t, backend="reference")
    assert got == pytest.approx(1.5 * sigma**2 / mean, rel=1e-9)
    assert step_length(deep, Step(1.5), x, t) == 1.5


@pytest.mark.parametrize(("t", "eta"), [(0.1, 1.5), (0.2, 3.0), (0.9, 3.0)])
def test_steps_of_an_energy_kernel_shorten_below_their_knee(t, eta):
    deep, x = DeepKernel(MLPFeatures(2, 4, 8), "linear").double(), torch.randn(9, 2).double()
    level = samplers.energy_level(deep, 3.0, t, x, rows=4)
    assert level.eta == pytest.approx(eta)
    assert level.kernel == dk.energy()
    assert level.clean.shape == (9, 4), "all features, under a linear kernel, too"


def test_a_level_without_features_of_noised_data_has_no_approximate_slope():
    deep, x = DeepKernel(MLPFeatures(2, 4, 8), "linear"), torch.randn(9, 2)
    level = samplers.level_of(deep, Step(1.0), 0.3, data_features(deep, x, 0.3))
    with pytest.raises(ValueError, match=r"level\.noised must hold features, got None"):
        samplers.approximate_slope(deep, x[None], level)
