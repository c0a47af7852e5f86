"""Clouds of points, (…, n, d)."""

import torch
from torch import Tensor


def joined(x: Tensor, y: Tensor | None) -> Tensor:
    """The points of x, then those of y, (…, n + m, d); a cloud without blocks is in all of them."""
    if y is None:
        return x
    if x.ndim == y.ndim == 2:
        return torch.cat((x, y))
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return torch.cat([t.expand(*batch, *t.shape[-2:]) for t in (x, y)], -2)
