"""DDPM: its chain in closed form on normal data, its formulas against the posterior, its steps."""

import math
from itertools import pairwise

import pytest
import torch

from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.presets import settings_of
from dmmd_kernels.runs.run import Run, draw_samples
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.systems import ddpm
from dmmd_kernels.systems.ddpm import DDPM, SIGNAL, DdpmDrawing, DdpmSettings, back, levels_of

SETTINGS = Settings(
    steps=30, batch=16, system=DdpmSettings(features="mlp", feature_width=8, levels=10)
)


@pytest.fixture
def dataset():
    return Dataset(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), 2.0)


def exact(x, i, mean, deviation):
    """ε̂ of data N(mean, deviation²): the expectation of ε given x_i."""
    a = SIGNAL[i].item()
    return math.sqrt(1 - a) * (x - math.sqrt(a) * mean) / (a * deviation**2 + 1 - a)


@pytest.mark.parametrize("sampler", ["large", "ancestral", "ddim"])
def test_the_chain_of_normal_data_ends_at_their_mean_and_variance(sampler):
    """With the exact ε̂ every step is affine: mean and variance go through its coefficients."""
    m, v = 1.5, 0.4
    mean, variance = 0.0, 1.0
    at = lambda x, xi, i, j: back(x, exact(x, i, m, v), i, j, sampler, xi)
    zero, one = (torch.tensor(value, dtype=torch.float64) for value in (0.0, 1.0))
    for i, j in pairwise(levels_of(1000)):
        shift = at(zero, zero, i, j)
        slope, spread = at(one, zero, i, j) - shift, at(zero, one, i, j) - shift
        mean = (slope * mean + shift).item()
        variance = (slope**2 * variance + spread**2).item()
    assert mean == pytest.approx(m, rel=0.02)
    assert math.sqrt(variance) == pytest.approx(v, rel=0.02)


def test_ddim_follows_the_map_between_the_two_normals():
    m, v, a = 1.5, 0.4, SIGNAL[1000].item()
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    x = z
    for i, j in pairwise(levels_of(1000)):
        x = back(x, exact(x, i, m, v), i, j, "ddim", torch.zeros(9))
    expected = m + v * (z - math.sqrt(a) * m) / math.sqrt(a * v**2 + 1 - a)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-2)


@pytest.mark.parametrize("i", [1, 2, 500, 1000])
def test_a_step_to_the_next_level_is_the_posterior(i):
    """q(x_{i-1} | x_i, x_0) of Ho et al., equation 7, at x_0 = x̂_0; and its two variances."""
    a, b = SIGNAL[i].item(), SIGNAL[i - 1].item()
    rate = 1 - a / b
    z, noise = torch.randn(5).double(), torch.ones(5).double()
    told = torch.randn(5).double()
    clean = (z - math.sqrt(1 - a) * told) / math.sqrt(a)
    mean = math.sqrt(b) * rate / (1 - a) * clean + math.sqrt(1 - rate) * (1 - b) / (1 - a) * z
    small = rate * (1 - b) / (1 - a)
    for sampler, variance in (("ancestral", small), ("large", rate if i > 1 else 0.0)):
        got = back(z, told, i, i - 1, sampler, noise)
        torch.testing.assert_close(got, mean + math.sqrt(variance) * noise, rtol=1e-9, atol=1e-9)


def test_the_signal_is_the_product_of_what_each_step_leaves():
    assert SIGNAL[0] == 1
    assert SIGNAL[1].item() == pytest.approx(1 - 1e-4, rel=1e-14)
    rates = 1 - SIGNAL[1:] / SIGNAL[:-1]
    torch.testing.assert_close(rates, torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    assert levels_of(4) == [1000, 750, 500, 250, 0]
    assert levels_of(1000) == list(range(1000, -1, -1))


def test_images_are_cut_and_their_noise_is_taken_anew():
    z, told, a, b = torch.tensor([9.0]), torch.zeros(1), SIGNAL[500].item(), SIGNAL[400].item()
    again = (9.0 - math.sqrt(a)) / math.sqrt(1 - a)
    got = back(z, told, 500, 400, "ddim", torch.zeros(1), cut=True)
    assert got.item() == pytest.approx(math.sqrt(b) + math.sqrt(1 - b) * again, rel=1e-5)


def test_the_loss_is_the_error_of_the_noise_and_levels_reach_both_ends(dataset):
    state = ddpm.build(SETTINGS, dataset)
    x, level, noise = ddpm.batch_of(0, SETTINGS, dataset)
    a = SIGNAL[level].float()[:, None]
    told = state.networks["net"](a.sqrt() * x + (1 - a).sqrt() * noise, level)
    expected = (told - noise).square().mean().item()
    assert ddpm.step(state, SETTINGS, dataset)["loss"].item() == pytest.approx(expected, rel=1e-5)
    many = SETTINGS.changed(batch=60)
    seen = torch.cat([ddpm.batch_of(step, many, dataset)[1] for step in range(400)])
    assert (seen.min(), seen.max()) == (1, 1000)


def test_a_step_depends_on_seed_and_step_alone(dataset):
    ends = []
    for noise in (0, 1):
        state = ddpm.build(SETTINGS, dataset)
        torch.manual_seed(noise)
        for _ in range(3):
            ddpm.step(state, SETTINGS, dataset)
        ends.append(state.tensors())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0] if k != "random")


@pytest.mark.parametrize("sampler", ["large", "ancestral", "ddim"])
def test_samples_do_not_depend_on_how_many_are_drawn(dataset, tmp_path, sampler):
    run = Run(DDPM, SETTINGS, tmp_path, ddpm.build(SETTINGS, dataset), dataset)
    drawing, seen = DdpmDrawing(sampler=sampler, levels=5), []
    keep = lambda where, x: seen.append((where, x))
    many = draw_samples(run, 1200, drawing, on_state=keep)
    assert many.shape == (1200, 2)
    assert torch.equal(draw_samples(run, 7, drawing), many[:7])
    assert not torch.equal(draw_samples(run, 7, drawing, seed=1), many[:7])
    assert [where for where, _ in seen] == [f"level {i}" for i in (1000, 800, 600, 400, 200, 0)]
    assert torch.equal(seen[-1][1], many)
    assert DDPM.evaluations(SETTINGS, drawing) == 5


def test_samples_that_fly_off_are_an_error_that_names_the_level(dataset, tmp_path):
    state = ddpm.build(SETTINGS, dataset)
    with torch.no_grad():
        state.networks["ema"].features.body[-1].bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not finite after level 900"):
        draw_samples(Run(DDPM, SETTINGS, tmp_path, state, dataset), 3)


def test_a_network_without_levels_is_refused(dataset):
    with pytest.raises(SettingsError, match="needs features=mlp, conv or unet, got identity"):
        ddpm.build(SETTINGS.changed(features="identity"), dataset)
    with pytest.raises(SettingsError, match="levels must be from 1 to 1000, got 1001"):
        DdpmDrawing(levels=1001)


@pytest.mark.parametrize("name", ["checkerboard", "digits", "cifar10"])
def test_the_field_of_a_preset_has_the_shape_of_its_samples(name):
    shape = {"checkerboard": (2,), "digits": (1, 8, 8), "cifar10": (3, 32, 32)}[name]
    settings = settings_of(name, "ddpm").changed(batch=2, feature_width=8)
    data = Dataset(torch.randn(4, *shape), 1.0)
    state = ddpm.build(settings, data)
    x, level, _ = ddpm.batch_of(0, settings, data)
    assert state.networks["net"](x, level).shape == x.shape
