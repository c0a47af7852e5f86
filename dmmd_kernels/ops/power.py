"""The power of a two-sample test: the ratio it grows with, and the choice of a kernel by it.

Source: Liu et al., "Learning deep kernels for non-parametric two-sample tests", ICML 2020.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops.checks import check_points, common_batch, refuse_trace
from dmmd_kernels.ops.dtypes import in_one_dtype
from dmmd_kernels.ops.mmd import mmd2
from dmmd_kernels.ops.pairwise import kernel_diagonal, potential
from dmmd_kernels.ops.pooled import Pool, able, without_gradient
from dmmd_kernels.ops.relabellings import Splits

_ROUNDINGS = 64  # that a value in the points' dtype may be off by, over its mass


@in_one_dtype("x", "y")
def power_criterion(
    x: Tensor, y: Tensor, kernel: Kernel, *, regularization: float = 1e-8, backend: str = "auto"
) -> Tensor:
    """MMD²_u / √(variance + regularization): what the power of the test grows with; differentiable.

    Liu et al. (2020), equation 3. Choose or train the kernel on one half of the data, test on the
    other: on the same points the test does not hold its level.

    Args:
        x: (…, n, d).
        y: (…, m, d).
        kernel: see dmmd_kernels.kernels; its parameters may require grad.
        regularization: keeps the ratio finite where the variance vanishes.
        backend: as in `potential`.

    Returns:
        (…,), twice differentiable in x, y and the kernel's parameters.

    Raises:
        TypeError, ValueError, BackendError: as in `mmd2`.
    """
    variance = _variance("power_criterion", x, y, kernel, backend)
    return mmd2(x, y, kernel, backend=backend) / (variance + regularization).sqrt()


@in_one_dtype("x", "y")
def mmd2_variance(x: Tensor, y: Tensor, kernel: Kernel, *, backend: str = "auto") -> Tensor:
    """The variance of unbiased MMD² where the distributions differ, to first order in 1/n.

    4 Var_i g(x_i)/n + 4 Var_j g(y_j)/m, with g(x_i) the mean of k(x_i, ·) over the other x less
    that over y, and g(y_j) the other way round (Liu et al., 2020, equation 5, for n ≠ m).

    Args:
        x: (…, n, d), n of at least 2.
        y: (…, m, d), m of at least 2.
        kernel: see dmmd_kernels.kernels; its parameters may require grad.
        backend: as in `potential`.

    Returns:
        (…,), twice differentiable in x, y and the kernel's parameters.

    Raises:
        TypeError, ValueError: x and y do not fit together, or hold less than two points.
        BackendError: the named backend cannot run the call.
    """
    return _variance("mmd2_variance", x, y, kernel, backend)


def _variance(op: str, x: Tensor, y: Tensor, kernel: Kernel, backend: str) -> Tensor:
    check_points(op, x=x, y=y)
    n, m = x.shape[-2], y.shape[-2]
    if min(n, m) < 2:
        raise ValueError(f"{op}: x and y must hold two points each, got {n} and {m}")
    batch = common_batch(op, x=x, y=y)
    u = torch.cat([t.expand(*batch, *t.shape[-2:]) for t in (x, y)], -2)
    groups = torch.zeros(n + m, 2, dtype=u.dtype, device=u.device)
    groups[:n, 0] = groups[n:, 1] = 1
    sums = potential(u, u, groups.expand(*batch, -1, -1), kernel, backend=backend)
    own = kernel_diagonal(u, kernel, backend)
    g_x = (sums[..., :n, 0] - own[..., :n]) / (n - 1) - sums[..., :n, 1] / m
    g_y = (sums[..., n:, 1] - own[..., n:]) / (m - 1) - sums[..., n:, 0] / n
    return 4 * (g_x.var(-1, correction=0) / n + g_y.var(-1, correction=0) / m)


@in_one_dtype("x", "y")
def select_kernel(
    x: Tensor,
    y: Tensor,
    kernels: Sequence[Kernel],
    *,
    regularization: float = 1e-8,
    backend: str = "auto",
) -> Kernel:
    """The kernel of largest `power_criterion` on x and y, which must be data the test won't see.

    Args:
        x: (n, d).
        y: (m, d).
        kernels: to choose from.
        regularization: as in `power_criterion`.
        backend: as in `potential`.

    Returns:
        One of the kernels, the first of those that are equally good but for rounding.

    Raises:
        TypeError, ValueError, BackendError: as in `power_criterion`; ValueError for no kernels, and
            for one whose criterion is NaN.
    """
    if not kernels:
        raise ValueError("select_kernel: kernels must hold at least one, got none")
    refuse_trace("select_kernel")
    x, y = without_gradient(x), without_gradient(y)
    best = list(range(len(kernels)))
    for exact in (False, True):
        found = [_criterion(x, y, kernels[i], regularization, backend, exact) for i in best]
        ratios, slacks = (torch.stack(values) for values in zip(*found, strict=True))
        if ratios.isnan().any():
            raise ValueError(
                f"select_kernel: the criterion of kernels[{int(ratios.isnan().nonzero()[0, 0])}] "
                "must be a number, got NaN; look for NaN or infinity in x, y and the kernel's "
                "parameters"
            )
        least = (ratios - slacks).max()
        best = [
            i for i, high in zip(best, (ratios + slacks).tolist(), strict=True) if high >= least
        ]
        if len(best) == 1:
            break
    return kernels[best[0]]


@torch.no_grad()
def _criterion(
    x: Tensor, y: Tensor, kernel: Kernel, regularization: float, backend: str, exact: bool
) -> tuple[Tensor, Tensor]:
    """The criterion in float64, and how far rounding may have moved it: docs/derivations.md."""
    op = "select_kernel"
    points = (x.double(), y.double()) if exact else (x, y)
    variance = _variance(op, *points, kernel, able(backend, *points[:1], points[0].dtype))
    pool = Pool([(torch.cat([x, y]), kernel)], backend)
    observed = (torch.arange(pool.size, device=x.device) < len(x))[None]
    value, mass = (t[0] for t in Splits(pool, lambda _: observed, len(x), "unbiased")([0], exact))
    root = (variance.double() + regularization).sqrt()
    roundings = pool.roundings if exact else _ROUNDINGS
    unit = roundings * torch.finfo(torch.float64 if exact else x.dtype).eps
    return value / root, unit * mass / root * (1 + value.abs() * mass / root.square())
