"""ψ and its derivatives in plain torch: what `reference` computes, and derivatives of matrices.

A component of a kernel is λ ψ(s q; a) with q the squared distance, or the product for polynomials.
csrc/profile.h and _triton/profile.py hold the same.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Profile(NamedTuple):
    """ψ(t; a) and the derivatives that first and second order need, on tensors."""

    psi: Callable[[Tensor, Tensor], Tensor]
    psi_t: Callable[[Tensor, Tensor], Tensor]
    psi_tt: Callable[[Tensor, Tensor], Tensor]
    psi_a: Callable[[Tensor, Tensor], Tensor]
    psi_ta: Callable[[Tensor, Tensor], Tensor]
    psi_aa: Callable[[Tensor, Tensor], Tensor]


def profile(name: str) -> Profile:
    """The profile of a component's name; "polynomial3" is (t + a)³."""
    if name.startswith("polynomial"):
        return _polynomial(int(name.removeprefix("polynomial")))
    return PROFILES[name]


def _zero(t: Tensor, a: Tensor) -> Tensor:
    return torch.zeros_like(t)


def _polynomial(n: int) -> Profile:
    value = lambda t, a: (t + a) ** n
    first = lambda t, a: n * (t + a) ** (n - 1)
    second = lambda t, a: n * (n - 1) * (t + a) ** (n - 2) if n > 1 else torch.zeros_like(t)
    return Profile(value, first, second, first, second, second)


def _off_zero(t: Tensor, value: Callable[[Tensor], Tensor], at_zero: float = 0.0) -> Tensor:
    """value(t), but constant at the kink t = 0: a point does not push itself. NaN stays NaN."""
    return torch.where(t == 0, at_zero, value(torch.where(t == 0, 1.0, t)))


def _root(t: Tensor) -> Tensor:
    """√t, cut where e^-√t is 0: then √t e^-√t is 0 and not ∞ · 0. NaN stays NaN."""
    return t.sqrt().clamp(max=1e4)


PROFILES = {
    "gaussian": Profile(
        psi=lambda t, a: torch.exp(-t),
        psi_t=lambda t, a: -torch.exp(-t),
        psi_tt=lambda t, a: torch.exp(-t),
        psi_a=_zero,
        psi_ta=_zero,
        psi_aa=_zero,
    ),
    "rational_quadratic": Profile(
        psi=lambda t, a: (1 + t) ** -a,
        psi_t=lambda t, a: -a * (1 + t) ** (-a - 1),
        psi_tt=lambda t, a: a * (a + 1) * (1 + t) ** (-a - 2),
        psi_a=lambda t, a: -torch.log1p(t) * (1 + t) ** -a,
        psi_ta=lambda t, a: (a * torch.log1p(t) - 1) * (1 + t) ** (-a - 1),
        psi_aa=lambda t, a: torch.log1p(t) ** 2 * (1 + t) ** -a,
    ),
    "imq": Profile(
        psi=lambda t, a: torch.rsqrt(1 + t),
        psi_t=lambda t, a: -0.5 * torch.rsqrt(1 + t) / (1 + t),
        psi_tt=lambda t, a: 0.75 * torch.rsqrt(1 + t) / (1 + t) ** 2,
        psi_a=_zero,
        psi_ta=_zero,
        psi_aa=_zero,
    ),
    "laplace": Profile(
        psi=lambda t, a: _off_zero(t, lambda t: torch.exp(-t.sqrt()), at_zero=1.0),
        psi_t=lambda t, a: _off_zero(t, lambda t: -0.5 * torch.exp(-t.sqrt()) * t.rsqrt()),
        psi_tt=lambda t, a: _off_zero(
            t, lambda t: 0.25 * torch.exp(-t.sqrt()) * (1 + t.rsqrt()) / t
        ),
        psi_a=_zero,
        psi_ta=_zero,
        psi_aa=_zero,
    ),
    "matern32": Profile(  # (1 + r) e^-r, r = √t; ψ'' has no bound at 0
        psi=lambda t, a: (1 + _root(t)) * torch.exp(-_root(t)),
        psi_t=lambda t, a: -0.5 * torch.exp(-_root(t)),
        psi_tt=lambda t, a: _off_zero(t, lambda t: 0.25 * torch.exp(-t.sqrt()) * t.rsqrt()),
        psi_a=_zero,
        psi_ta=_zero,
        psi_aa=_zero,
    ),
    "matern52": Profile(  # (1 + r + r²/3) e^-r
        psi=lambda t, a: (1 + _root(t) + _root(t) ** 2 / 3) * torch.exp(-_root(t)),
        psi_t=lambda t, a: -(1 + _root(t)) * torch.exp(-_root(t)) / 6,
        psi_tt=lambda t, a: torch.exp(-_root(t)) / 12,
        psi_a=_zero,
        psi_ta=_zero,
        psi_aa=_zero,
    ),
    "energy": Profile(
        psi=lambda t, a: _off_zero(t, lambda t: -(t ** (a / 2))),
        psi_t=lambda t, a: _off_zero(t, lambda t: -(a / 2) * t ** (a / 2 - 1)),
        psi_tt=lambda t, a: _off_zero(t, lambda t: -(a / 2) * (a / 2 - 1) * t ** (a / 2 - 2)),
        psi_a=lambda t, a: _off_zero(t, lambda t: -0.5 * t.log() * t ** (a / 2)),
        psi_ta=lambda t, a: _off_zero(t, lambda t: -(0.5 + a / 4 * t.log()) * t ** (a / 2 - 1)),
        psi_aa=lambda t, a: _off_zero(t, lambda t: -0.25 * t.log() ** 2 * t ** (a / 2)),
    ),
    "square_distance": Profile(
        psi=lambda t, a: t,
        psi_t=lambda t, a: torch.ones_like(t),
        psi_tt=_zero,
        psi_a=_zero,
        psi_ta=_zero,
        psi_aa=_zero,
    ),
}
