"""`mix_rbf_mmd2` and its kin, of opt-mmd, OctoberChang/MMD-GAN and TorchCFM; RQ of mbinkowski.

    from dmmd_kernels.compat.mmd_gan import mix_rbf_mmd2, mix_rbf_mmd2_and_ratio
        in place of: from mmd import …

Convention: Σ_σ exp(-|x - y|² / 2σ²), and Σ w (1 + |x - y|²/2α)^-α, sums; MMD² is not rooted, biased
unless `biased=False`. The ratio is MMD² / √max(var, min_var), var the estimate of Sutherland et al.
(ICLR 2017, equation 5), and `mix_rbf_mmd2_and_ratio` returns (ratio, MMD², var) as
OctoberChang/MMD-GAN does; `mix_rq_mmd2_and_ratio` (MMD², ratio, var) with min_var = 1e-5 as
mbinkowski/MMD-GAN does.

Kept: `linear_mmd2` and `poly_mmd2` are estimates from consecutive pairs; both samples are of one
size where the original demands it. Mended: distances are taken from differences, so no kernel value
exceeds 1; `mix_rbf_mmd2` and `mix_rq_mmd2` take samples of different sizes; the diagonal is left
out of the variance in the unbiased case too.
"""

from collections.abc import Sequence

from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import RowSums, of_samples, require_same_size, squared

EXCHANGED = {
    "mix_rbf_mmd2": (),
    "mix_rbf_mmd2_and_ratio": (),
    "poly_mmd2": (),
    "linear_mmd2": (),
    "_mix_rbf_kernel": (),
}
min_var_est = 1e-8
MIN_VAR_RQ = 1e-5
Blocks = tuple[Tensor, Tensor, Tensor]


def _rbf(sigma_list: Sequence[float]) -> dk.Kernel:
    return dk.mixture([dk.gaussian(sigma) for sigma in sigma_list])


def _rq(alphas: Sequence[float], wts: Sequence[float] | None) -> dk.Kernel:
    return dk.mixture([dk.rational_quadratic(alpha) for alpha in alphas], wts)


def _estimator(biased: bool) -> str:
    return "biased" if biased else "unbiased"


@of_samples("X", "Y")
def mix_rbf_mmd2(X: Tensor, Y: Tensor, sigma_list: Sequence[float], biased: bool = True) -> Tensor:
    """X (n, d), Y (m, d) → ()."""
    return dk.mmd2(X, Y, _rbf(sigma_list), estimator=_estimator(biased))


