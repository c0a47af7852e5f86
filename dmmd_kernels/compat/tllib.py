"""MK-MMD and joint MMD of the Transfer-Learning-Library (tllib), for DAN and JAN.

    from dmmd_kernels.compat.tllib import GaussianKernel
        in place of: from tllib.modules.kernels import …
    from dmmd_kernels.compat.tllib import MultipleKernelMaximumMeanDiscrepancy
        in place of: from tllib.alignment.dan import …
    from dmmd_kernels.compat.tllib import JointMultipleKernelMaximumMeanDiscrepancy
        in place of: from tllib.alignment.jan import …

Convention: exp(-|x - y|² / 2σ²) with σ² = alpha times the mean of |u - u'|² over all N² pairs of
the pooled batch, zeros in, detached, taken anew at every call; a sum over kernels. The loss is
unbiased within each batch, all pairs across; `linear=True` takes the pairs (i, i + 1 mod n) alone.

Kept: the loss is *plus 2/(n - 1)*, whatever the number of kernels, so loss(x, x) is not 0; both
batches are of one size; `GaussianKernel(sigma)` without `track_running_stats=False` overwrites its
sigma. Mended: no Python loop over n² entries. Kernels of other classes are called as they are.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import consecutive, of_samples, require_same_size

EXCHANGED = {
    "MultipleKernelMaximumMeanDiscrepancy": ("forward",),
    "JointMultipleKernelMaximumMeanDiscrepancy": ("forward",),
}


class GaussianKernel(nn.Module):
    """`forward(X (N, d))` → (N, N). `sigma_square` is the last one used."""

    def __init__(
        self, sigma: float | None = None, track_running_stats: bool = True, alpha: float = 1.0
    ):
        super().__init__()
        if sigma is None and not track_running_stats:
            raise ValueError("GaussianKernel: sigma must be given without track_running_stats")
        self.sigma_square = None if sigma is None else torch.tensor(sigma * sigma)
        self.track_running_stats = track_running_stats
        self.alpha = alpha

    @of_samples("X")
    def forward(self, X: Tensor) -> Tensor:
        return dk.kernel_matrix(X, X, dk.gaussian(_sigma_square(self, X).sqrt()))


def _sigma_square(kernel: Any, pooled: Tensor) -> Tensor:
    """σ² of a GaussianKernel, ours or theirs; the mean over N² pairs, from that over u ≠ u'."""
    if kernel.track_running_stats:
        size = len(pooled)
        mean = 2 * dk.mean_sigma(pooled, pooled[:0]).square() * (size - 1) / size
        kernel.sigma_square = kernel.alpha * mean
    return kernel.sigma_square.to(pooled)


def _is_gaussian(kernel: nn.Module) -> bool:
    kind = type(kernel)
    theirs = kind.__name__ == "GaussianKernel" and kind.__module__ == "tllib.modules.kernels"
    return kind is GaussianKernel or theirs


def _form(x: Tensor, y: Tensor, kernel: dk.Kernel, linear: bool) -> Tensor:
    if linear:
        return consecutive(x, y, kernel).mean()
    return dk.mmd2(x, y, kernel)


def _dense_form(matrix: Tensor, linear: bool) -> Tensor:
    """As `_form`, for a kernel matrix (2n, 2n) whose kernel is not known."""
    n = len(matrix) // 2
    xx, yy, xy, yx = matrix[:n, :n], matrix[n:, n:], matrix[:n, n:], matrix[n:, :n]
    if linear:
        i = torch.arange(n, device=matrix.device)
        j = (i + 1) % n
        return (xx[i, j] + yy[i, j] - xy[i, j] - yx[i, j]).mean()
    within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
    return within / (n * (n - 1)) - xy.mean() - yx.mean()


class MultipleKernelMaximumMeanDiscrepancy(nn.Module):
    """`forward(z_s (n, d), z_t (n, d))` → ()."""

    def __init__(self, kernels: Sequence[nn.Module], linear: bool = False):
        super().__init__()
        self.kernels = kernels
        self.index_matrix = None
        self.linear = linear

    @of_samples("z_s", "z_t")
    def forward(self, z_s: Tensor, z_t: Tensor) -> Tensor:
        require_same_size("MultipleKernelMaximumMeanDiscrepancy", z_s, z_t)
        pooled, extra = torch.cat([z_s, z_t]), 2 / (len(z_s) - 1)
        if all(map(_is_gaussian, self.kernels)):
            squares = [_sigma_square(kernel, pooled) for kernel in self.kernels]
            kernel = dk.mixture([dk.gaussian(square.sqrt()) for square in squares])
            return _form(z_s, z_t, kernel, self.linear) + extra
        return _dense_form(sum(kernel(pooled) for kernel in self.kernels), self.linear) + extra


class JointMultipleKernelMaximumMeanDiscrepancy(nn.Module):
    """`forward(z_s, z_t)`, sequences with one (n, d_l) per layer → ().

    The kernel is the product over layers of sums over kernels. A product of Gaussians of several
    layers is one Gaussian of the layers side by side, each divided by its σ, so the sum over all
    choices of one kernel per layer is a batch of ordinary MMDs.
    """

    def __init__(
        self,
        kernels: Sequence[Sequence[nn.Module]],
        linear: bool = True,
        thetas: Sequence[nn.Module] | None = None,
    ):
        super().__init__()
        self.kernels = kernels
        self.index_matrix = None
        self.linear = linear
        self.thetas = thetas if thetas else [nn.Identity() for _ in kernels]

    def forward(self, z_s: Sequence[Tensor], z_t: Sequence[Tensor]) -> Tensor:
        require_same_size("JointMultipleKernelMaximumMeanDiscrepancy", z_s[0], z_t[0])
        layers = [
            theta(torch.cat(pair)) for *pair, theta in zip(z_s, z_t, self.thetas, strict=False)
        ]
        return self._of_layers(layers)

    @of_samples("layers")
    def _of_layers(self, layers: list[Tensor]) -> Tensor:
        n = len(layers[0]) // 2
        if all(_is_gaussian(kernel) for layer in self.kernels for kernel in layer):
            form = _joint_form(layers, self.kernels, self.linear)
        else:
            matrices = [
                sum(kernel(layer) for kernel in kernels)
                for layer, kernels in zip(layers, self.kernels, strict=False)
            ]
            form = _dense_form(torch.stack(matrices).prod(0), self.linear)
        return form + 2 / (n - 1)


def _joint_form(layers: list[Tensor], kernels: Sequence[Sequence[nn.Module]], linear: bool):
    scaled = [
        [layer / _sigma_square(kernel, layer).sqrt() for kernel in layer_kernels]
        for layer, layer_kernels in zip(layers, kernels, strict=False)
    ]
    clouds = [torch.cat(choice, 1) for choice in product(*scaled)]
    n, unit = len(layers[0]) // 2, dk.gaussian(1.0)
    return sum(_form(cloud[:n], cloud[n:], unit, linear) for cloud in clouds)
