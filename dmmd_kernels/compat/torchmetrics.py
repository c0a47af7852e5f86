"""The kernel inception distance of torchmetrics.

    from dmmd_kernels.compat.torchmetrics import KernelInceptionDistance, poly_mmd

Convention: (⟨x, y⟩/d + 1)³, MMD² unbiased, mean and standard deviation (over subsets, not over
subsets - 1) of random subsets: `torch.randperm` of the real features, then of the fake ones, for
each subset, so a seed gives the same subsets. The metric evaluates many subsets in one batched
call instead of one by one.

Kept: the divisor is m(m - 1) with m the size of the first sample, so samples are of one size.
Mended: sums are taken in double precision, which the digits of a small MMD² need. A metric made
before a patch keeps its own loop over subsets, around this `poly_mmd`.
"""

from typing import Any

import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.patching import Swap
from dmmd_kernels.compat.sums import of_samples, require_same_size

_MOST_BYTES = 2**28


def _polynomial(degree: int, gamma: float | None, coef: float) -> dk.Kernel:
    return dk.polynomial(degree, gamma, coef)


@of_samples("f1", "f2")
def poly_kernel(
    f1: Tensor, f2: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> Tensor:
    """The kernel matrix (n, m)."""
    return dk.kernel_matrix(f1, f2, _polynomial(degree, gamma, coef))


def maximum_mean_discrepancy(k_xx: Tensor, k_xy: Tensor, k_yy: Tensor) -> Tensor:
    """MMD², unbiased, of the matrices (m, m)."""
    m = len(k_xx)
    within = k_xx.sum() - k_xx.trace() + k_yy.sum() - k_yy.trace()
    return within / (m * (m - 1)) - 2 * k_xy.sum() / m**2


@of_samples("f_real", "f_fake")
def poly_mmd(
    f_real: Tensor, f_fake: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> Tensor:
    """f_real, f_fake (m, d) → ()."""
    require_same_size("poly_mmd", f_real, f_fake)
    kernel = _polynomial(degree, gamma, coef)
    return dk.mmd2(f_real, f_fake, kernel)


@of_samples("f_real", "f_fake")
def poly_mmd_of_subsets(
    f_real: Tensor, f_fake: Tensor, rows: Tensor, degree: int, gamma: float | None, coef: float
) -> Tensor:
    """poly_mmd of f_real[rows[:, 0]] and f_fake[rows[:, 1]] per subset; rows (S, 2, m) → (S,)."""
    kernel = _polynomial(degree, gamma, coef)
    bytes_each = 2 * f_real.element_size() * rows.shape[2] * max(f_real.shape[1], 1)
    at_once = max(1, _MOST_BYTES // bytes_each)
    parts = rows.split(at_once)
    return torch.cat([dk.mmd2(f_real[part[:, 0]], f_fake[part[:, 1]], kernel) for part in parts])


def compute(self: Any) -> tuple[Tensor, Tensor]:
    """`KernelInceptionDistance.compute` with the subsets of the original, in few calls."""
    real, fake = (
        torch.cat(list(features)) if isinstance(features, (list, tuple)) else features
        for features in (self.real_features, self.fake_features)
    )
    for name, features in (("real", real), ("fake", fake)):
        if len(features) < self.subset_size:
            raise ValueError(
                f"KernelInceptionDistance: subset_size must be at most the number of {name} "
                f"samples, {len(features)}, got {self.subset_size}"
            )
    subsets = [
        torch.stack(
            [torch.randperm(len(f), device=f.device)[: self.subset_size] for f in (real, fake)]
        )
        for _ in range(self.subsets)
    ]
    how = (self.degree, self.gamma, self.coef)
    values = poly_mmd_of_subsets(real, fake, torch.stack(subsets), *how)
    return values.mean(), values.std(unbiased=False)


def swaps() -> list[Swap]:
    from torchmetrics.image import kid

    return [
        Swap(kid, "poly_mmd", poly_mmd),
        Swap(kid, "poly_kernel", poly_kernel),
        Swap(kid.KernelInceptionDistance, "compute", compute),
    ]


def __getattr__(name: str) -> Any:
    """KernelInceptionDistance is a class of torchmetrics with another `compute`; made on demand."""
    if name != "KernelInceptionDistance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from torchmetrics.image.kid import KernelInceptionDistance

    made = type(name, (KernelInceptionDistance,), {"compute": compute, "__module__": __name__})
    globals()[name] = made
    return made