@of_samples("X", "Y")
def mix_rbf_mmd2_and_ratio(
    X: Tensor, Y: Tensor, sigma_list: Sequence[float], biased: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """X, Y (m, d) → ratio, MMD², var, each ()."""
    require_same_size("mix_rbf_mmd2_and_ratio", X, Y)
    sums, squares = RowSums(X, Y, _rbf(sigma_list)), RowSums(X, Y, squared(sigma_list))
    var = _variance(sums, squares.xx.sum(), squares.yy.sum(), squares.xy.sum())
    mmd2 = mix_rbf_mmd2(X, Y, sigma_list, biased)
    return mmd2 / var.clamp(min=min_var_est).sqrt(), mmd2, var


@of_samples("X", "Y")
def mix_rq_mmd2(
    X: Tensor,
    Y: Tensor,
    alphas: Sequence[float] = (0.1, 1.0, 10.0),
    wts: Sequence[float] | None = None,
    biased: bool = True,
) -> Tensor:
    """X (n, d), Y (m, d) → ()."""
    return dk.mmd2(X, Y, _rq(alphas, wts), estimator=_estimator(biased))


@of_samples("X", "Y")
def mix_rq_mmd2_and_ratio(
    X: Tensor,
    Y: Tensor,
    alphas: Sequence[float] = (0.1, 1.0, 10.0),
    wts: Sequence[float] | None = None,
    biased: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """X, Y (m, d) → MMD², ratio, var. The squares of K have no kernel, so this one stores K."""
    require_same_size("mix_rq_mmd2_and_ratio", X, Y)
    mmd2, var = _mmd2_and_variance(*_blocks(X, Y, _rq(alphas, wts)), biased=biased)
    return mmd2, mmd2 / var.clamp(min=MIN_VAR_RQ).sqrt(), var


@of_samples("f_of_X", "f_of_Y")
def linear_mmd2(f_of_X: Tensor, f_of_Y: Tensor) -> Tensor:
    """mean_i ⟨δ_i, δ_{i+1}⟩ with δ = X - Y, over the n - 1 consecutive pairs."""
    delta = f_of_X - f_of_Y
    return (delta[:-1] * delta[1:]).sum(1).mean()


@of_samples("f_of_X", "f_of_Y")
def poly_mmd2(
    f_of_X: Tensor, f_of_Y: Tensor, d: int = 2, alpha: float = 1.0, c: float = 2.0
) -> Tensor:
    """The same with k = (α⟨x, y⟩ + c)^d, from the consecutive pairs within and across."""

    def k(a: Tensor, b: Tensor) -> Tensor:
        return (alpha * (a[:-1] * b[1:]).sum(1) + c).pow(d).mean()

    return k(f_of_X, f_of_X) + k(f_of_Y, f_of_Y) - k(f_of_X, f_of_Y) - k(f_of_Y, f_of_X)


def _blocks(X: Tensor, Y: Tensor, kernel: dk.Kernel) -> Blocks:
    matrix = dk.kernel_matrix
    return matrix(X, X, kernel), matrix(X, Y, kernel), matrix(Y, Y, kernel)


@of_samples("X", "Y")
def _mix_rbf_kernel(
    X: Tensor, Y: Tensor, sigma_list: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor, int]:
    """K_XX, K_XY, K_YY and the value on the diagonal, the number of kernels."""
    return *_blocks(X, Y, _rbf(sigma_list)), len(sigma_list)


def _mmd2(
    K_XX: Tensor, K_XY: Tensor, K_YY: Tensor, const_diagonal: float = False, biased: bool = False
) -> Tensor:
    """MMD² from the matrices; `const_diagonal` is the value on the diagonal, if it is constant."""
    m = len(K_XX)
    if biased:
        return K_XX.mean() + K_YY.mean() - 2 * K_XY.mean()
    traces = 2 * m * const_diagonal if const_diagonal else K_XX.trace() + K_YY.trace()
    return (K_XX.sum() + K_YY.sum() - traces) / (m * (m - 1)) - 2 * K_XY.mean()


class _MatrixSums:
    """RowSums of matrices that are there."""

    def __init__(self, K_XX: Tensor, K_XY: Tensor, K_YY: Tensor):
        self.xx = K_XX.sum(1) - K_XX.diagonal()
        self.yy = K_YY.sum(1) - K_YY.diagonal()
        self.xy, self.yx = K_XY.sum(1), K_XY.sum(0)


def _mmd2_and_variance(
    K_XX: Tensor, K_XY: Tensor, K_YY: Tensor, const_diagonal: float = False, biased: bool = False
) -> tuple[Tensor, Tensor]:
    sums, squares = _MatrixSums(K_XX, K_XY, K_YY), _MatrixSums(K_XX**2, K_XY**2, K_YY**2)
    var = _variance(sums, squares.xx.sum(), squares.yy.sum(), squares.xy.sum())
    return _mmd2(K_XX, K_XY, K_YY, const_diagonal, biased), var


def _mmd2_and_ratio(
    K_XX: Tensor, K_XY: Tensor, K_YY: Tensor, const_diagonal: float = False, biased: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    mmd2, var = _mmd2_and_variance(K_XX, K_XY, K_YY, const_diagonal, biased)
    return mmd2 / var.clamp(min=min_var_est).sqrt(), mmd2, var


def _variance(
    sums: RowSums | _MatrixSums, square_xx: Tensor, square_yy: Tensor, square_xy: Tensor
) -> Tensor:
    """The variance estimate, from row sums a, b (diagonal out), r, q and the sums of squares."""
    a, b, r, q, m = sums.xx, sums.yy, sums.xy, sums.yx, len(sums.xx)
    within = 2 * (a.square().sum() + b.square().sum()) - square_xx - square_yy
    totals = a.sum().square() + b.sum().square()
    across = r.square().sum() + q.square().sum()
    total = r.sum()
    mixed = (a.sum() + b.sum()) * total / m - (a * r).sum() - (b * q).sum()
    return (
        2 / (m**2 * (m - 1) ** 2) * within
        - (4 * m - 6) / (m**3 * (m - 1) ** 3) * totals
        + 4 * (m - 2) / (m**3 * (m - 1) ** 2) * across
        - 4 * (m - 3) / (m**3 * (m - 1) ** 2) * square_xy
        - (8 * m - 12) / (m**5 * (m - 1)) * total.square()
        + 8 / (m**3 * (m - 1)) * mixed
    )
