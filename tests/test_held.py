"""A held sample gives the MMD² of the plain call, and refuses what it could not follow."""

import pytest
import torch

import dmmd_kernels as dk
from tests.cases import DEVICE, each_kernel


@each_kernel
@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_it_gives_the_mmd2_of_the_plain_call(kernel, estimator, batch):
    x = torch.randn(*batch, 7, 3, device=DEVICE, dtype=torch.float64)
    y = torch.randn(*batch, 9, 3, device=DEVICE, dtype=torch.float64) + 100
    held = dk.hold(y, kernel, estimator=estimator)
    plain = dk.mmd2(x + 100, y, kernel, estimator=estimator)
    torch.testing.assert_close(held.mmd2(x + 100), plain, rtol=1e-9, atol=1e-9)


def test_its_gradients_are_those_of_the_plain_call():
    y = torch.randn(6, 2, device=DEVICE, dtype=torch.float64)
    x = torch.randn(5, 2, device=DEVICE, dtype=torch.float64, requires_grad=True)
    held = dk.hold(y, dk.gaussian(1.0))
    (ours,) = torch.autograd.grad(held.mmd2(x), x)
    (plain,) = torch.autograd.grad(dk.mmd2(x, y, dk.gaussian(1.0)), x)
    torch.testing.assert_close(ours, plain)


def test_the_kept_term_visits_no_pair_of_y_again(monkeypatch):
    from dmmd_kernels.autograd import forms

    y, x = torch.randn(6, 2, device=DEVICE), torch.randn(5, 2, device=DEVICE)
    held = dk.hold(y, dk.gaussian(1.0))
    sizes = []
    form = forms.quadratic_form
    count = lambda u, *rest: sizes.append(len(u)) or form(u, *rest)
    monkeypatch.setattr(forms, "quadratic_form", count)
    held.mmd2(x)
    assert sizes == [5]


def test_what_it_could_not_follow_is_refused():
    y = torch.randn(6, 2, device=DEVICE)
    with pytest.raises(ValueError, match="neither y nor the kernel's parameters may require grad"):
        dk.hold(y.clone().requires_grad_(), dk.gaussian(1.0))
    with pytest.raises(ValueError, match="neither y nor the kernel's parameters may require grad"):
        dk.hold(y, dk.gaussian(torch.tensor(1.0, requires_grad=True)))
    with pytest.raises(TypeError, match=r"use y\.float\(\)"):
        dk.hold(y.half(), dk.gaussian(1.0))
    with pytest.raises(ValueError, match="at least 2 points in x"):
        dk.hold(y, dk.gaussian(1.0)).mmd2(y[:1])
