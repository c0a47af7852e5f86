"""The copied families: values, first and second gradients, float64 and float32, against plain code.

Golden numbers were taken from the originals, on the points of `waves`, in the precision they
compute in; those marked single are float32 there.
"""

import numpy as np
import pytest
import torch

from dmmd_kernels.compat import (
    cmmd,
    dk_tst,
    domainbed,
    inn,
    mmd_gan,
    mmd_loss_pytorch,
    tllib,
    transferlearning,
)
from tests.cases import allowed_error
from tests.compat import plain

SIGMAS = (0.5, 1, 2, 4)
ALPHAS = [2.0**k for k in range(-3, 2)]
SQUARE = torch.tensor(0.92**2).item()  # tllib keeps σ² in float32
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def waves(n: int, d: int, frequency: float, shift: float) -> torch.Tensor:
    steps = torch.arange(1, n * d + 1, dtype=torch.float64)
    return torch.sin(frequency * steps).reshape(n, d) + shift


def samples(n: int = 8, m: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return waves(n, 3, 1.0, 0.0), waves(m, 3, 1.7, 0.5)


def kernels_of_tllib() -> list:
    return [tllib.GaussianKernel(alpha=alpha) for alpha in ALPHAS]


def mk_mmd(linear: bool):
    return tllib.MultipleKernelMaximumMeanDiscrepancy(kernels_of_tllib(), linear)


def joint_mmd(linear: bool):
    fixed = tllib.GaussianKernel(sigma=0.92, track_running_stats=False)
    loss = tllib.JointMultipleKernelMaximumMeanDiscrepancy([kernels_of_tllib(), [fixed]], linear)
    return lambda x, y: loss((x, x.softmax(1)), (y, y.softmax(1)))


def local_mmd(x, y):
    loss = transferlearning.LMMDLoss(3)
    loss.step()
    loss.step()
    return loss(x, y, LABELS, waves(8, 3, 1.0, 0.0).softmax(1).to(x))


# name: (ours, plain, any sizes)
FAMILIES = {
    "MMD_loss": (
        transferlearning.MMD_loss(),
        lambda x, y: plain.biased(plain.ladder(x, y), x, y),
        True,
    ),
    "MMDLoss of DeepDA": (
        transferlearning.MMDLoss(kernel_mul=1.5, kernel_num=4, fix_sigma=9.0),
        lambda x, y: plain.biased(plain.ladder(x, y, 1.5, 4), x, y),
        True,
    ),
    "mean of Xlearn": (
        lambda x, y: transferlearning.mmd(x, y, average=True),
        lambda x, y: plain.biased(plain.ladder(x, y), x, y) / 5,
        True,
    ),
    "linear MMD_loss": (
        lambda x, y: transferlearning.MMD_loss("linear")(x, y),
        lambda x, y: (x.mean(0) - y.mean(0)).square().sum(),
        True,
    ),
    "accelerate": (
        transferlearning.mmd_rbf_accelerate,
        lambda x, y: plain.neighbours(plain.ladder(x, y), x, y),
        False,
    ),
    "LMMDLoss": (
        local_mmd,
        lambda x, y: plain.classwise(x, y, LABELS, waves(8, 3, 1.0, 0.0).softmax(1).to(x), 2),
        False,
    ),
    "mmd_loss_pytorch": (
        mmd_loss_pytorch.MMDLoss(),
        lambda x, y: plain.biased(plain.ladder(x, y), x, y),
        True,
    ),
    "mix_rbf_mmd2": (
        lambda x, y: mmd_gan.mix_rbf_mmd2(x, y, SIGMAS),
        lambda x, y: plain.biased(plain.gaussians(SIGMAS), x, y),
        True,
    ),
    "mix_rbf_mmd2 unbiased": (
        lambda x, y: mmd_gan.mix_rbf_mmd2(x, y, SIGMAS, biased=False),
        lambda x, y: plain.unbiased(plain.gaussians(SIGMAS), x, y),
        True,
    ),
    "mix_rq_mmd2": (
        lambda x, y: mmd_gan.mix_rq_mmd2(x, y),
        lambda x, y: plain.biased(plain.rational_quadratics((0.1, 1, 10)), x, y),
        True,
    ),
    "MK-MMD": (mk_mmd(False), lambda x, y: plain.mk_mmd(x, y, ALPHAS), False),
    "MK-MMD linear": (mk_mmd(True), lambda x, y: plain.mk_mmd(x, y, ALPHAS, True), False),
    "JMMD": (joint_mmd(False), lambda x, y: plain.joint_mmd(x, y, ALPHAS, SQUARE), False),
    "JMMD linear": (
        joint_mmd(True),
        lambda x, y: plain.joint_mmd(x, y, ALPHAS, SQUARE, True),
        False,
    ),
    "DomainBed": (domainbed.mmd, lambda x, y: plain.biased(plain.decades, x, y), True),
    "MMD_multiscale": (
        inn.MMD_multiscale,
        lambda x, y: plain.biased(plain.multiscale, x, y),
        True,
    ),
}
each_family = pytest.mark.parametrize("name", FAMILIES)


def derivatives(loss, x, y) -> list[torch.Tensor]:
    """The value, its gradients, and the gradients of a fixed combination of either's entries.

    Each gradient is differentiated alone: in their sum the two samples' terms cancel, to 0 for the
    linear kernel, and a tolerance relative to 0 allows no rounding.
    """
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    value = loss(x, y).sum()
    first = torch.autograd.grad(value, [x, y], create_graph=True)
    second = []
    for g in first:
        along = (g * torch.linspace(0.5, 1.5, g.numel()).to(g).view_as(g)).sum()
        second += torch.autograd.grad(along, [x, y], retain_graph=True)
    return [value, *first, *second]


@each_family
@pytest.mark.parametrize("sizes", [(8, 8), (8, 13)], ids=["equal", "unequal"])
def test_value_and_two_derivatives_are_those_of_plain_code(name, sizes):
    ours, theirs, any_sizes = FAMILIES[name]
    x, y = samples(*sizes)
    if sizes[0] != sizes[1] and not any_sizes:
        with pytest.raises((ValueError, RuntimeError)):
            ours(x, y)
        return
    single = name == "linear MMD_loss"  # computes in float32 whatever it is given
    rtol = 16 * torch.finfo(torch.float32).eps if single else 1e-9
    for got, want in zip(derivatives(ours, x, y), derivatives(theirs, x, y), strict=True):
        assert (got - want).abs().max() <= rtol * want.abs().max()


@each_family
def test_single_precision_is_as_accurate_as_plain_code(name):
    """By the accuracy rule, with 16 ulps of the largest number summed: kernels are of order 1."""
    ours, theirs, _ = FAMILIES[name]
    x, y = (t.float() for t in samples())
    exact = derivatives(theirs, x.double(), y.double())
    both = (derivatives(loss, x, y) for loss in (ours, theirs))
    for got, rough, want in zip(*both, exact, strict=True):
        assert got.dtype == torch.float32
        allowed = allowed_error(want, (rough - want).abs().max(), got.dtype, terms=1.0)
        assert (got - want).abs().max() <= allowed


def ratio(x, y):
    return torch.stack(mmd_gan.mix_rbf_mmd2_and_ratio(x, y, SIGMAS))


def deep_test(is_smooth: bool, one_sample: bool):
    def loss(x, y):
        points = torch.cat([waves(8, 2, 0.7, 0.0), waves(8, 2, 0.9, 0.4)])
        how = (2.0, 0.7, 0.1, is_smooth, True, one_sample)
        return torch.stack(dk_tst.MMDu(torch.cat([x, y]), 8, points, *how)[:2])

    return loss


GOLDEN = {
    "MMD_loss": (transferlearning.MMD_loss(), [1.19500737006]),
    "MMDLoss": (transferlearning.MMDLoss(), [1.19500737006]),
    "accelerate": (transferlearning.mmd_rbf_accelerate, [-0.710000134336]),
    "mmd_loss_pytorch": (mmd_loss_pytorch.MMDLoss(), [1.1950073762]),
    "mix_rbf biased": (FAMILIES["mix_rbf_mmd2"][0], [0.909505069784]),
    "mix_rbf unbiased": (FAMILIES["mix_rbf_mmd2 unbiased"][0], [0.435856772585]),
    "ratio": (ratio, [3.4312236151, 0.909505069784, 0.0702606566009]),
    "linear_mmd2": (mmd_gan.linear_mmd2, [-0.315600240507]),
    "poly_mmd2": (mmd_gan.poly_mmd2, [0.424244031898]),
    "DomainBed": (domainbed.mmd, [1.34298755004]),
    "CORAL": (lambda x, y: domainbed.mmd(x, y, "mean_cov"), [0.627729266189]),
    "CMMD": (lambda x, y: cmmd.mmd(x.numpy(), y.numpy()), [8.82851895424]),
    "MMDu": (deep_test(True, True), [0.0274468358545, 0.0103688826721]),
    "MMDu all pairs": (deep_test(True, False), [0.0266792475348, 0.0103688826721]),
    "MMDu not smooth": (deep_test(False, True), [0.182433508639, 0.0544542942772]),
    "MMDu neither": (deep_test(False, False), [0.194254368035, 0.0544542942772]),
    "MK-MMD, single": (mk_mmd(False), [0.876657233823]),
    "MK-MMD linear, single": (mk_mmd(True), [-0.43643964595]),
    "JMMD, single": (joint_mmd(False), [0.853356599808]),
    "JMMD linear, single": (joint_mmd(True), [-0.47582796216]),
    "LMMDLoss, single": (local_mmd, [0.00134033989161]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_numbers_of_the_originals(name):
    loss, numbers = GOLDEN[name]
    want = torch.tensor(numbers, dtype=torch.float64)
    rtol = 1e-6 if "single" in name else 2e-8
    torch.testing.assert_close(loss(*samples()).reshape(-1), want, rtol=rtol, atol=0)


def test_the_matrix_of_inn_has_the_golden_mean():
    matrix = inn.MMD_matrix_multiscale(*samples(), [(0.2, 2), (1.5, 2), (3.0, 2)])
    assert matrix.shape == (8, 8)
    assert matrix.mean().item() == pytest.approx(3.95156431198, rel=2e-6)  # float32 there


def test_kernel_matrices_are_those_of_the_originals():
    x, y = samples(8, 5)
    u = torch.cat([x, y])
    got = transferlearning.guassian_kernel(x, y, 1.5, 4, fix_sigma=2.0)
    torch.testing.assert_close(got, plain.ladder(x, y, 1.5, 4, 2.0)(u, u))
    torch.testing.assert_close(mmd_loss_pytorch.RBF()(u), plain.ladder(x, y)(u, u))
    torch.testing.assert_close(domainbed.gaussian_kernel(x, y), plain.decades(x, y))
    blocks = mmd_gan._mix_rbf_kernel(x, y, SIGMAS)
    torch.testing.assert_close(blocks[1], plain.gaussians(SIGMAS)(x, y))
    assert blocks[3] == 4


@pytest.mark.parametrize("biased", [True, False])
def test_the_ratio_of_matrices_is_that_of_points(biased):
    """The matrices are summed as they are; from points, squares of K are a mixture of their own."""
    x, y = samples()
    blocks = mmd_gan._mix_rbf_kernel(x, y, SIGMAS)
    want = mmd_gan._mmd2_and_ratio(*blocks, biased=biased)
    got = mmd_gan.mix_rbf_mmd2_and_ratio(x, y, SIGMAS, biased)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(mmd_gan._mmd2(*blocks[:3], biased=biased), want[1])
    torch.testing.assert_close(mmd_gan._mmd2_and_variance(*blocks, biased)[1], want[2])


def test_the_ratio_of_rational_quadratics_is_that_of_their_matrices():
    x, y = samples()
    k = plain.rational_quadratics((0.1, 1, 10))
    blocks = k(x, x), k(x, y), k(y, y)
    mmd2, ratio, var = mmd_gan.mix_rq_mmd2_and_ratio(x, y)
    torch.testing.assert_close((mmd2, var), mmd_gan._mmd2_and_variance(*blocks, biased=True))
    torch.testing.assert_close(ratio, mmd2 / var.clamp(min=1e-5).sqrt())


def test_class_conditional_mmd_is_that_of_each_class():
    x, y = samples()
    k, total = plain.ladder(x, y), 0.0
    for c in range(3):
        a, b = (c == LABELS).to(x), (LABELS.flip(0) == c).to(x)
        total = total + a @ k(x, x) @ a + b @ k(y, y) @ b - 2 * a @ k(x, y) @ b
    got = transferlearning.cmmd(x, y, LABELS, LABELS.flip(0)[:, None])
    torch.testing.assert_close(got, total / 64)
    want = ((x - y).mean(0) ** 2).sum()
    torch.testing.assert_close(transferlearning.mmd_linear(x, y), want)


def test_a_tensor_fix_sigma_is_divided_in_place():
    width = torch.tensor(8.0)
    transferlearning.guassian_kernel(*samples(), fix_sigma=width)
    assert width == 2.0


def test_an_unknown_kernel_type_returns_nothing():
    assert transferlearning.MMD_loss("cauchy")(*samples()) is None


def test_tllib_of_a_batch_with_itself_is_not_zero():
    """Unbiased within, all pairs across, plus 2/(n - 1)."""
    x = torch.tensor([[0.0], [1.0]])
    loss = tllib.MultipleKernelMaximumMeanDiscrepancy([tllib.GaussianKernel(alpha=1.0)])
    k = np.exp(-1.0)  # the mean over all 16 pairs is ½
    assert loss(x, x).item() == pytest.approx(2 * k - (1 + k) + 2, rel=1e-6)


def test_tllib_calls_kernels_it_does_not_know():
    class Exponential(torch.nn.Module):
        def forward(self, u):
            return torch.exp(-torch.cdist(u, u))

    x, y = samples()
    u = torch.cat([x, y])
    for linear in (False, True):
        loss = tllib.MultipleKernelMaximumMeanDiscrepancy([Exponential()], linear)
        torch.testing.assert_close(loss(x, y), plain.shifted(Exponential()(u), linear))


def test_the_statistics_are_followed_as_tllib_does():
    x, y = samples()
    kernel = tllib.GaussianKernel(sigma=1.0)  # overwritten: track_running_stats is the default
    kernel(torch.cat([x, y]))
    u = torch.cat([x, y])
    assert kernel.sigma_square.item() == pytest.approx(plain.squares(u, u).mean().item())
    with pytest.raises(ValueError, match="sigma must be given"):
        tllib.GaussianKernel(track_running_stats=False)
