"""Two-sample tests: are x and y drawn from one distribution?

A test compares MMD² with its values under random relabellings of the pooled sample u = [x; y]. With
s = 1/n on one group and -1/m on the other, a relabelling's biased MMD² is sᵀKs, so all of them are
right-hand sides of one sweep over the pairs, and no kernel matrix is stored. K is symmetric: a
strip of rows meets itself and the rows after it, half of all pairs.

Sources: Gretton et al., "A kernel two-sample test", JMLR 2012; Chwialkowski et al., "A wild
bootstrap for degenerate kernel tests", NeurIPS 2014; Schrab et al., "MMD aggregated two-sample
test", JMLR 2023.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops.checks import check_points
from dmmd_kernels.ops.dtypes import in_one_dtype, working_dtype
from dmmd_kernels.ops.pairwise import kernel_diagonal, kernel_matrix, potential

_STRIP = 4096  # rows that meet all later ones at a time
_NUMBERS = 2**25  # of right-hand sides at a time


class TwoSampleResult(NamedTuple):
    """MMD² of the samples (), its p-value, and MMD² of the relabelled ones (permutations,)."""

    statistic: Tensor
    p_value: float
    null: Tensor


class AggregatedResult(NamedTuple):
    """Per kernel, MMD² and its p-value, (kernels,) each; and the p-value of them together."""

    statistics: Tensor
    p_values: Tensor
    p_value: float


@torch.no_grad()
@in_one_dtype("x", "y", result=working_dtype)
def permutation_test(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    permutations: int = 1000,
    estimator: str = "unbiased",
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> TwoSampleResult:
    """Permutation test of x and y having one distribution, exact at any sample size.

    p = (1 + the number of permutations whose MMD² is at least that of the samples) / (1 + all). The
    kernel must not depend on which points are x: `median_sigma(x, y)` of the pool is fine.

    Args:
        x: (n, d).
        y: (m, d).
        kernel: see dmmd_kernels.kernels.
        permutations: how many relabellings; the smallest p-value is 1/(1 + permutations).
        estimator: "unbiased" or "biased", as in `mmd2`.
        generator: of the permutations; torch's global one when None.
        backend: as in `potential`.

    Returns:
        TwoSampleResult, without gradients.

    Raises:
        TypeError, ValueError: the inputs do not fit together, a sample has less than two points, or
            the estimator is unknown.
        BackendError: the named backend cannot run the call.
    """
    _check_samples("permutation_test", x, y, permutations)
    _check_estimator("permutation_test", estimator)
    values = _values_of_splits(x, y, kernel, permutations, estimator, generator, backend)
    return _result(values)


@torch.no_grad()
@in_one_dtype("x", "y", result=working_dtype)
def wild_bootstrap_test(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    draws: int = 1000,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> TwoSampleResult:
    """Test of samples of one size that exchanges x_i and y_i at random (Chwialkowski et al., 2014).

    The statistic is 1/(n(n - 1)) Σ_{i ≠ j} ε_i ε_j h_ij with h_ij = k(x_i, x_j) + k(y_i, y_j) -
    k(x_i, y_j) - k(x_j, y_i), at ε = 1 and at random signs. It holds its level when (x_i, y_i) are
    exchangeable within each i, so also for samples that are paired.

    Args, Raises: as in `permutation_test`; x and y are (n, d) both.

    Returns:
        TwoSampleResult, without gradients.
    """
    _check_samples("wild_bootstrap_test", x, y, draws)
    n = len(x)
    if len(y) != n:
        raise ValueError(
            f"wild_bootstrap_test: x and y must be of one size, got {n} and {len(y)}; "
            "permutation_test takes any sizes"
        )
    x, y = _work(x), _work(y)
    u, partners = torch.cat([x, y]), torch.stack([x, y], 1)
    own = kernel_matrix(partners, partners, kernel, backend=backend)
    itself = (own[:, 0, 0] + own[:, 1, 1] - 2 * own[:, 0, 1]).sum(dtype=torch.float64)

    def signs(count: int, first: bool) -> Tensor:
        device = "cpu" if generator is None else generator.device
        flips = torch.randint(2, (n, count), generator=generator, device=device).to(u) * 2 - 1
        if first:
            flips[:, 0] = 1
        return torch.cat([flips, -flips]) / n

    forms = [_forms(u, signs(*block), kernel, backend) for block in _blocks(1 + draws, 2 * n)]
    values = (torch.cat(forms) * n**2 - itself) / (n * (n - 1))
    return _result(values.to(x.dtype))


@torch.no_grad()
@in_one_dtype("x", "y", result=working_dtype)
def aggregated_test(
    x: Tensor,
    y: Tensor,
    kernels: Sequence[Kernel],
    *,
    weights: Sequence[float] | None = None,
    permutations: int = 1000,
    generator: torch.Generator | None = None,
    backend: str = "auto",
) -> AggregatedResult:
    """One permutation test over many kernels, so that no bandwidth need be chosen.

    Each relabelling, the observed labels among them, has a p-value for each kernel, its rank among
    all; the statistic is the smallest p-value / weight, and its own rank is the p-value of the
    test. As MMDAgg (Schrab et al., 2023) it has nearly the power of its best kernel; unlike there,
    one set of permutations serves ranks and level, which makes the level exact.

    Args:
        x, y, permutations, generator, backend: as in `permutation_test`.
        kernels: for one, Gaussians of `sigma_range(x, y)`.
        weights: positive and finite, one per kernel, the share of the level each gets; when None
            they are equal.

    Returns:
        AggregatedResult, without gradients; its p-value is NaN where that of a kernel is.

    Raises:
        TypeError, ValueError, BackendError: as in `permutation_test`; ValueError for no kernels, or
            weights that are not positive, finite and one per kernel.
    """
    _check_samples("aggregated_test", x, y, permutations)
    weights = [1.0] * len(kernels) if weights is None else list(weights)
    positive = all(0 < weight < float("inf") for weight in weights)
    if not kernels or len(weights) != len(kernels) or not positive:
        raise ValueError(
            "aggregated_test: weights must be positive, finite and one per kernel, of which there "
            f"must be some, got {weights} for {len(kernels)} kernels"
        )
    own = torch.Generator().manual_seed(_seed(generator))
    state = own.get_state()
    values = []
    for kernel in kernels:
        own.set_state(state)  # the same relabellings for every kernel
        values.append(_values_of_splits(x, y, kernel, permutations, "unbiased", own, backend))
    p_values = torch.stack([_upper_ranks(v) for v in values])
    scores = (p_values / p_values.new_tensor(weights)[:, None]).amin(0)
    ranks = torch.where(scores.isnan(), scores, (scores <= scores[0]).to(scores))
    p_value = ranks.mean().item()
    return AggregatedResult(torch.stack([v[0] for v in values]), p_values[:, 0], p_value)


@torch.no_grad()
@in_one_dtype("u", result=working_dtype)
def mmd2_of_splits(
    u: Tensor,
    kernel: Kernel,
    splits: Iterable[Tensor],
    *,
    estimator: str = "unbiased",
    backend: str = "auto",
) -> Tensor:
    """MMD² of u[split] against u[~split], for every row of every block of splits.

    Args:
        u: the pooled points, (N, d).
        kernel: see dmmd_kernels.kernels.
        splits: blocks (p, N) of booleans; in a block, each row has the same number of True.
        estimator: "unbiased" or "biased", as in `mmd2`.
        backend: as in `potential`.

    Returns:
        (Σ p,), without gradients.

    Raises:
        ValueError: the estimator is unknown, or a side of a split has too few points for it.
        BackendError: the named backend cannot run the call.
    """
    _check_estimator("mmd2_of_splits", estimator)
    u = _work(u)
    own = kernel_diagonal(u, kernel, backend)
    values = []
    for block in splits:
        in_x = block.to(u.device).T.to(u.dtype, memory_format=torch.contiguous_format)
        values.append(_values_of_block(u, own, in_x, kernel, estimator, backend))
    return torch.cat(values).to(u.dtype)


def _values_of_block(u, own, in_x, kernel, estimator, backend) -> Tensor:
    """MMD² of every column of in_x (N, p) of zeros and ones, in float64: (p,)."""
    n = int(in_x[:, 0].sum(dtype=torch.float64))
    m, least = len(u) - n, 1 if estimator == "biased" else 2
    if min(n, m) < least:
        raise ValueError(
            f"mmd2_of_splits: both sides of a split must hold at least {least} points for the "
            f"{estimator} estimator, got {n} and {m}"
        )
    # What u's dtype makes of 1/n and 1/m; the difference to them is put right in float64.
    shares = u.new_tensor([1 / n, 1 / m])
    a, b = shares.tolist()
    s = torch.where(in_x > 0, shares[0], -shares[1])
    forms, mixed, total = _forms_with_ones(u, s, kernel, backend)
    stretch = (1 / n + 1 / m) / (a + b)
    shift = 1 / n - stretch * a
    biased = stretch**2 * forms + 2 * stretch * shift * mixed + shift**2 * total
    if estimator == "biased":
        return biased
    # Around its mean, of which a radial kernel's diagonal consists, so that digits are kept.
    level = own.mean(dtype=torch.float64)
    excess = (own - level).to(u.dtype)
    traces_x, traces = n * level + (excess @ in_x).double(), len(u) * level
    sums_x = (forms + 2 * b * mixed + b**2 * total) / (a + b) ** 2
    sums_y = (forms - 2 * a * mixed + a**2 * total) / (a + b) ** 2
    more_x = (sums_x / n - traces_x) / (n * (n - 1))
    more_y = (sums_y / m - (traces - traces_x)) / (m * (m - 1))
    return biased + more_x + more_y


def _forms(u: Tensor, s: Tensor, kernel: Kernel, backend: str) -> Tensor:
    """sᵀKs for every column of s (N, p): (p,), summed in float64 outside the sweeps."""
    total = torch.zeros(s.shape[1], dtype=torch.float64, device=u.device)
    for s_z, f, times in _strips(u, s, kernel, backend):
        total += times * (s_z * f).sum(0, dtype=torch.float64)
    return total


def _forms_with_ones(u, s, kernel, backend) -> tuple[Tensor, Tensor, Tensor]:
    """sᵀKs (p,), sᵀK1 (p,) and 1ᵀK1 ()."""
    columns = torch.cat([s, torch.ones_like(s[:, :1])], 1)
    forms = mixed = torch.zeros(columns.shape[1], dtype=torch.float64, device=u.device)
    for s_z, f, times in _strips(u, columns, kernel, backend):
        forms = forms + times * (s_z * f).sum(0, dtype=torch.float64)
        row_sums = (s_z * f[:, -1:]).sum(0, dtype=torch.float64)
        mixed = mixed + times / 2 * (row_sums + f.sum(0, dtype=torch.float64))
    return forms[:-1], mixed[:-1], forms[-1]


def _strips(u, s, kernel, backend) -> Iterator[tuple[Tensor, Tensor, int]]:
    """s of a strip of rows, its potential of rows at the strip, and how often those pairs count."""
    for start in range(0, len(u), _STRIP):
        stop = min(start + _STRIP, len(u))
        z, s_z = u[start:stop], s[start:stop]
        yield s_z, potential(z, z, s_z, kernel, backend=backend), 1
        if stop < len(u):
            yield s_z, potential(z, u[stop:], s[stop:], kernel, backend=backend), 2


def _values_of_splits(x, y, kernel, permutations, estimator, generator, backend) -> Tensor:
    """MMD² of the samples first, then of random relabellings: (1 + permutations,)."""
    n, u = len(x), torch.cat([x, y])
    device = torch.device("cpu") if generator is None else generator.device

    def split(observed: bool) -> Tensor:
        in_x = torch.zeros(len(u), dtype=torch.bool, device=device)
        order = torch.randperm(len(u), generator=generator, device=device)
        return in_x.index_fill_(0, torch.arange(n, device=device) if observed else order[:n], True)

    splits = (
        torch.stack([split(first and i == 0) for i in range(count)])
        for count, first in _blocks(1 + permutations, len(u))
    )
    return mmd2_of_splits(u, kernel, splits, estimator=estimator, backend=backend)


def _blocks(count: int, size: int) -> Iterator[tuple[int, bool]]:
    """How many right-hand sides of `size` rows at a time, and whether they are the first."""
    at_once = max(16, _NUMBERS // max(size, 1))
    for start in range(0, count, at_once):
        yield min(at_once, count - start), start == 0


def _work(x: Tensor) -> Tensor:
    """Without gradient, and not in half precision, which has no digits for 1/n."""
    return x.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else x.detach()


def _upper_ranks(values: Tensor) -> Tensor:
    """For each value, the share of all that are at least as large; NaN among them makes it NaN.

    Relabellings that mean the same, as the exchange of samples of one size does, differ by rounding
    and must count as equal, or the test would reject too often.
    """
    if values.isnan().any():
        return torch.full_like(values, float("nan"), dtype=torch.float64)
    slack = 32 * torch.finfo(values.dtype).eps * values.abs().max()
    below = torch.searchsorted(values.sort().values, values - slack)
    return (len(values) - below).double() / len(values)


def _result(values: Tensor) -> TwoSampleResult:
    return TwoSampleResult(values[0], _upper_ranks(values)[0].item(), values[1:])


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def _check_estimator(op: str, estimator: str) -> None:
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"{op}: estimator must be 'unbiased' or 'biased', got {estimator!r}")


def _check_samples(op: str, x: Tensor, y: Tensor, permutations: int) -> None:
    check_points(op, x=x, y=y)
    for name, cloud in (("x", x), ("y", y)):
        if cloud.ndim != 2 or len(cloud) < 2:
            raise ValueError(
                f"{op}: {name} must be (n, d) with n of at least 2, got {tuple(cloud.shape)}"
            )
    if permutations < 1:
        raise ValueError(f"{op}: there must be at least one relabelling, got {permutations}")
