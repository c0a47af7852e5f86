"""Rules that read a Gaussian bandwidth σ off the data. Both return a detached tensor."""

import torch
from torch import Tensor

from dmmd_kernels.ops.checks import check_points

_ROWS = 4096


def mean_sigma(x: Tensor, y: Tensor) -> Tensor:
    """σ with 2σ² = the mean of |u - u'|² over the pairs u ≠ u' of the pooled sample [x; y].

    In O((n + m) d), from Σᵢⱼ |uᵢ - uⱼ|² = 2N Σ|uᵢ|² for centred u.

    Args:
        x: (…, n, d).
        y: (…, m, d).

    Returns:
        (…,), detached.

    Raises:
        TypeError, ValueError: x and y do not fit together, or hold fewer than two points.
    """
    u = _pooled("mean_sigma", x, y)
    size = u.shape[-2]
    u = u - u.mean(-2, keepdim=True)
    return (u.square().sum((-2, -1)) / (size - 1)).sqrt().to(x.dtype)


def median_sigma(x: Tensor, y: Tensor, *, max_points: int = _ROWS) -> Tensor:
    """σ with 2σ² = the median of |u - u'|² over the pairs u ≠ u' of the pooled sample [x; y].

    The median needs every distance, so a larger pool is thinned to `max_points` evenly spaced rows.
    Of an even number of distances it is the lower middle one.

    Args:
        x: (…, n, d).
        y: (…, m, d).
        max_points: the number of pooled points that are looked at.

    Returns:
        (…,), detached.

    Raises:
        TypeError, ValueError: x and y do not fit together, or hold fewer than two points.
    """
    u = _pooled("median_sigma", x, y)
    if u.shape[-2] > max_points:
        keep = torch.linspace(0, u.shape[-2] - 1, max_points, device=u.device).long()
        u = u[..., keep, :]
    distances = torch.cdist(u, u, compute_mode="donot_use_mm_for_euclid_dist")
    above = torch.triu_indices(u.shape[-2], u.shape[-2], offset=1, device=u.device)
    median = distances[..., above[0], above[1]].median(-1).values
    return (median / 2**0.5).to(x.dtype)


def _pooled(op: str, x: Tensor, y: Tensor) -> Tensor:
    check_points(op, x=x, y=y)
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    u = torch.cat([t.detach().expand(*batch, *t.shape[-2:]) for t in (x, y)], -2)
    if u.shape[-2] < 2:
        raise ValueError(f"{op}: x and y must hold at least two points together, got {u.shape[-2]}")
    return u if u.dtype == torch.float64 else u.float()
