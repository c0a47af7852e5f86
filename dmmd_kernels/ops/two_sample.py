"""Two-sample tests: are x and y drawn from one distribution?

A test compares MMD² with its values under random relabellings of the pooled sample u = [x; y]. With
m' and n' the sizes m and n over their greatest divisor, and s = m' on one group and -n' on the
other, a relabelling's biased MMD² is sᵀKs / (n m')²: all of them are right-hand sides of one sweep
over half of the pairs, and no kernel matrix is stored (ops/pooled.py). Values that are equal
but for rounding count as equal (ops/ties.py), so that a test is exact with ties too.

Sources: Gretton et al., "A kernel two-sample test", JMLR 2012; Chwialkowski et al., "A wild
bootstrap for degenerate kernel tests", NeurIPS 2014; Schrab et al., "MMD aggregated two-sample
test", JMLR 2023.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops.checks import check_points, refuse_trace
from dmmd_kernels.ops.dtypes import in_one_dtype, working_dtype
from dmmd_kernels.ops.pairwise import kernel_matrix
from dmmd_kernels.ops.pooled import Pool, able
from dmmd_kernels.ops.relabellings import Flips, Splits, generator_of, permuted
from dmmd_kernels.ops.ties import Statistic, Values, beside

_FEW = 512  # distinct points that float64 alone is fast enough for


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
    generator: Generator | int | None = None,
    backend: str = "auto",
) -> TwoSampleResult:
    """Permutation test of x and y having one distribution, exact at any sample size, ties or not.

    p = (1 + the number of permutations whose MMD² is at least that of the samples) / (1 + all). The
    kernel must not depend on which points are x: `median_sigma(x, y)` of the pool is fine. Values
    that are equal but for rounding count, and stand in the result, as equal.

    Args:
        x: (n, d).
        y: (m, d).
        kernel: see dmmd_kernels.kernels.
        permutations: how many relabellings; the smallest p-value is 1/(1 + permutations).
        estimator: "unbiased" or "biased", as in `mmd2`; biased, one point may stand against many.
        generator: of the permutations, or its seed; torch's global one when None.
        backend: as in `potential`; where Triton is it, values too near to tell apart in float32 are
            summed again by plain torch in float64.

    Returns:
        TwoSampleResult, without gradients; p is NaN where a point is not finite.

    Raises:
        TypeError, ValueError: the inputs do not fit together, a sample has too few points for the
            estimator, or the estimator is unknown.
        BackendError: the named backend cannot run the call.
    """
    op = "permutation_test"
    check_estimator(op, estimator)
    _check_samples(op, x, y, permutations, 2 if estimator == "unbiased" else 1)
    labels = permuted(len(x), len(x) + len(y), generator_of(op, generator))
    pool = Pool([(torch.cat([x, y]), kernel)], backend)
    return _result(_values(Splits(pool, labels, len(x), estimator), pool, 1 + permutations), pool)


@torch.no_grad()
@in_one_dtype("x", "y", result=working_dtype)
def wild_bootstrap_test(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    draws: int = 1000,
    generator: Generator | int | None = None,
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
    op = "wild_bootstrap_test"
    _check_samples(op, x, y, draws)
    n = len(x)
    if len(y) != n:
        raise ValueError(
            f"{op}: x and y must be of one size, got {n} and {len(y)}; "
            "permutation_test takes any sizes"
        )
    pool = Pool([(torch.cat([x, y]), kernel)], backend)
    partners = torch.stack([x, y], 1).detach().double()
    own = kernel_matrix(partners, partners, kernel, backend=able(backend, x, torch.float64))
    itself = (own[:, 0, 0] + own[:, 1, 1] - 2 * own[:, 0, 1]).sum()
    flips = Flips(pool, 1 + draws, generator_of(op, generator), itself)
    return _result(_values(flips, pool, 1 + draws), pool)


@torch.no_grad()
@in_one_dtype("x", "y", result=working_dtype)
def aggregated_test(
    x: Tensor,
    y: Tensor,
    kernels: Sequence[Kernel],
    *,
    weights: Sequence[float] | None = None,
    permutations: int = 1000,
    generator: Generator | int | None = None,
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
    op = "aggregated_test"
    _check_samples(op, x, y, permutations, 2)
    weights = [1.0] * len(kernels) if weights is None else list(weights)
    positive = all(0 < weight < float("inf") for weight in weights)
    if not kernels or len(weights) != len(kernels) or not positive:
        raise ValueError(
            f"{op}: weights must be positive, finite and one per kernel, of which there must be "
            f"some, got {weights} for {len(kernels)} kernels"
        )
    seed = _seed(generator_of(op, generator))
    u, n, values = torch.cat([x, y]), len(x), []
    for kernel in kernels:
        pool = Pool([(u, kernel)], backend)
        labels = permuted(n, len(u), Generator().manual_seed(seed))  # the same for every kernel
        splits = Splits(pool, labels, n, "unbiased")
        values.append(_values(splits, pool, 1 + permutations))
    statistics = torch.stack([v.values[0] for v in values]).to(pool.dtype)
    p_values = torch.stack([_p_value(v) for v in values])
    return AggregatedResult(statistics, p_values, _aggregated(values, p_values, weights))


def _aggregated(values: list[Values], p_values: Tensor, weights: list[float]) -> float:
    """The share of labellings whose smallest p-value / weight is at most that of the first.

    That is at most the score where the p-value of some kernel is at most weight · score: where its
    value is above the one whose rank is the first to be too large.
    """
    scores = p_values / p_values.new_tensor(weights)
    if scores.isnan().any():
        return float("nan")
    count = len(values[0].values)
    found = torch.zeros(count, dtype=torch.bool, device=p_values.device)
    for value, weight, score in zip(values, weights, scores, strict=True):
        share = weight * scores.min().item() * (1 + 1e-9)  # scores round, and equal ones count
        rank = int(share * count)
        if rank >= count:
            return 1.0
        found |= value.compared_with_rank(rank).above
        if score <= scores.min() * (1 + 1e-9):
            found |= value.compared_with(0).at_least
    return found.double().mean().item()


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
    check_estimator("mmd2_of_splits", estimator)
    pool = Pool([(u, kernel)], backend)
    values = []
    for block in splits:
        statistic = Splits(pool, block.__getitem__, int(block[0].sum()), estimator)
        values.append(statistic(range(len(block)), False)[0])
    return torch.cat(values).to(pool.dtype)


@torch.no_grad()
def mmd2_beside(pool: Pool, in_x: Tensor, observed: int) -> Tensor:
    """MMD² unbiased for rows of in_x (p, N), (p,); what equals the observed row's has its bits."""
    n = int(in_x[observed].sum())
    statistic = Splits(pool, lambda numbers: in_x[list(numbers)], n, "unbiased")
    return beside(_values(statistic, pool, len(in_x)), observed, pool.dtype)


