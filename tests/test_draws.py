"""Every sampler is its equation, written naively, and no sample depends on how many are drawn."""

from typing import get_args, get_type_hints

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.data.diffusion import levels
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems.dmmd import DMMD, draws
from dmmd_kernels.systems.dmmd.draws import METHODS, along, draw_each, evaluations, planned, start
from dmmd_kernels.systems.dmmd.level_data import LevelData
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from tests.runs import TINY, fit, run_with, sketch

BASES = ["linear", "gaussian", "rational_quadratic"]


@pytest.fixture(params=BASES)
def run(request, tmp_path):
    return sketch(tmp_path, request.param)


def draw(run, n, *, seed=0, **drawing):
    return draw_samples(run, n, DmmdDrawing(**drawing), seed=seed)


def naive(run, z, x, t, kernel=None):
    """∇ of mean_i k(φ(x_i), φ(z)) - mean_j k(φ(X_0^j), φ(z)), all pairs, x held."""
    deep, at = run.state.networks["ema"], torch.tensor([t], dtype=z.dtype)
    features = lambda images: deep(images[None], at)[0]
    z = z.clone().requires_grad_()
    clean = features(LevelData.of(run).clean_samples())
    a, b = features(z), features(x).detach()
    k = lambda u, v: dk.kernel_matrix(u, v, kernel or deep.kernel(at[0])).mean(1)
    (slope,) = torch.autograd.grad((k(a, b) - k(a, clean)).sum(), z)
    return slope


def exact(run, z, t):
    return torch.cat([naive(run, cloud, cloud, t) for cloud in z.split(5)])


def approximate(run, z, t):
    return naive(run, z, LevelData.of(run).noised_samples(t), t)


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
    begin = z = start(run, 10, 3, 5).flatten(0, 1)
    body, final = EQUATIONS[method]
    ts = levels(0.8, 0.2, 3).tolist()
    for t in (ts[0], ts[0], ts[1], ts[1], ts[2], ts[2]):
        z = z - 0.3 * body(run, z, t)
    for _ in range(2 if final else 0):
        z = z - 0.7 * final(run, z, 0.2)
    got = draw(run, 10, seed=3, method=method, step_size=0.3, eta_final=0.7)
    assert (got - begin).abs().max() > 1e-3, "the flow must move what is compared"
    torch.testing.assert_close(got, z)
    drawing = DmmdDrawing(method=method)
    assert evaluations(run.settings, drawing) == 6 + (2 if final else 0)


def test_methods_have_their_names_everywhere():
    kind = get_type_hints(DmmdDrawing)["method"]
    (names,) = (get_args(part) for part in get_args(kind) if get_args(part))
    assert list(names) == list(METHODS) == list(EQUATIONS) == list(DMMD.variants)
    assert [drawing.method for drawing in DMMD.variants.values()] == list(METHODS)


def test_samples_are_in_the_coordinates_of_the_data(run):
    other = run_with(
        run.state.networks["ema"], run.settings, run.folder, run.dataset._replace(scale=2.0)
    )
    assert torch.equal(draw(other, 3), 2 * draw(run, 3))


def test_below_a_level_particles_flow_by_an_energy_kernel(tmp_path):
    run = sketch(tmp_path, energy_below=0.6, energy_step=0.4, sample_steps=1, t_min=0.1)
    z = start(run, 5, 3, 5).flatten(0, 1)
    z = z - 0.3 * naive(run, z, z, 0.8)
    for t, eta in ((0.45, 0.4), (0.1, 0.2)):
        z = z - eta * naive(run, z, z, t, dk.energy())
    torch.testing.assert_close(draw(run, 5, seed=3), z)
    without = sketch(tmp_path, t_min=0.1, sample_steps=1)
    asked = {"energy_below": 0.6}
    told = sketch(tmp_path, energy_step=0.4, sample_steps=1, t_min=0.1)
    assert torch.equal(draw(told, 5, seed=3, **asked), draw(run, 5, seed=3))
    assert torch.equal(draw(run, 5, energy_below=0.0), draw(without, 5))
    assert planned(run.settings, DmmdDrawing(method="dmmd_e")).final_step.c == 3.0
    flows = [draw(r, 5, method="a_dmmd") for r in (run, without)]
    assert torch.equal(*flows), "flows along f̂ keep the trained kernel"


def test_the_last_steps_follow_the_final_rate_of_the_run(tmp_path):
    run = sketch(tmp_path, final_rate=5.0)
    rate = lambda method: planned(run.settings, DmmdDrawing(method=method)).final_step.c
    assert rate("dmmd_e") == 5.0 * 0.3
    assert rate("a_dmmd_e") == rate("a_dmmd_a") == 0.3
    got, told = (draw(run, 5, method="dmmd_e", eta_final=e) for e in (None, 5.0 * 0.3))
    assert torch.equal(got, told)


def test_steps_along_the_approximate_witness_are_a_quarter(run):
    step = lambda method: planned(run.settings, DmmdDrawing(method=method)).step
    assert step("dmmd") == step("dmmd_e") == (0.3, False)
    assert step("a_dmmd") == step("a_dmmd_e") == (0.3 / 4, False)
    assert planned(TINY, DmmdDrawing()).step == (1.5, True)


