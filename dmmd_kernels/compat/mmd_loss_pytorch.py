"""The MMD loss of yiftachbeer/mmd_loss_pytorch.

    from dmmd_kernels.compat.mmd_loss_pytorch import RBF, MMDLoss
        in place of: from mmd_loss import RBF, MMDLoss

Convention: Σ over n_kernels of exp(-|x - y|² / (bw · mul_factor^(i - n_kernels // 2))), a sum; bw
is `bandwidth`, or the mean of |u - u'|² over the pairs u ≠ u' of the pooled sample, detached. MMD²
is biased and not rooted; samples of different sizes are fine.

Mended: the multipliers move with the module (there they stay on the CPU), and a whole number as
mul_factor counts as the float (there its negative powers are 0, and the loss is NaN).
"""

from typing import Any

import torch
from torch import Tensor, nn

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import gaussian_over, of_samples

EXCHANGED = {"MMDLoss": ("forward",)}


def _mean_square(x: Tensor) -> Tensor:
    return 2 * dk.mean_sigma(x, x[:0]).square()


class RBF(nn.Module):
    """`forward(X (N, d))` → (N, N), the kernel matrix of the stacked samples."""

    bandwidth_multipliers: Tensor

    def __init__(
        self, n_kernels: int = 5, mul_factor: float = 2.0, bandwidth: float | Tensor | None = None
    ):
        super().__init__()
        powers = float(mul_factor) ** (torch.arange(n_kernels) - n_kernels // 2)
        self.register_buffer("bandwidth_multipliers", powers, persistent=False)
        self.bandwidth = bandwidth

    @of_samples("X")
    def forward(self, X: Tensor) -> Tensor:
        return dk.kernel_matrix(X, X, _kernel(self, X))


def _kernel(rbf: Any, X: Tensor) -> dk.Kernel:
    """The kernel that the module, ours or theirs, stands for on the pooled sample X."""
    width = _mean_square(X) if rbf.bandwidth is None else rbf.bandwidth
    multipliers = rbf.bandwidth_multipliers.tolist()
    return dk.mixture([gaussian_over(width * multiplier) for multiplier in multipliers])


def _is_rbf(kernel: Any) -> bool:
    kind = type(kernel)
    return kind is RBF or (kind.__name__ == "RBF" and hasattr(kernel, "get_bandwidth"))


class MMDLoss(nn.Module):
    """`forward(X (n, d), Y (m, d))` → (). Another kernel is called on the stacked samples."""

    def __init__(self, kernel: nn.Module | None = None):
        super().__init__()
        self.kernel = RBF() if kernel is None else kernel

    @of_samples("X", "Y")
    def forward(self, X: Tensor, Y: Tensor) -> Tensor:
        pooled = torch.cat([X, Y])
        if _is_rbf(self.kernel):
            return dk.mmd2(X, Y, _kernel(self.kernel, pooled), estimator="biased")
        K, n = self.kernel(pooled), len(X)
        return K[:n, :n].mean() + K[n:, n:].mean() - 2 * K[:n, n:].mean()
