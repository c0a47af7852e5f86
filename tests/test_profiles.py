"""Every profile ψ in every place that must know it: none can be forgotten, none takes another's."""

import math

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import choice, native
from dmmd_kernels.backends.profiles import PROFILES
from tests.cases import OF_PROFILE, compiled_form, each_backend

INNER = {"square_distance"}  # of the kernel matrix's derivatives; no constructor makes it
each_profile = pytest.mark.parametrize("name", PROFILES)


def test_every_profile_has_a_kernel_that_is_tested_everywhere():
    assert set(OF_PROFILE) == set(PROFILES) - INNER


def test_every_profile_has_a_code_and_the_codes_leave_room():
    pytest.importorskip("triton")
    from dmmd_kernels.backends._triton.profile import CODES, POLYNOMIAL, ROOTS, SQUARED

    assert set(CODES) == set(PROFILES)
    assert sorted(CODES.values()) == list(range(1, len(CODES) + 1))
    assert len(CODES) < SQUARED.value < ROOTS.value < POLYNOMIAL.value < 255


@pytest.mark.skipif(native.why_not_loaded() is not None, reason=str(native.why_not_loaded()))
def test_the_extension_knows_every_profile_or_says_which_it_lacks(monkeypatch):
    assert {*PROFILES, "polynomial"} == set(native.library().profiles)
    z = torch.zeros(2, 3)

    class Older:
        profiles = tuple(name for name in PROFILES if name != "matern32")

    monkeypatch.setattr(native, "library", lambda: Older)
    native._why_not_profiles.cache_clear()
    reason = native.why_not(z, compiled_form("matern1.5", z))
    native._why_not_profiles.cache_clear()
    assert reason == "it was built before matern32 was written; run `pip install -e .` again"


@each_profile
def test_derivatives_are_those_of_the_value(name):
    """ψ by finite differences of a fourth order in float64, away from the kinks."""
    psi, t = PROFILES[name], torch.tensor([0.3, 1.0, 2.7, 9.0], dtype=torch.float64)
    a, h = torch.tensor(1.3, dtype=torch.float64), 1e-3

    def slope(function, at):
        near, far = function(at + h) - function(at - h), function(at + 2 * h) - function(at - 2 * h)
        return (8 * near - far) / (12 * h)

    in_t = lambda f: slope(lambda t: f(t, a), t)
    in_a = lambda f: slope(lambda a: f(t, a), a).expand(4)
    pairs = [(psi.psi_t, in_t(psi.psi)), (psi.psi_tt, in_t(psi.psi_t)), (psi.psi_a, in_a(psi.psi))]
    pairs += [(psi.psi_ta, in_a(psi.psi_t)), (psi.psi_aa, in_a(psi.psi_a))]
    for formula, expected in pairs:
        torch.testing.assert_close(formula(t, a), expected, rtol=1e-8, atol=1e-10)


@each_backend
@pytest.mark.parametrize("profile", OF_PROFILE)
def test_far_points_and_nan_are_what_mathematics_says(name, profile):
    """A point at distance ∞ adds ψ(∞) and pulls at nothing; NaN stays NaN."""
    z, w = torch.zeros(3, 2), torch.ones(2, 1)
    kernel = compiled_form(OF_PROFILE[profile], z)
    module = choice.load(name)
    x = torch.full((2, 2), 3e38)  # the square of the distance overflows
    end = -math.inf if profile == "energy" else 0.0
    assert (module.potential(z, x, w, kernel) == end).all()
    x[1, 1] = torch.nan
    assert module.potential(z, x, w, kernel).isnan().all()
    assert module.potential_grad(z, x, None, w, kernel).isnan().all()


@pytest.mark.parametrize(
    ("nu", "value"),
    [(1.5, (1 + math.sqrt(3)) * math.exp(-math.sqrt(3))),
     (2.5, (1 + math.sqrt(5) + 5 / 3) * math.exp(-math.sqrt(5)))],
)  # fmt: skip
def test_matern_at_one_width(nu, value):
    x, y = torch.zeros(1, 2).double(), torch.tensor([[1.2, 1.6]], dtype=torch.float64)
    assert dk.kernel_matrix(x, y, dk.matern(nu, 2.0)).item() == pytest.approx(value, rel=1e-14)


def test_matern_of_one_half_is_laplace_and_others_are_refused():
    assert dk.matern(0.5, 1.3) == dk.laplace(1.3)
    assert str(dk.matern(1.5, 1.3)) == "matern(1.5, 1.3)"
    with pytest.raises(ValueError, match=r"matern: nu must be 0.5, 1.5 or 2.5, got 2"):
        dk.matern(2)
    with pytest.raises(ValueError, match="matern: sigma must be a positive finite number, got 0"):
        dk.matern(1.5, 0)


@pytest.mark.parametrize("nu", [1.5, 2.5])
def test_matern_is_a_mixture_of_gaussians(nu):
    """The mean of gaussians of width σ√s over s ~ Gamma(ν, 1/ν): by quadrature in log s."""
    r, sigma = torch.linspace(0, 4, 9, dtype=torch.float64)[:, None], 1.3
    u = torch.linspace(-30, 8, 40_001, dtype=torch.float64)
    density = nu**nu / math.gamma(nu) * torch.exp(nu * (u - u.exp()))
    gaussians = torch.exp(-(r**2) / (2 * sigma**2 * u.exp()))
    mean = (density * gaussians).sum(1) * (u[1] - u[0])
    matrix = dk.kernel_matrix(r, torch.zeros(1, 1).double(), dk.matern(nu, sigma))[:, 0]
    torch.testing.assert_close(mean, matrix, rtol=1e-9, atol=1e-11)


def test_learned_widths_of_matern_have_gradients_twice():
    x, y = torch.randn(5, 2).double(), torch.randn(6, 2).double()
    sigma = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    for nu in (1.5, 2.5):
        gap = lambda sigma, x: dk.mmd2(x, y, dk.matern(nu, sigma))  # noqa: B023
        assert torch.autograd.gradcheck(gap, (sigma, x.clone().requires_grad_()))
        assert torch.autograd.gradgradcheck(gap, (sigma, x.clone().requires_grad_()))
