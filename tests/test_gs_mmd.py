"""GS-MMD-RK: its slope, exact and sliced, its phases, and networks one after the other."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.run import Run, draw_samples
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.systems import fit, gs_mmd, load_run
from dmmd_kernels.systems.gs_mmd import GS_MMD, GsMmdDrawing, GsMmdSettings

SETTINGS = Settings(
    backend="reference",
    steps=6,
    batch=8,
    log_every=2,
    save_every=1,
    keep=99,
    data_size=200,
    system=GsMmdSettings(
        features="mlp", feature_width=8, particles=30, clean=40, phase_steps=2, flow_steps=2
    ),
)


@pytest.fixture
def dataset():
    return Dataset(torch.randn(60, 2, generator=torch.Generator().manual_seed(0)), 2.0)


def exact_slope(x, y):
    return dk.witness_grad(x, x, y, dk.energy(), backend="reference")


@pytest.mark.parametrize(("n", "m"), [(30, 30), (20, 33)])
def test_in_one_dimension_any_slice_is_exact(n, m):
    x, y = torch.randn(n, 1).double(), torch.randn(m, 1).double()
    got = gs_mmd.sliced_slope(x, y, torch.tensor([[1.0], [-3.0]]).double())
    torch.testing.assert_close(got, exact_slope(x, y))


def test_the_error_of_slices_falls_with_the_root_of_their_number():
    """By the mean square over 30 draws: four times as many, half the error, within a fifth."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, 8, generator=generator).double() for _ in range(2))
    exact = exact_slope(x, y)

    def error(slices):
        found = []
        for _ in range(30):
            theta = torch.randn(slices, 8, generator=generator).double()
            found.append((gs_mmd.sliced_slope(x, y, theta) - exact).square().sum())
        return (torch.stack(found).mean() / exact.square().sum()).sqrt().item()

    errors = [error(slices) for slices in (50, 200, 800)]
    for many, few in zip(errors[1:], errors, strict=False):
        assert 0.4 < many / few < 0.6


@pytest.mark.parametrize("slices", [0, 3])
def test_a_flow_is_steps_with_momentum(slices):
    x, y = torch.randn(9, 2), torch.randn(11, 2)
    settings = GsMmdSettings(features="mlp", slices=slices, step_size=0.2, momentum=0.5)
    generator = lambda: torch.Generator().manual_seed(3)
    got = gs_mmd.flowed(x, y, settings, 4, generator(), "reference")
    z, v, draws = x.clone(), torch.zeros_like(x), generator()
    for _ in range(4):
        theta = torch.randn(slices, 2, generator=draws)
        slope = gs_mmd.sliced_slope(z, y, theta) if slices else exact_slope(z, y)
        v = 0.5 * v + slope
        z = z - 0.2 * v
    torch.testing.assert_close(got, z, rtol=1e-4, atol=1e-5)


def test_phases_add_networks_and_particles_go_on_from_where_these_bring_them(dataset):
    state = gs_mmd.build(SETTINGS, dataset)
    begin = state.pools["x"]
    for _ in range(SETTINGS.steps):
        gs_mmd.step(state, SETTINGS, dataset)
    assert sorted(state.networks) == ["push_0", "push_1", "push_2"]
    assert state.phase == 2
    assert state.followers["adam"].network == "push_2"
    assert not any(p.requires_grad for p in state.networks["push_1"].parameters())
    x = begin
    for phase in range(2):
        x = gs_mmd.pushed(state.networks[f"push_{phase}"], x)
    torch.testing.assert_close(state.pools["x"], x, rtol=0, atol=0)
    flow = gs_mmd.flowed(
        x, state.pools["y"], SETTINGS.system, 8, torch.Generator(), SETTINGS.backend
    )
    torch.testing.assert_close(state.pools["target"], flow)


def test_a_run_stopped_in_any_phase_is_the_uninterrupted_one(tmp_path):
    whole = fit(SETTINGS.changed(out=str(tmp_path / "whole")), progress=False)
    for stop in (1, 2, 3, 5):
        parts = SETTINGS.changed(out=str(tmp_path / f"at-{stop}"))
        fit(parts.changed(steps=stop), progress=False)
        found = fit(parts, resume=True, progress=False)
        for name, tensor in whole.state.tensors().items():
            assert torch.equal(found.state.tensors()[name], tensor), (stop, name)
    earlier = load_run(tmp_path / "whole" / "checkpoints" / "step-00000003", "cpu")
    assert (earlier.state.phase, len(earlier.state.networks)) == (1, 2)
    assert checkpoint.find(tmp_path / "whole").phase == 2


def test_samples_go_through_every_network_and_do_not_depend_on_how_many(dataset, tmp_path):
    state = gs_mmd.build(SETTINGS, dataset)
    for _ in range(SETTINGS.steps):
        gs_mmd.step(state, SETTINGS, dataset)
    run, seen = Run(GS_MMD, SETTINGS, tmp_path, state, dataset), []
    many = draw_samples(run, 1100, on_state=lambda where, x: seen.append((where, x)))
    assert [where for where, _ in seen] == ["latent", "phase 0", "phase 1", "phase 2"]
    pushed = gs_mmd.pushed(state.networks["push_0"], seen[0][1] / 2) * 2
    torch.testing.assert_close(seen[1][1], pushed)
    assert torch.equal(draw_samples(run, 7), many[:7])
    assert torch.equal(draw_samples(run, 1100, GsMmdDrawing(phases=1)), seen[1][1])
    assert not torch.equal(draw_samples(run, 7, seed=1), many[:7])
    assert GS_MMD.evaluations(SETTINGS, GsMmdDrawing()) == 3
    with pytest.raises(SettingsError, match="phases must be at most the run's 3, got 4"):
        draw_samples(run, 7, GsMmdDrawing(phases=4))


def test_a_network_without_features_is_refused(dataset):
    with pytest.raises(SettingsError, match="needs features=mlp, conv or unet, got identity"):
        gs_mmd.build(SETTINGS.changed(features="identity"), dataset)
