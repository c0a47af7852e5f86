"""Sums over pairs that several shims are made of. Shapes and letters as in dmmd_kernels.ops."""

from collections.abc import Callable, Sequence, Sized
from functools import wraps
from inspect import signature
from typing import Any

import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.ops.checks import refuse_images
from dmmd_kernels.ops.dtypes import F, in_one_dtype, loss_dtype


def of_samples(*names: str) -> Callable[[F], F]:
    """For stand-ins whose arguments `names` are samples (n, d): their dtypes, and no images.

    They are promoted before widths are read off them. Samples that are no tensors pass as they are.
    """

    def decorate(function: F) -> F:
        parameters = list(signature(function).parameters)
        places = {name: parameters.index(name) for name in names}
        in_one = in_one_dtype(*names, result=loss_dtype)(function)

        @wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            given = {n: args[p] if p < len(args) else named.get(n) for n, p in places.items()}
            images = {n: t for n, t in given.items() if isinstance(t, Tensor) and t.ndim > 3}
            if images:
                owner = type(args[0]).__name__ if "self" in parameters else function.__name__
                refuse_images(owner, **images)
            return in_one(*args, **named)

        return call  # type: ignore[return-value]

    return decorate


def gaussian_over(c: float | Tensor) -> dk.Kernel:
    """exp(-|x - y|² / c)"""
    return dk.gaussian((c / 2) ** 0.5)


def gaussian_ladder(c: Tensor | float, factor: float, count: int, weight: float = 1) -> dk.Kernel:
    """Σ_{i < count} weight · exp(-|x - y|² / (c · factor^i))"""
    rungs = [gaussian_over(c * factor**i) for i in range(count)]
    return dk.mixture(rungs, [weight] * count)


def mean_square_distance(x: Tensor, y: Tensor) -> Tensor:
    """The mean of |u - u'|² over the pairs u ≠ u' of [x; y], detached, O((n + m) d)."""
    return 2 * dk.mean_sigma(x, y).square()


def paired(x: Tensor, y: Tensor, kernel: dk.Kernel) -> Tensor:
    """k(x_i, y_i), (…, n), for x, y (…, n, d)."""
    return dk.kernel_matrix(x.unsqueeze(-2), y.unsqueeze(-2), kernel)[..., 0, 0]


def peak(x: Tensor, kernel: dk.Kernel) -> Tensor:
    """k(x, x), (), which of a radial kernel is the same at every point x (n, d)."""
    return dk.kernel_matrix(x[:1], x[:1], kernel)[0, 0]


def consecutive(x: Tensor, y: Tensor, kernel: dk.Kernel) -> Tensor:
    """(n,): k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i) with j = i + 1 mod n."""
    x_next, y_next = x.roll(-1, 0), y.roll(-1, 0)
    same = paired(x, x_next, kernel) + paired(y, y_next, kernel)
    return same - paired(x, y_next, kernel) - paired(x_next, y, kernel)


class RowSums:
    """Σⱼ k(·, xⱼ) and Σⱼ k(·, yⱼ) at the points of x and of y, in one sweep; for radial kernels.

    xx, yy have the pairs i = j left out; xy[i] = Σⱼ k(xᵢ, yⱼ), yx[j] = Σᵢ k(xᵢ, yⱼ).
    """

    def __init__(self, x: Tensor, y: Tensor, kernel: dk.Kernel) -> None:
        n, m = len(x), len(y)
        u = torch.cat([x, y])
        side = u.new_zeros(n + m, 2)
        side[:n, 0] = side[n:, 1] = 1
        sums = dk.potential(u, u, side, kernel)
        own = peak(u, kernel)
        self.xx, self.xy = sums[:n, 0] - own, sums[:n, 1]
        self.yx, self.yy = sums[n:, 0], sums[n:, 1] - own


def require_same_size(owner: str, x: Sized, y: Sized) -> None:
    if len(x) != len(y):
        raise ValueError(f"{owner}: samples must be of one size, got {len(x)} and {len(y)}")


def squared(sigmas: Sequence[float], weights: Sequence[float] | None = None) -> dk.Kernel:
    """The square of Σ w_i gaussian(σ_i), as the mixture of all products: 1/σ² = 1/σ_i² + 1/σ_j²."""
    weights = [1.0] * len(sigmas) if weights is None else weights
    terms = [
        (1 + (i < j)) * w * v * dk.gaussian((s**-2 + r**-2) ** -0.5)
        for i, (s, w) in enumerate(zip(sigmas, weights, strict=True))
        for j, (r, v) in enumerate(zip(sigmas, weights, strict=True))
        if i <= j
    ]
    return dk.mixture(terms)
