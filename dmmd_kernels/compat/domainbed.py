"""The MMD penalty of DomainBed.

    from dmmd_kernels.compat.domainbed import mmd, gaussian_kernel

Convention: Σ_γ exp(-γ |x - y|²) over the decades γ = 0.001 … 1000, a sum; MMD² biased, not rooted.
The kernel_type "mean_cov" is no MMD but CORAL: the mean squared differences of means and of
covariances, added.

Kept: any kernel_type but "gaussian" means CORAL, also one that is misspelt.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import gaussian_over, of_samples
from dmmd_kernels.ops.products import product

EXCHANGED = {"AbstractMMD": ("gaussian_kernel", "mmd")}
DECADES = (0.001, 0.01, 0.1, 1, 10, 100, 1000)


def _decades(gamma: Sequence[float]) -> dk.Kernel:
    return dk.mixture([gaussian_over(1 / g) for g in gamma])


@of_samples("x", "y")
def gaussian_kernel(x: Tensor, y: Tensor, gamma: Sequence[float] = DECADES) -> Tensor:
    """The kernel matrix (n, m)."""
    return dk.kernel_matrix(x, y, _decades(gamma))


@of_samples("x", "y")
def mmd(x: Tensor, y: Tensor, kernel_type: str = "gaussian") -> Tensor:
    """x (n, d), y (m, d) → ()."""
    if kernel_type == "gaussian":
        return dk.mmd2(x, y, _decades(DECADES), estimator="biased")
    means = (x.mean(0) - y.mean(0)).square().mean()
    return means + (_covariance(x) - _covariance(y)).square().mean()


def _covariance(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return product(centred.T, centred) / (len(x) - 1)


class AbstractMMD:
    """The two methods that the algorithms MMD and CORAL inherit; `kernel_type` is theirs."""

    kernel_type: Any

    def gaussian_kernel(self, x, y, gamma=DECADES):
        return gaussian_kernel(x, y, gamma)

    def mmd(self, x, y):
        return mmd(x, y, self.kernel_type)
