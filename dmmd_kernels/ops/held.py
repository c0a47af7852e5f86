"""A sample held fixed while another one moves: its own term of MMD² is computed once.

    MMD²(x, y) = within(x) + within(y) - 2 mean_ij k(x_i, y_j)

Along a flow, or while features are frozen, y and the kernel stay, so within(y) is a constant: a
third of all pairs for as many points in x as in y.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel, check_kernel
from dmmd_kernels.ops.checks import check_points, common_batch
from dmmd_kernels.ops.dtypes import HALVES, common_dtype
from dmmd_kernels.ops.mmd import (
    _check_estimator,
    _off_diagonal_scale,
    _quadratic_form,
    _uniform,
)
from dmmd_kernels.ops.pairwise import potential
from dmmd_kernels.ops.products import product


@dataclass(frozen=True, eq=False)
class HeldSample:
    """y with its own term of MMD² under one kernel. Made by `hold`.

    Attributes:
        y: the sample, (…, m, d), in float32 or float64.
        kernel, estimator, backend, precision: as given to `hold`.
        within: Σ k(y_i, y_j) / m(m - 1) without i = j if unbiased, else / m², (…,).
    """

    y: Tensor
    kernel: Kernel
    estimator: str
    backend: str
    precision: str
    within: Tensor = field(repr=False)
    origin: Tensor = field(repr=False)

    def mmd2(self, x: Tensor) -> Tensor:
        """MMD² of x (…, n, d) against the held sample, (…,): what `dk.mmd2` gives.

        Twice differentiable in x.

        Raises:
            TypeError, ValueError: x does not fit y, or has too few points.
        """
        check_points("HeldSample.mmd2", x=x, y=self.y)
        dtype = common_dtype(x, self.y)
        if self.y.dtype != dtype:  # the kept term has fewer digits than are wanted
            return self._held(self.y.to(dtype)).mmd2(x)
        x = x if x.dtype == dtype else x.to(dtype)
        common_batch("HeldSample.mmd2", x=x, y=self.y)
        _check_estimator(self.estimator, x, self.y)
        x = x - self.origin
        options = {"backend": self.backend, "precision": self.precision}
        w = _uniform(self.y).expand(self.y.shape[:-1])
        cross = potential(x, self.y - self.origin, w, self.kernel, **options).mean(-1)
        within = _within(x, self.kernel, self.estimator, self.backend, self.precision)
        return within + self.within - 2 * cross

    def _held(self, y: Tensor) -> "HeldSample":
        how = {"backend": self.backend, "precision": self.precision}
        return hold(y, self.kernel, estimator=self.estimator, **how)


def hold(
    y: Tensor,
    kernel: Kernel,
    *,
    estimator: str = "unbiased",
    backend: str = "auto",
    precision: str = "highest",
) -> HeldSample:
    """Holds y for many calls of `.mmd2(x)` with one kernel.

    Args:
        y: (…, m, d), float32 or float64; it must not change afterwards.
        kernel, estimator, backend, precision: as in `mmd2`. Parameters that are tensors are held
            too: they keep the values of now.

    Raises:
        ValueError: y or a parameter of the kernel requires grad, since the kept term would not
            follow it; or y is too small for the estimator.
        TypeError: y is in half precision.
    """
    check_kernel("hold", kernel)
    check_points("hold", y=y)
    _check_estimator(estimator, y, y)
    if y.dtype in HALVES:
        raise TypeError(f"hold: y must be float32 or float64, got {y.dtype}; use y.float()")
    if y.requires_grad or any(p.requires_grad for p in kernel.parameters):
        raise ValueError(
            "hold: neither y nor the kernel's parameters may require grad, for the kept term would "
            "not follow them; use dk.mmd2, or detach them"
        )
    if kernel.parameters:  # they may change in place, and the kept term would not
        kernel = kernel.changed(lambda p: p.clone() if isinstance(p, Tensor) else p)
    origin = y.mean(-2, keepdim=True)  # distances do not feel it, linear kernels' rounding does
    polynomial = any(t.profile.startswith("polynomial") for t in kernel.terms)
    origin = torch.zeros_like(origin) if polynomial else origin
    within = _within(y - origin, kernel, estimator, backend, precision)
    return HeldSample(y, kernel, estimator, backend, precision, within, origin)


def _within(x: Tensor, kernel: Kernel, estimator: str, backend: str, precision: str) -> Tensor:
    """Σ aᵢaⱼ k(xᵢ, xⱼ) with weights 1/n; unbiased, without i = j and scaled back to its mass."""
    a, skip = _uniform(x), estimator == "unbiased"
    w = a[:, None]
    v = _off_diagonal_scale(a)[..., None] * w if skip else w
    lowered = kernel.lower(x)
    how = (skip, precision, backend)
    parts = [_quadratic_form(x, None, v, w, mixture, how) for mixture in lowered.mixtures]
    if lowered.linear is not None:
        parts.append(lowered.linear * _linear_form(x, v, w, skip))
    return sum(parts[1:], parts[0])


def _linear_form(u: Tensor, v: Tensor, w: Tensor, skip_diagonal: bool) -> Tensor:
    """Σ c_ij ⟨u_i, u_j⟩ in O((n + m) d): ⟨Σ v_i u_i, Σ w_j u_j⟩, less Σ c_ii |u_i|²."""
    total = (product(v.mT, u) * product(w.mT, u)).sum((-2, -1))
    if not skip_diagonal:
        return total
    return total - ((v * w).sum(-1) * u.square().sum(-1)).sum(-1)
