"""Triton's way through tensor cores: as accurate as differences, with the near pairs by
themselves."""

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import _triton, choice, reference
from tests.cases import CLOUDS, DEVICE, assert_as_accurate, compiled_form, problem

triton = pytest.importorskip("triton", reason="Triton is not installed")

from dmmd_kernels.backends._triton import fused, panels, regimes, scaling  # noqa: E402
from dmmd_kernels.backends._triton.float16 import centre_and_scale, split  # noqa: E402


@pytest.fixture(autouse=True)
def calls(monkeypatch) -> list:
    """Small problems take this way too; returns the rows of the table that were used."""
    monkeypatch.setattr(fused, "LEAST_WORK", 0)
    used: list = []
    sweep = fused.sweep

    def spy(z, x, v, w, kernel, row, **options):
        used.append(row)
        return sweep(z, x, v, w, kernel, row, **options)

    monkeypatch.setattr(fused, "sweep", spy)
    return used


@pytest.mark.parametrize("clouds", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize(
    "kernel", ["gaussians", "rational_quadratic", "laplace", "energy", "matern1.5", "matern2.5"]
)
def test_value_and_gradient_are_as_accurate_as_differences(clouds, kernel, calls):
    z, x, v, w = problem(40, 100, 20, 2, clouds=clouds)
    mixture = compiled_form(kernel, z)
    assert_as_accurate("potential_grad", "triton", (z, x, v, w), mixture)
    one = w[:, :1].contiguous()
    assert_as_accurate("potential_and_grad", "triton", (z, x, one), mixture)
    assert [row.kind for row in calls] == ["fused", "fused"]


UNITS = {
    "octaves": dk.mixture([dk.gaussian(2.0**l) for l in range(5)]),
    "weighted": dk.mixture([dk.gaussian(1.0), dk.gaussian(4.0), dk.imq(2.0)], weights=(3, 0.1, 1)),
    "tails": dk.mixture([dk.rational_quadratic(a, 2.0) for a in (0.5, 0.3)], weights=(2, 2)),
    "flat": dk.gaussian(torch.tensor(torch.inf)) + 2 * dk.gaussian(1.0),
}


@pytest.mark.parametrize("clouds", [CLOUDS["converged"], CLOUDS["digits"]])
@pytest.mark.parametrize("kernel", UNITS.values(), ids=UNITS.keys())
def test_distances_in_the_unit_of_the_first_component_are_accurate(kernel, clouds):
    z, x, v, w = problem(20, 30, 12, 2, clouds=clouds)
    (mixture,) = kernel.lower(z).mixtures
    for op in ("potential_and_grad", "potential"):
        assert_as_accurate(op, "triton", (z, x, w[:, :1].contiguous()), mixture)
    assert_as_accurate("quadratic_form", "triton", (z, v, v), mixture, True)


def test_lanes_hand_over_what_they_added_up(monkeypatch):
    monkeypatch.setattr(fused, "LANE_COLUMNS", 64)
    u, _, v, _ = problem(200, 1, 12, 2)
    assert_as_accurate("quadratic_form", "triton", (u, v, v), compiled_form("gaussian", u), True)


@pytest.mark.parametrize("d", [9, 64, 128, 200])
def test_every_width_of_the_table_is_accurate(d, calls):
    z, x, _, w = problem(20, 70, d)
    mixture = compiled_form("gaussian", z)
    assert_as_accurate("potential", "triton", (z, x, w), mixture)
    assert calls[0] is regimes.regime(d, grad=False)


@pytest.mark.parametrize("clouds", CLOUDS.values(), ids=CLOUDS.keys())
def test_gradients_are_accurate_where_most_pairs_that_matter_are_near(clouds):
    """d = 64, and a kernel that barely sees beyond shared points: they must not push each other."""
    z, x, _, w = problem(20, 30, 64, clouds=clouds)
    width = torch.cdist(z, x).median().item() / 4
    (mixture,) = dk.gaussian(width).lower(z).mixtures
    assert_as_accurate("potential_grad", "triton", (z, x, None, w), mixture)
    (mixture,) = dk.gaussian(4 * width).lower(z).mixtures
    assert_as_accurate("potential_and_grad", "triton", (z, x, w), mixture)


@pytest.mark.parametrize("clouds", CLOUDS.values(), ids=CLOUDS.keys())
@pytest.mark.parametrize("skip_diagonal", [False, True])
@pytest.mark.parametrize("kernel", ["gaussian", "energy"])
def test_a_quadratic_form_takes_the_upper_triangle_once(clouds, skip_diagonal, kernel, calls):
    u, _, v, _ = problem(140, 5, 12, 2, clouds=clouds)
    mixture = compiled_form(kernel, u)
    assert_as_accurate("quadratic_form", "triton", (u, v, v), mixture, skip_diagonal)
    assert len(calls) == 1


@pytest.mark.parametrize("clouds", [CLOUDS["converged"], CLOUDS["digits"]])
def test_a_quadratic_form_and_its_gradient_are_one_sweep(clouds, calls):
    u, _, v, _ = problem(70, 5, 12, 2, clouds=clouds)
    mixture = compiled_form("gaussian", u)
    assert_as_accurate("quadratic_form_and_grad", "triton", (u, v, v, None), mixture, True)
    assert len(calls) == 1


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_gradients_leave_the_diagonal_out(precision, calls):
    """A weight of 10⁶ would be seen if it met its own point."""
    u, _, v, _ = problem(70, 5, 12)
    mixture = compiled_form("gaussian", u)
    loud = v.clone()
    loud[3] = 1e6
    g = _triton.potential_grad(u, u, None, loud, mixture, True, precision)
    quiet = _triton.potential_grad(u, u, None, v, mixture, True, precision)
    assert torch.equal(g[3], quiet[3])
    assert calls[0].kind == "fused"
    if precision == "highest":
        assert_as_accurate("potential_grad", "triton", (u, u, None, v), mixture, True)


def test_an_overfull_list_is_replaced_by_the_whole_strip(monkeypatch):
    """600 columns near every row: more than a list holds."""
    x = 1e-3 * torch.randn(600, 10, device=DEVICE)
    x[0] += 1.0
    z, w = x[:20].clone(), torch.randn(600, 1, device=DEVICE)
    mixture = compiled_form("energy1.5", z)
    assert_as_accurate("potential_and_grad", "triton", (z, x, w), mixture)


def test_far_outliers_do_not_cost_the_others_their_digits():
    z, x, _, w = problem(20, 60, 16)
    x[7] += 1e7
    assert_as_accurate("potential_and_grad", "triton", (z, x, w), compiled_form("gaussian", z))


def test_blocks_of_a_batch_are_computed_as_if_alone():
    z, x, v, w = (torch.stack([t, t + 0.5, 2 * t]) for t in problem(20, 30, 16, 2))
    mixture = compiled_form("gaussians", z)
    tables = torch.stack([s * mixture.params for s in (1, 2, 3)])
    for clouds in ((z, x[0], v[0], w), (z[0], x[0], v, w[0]), (z[0], x, None, w[..., :1])):
        g = _triton.potential_grad(
            *(t if t is None else t.contiguous() for t in clouds), mixture._replace(params=tables)
        )
        for i in range(3):
            alone = [t if t is None or t.ndim == 2 else t[i].contiguous() for t in clouds]
            expected = _triton.potential_grad(*alone, mixture._replace(params=tables[i]))
            torch.testing.assert_close(g[i], expected, rtol=1e-5, atol=1e-5)


def test_strips_of_columns_add_up(monkeypatch):
    monkeypatch.setattr(scaling, "_LEAST_STRIP", 128)
    z, x, _, w = problem(20, 300, 16)
    assert_as_accurate("potential_and_grad", "triton", (z, x, w), compiled_form("gaussian", z))


def test_nan_stays_in_its_row_of_z_and_infinity_means_far():
    z, x, _, w = problem(12, 20, 16)
    z[2, 1] = float("nan")
    x[3, 2] = float("inf")
    mixture = compiled_form("gaussian", z)
    f, expected = _triton.potential(z, x, w, mixture), reference.potential(z, x, w, mixture)
    torch.testing.assert_close(f, expected, equal_nan=True)
    x[3, 2] = float("nan")
    assert _triton.potential_grad(z, x, None, w, mixture).isnan().all()


def test_two_float16_hold_a_number_to_22_bits():
    points = torch.randn(50, 20, device=DEVICE) * torch.logspace(-4, 0, 20, device=DEVICE) + 1e3
    centre, scale = centre_and_scale(points, points)
    halves = split(points, centre, scale, width=32, passes=3)
    exact = (points.double() - centre.double()) * scale.double()
    both = halves.hi.double() + halves.lo.double()
    assert ((both[:50, :20] - exact).abs() <= 2**-22 * exact.abs() + 2**-25).all()
    assert both.abs().max() <= 2**14
    assert (both[50:] == 0).all()
    assert (both[:, 20:] == 0).all()
    torch.testing.assert_close(halves.half.double(), both.square().sum(-1) / 2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("d", [16, 40])
def test_high_precision_errs_as_documented(d):
    z, x, v, w = problem(40, 70, d)
    mixture = compiled_form("gaussians", z)
    got = (
        _triton.potential(z, x, w, mixture, precision="high"),
        _triton.potential_grad(z, x, v, w, mixture, precision="high"),
    )
    plain = reference.potential(z, x, w, mixture), reference.potential_grad(z, x, v, w, mixture)
    for ours, theirs in zip(got, plain, strict=True):
        assert (ours - theirs).norm() <= 5e-3 * theirs.norm()
        assert not torch.equal(ours, theirs)


def test_high_precision_is_indifferent_to_translation():
    z, x, _, w = problem(20, 30, 16)
    mixture = compiled_form("gaussian", z)
    near = _triton.potential(z, x, w, mixture, precision="high")
    far = _triton.potential(z + 1024, x + 1024, w, mixture, precision="high")
    torch.testing.assert_close(far, near, rtol=0, atol=1e-2 * near.abs().max().item())


def test_high_precision_keeps_nan_in_its_row():
    z, x, _, w = problem(6, 9, 16)
    z[2, 1] = float("nan")
    f, g = _triton.potential_and_grad(z, x, w, compiled_form("gaussian", z), precision="high")
    poisoned = torch.arange(6, device=z.device) == 2
    assert torch.equal(f.isnan().all(-1), poisoned)
    assert torch.equal(g.isnan().all(-1), poisoned)


@pytest.mark.parametrize("clouds", [CLOUDS["random"], CLOUDS["converged"]])
def test_panels_are_as_accurate_as_differences(clouds, monkeypatch, request, calls):
    """Many dimensions; here ten, taken in panels of 128 columns and 128 rows."""
    monkeypatch.setattr(fused, "PANEL", 128)
    monkeypatch.setattr(panels, "PANEL", 128)
    monkeypatch.setattr(panels, "_ENTRIES", 128 * 128)
    table = tuple(row for row in regimes.TABLE if row.kind == "panels")
    monkeypatch.setattr(regimes, "TABLE", table)
    regimes.device_regime.cache_clear()
    request.addfinalizer(regimes.device_regime.cache_clear)
    z, x, v, w = problem(140, 130, 10, 2, clouds=clouds)
    mixture = compiled_form("gaussian", z)
    one = w[:, :1].contiguous()
    assert_as_accurate("potential_grad", "triton", (z, x, v, w), mixture)
    assert_as_accurate("potential_and_grad", "triton", (z, x, one), mixture)
    assert_as_accurate("quadratic_form", "triton", (z, v, v), mixture, True)
    assert [row.kind for row in calls] == 3 * ["panels"]


@pytest.mark.parametrize(
    ("d", "grad", "kind"), [(8, True, "direct"), (9, False, "fused"), (200, True, "panels")]
)
def test_the_way_a_call_takes_can_be_asked(d, grad, kind, monkeypatch):
    monkeypatch.setattr(choice, "chosen", lambda *_, **__: "triton")
    points = torch.zeros(3, d, device=DEVICE)
    assert dk.regime(points, points, dk.gaussian(1.0), grad=grad).startswith(f"triton: {kind}")
    assert dk.regime(points, points, dk.polynomial(2), grad=grad).startswith("triton: direct")


@pytest.mark.parametrize(
    ("op", "kind"), [("sides", "sides"), ("second_order", "tiles"), ("parameters", "tiles")]
)
def test_the_way_of_other_ops_can_be_asked(op, kind, monkeypatch):
    monkeypatch.setattr(choice, "chosen", lambda *_, **__: "triton")
    points = torch.zeros(3, 16, device=DEVICE)
    assert dk.regime(points, points, dk.gaussian(1.0), op=op).startswith(f"triton: {kind}")
    with pytest.raises(ValueError, match=f"^regime: op must be .* got op='{op}', grad=True"):
        dk.regime(points, points, dk.gaussian(1.0), op=op, grad=True)


def test_the_table_covers_every_dimension_on_every_gpu():
    for shared, sm in ((101376, 89), (166912, 80), (232448, 90), (232448, 100), (101376, 120)):
        for d in (0, 1, 8, 9, 64, 65, 200, 10**6):
            tables = [(t, False) for t in (regimes.SIDES, regimes.PARAMETERS)]
            tables.append((regimes.TANGENTS, True))
            for table, grad in ((regimes.TABLE, False), (regimes.TABLE, True), *tables):
                row = regimes.regime(d, grad=grad, shared=shared, sm=sm, table=table)
                assert d <= row.d
                assert row.shared <= shared
