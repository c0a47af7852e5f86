"""The forward process against its formulas."""

import dataclasses

import pytest
import torch

from dmmd_kernels.data.diffusion import DiscreteBeta, LinearBeta, Schedule, levels, random_levels

SCHEDULES = [LinearBeta(), DiscreteBeta()]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)


@each_schedule
def test_the_process_preserves_variance(schedule):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    one = schedule.alpha(t) ** 2 + schedule.beta(t) ** 2
    torch.testing.assert_close(one, torch.ones_like(t), rtol=0, atol=1e-14)


@each_schedule
def test_it_begins_at_the_data_and_ends_near_the_noise(schedule):
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert schedule.alpha(ends)[0] == 1
    assert schedule.beta(ends)[0] == 0
    assert schedule.alpha(ends)[1] == pytest.approx(0.0066, abs=3e-4)
    assert (schedule.alpha(torch.linspace(0, 1, 1001)).diff() < 0).all()


def test_linear_beta_is_its_formula():
    """log α_t = -t² 19.9/4 - 0.05 t, the integral of -(b_0 + s (b_1 - b_0))/2 over [0, t]."""
    t = torch.linspace(0, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(LinearBeta().log_alpha(t), -(t**2) * 19.9 / 4 - 0.05 * t)


def test_discrete_beta_is_the_product_of_its_steps():
    alpha_2 = (1 - 1e-4) * (1 - (1e-4 + 0.02) / 2)
    schedule = DiscreteBeta(steps=3)
    got = schedule.alpha(torch.tensor([1 / 3, 2 / 3], dtype=torch.float64)) ** 2
    torch.testing.assert_close(got, torch.tensor([1 - 1e-4, alpha_2], dtype=torch.float64))


def test_the_continuous_form_follows_the_discrete_chain():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    continuous, discrete = (schedule.alpha(t) for schedule in SCHEDULES)
    torch.testing.assert_close(continuous, discrete, rtol=0, atol=2e-3)


def test_small_noise_is_accurate_in_single_precision():
    t = torch.tensor([1e-5, 1e-3, 0.1])
    exact = LinearBeta().beta(t.double())
    torch.testing.assert_close(LinearBeta().beta(t).double(), exact, rtol=1e-6, atol=0)


@each_schedule
def test_noised_is_equation_6_at_each_level(schedule):
    t = torch.tensor([0.1, 0.7])
    x, noise = torch.randn(5, 1, 3, 3), torch.randn(2, 5, 1, 3, 3)
    got = schedule.noised(x, t, noise)
    for i in range(2):
        torch.testing.assert_close(
            got[i], schedule.alpha(t[i]) * x + schedule.beta(t[i]) * noise[i]
        )


def test_noised_names_the_shape_it_wants():
    with pytest.raises(ValueError, match=r"noise must begin with the shape of t, \(2,\), got"):
        LinearBeta().noised(torch.zeros(5, 2), torch.zeros(2), torch.zeros(3, 5, 2))


def test_a_schedule_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        LinearBeta().rate_at_one = 1.0
    with pytest.raises(NotImplementedError, match="log_alpha"):
        Schedule().alpha(torch.zeros(1))


def test_levels_fall_from_t_max_to_t_min():
    ts = levels(0.9, 0.1, 5)
    torch.testing.assert_close(ts, torch.tensor([0.9, 0.7, 0.5, 0.3, 0.1]))
    assert levels(0.9, 0.1, 1).tolist() == pytest.approx([0.9])
    for wrong in [(0.1, 0.9, 5), (0.9, 0.1, 0), (1.1, 0.1, 5), (0.9, -0.1, 5)]:
        with pytest.raises(ValueError, match="levels: 0 <= t_min <= t_max <= 1"):
            levels(*wrong)


def test_random_levels_fall_one_in_each_slice():
    t = random_levels(0.9, 0.1, 8, torch.Generator().manual_seed(0))
    places = (t - 0.1) / 0.1
    assert (places.floor() == torch.arange(8)).all()