def test_what_is_asked_for_goes_before_what_the_run_says(run):
    asked = {"levels": 2, "steps": 4, "t_max": 0.5, "particles": 3, "rows": 7}
    plan = planned(run.settings, DmmdDrawing(**asked))
    assert (plan.ts, plan.steps, plan.particles, plan.rows) == (
        tuple(levels(0.5, 0.2, 2).tolist()),
        4,
        3,
        7,
    )
    usual = planned(run.settings, DmmdDrawing())
    assert (len(usual.ts), usual.steps, usual.particles, usual.rows) == (3, 2, 5, 256)
    assert planned(run.settings, DmmdDrawing(nfe=12)).steps == 4
    assert planned(run.settings, DmmdDrawing(nfe=12, levels=2)).steps == 6


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"nfe": 7}, "nfe must be a multiple of the 3 levels"),
        ({"nfe": 2}, "nfe must be a multiple of the 3 levels"),
        ({"nfe": 6, "steps": 2}, "without --steps; got 6 and 2"),
        ({"t_max": 0.1}, "t_max must be at least t_min = 0.2, got 0.1"),
    ],
    ids=str,
)
def test_drawings_that_do_not_fit_the_run_are_errors(run, asked, text):
    with pytest.raises(SettingsError, match=text):
        draw(run, 5, **asked)


def test_a_wrong_method_is_named():
    with pytest.raises(SettingsError, match=r"method must be one of dmmd, dmmd_e, .*got 'ddpm'"):
        DmmdDrawing(method="ddpm")


@pytest.mark.parametrize("method", EQUATIONS)
def test_a_sample_does_not_depend_on_how_many_are_drawn(run, method):
    many = draw(run, 17, method=method)
    assert torch.equal(draw(run, 7, method=method), many[:7])
    assert torch.equal(draw(run, 17, method=method), many)
    assert not torch.equal(draw(run, 17, method=method, seed=1), many)


def test_points_do_not_depend_on_how_many_are_drawn(tmp_path):
    run = fit(tmp_path / "run", steps=5)
    for method in ("dmmd", "dmmd_e", "a_dmmd_e"):
        many = draw(run, 50, method=method)
        assert torch.equal(draw(run, 7, method=method), many[:7])


def draw_all(run, n, seed):
    return draw_each(run, n, DMMD.variants, seed=seed, progress=False)


def test_drawn_together_they_are_as_drawn_each_by_itself(run):
    found = draw_all(run, 7, 2)
    assert list(found) == list(METHODS)
    for method, samples in found.items():
        assert torch.equal(samples, draw(run, 7, seed=2, method=method)), method


def test_points_drawn_together_are_as_drawn_each_by_itself(tmp_path):
    run = fit(tmp_path / "run", steps=5)
    for method, samples in draw_all(run, 23, 1).items():
        assert torch.equal(samples, draw(run, 23, seed=1, method=method)), method


def counted(monkeypatch, name):
    """The plans that a function of draws is called with from now on."""
    calls, function = [], getattr(draws, name)

    def noted(data, z, plan):
        calls.append(plan)
        return function(data, z, plan)

    monkeypatch.setattr(draws, name, noted)
    return calls


def test_a_way_that_several_go_is_gone_once(run, monkeypatch):
    ways, ends = counted(monkeypatch, "along"), counted(monkeypatch, "finish")
    draw_all(run, 7, 0)
    assert [plan.body for plan in ways] == [METHODS["dmmd"].body, METHODS["a_dmmd"].body]
    assert len(ends) == 3
    ways.clear()
    each = {f"{c}": DmmdDrawing(method="dmmd_e", eta_final=c) for c in (0.1, 0.2, 0.3)}
    each["other"] = DmmdDrawing(method="dmmd", steps=1)
    draw_each(run, 7, each, seed=0, progress=False)
    assert len(ways) == 2, "another number of steps is another way; another last rate is not"


@pytest.mark.parametrize("method", ["dmmd_e", "a_dmmd_e"])
def test_rows_split_the_network_and_not_the_cloud(run, method):
    whole = draw(run, 10, method=method)
    torch.testing.assert_close(draw(run, 10, method=method, rows=2), whole)


def test_approximate_particles_do_not_feel_each_other(tmp_path):
    run = sketch(tmp_path)
    data, plan = LevelData.of(run), planned(run.settings, DmmdDrawing(method="a_dmmd"))
    z = start(run, 5, 0, 5)
    *_, (_, together) = along(data, z, plan)
    *_, (_, few) = along(data, z[:, 1:3], plan)
    torch.testing.assert_close(few, together[:, 1:3])


@pytest.mark.parametrize("method", ["dmmd", "a_dmmd_e"])
def test_states_are_told_from_the_start_to_the_end(run, method):
    states = []
    samples = draw_samples(
        run, 7, DmmdDrawing(method=method), on_state=lambda *state: states.append(state)
    )
    names = ["t = 0.80", "t = 0.80", "t = 0.50", "t = 0.20"]
    assert [name for name, _ in states] == names + ["t = 0.20"] * (method == "a_dmmd_e")
    assert torch.equal(states[0][1], start(run, 7, 0, 5).flatten(0, 1)[:7])
    assert torch.equal(states[-1][1], samples)
    assert len({x.sum().item() for _, x in states[1:]}) == len(states) - 1, "none is overwritten"


def test_particles_that_fly_off_are_an_error_that_names_the_level(tmp_path):
    run = sketch(tmp_path)
    single = Dataset(run.dataset.train.float(), 1.0)
    run = run_with(run.state.networks["ema"].float(), run.settings, tmp_path, single)
    with pytest.raises(FloatingPointError, match=r"level t = 0\.[0-9]+; take a smaller step_size"):
        draw(run, 5, method="a_dmmd_e", step_size=3e38)


def test_no_samples_are_an_error(run):
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        draw(run, 0)
