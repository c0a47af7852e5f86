"""The plain MMD flow behind the door: its pool is dk.flow, in however many pieces it ran."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs.run import Run, draw_samples
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.systems import mmd_flow
from dmmd_kernels.systems.mmd_flow import MMD_FLOW, MmdFlowDrawing, MmdFlowSettings

SETTINGS = Settings(
    backend="reference",
    steps=4,
    log_every=2,
    system=MmdFlowSettings(flow_steps=3, particles=8, clean=20, noise=0.3),
)


@pytest.fixture
def dataset():
    return Dataset(torch.randn(50, 2, generator=torch.Generator().manual_seed(0)), 2.0)


def ended(settings, dataset):
    state = mmd_flow.build(settings, dataset)
    told = [mmd_flow.step(state, settings, dataset) for _ in range(settings.steps)]
    return state, told


def test_the_pool_flows_as_one_call_does(dataset):
    state, told = ended(SETTINGS, dataset)
    begin, y = mmd_flow.build(SETTINGS, dataset).pools["x"], state.pools["y"]
    kernel, noise = dk.gaussian(0.5), 0.3 * (1 - torch.arange(12) / 12)
    share = torch.full((20,), 1 / 20)
    eta = 1.5 * 0.25 / dk.kernel_matrix(y, y, kernel, backend="reference").mean().item()
    torch.testing.assert_close(dk.potential(y, y, share, kernel).mean().item() * eta, 1.5 * 0.25)
    whole = dk.flow(
        begin, y, kernel, step_size=eta, steps=12, noise=noise, seed=0, backend="reference"
    )
    torch.testing.assert_close(state.pools["x"], whole.particles)
    assert [bool(numbers) for numbers in told] == [False, True, False, True]
    assert told[-1]["mmd2"].item() == dk.mmd2(state.pools["x"], y, kernel, backend="reference")


def test_the_first_cloud_drawn_with_the_seed_of_the_run_is_its_pool(dataset, tmp_path):
    state, _ = ended(SETTINGS, dataset)
    run = Run(MMD_FLOW, SETTINGS, tmp_path, state, dataset)
    drawn = draw_samples(run, 20)
    assert torch.equal(drawn[:8], state.pools["x"] * 2)
    assert torch.equal(draw_samples(run, 5), drawn[:5])
    assert not torch.equal(draw_samples(run, 5, seed=1), drawn[:5])
    assert draw_samples(run, 5, MmdFlowDrawing(particles=4, steps=2)).shape == (5, 2)


def test_states_on_the_way_are_told(dataset, tmp_path):
    run = Run(MMD_FLOW, SETTINGS, tmp_path, mmd_flow.build(SETTINGS, dataset), dataset)
    seen = []
    last = draw_samples(run, 3, on_state=lambda where, x: seen.append((where, x)))
    assert [where for where, _ in seen] == [f"step {step}" for step in range(13)]
    assert torch.equal(seen[-1][1], last)


@pytest.mark.parametrize("kernel", ["gaussian", "rational_quadratic", "imq", "laplace", "energy"])
def test_every_kernel_brings_particles_to_the_data(dataset, kernel):
    settings = SETTINGS.changed(kernel=kernel, sigma=1.5, steps=40, noise=0.0, step_size=1.0)
    state = mmd_flow.build(settings, dataset)
    state.pools["x"], y = state.pools["x"] + 1, state.pools["y"]
    begin = state.pools["x"]
    for _ in range(settings.steps):
        mmd_flow.step(state, settings, dataset)
    gaps = [(x.mean(0) - y.mean(0)).norm() for x in (begin, state.pools["x"])]
    assert gaps[1] < 0.2 * gaps[0]


def test_particles_that_fly_off_are_an_error_that_names_the_step(dataset):
    state = mmd_flow.build(SETTINGS, dataset)
    mmd_flow.step(state, SETTINGS, dataset)
    state.pools["x"][0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"not finite after step 4; take a smaller step"):
        mmd_flow.step(state, SETTINGS, dataset)


def test_noise_falls_with_the_steps_left_and_so_fixes_their_number():
    assert [mmd_flow.noise_at(SETTINGS, at) for at in (0, 6, 12, 99)] == [0.3, 0.15, 0.0, 0.0]
    assert SETTINGS.system.fixes_steps
    assert not SETTINGS.changed(noise=0.0).system.fixes_steps
