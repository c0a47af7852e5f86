"""The deep-kernel two-sample test of DK-for-TST (Liu et al., ICML 2020).

    from dmmd_kernels.compat.dk_tst import MMDu, TST_MMD_u, mmd2_permutations, MatConvert
        in place of: from utils import …

Convention: sigma0 and sigma are divisors of squared distances, D_f of features and D_o of inputs:
[(1 - ε) exp(-D_f/σ0) + ε] exp(-D_o/σ), or exp(-D_f/σ0) with is_smooth=False. MMD² is the one-sample
U-statistic, pairs (x_i, y_i) left out, or unbiased with use_1sample_U=False; the variance is
4 (mean h_i² - (mean h_i)²), h_i the row means of K_xx + K_yy - K_xy - K_xyᵀ. Gradients go to
features, inputs, σ, σ0 and ε.

`MMDu` returns (MMD², variance, K) with K dense only when it is looked at; MMD² and None without
is_var_computed. `mmd2_permutations` draws `torch.randperm` as the original does, takes p with a
strict >, and needs no matrix of a K that `MMDu` made. Values that are equal but for rounding are
equal, so that with many ties p is smaller than that of a test: that is the original's >.

Kept: both samples are of one size; `TST_MMD_u` ignores N_per and always permutes 200 times, and its
second result is the string "NaN". Mended: distances come from differences, so no clamp is needed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.featured import FeaturedMatrix
from dmmd_kernels.compat.sums import gaussian_over, of_samples
from dmmd_kernels.ops.relabellings import Splits
from dmmd_kernels.ops.ties import Values, beside

EXCHANGED = {"MMDu": (), "TST_MMD_u": (), "mmd2_permutations": (), "MatConvert": ()}
Parameter = float | Tensor


def MatConvert(x: np.ndarray, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(x).to(device, dtype)


def deep_matrix(
    Fea: Tensor, Fea_org: Tensor, sigma: Parameter, sigma0: Parameter, epsilon: Parameter
) -> FeaturedMatrix:
    """The smooth kernel: a product of Gaussians is one, of the scaled features side by side."""
    both = torch.cat([Fea / sigma0**0.5, Fea_org / sigma**0.5], 1)
    deep, plain = dk.gaussian(0.5**0.5), gaussian_over(sigma)
    parts = (both, (1 - epsilon) * deep), (Fea_org, epsilon * plain)
    return FeaturedMatrix(*parts, points=Fea_org)


@of_samples("Fea", "Fea_org")
def MMDu(
    Fea: Tensor,
    len_s: int,
    Fea_org: Tensor,
    sigma: Parameter,
    sigma0: Parameter = 0.1,
    epsilon: Parameter = 10 ** (-10),
    is_smooth: bool = True,
    is_var_computed: bool = True,
    use_1sample_U: bool = True,
):
    """Fea (2n, h), Fea_org (2n, d), the first len_s = n rows being x."""
    if is_smooth:
        matrix = deep_matrix(Fea, Fea_org, sigma, sigma0, epsilon)
    else:
        matrix = FeaturedMatrix((Fea, gaussian_over(sigma0)), points=Fea_org)
    n, m = len_s, len(Fea) - len_s
    if n != m and (is_var_computed or use_1sample_U):
        raise ValueError(f"MMDu: both samples must be of one size, got {n} and {m}")
    if not (is_var_computed or use_1sample_U):
        return matrix.mmd2(n), None
    xx, yy, xy, yx = matrix.row_sums(n)
    within = (xx.sum() + yy.sum()) / (n * (n - 1))
    if use_1sample_U:
        rows = torch.arange(n, device=Fea.device)
        mmd2 = within - 2 * (xy - matrix.pairs(rows, rows + n)).sum() / (n * (n - 1))
    else:
        mmd2 = within - 2 * xy.sum() / n**2
    if not is_var_computed:
        return mmd2, None
    h = (xx + yy - xy - yx + 2 * matrix.peak()) / n
    return mmd2, 4 * (h.square().mean() - h.mean().square()), matrix


def mmd2_permutations(
    K: Tensor | FeaturedMatrix, n_X: int, permutations: int = 500
) -> tuple[float, float, Tensor]:
    """MMD² of K (2n, 2n), the share of permutations above it, and their MMD² (permutations,)."""
    size = len(K)
    if size != 2 * n_X:
        raise ValueError(f"mmd2_permutations: K must have 2 n_X = {2 * n_X} rows, got {size}")
    in_x = torch.zeros(permutations + 1, size, dtype=torch.bool)
    for row in in_x[:-1]:
        row[torch.randperm(size)[:n_X]] = True
    in_x[-1, :n_X] = True
    with torch.no_grad():
        statistic = _OneSampleU(K, in_x)
        values = Values(statistic, len(in_x), statistic.roundings, exact=True)
        found = beside(values, permutations, statistic.dtype)
    estimate, rest = found[-1], found[:-1]
    return estimate.item(), (rest > estimate).float().mean().item(), rest


class _OneSampleU:
    """MMD² of every split without the pairs of equal rank in their group, in float64."""

    def __init__(self, K: Tensor | FeaturedMatrix, in_x: Tensor) -> None:
        self.K = K if isinstance(K, FeaturedMatrix) else torch.as_tensor(K)
        self.in_x = in_x
        count, self.n = len(in_x), in_x.shape[1] // 2
        self.rows = in_x.nonzero()[:, 1].view(count, self.n)
        self.columns = (~in_x).nonzero()[:, 1].view(count, self.n)
        self.dtype, self.roundings = self.K.dtype, 4 * in_x.shape[1]
        if isinstance(K, FeaturedMatrix):
            self.dtype, self.K = K.parts[0][0].dtype, K.exact()
            pool = self.K.pool()
            self.splits = Splits(pool, lambda numbers: in_x[list(numbers)], self.n, "biased")
            self.roundings = 4 * pool.roundings

    def __call__(self, numbers: Sequence[int], exact: bool) -> tuple[Tensor, Tensor]:
        n, count = self.n, self.n * (self.n - 1)
        rows, columns = self.rows[list(numbers)], self.columns[list(numbers)]
        if isinstance(self.K, FeaturedMatrix):
            means, masses = self.splits(numbers, True)
            forms, masses = means * n**2, masses * n**2
            at = forms.device
            crossed = [
                self.K.pairs(i.to(at), j.to(at)).sum() for i, j in zip(rows, columns, strict=True)
            ]
            trace, across = 2 * n * self.K.peak(), torch.stack(crossed)
        else:
            K = self.K.double()
            signs = self.in_x[list(numbers)].to(K) * 2 - 1
            forms = ((signs @ K) * signs).sum(1)
            masses = K.abs().sum().expand(len(forms))
            trace, across = K.trace(), K[rows.to(K.device), columns.to(K.device)].sum(1)
        return (forms - trace + 2 * across) / count, masses / count


def TST_MMD_u(
    Fea: Tensor,
    N_per: int,
    N1: int,
    Fea_org: Tensor,
    sigma: Parameter,
    sigma0: Parameter,
    alpha: float,
    device: torch.device | str,
    dtype: torch.dtype,
    epsilon: Parameter = 10 ** (-10),
    is_smooth: bool = True,
) -> tuple[int, str, float]:
    """1 or 0 for rejection at level alpha, "NaN", MMD²."""
    with torch.no_grad():
        matrix = MMDu(Fea, N1, Fea_org, sigma, sigma0, epsilon, is_smooth)[2]
    mmd2, p_value, _ = mmd2_permutations(matrix, N1, permutations=200)
    return int(p_value <= alpha), "NaN", mmd2
