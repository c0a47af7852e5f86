"""Every sampler is its equation, written naively, and no sample depends on how many are drawn."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

import dmmd_kernels as dk
from dmmd_kernels import sample
from dmmd_kernels.data.diffusion import LinearBeta
from dmmd_kernels.networks.features import ConvFeatures, DeepKernel, Width
from dmmd_kernels.runs.run import Dataset, Run
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.systems.dmmd import level_data, samplers

SETTINGS = Settings(
    backend="reference",
    features="conv",
    t_min=0.2,
    t_max=0.8,
    sample_levels=3,
    sample_steps=2,
    particles=5,
    clean=9,
    step_rule="constant",
    step_size=0.3,
)


def run_of(folder, base="linear", **changes) -> Run:
    torch.manual_seed(0)
    width = None if base == "linear" else Width(4, start=2.0)
    deep = DeepKernel(ConvFeatures((1, 4, 4), 6, width=2), base, width).double()
    with torch.no_grad():
        deep.features.head.weight *= 30  # untrained features are small, and so would be every slope
    train = torch.randn(11, 1, 4, 4, dtype=torch.float64)
    (folder / "checkpoints").mkdir(exist_ok=True)
    settings = replace(SETTINGS, kernel=base, **changes)
    return Run(settings, folder, deep.eval().requires_grad_(False), Dataset(train, 1.0))


@pytest.fixture(params=["linear", "gaussian", "rational_quadratic"])
def run(request, tmp_path):
    return run_of(tmp_path, request.param)


def naive(run, z, x, t, kernel=None):
    """∇ of mean_i k(φ(x_i), φ(z)) - mean_j k(φ(X_0^j), φ(z)), all pairs, x held."""
    at = torch.tensor([t], dtype=z.dtype)
    features = lambda images: run.deep(images[None], at)[0]
    z = z.clone().requires_grad_()
    a, b, clean = features(z), features(x).detach(), features(level_data.clean_samples(run))
    k = lambda u, v: dk.kernel_matrix(u, v, kernel or run.deep.kernel(at[0])).mean(1)
    (slope,) = torch.autograd.grad((k(a, b) - k(a, clean)).sum(), z)
    return slope


def exact(run, z, t):
    return torch.cat([naive(run, cloud, cloud, t) for cloud in z.split(5)])


def approximate(run, z, t):
    return naive(run, z, level_data.noised_samples(run, t), t)


def alone(run, z, t):
    return torch.cat([naive(run, one, one, t) for one in z.split(1)])


EQUATIONS = {
    "dmmd": (exact, None),
    "dmmd_e": (exact, exact),
    "a_dmmd": (approximate, None),
    "a_dmmd_a": (approximate, approximate),
    "a_dmmd_e": (approximate, alone),
}


@pytest.mark.parametrize("method", EQUATIONS)
def test_a_sampler_is_its_equation(run, method):
    start = z = sample.start(run, 10, 3).flatten(0, 1)
    body, final = EQUATIONS[method]
    ts = sample.noise_levels(run.settings)
    for t in (ts[0], ts[0], ts[1], ts[1], ts[2], ts[2]):
        z = z - 0.3 * body(run, z, t)
    for _ in range(2 if final else 0):
        z = z - 0.7 * final(run, z, run.settings.t_min)
    rates = {"step_size": 0.3, "eta_final": 0.7}
    got = sample.draw_samples(run, 10, method=method, seed=3, **rates)
    assert (got - start).abs().max() > 1e-3, "the flow must move what is compared"
    torch.testing.assert_close(got, z)
    assert sample.evaluations(run.settings, method) == 6 + (2 if final else 0)


def test_below_a_level_particles_flow_by_an_energy_kernel(tmp_path):
    run = run_of(tmp_path, energy_below=0.6, energy_step=0.4, sample_steps=1, t_min=0.1)
    z = sample.start(run, 5, 3).flatten(0, 1)
    z = z - 0.3 * naive(run, z, z, 0.8)
    for t, eta in ((0.45, 0.4), (0.1, 0.2)):
        z = z - eta * naive(run, z, z, t, dk.energy())
    torch.testing.assert_close(sample.draw_samples(run, 5, seed=3), z)
    along = [
        sample.draw_samples(r, 5, method="a_dmmd")
        for r in (run, run_of(tmp_path, t_min=0.1, sample_steps=1))
    ]
    assert sample.final_step(run.settings, "dmmd_e") == 3.0
    assert torch.equal(*along), "flows along f̂ keep the trained kernel"


def test_the_last_steps_of_dmmd_e_follow_the_final_rate_of_the_run(tmp_path):
    run = run_of(tmp_path, final_rate=5.0)
    c = 5.0 * run.settings.step_size
    assert sample.final_step(run.settings, "dmmd_e") == c
    assert sample.final_step(run.settings, "a_dmmd_e") == run.settings.step_size
    got, told = (sample.draw_samples(run, 5, method="dmmd_e", eta_final=e) for e in (None, c))
    assert torch.equal(got, told)


@pytest.mark.parametrize("method", EQUATIONS)
def test_a_sample_does_not_depend_on_how_many_are_drawn(run, method):
    many = sample.draw_samples(run, 17, method=method)
    assert torch.equal(sample.draw_samples(run, 7, method=method), many[:7])
    assert torch.equal(sample.draw_samples(run, 17, method=method), many)
    assert not torch.equal(sample.draw_samples(run, 17, method=method, seed=1), many)


def test_points_do_not_depend_on_how_many_are_drawn(tmp_path):
    from tests.runs import fit

    run = fit(tmp_path / "run", steps=5)
    for method in ("dmmd", "dmmd_e", "a_dmmd_e"):
        many = sample.draw_samples(run, 50, method=method)
        assert torch.equal(sample.draw_samples(run, 7, method=method), many[:7])


@pytest.mark.parametrize("method", ["dmmd_e", "a_dmmd_e"])
def test_rows_split_the_network_and_not_the_cloud(run, method):
    whole = sample.draw_samples(run, 10, method=method)
    torch.testing.assert_close(sample.draw_samples(run, 10, method=method, rows=2), whole)


def test_approximate_particles_do_not_feel_each_other(tmp_path):
    apart = run_of(tmp_path)
    z = sample.start(apart, 5, 0)
    *_, (_, together) = sample.body(apart, z, "a_dmmd")
    *_, (_, alone) = sample.body(apart, z[:, 1:3], "a_dmmd")
    torch.testing.assert_close(alone, together[:, 1:3])


def test_mean_features_are_means(run):
    t, x = torch.tensor([0.3], dtype=torch.float64), run.dataset.train
    if run.settings.kernel != "linear":
        return assert_all_features_are_kept(run, t)
    for noised, clouds in ((False, x), (True, level_data.noised_samples(run, 0.3))):
        table = level_data.mean_features(run, [0.3], noised=noised)
        torch.testing.assert_close(table, run.deep(clouds[None], t)[0].mean(0, keepdim=True))


def assert_all_features_are_kept(run, t):
    (level,) = level_data.sides(run, [0.3], noised=True)
    assert level.clean.shape == level.noised.shape == (9, 6)
    x_t = level_data.noised_samples(run, 0.3)
    torch.testing.assert_close(level.noised, run.deep(x_t[None], t)[0])


def test_noise_has_the_size_of_its_level(tmp_path):
    run = run_of(tmp_path)
    run = replace(run, dataset=Dataset(torch.zeros(2000, 1, 4, 4), 1.0))
    beta = LinearBeta().beta(torch.tensor(0.3)).item()
    x_t = level_data.noised_samples(run, 0.3)
    assert x_t.std().item() == pytest.approx(beta, rel=0.02)
    assert not torch.equal(x_t, level_data.noised_samples(run, 0.31))


def tables(run, **changes):
    """The number of files kept after a-DMMD samples of the run with changes."""
    run = replace(run, settings=replace(run.settings, **changes))
    sample.draw_samples(run, 5, method="a_dmmd")
    return len(list((run.folder / level_data.FOLDER).glob("*.safetensors")))


def test_tables_are_computed_once_and_again_when_anything_changes(tmp_path):
    run = run_of(tmp_path)
    assert [tables(run), tables(run), tables(run, step_size=0.1)] == [2, 2, 2]
    assert tables(run, sample_levels=2) == 4
    assert tables(run, schedule="discrete_beta") == 8 - 2
    with torch.no_grad():
        run.deep.features.head.weight[0, 0] += 1
    assert tables(run) == 8


def test_a_table_is_read_back_and_a_damaged_one_is_made_again(tmp_path, monkeypatch):
    run = run_of(tmp_path)
    first = sample.draw_samples(run, 5, method="a_dmmd")
    with monkeypatch.context() as patched:
        patched.setattr(level_data, "data_features", None)
        assert torch.equal(sample.draw_samples(run, 5, method="a_dmmd"), first)
    for path in (tmp_path / level_data.FOLDER).iterdir():
        path.write_bytes(path.read_bytes()[:-4])
    assert torch.equal(sample.draw_samples(run, 5, method="a_dmmd"), first)


def test_a_checkpoint_without_its_run_keeps_no_tables(tmp_path):
    run = run_of(tmp_path)
    (tmp_path / "checkpoints").rmdir()
    sample.draw_samples(run, 5, method="a_dmmd")
    assert not list(tmp_path.iterdir())


def test_particles_that_fly_off_are_an_error_that_names_the_level(tmp_path):
    run = run_of(tmp_path)
    single = Dataset(run.dataset.train.float(), 1.0)
    run = replace(run, deep=run.deep.float(), dataset=single)
    with pytest.raises(FloatingPointError, match=r"level t = 0\.[0-9]+; take a smaller step_size"):
        sample.draw_samples(run, 5, method="a_dmmd_e", step_size=3e38)


def test_wrong_arguments_are_named(run):
    with pytest.raises(ValueError, match=r"method one of dmmd, dmmd_e, .* got 5 and 'ddpm'"):
        sample.draw_samples(run, 5, method="ddpm")
    level = next(level_data.sides(run, [0.3], noised=False))
    with pytest.raises(ValueError, match=r"level\.noised must hold features, got None"):
        samplers.approximate_slope(run.deep, sample.start(run, 5, 0), level)


@pytest.mark.parametrize("kind", ["digits", "points"])
def test_a_trajectory_has_a_frame_for_the_start_and_each_level(tmp_path, kind):
    shape = (1, 4, 4) if kind == "digits" else (2,)
    states = [(t, torch.randn(12, *shape)) for t in (1.0, 0.5, 0.1)]
    sample.write_trajectory(tmp_path / "x.gif", states)
    with Image.open(tmp_path / "x.gif") as picture:
        assert picture.n_frames == 3


def test_the_program_takes_methods_and_evaluations(tmp_path, capsys):
    from tests.runs import fit

    fit(tmp_path / "run", steps=5)
    usual = ["--checkpoint", str(tmp_path / "run"), "--n", "7", "--out", str(tmp_path / "x.npz")]
    sample.main([*usual, "--method", "a_dmmd_e", "--nfe", "12", "--step_size", "0.1"])
    assert "7 samples of a_dmmd_e, 14 evaluations each" in capsys.readouterr().out
    for wrong, text in ((["--nfe", "7"], "multiple of the 3 levels"), (["--rows", "0"], "--rows")):
        with pytest.raises(SystemExit):
            sample.main(usual + wrong)
        assert text in capsys.readouterr().err