def _values(statistic: Statistic, pool: Pool, count: int) -> Values:
    is_exact = pool.dtype == torch.float64 or (len(pool.counts) <= _FEW and pool.has_double)
    return Values(statistic, count, pool.roundings, is_exact)


def _p_value(values: Values) -> Tensor:
    """The share of values that are at least the first, (); NaN where one is not finite."""
    if not values.are_finite():
        return torch.full_like(values.values[0], float("nan"))
    return values.compared_with(0).at_least.double().mean()


def _result(values: Values, pool: Pool) -> TwoSampleResult:
    numbers = beside(values, 0, pool.dtype)
    return TwoSampleResult(numbers[0], _p_value(values).item(), numbers[1:])


def _seed(generator: Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**63 - 1, (), generator=generator, device=device))


def check_estimator(op: str, estimator: str) -> None:
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"{op}: estimator must be 'unbiased' or 'biased', got {estimator!r}")


def _check_samples(op: str, x: Tensor, y: Tensor, permutations: int, least: int = 2) -> None:
    refuse_trace(op)
    check_points(op, x=x, y=y)
    for name, cloud in (("x", x), ("y", y)):
        if cloud.ndim != 2 or len(cloud) < least:
            single = "; estimator='biased' takes one point against many"
            raise ValueError(
                f"{op}: {name} must be (n, d) with n of at least {least}, got {tuple(cloud.shape)}"
                + (single if op == "permutation_test" and len(cloud) == 1 else "")
            )
    if permutations < 1:
        raise ValueError(f"{op}: there must be at least one relabelling, got {permutations}")
