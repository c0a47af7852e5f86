"""sbi's two functions: against plain code, and against the package where it is installed."""

import pytest
import torch

from dmmd_kernels import compat
from dmmd_kernels.compat.sbi import biased_mmd, unbiased_mmd_squared
from tests.compat import plain


def clouds(n: int, m: int, d: int = 3):
    return torch.randn(n, d).double(), torch.randn(m, d).double() + 0.5


def lower_triangle(x):
    below = torch.ones(len(x), len(x)).tril(-1).bool()
    return plain.squares(x, x)[below]


def plain_unbiased(x, y):
    every = torch.cat([lower_triangle(x), plain.squares(x, y).flatten(), lower_triangle(y)])
    scale = every.sqrt().median()
    return plain.unbiased(lambda a, b: torch.exp(-plain.squares(a, b) / (2 * scale**2)), x, y)


def plain_biased(x, y):
    every = [plain.squares(x, x), plain.squares(x, y), plain.squares(y, y)]
    scale = (torch.cat([t.flatten() for t in every]) + 1e-300).sqrt().median()
    k = lambda a, b: torch.exp(-plain.squares(a, b) / (2 * scale**2))
    return plain.biased(k, x, y).sqrt()


PAIRS = [(unbiased_mmd_squared, plain_unbiased), (biased_mmd, plain_biased)]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["unbiased", "biased"])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 8), (4, 3), (7, 2)], ids=str)
def test_values_and_gradients_flow_through_the_median(ours, theirs, sizes):
    x, y = (t.requires_grad_() for t in clouds(*sizes))
    found = []
    for loss in (ours, theirs):
        value = loss(x, y)
        found.append([value, *torch.autograd.grad(value, [x, y])])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-10)


def test_a_scale_may_be_given():
    x, y = clouds(6, 8)
    k = lambda a, b: torch.exp(-plain.squares(a, b) / (2 * 1.5**2))
    torch.testing.assert_close(unbiased_mmd_squared(x, y, 1.5), plain.unbiased(k, x, y))
    torch.testing.assert_close(biased_mmd(x, y, 1.5), plain.biased(k, x, y).sqrt())


def test_where_the_median_is_0_equal_points_alone_count():
    x, y = torch.zeros(9, 2), torch.zeros(7, 2)
    x[:2], y[:3] = torch.eye(2), torch.tensor([1.0, 0.0])
    equal = lambda a, b: (a[:, None] == b).all(-1).float()
    for points in (x, y):
        points.requires_grad_()
    want = plain.biased(equal, x, y).sqrt(), plain.unbiased(equal, x, y)
    got = biased_mmd(x, y), unbiased_mmd_squared(x, y)
    torch.testing.assert_close(torch.stack(got), torch.stack(want), rtol=1e-5, atol=1e-7)
    grads = torch.autograd.grad(sum(got), [x, y])
    assert all((grad == 0).all() for grad in grads)


def test_a_sample_against_itself_has_a_gradient():
    x, _ = clouds(6, 8)
    value = biased_mmd(x.requires_grad_(), x.detach().flip(0), 1.5)
    (grad,) = torch.autograd.grad(value, x)
    assert grad.isfinite().all()
    assert biased_mmd(x * float("nan"), x).isnan()


def test_the_functions_of_the_package_return_the_same():
    metrics = pytest.importorskip("sbi.utils.metrics", reason="sbi is not installed")
    for sizes in ((20, 20), (13, 30)):
        x, y = clouds(*sizes)
        want = [metrics.unbiased_mmd_squared(x, y), metrics.biased_mmd(x, y)]
        torch.testing.assert_close([unbiased_mmd_squared(x, y), biased_mmd(x, y)], want)
        with compat.patch("sbi"):
            got = [metrics.unbiased_mmd_squared(x, y), metrics.biased_mmd(x, y)]
        torch.testing.assert_close(got, want)
