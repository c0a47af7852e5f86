"""The Gaussian and deep kernels, MMD² and the MMD drift detector of alibi-detect (PyTorch backend).

    from dmmd_kernels.compat.alibi_detect import GaussianRBF, DeepKernel, mmd2
        in place of: from alibi_detect.utils.pytorch import …
    with compat.patch("alibi_detect"): …
        around: MMDDrift(x_ref, backend="pytorch").predict(x)

Convention: exp(-|x - y|² / 2σ²), the *mean* over several σ; MMD² unbiased. When not given, σ is
√(median of |x - y|² / 2), lower median: over the pairs i ≠ j when y is x, else over all pairs, and
then one rank below the middle if their number is odd. p is the share of permutations at or above
MMD², without the observed one; the permutations are those that `torch.randperm` gives on the CPU,
and the threshold is that value of rank int(p_val · permutations).

The class `GaussianRBF` equals the original's, so that a detector given it as `kernel=`, `x_kernel=`
or `c_kernel=` makes its kernel of it. Values of permutations that are equal but for rounding are
equal, with the original's ≤; a median of 0 gives a narrow width, where the original has NaN.

With the patch, a detector whose kernel is one of these stores no kernel matrix, neither at its
construction nor in `score`: all permutations are right-hand sides of one sweep. Other kernels, and
σ rules of one's own, take the original's way.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dmmd_kernels as dk
from dmmd_kernels.compat.featured import FeaturedMatrix
from dmmd_kernels.compat.patching import Swap, exchanged
from dmmd_kernels.compat.sums import of_samples
from dmmd_kernels.ops.bandwidth import PairGroup, narrow_distance, select_distance
from dmmd_kernels.ops.dtypes import common_dtype


@of_samples("x", "y")
def sigma_median(x: Tensor, y: Tensor, dist: Tensor | None = None) -> Tensor:
    """σ by the median rule, (1,); `dist` is not needed. x (n, d), y (m, d)."""
    same = x.shape == y.shape and bool((x == y).all())
    group = PairGroup(x) if same else PairGroup(x, y)
    if group.size() == 0:
        raise ValueError(
            f"sigma_median: x and y must hold a pair of points, got {len(x)} and {len(y)} rows"
            + (", which are the same" if same else "")
        )
    rank = (group.size() - 1) // 2 if same else group.size() // 2 - 1
    median = select_distance([group], max(rank, 0))
    if median == 0:  # no kernel has that width
        median = narrow_distance([group])
    return median.reshape(1) / 2**0.5


class _StandIn(type):
    """A class that equals the one it stands in for.

    Detectors take a kernel, or the class GaussianRBF, of which they then make one; they know it by
    `kernel == GaussianRBF`, and would call any other class as a kernel.
    """

    def __eq__(cls, other: object) -> bool:
        return cls is other or (isinstance(other, type) and _is(other, cls.__name__))

    __hash__ = type.__hash__


class GaussianRBF(nn.Module, metaclass=_StandIn):
    """`forward(x (n, …), y (m, …), infer_sigma=False)` → (n, m)."""

    def __init__(
        self,
        sigma: Tensor | None = None,
        init_sigma_fn: Callable | None = None,
        trainable: bool = False,
    ):
        super().__init__()
        start = torch.zeros(1) if sigma is None else sigma.reshape(-1).log()
        self.log_sigma = nn.Parameter(start, requires_grad=trainable)
        self.init_required = sigma is None
        self.init_sigma_fn = sigma_median if init_sigma_fn is None else init_sigma_fn
        self.trainable = trainable

    @property
    def sigma(self) -> Tensor:
        return self.log_sigma.exp()

    def forward(self, x: Any, y: Any, infer_sigma: bool = False) -> Tensor:
        x, y = (torch.as_tensor(t).flatten(1) for t in (x, y))
        _ready(self, x, y, infer_sigma)
        return dk.kernel_matrix(x, y, _mean_of_gaussians(self))


def _ready(kernel: Any, x: Tensor, y: Tensor, infer_sigma: bool = False) -> None:
    """Infers σ where the kernel, ours or theirs, asks for it."""
    if not (infer_sigma or kernel.init_required):
        return
    if kernel.trainable and infer_sigma:
        raise ValueError("GaussianRBF: infer_sigma must be False when sigma is trainable, got True")
    with torch.no_grad():
        if _is(kernel.init_sigma_fn, "sigma_median"):
            sigma = sigma_median(x, y)
        else:
            sigma = kernel.init_sigma_fn(x, y, dk.kernel_matrix(x, y, dk.energy()).square())
        kernel.log_sigma.copy_(sigma.log())
    kernel.init_required = False


def _mean_of_gaussians(kernel: Any) -> dk.Kernel:
    sigmas = kernel.sigma.unbind() if kernel.log_sigma.requires_grad else kernel.sigma.tolist()
    return dk.mixture([dk.gaussian(sigma) for sigma in sigmas], [1 / len(sigmas)] * len(sigmas))


class DeepKernel(nn.Module):
    """(1 - eps) k_a(proj(x), proj(y)) + eps k_b(x, y); `forward(x (n, …), y (m, …))` → (n, m)."""

    def __init__(
        self,
        proj: nn.Module,
        kernel_a: Any = "rbf",
        kernel_b: Any = "rbf",
        eps: float | str = "trainable",
    ):
        super().__init__()
        self.kernel_a = GaussianRBF(trainable=True) if kernel_a == "rbf" else kernel_a
        self.kernel_b = GaussianRBF(trainable=True) if kernel_b == "rbf" else kernel_b
        self.proj = proj
        if kernel_b is None:
            return
        if eps != "trainable" and not (isinstance(eps, float) and 0 < eps < 1):
            raise ValueError(f"DeepKernel: eps must be 'trainable' or in (0, 1), got {eps!r}")
        start = torch.tensor(0.5 if eps == "trainable" else eps).logit()
        self.logit_eps = nn.Parameter(start, requires_grad=eps == "trainable")

    @property
    def eps(self) -> Tensor:
        return torch.tensor(0.0) if self.kernel_b is None else self.logit_eps.sigmoid()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        deep = self.kernel_a(self.proj(x), self.proj(y))
        if self.kernel_b is None:
            return deep
        return (1 - self.eps) * deep + self.eps * self.kernel_b(x, y)


def _is(thing: Any, name: str) -> bool:
    """Whether it is that function, or of exactly that class, of this file or of alibi-detect."""
    kind = thing if hasattr(thing, "__name__") else type(thing)
    return kind.__name__ == name and kind.__module__ in (
        __name__,
        "alibi_detect.utils.pytorch.kernels",
    )


def _is_known(kernel: Any) -> bool:
    """Whether the formula of the kernel is known."""
    if _is(kernel, "DeepKernel"):
        inner = [kernel.kernel_a, kernel.kernel_b]
        return all(k is None or _is(k, "GaussianRBF") for k in inner)
    return _is(kernel, "GaussianRBF")


def _prepare(kernel: Any, x: Tensor, y: Tensor, infer_sigma: bool = False) -> None:
    """Infers the widths of a known kernel from the two samples of its first evaluation."""
    if _is(kernel, "GaussianRBF"):
        _ready(kernel, x.flatten(1), y.flatten(1), infer_sigma)
        return
    if kernel.kernel_a.init_required:
        _ready(kernel.kernel_a, *(kernel.proj(t).detach().flatten(1) for t in (x, y)))
    if kernel.kernel_b is not None:
        _ready(kernel.kernel_b, x.flatten(1), y.flatten(1))


def _matrix(kernel: Any, x: Tensor, y: Tensor) -> FeaturedMatrix:
    """The matrix of a known and prepared kernel on [x; y], not stored."""
    pooled = torch.cat([x, y])
    if _is(kernel, "GaussianRBF"):
        return FeaturedMatrix((pooled.flatten(1), _mean_of_gaussians(kernel)))
    features, deep = kernel.proj(pooled).flatten(1), _mean_of_gaussians(kernel.kernel_a)
    points = pooled.flatten(1)
    if kernel.kernel_b is None:
        return FeaturedMatrix((features, deep), points=points)
    plain, eps = _mean_of_gaussians(kernel.kernel_b), kernel.eps
    return FeaturedMatrix((features, (1 - eps) * deep), (points, eps * plain), points=points)


def mmd2(x: Tensor, y: Tensor, kernel: Any) -> Tensor:
    """MMD² unbiased, x (n, …), y (m, …) → (). A kernel of another class is called three times."""
    dtype = common_dtype(x, y)  # and no wider: a projection may be in half precision
    x, y = x.to(dtype), y.to(dtype)
    if _is_known(kernel):
        _prepare(kernel, x, x)  # as in the original, whose first block is x with x
        return _matrix(kernel, x, y).mmd2(len(x))
    n, m, k_xx, k_yy = len(x), len(y), kernel(x, x), kernel(y, y)
    within = (k_xx.sum() - k_xx.trace()) / (n * (n - 1))
    return within + (k_yy.sum() - k_yy.trace()) / (m * (m - 1)) - 2 * kernel(x, y).mean()


def mmd2_from_kernel_matrix(
    kernel_mat: Tensor, m: int, permute: bool = False, zero_diag: bool = True
) -> Tensor:
    """MMD² from the matrix of the pooled sample (n + m, n + m); m is the *second* one's size."""
    size = len(kernel_mat)
    n = size - m
    order = torch.randperm(size) if permute else torch.arange(size)
    in_x = torch.zeros(size, dtype=torch.bool)
    in_x[order[:n]] = True
    in_x = in_x.to(kernel_mat.device)
    matrix = kernel_mat - torch.diag(kernel_mat.diag()) if zero_diag else kernel_mat
    rows_x = matrix[in_x]
    xx, xy, yy = rows_x[:, in_x].sum(), rows_x[:, ~in_x].mean(), matrix[~in_x][:, ~in_x].sum()
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy


def swaps() -> list[Swap]:
    from alibi_detect.cd.pytorch.mmd import MMDDriftTorch
    from alibi_detect.utils.pytorch import distance, kernels

    original_init, original_score = MMDDriftTorch.__init__, MMDDriftTorch.score

    def __init__(self, *args, **kwargs):
        """The original's, in which the kernel of x_ref with itself only infers σ."""
        with exchanged([Swap(kernels.GaussianRBF, "forward", _infer_only)]):
            original_init(self, *args, **kwargs)

    def score(self, x):
        return _score(self, x, original_score)

    return [
        Swap(MMDDriftTorch, "__init__", __init__),
        Swap(MMDDriftTorch, "score", score),
        Swap(kernels.GaussianRBF, "forward", GaussianRBF.forward),
        Swap(distance, "mmd2", mmd2),
    ]


def _infer_only(kernel: Any, x: Any, y: Any, infer_sigma: bool = False) -> None:
    x, y = (torch.as_tensor(t).flatten(1) for t in (x, y))
    _ready(kernel, x, y, infer_sigma)


@torch.no_grad()
def _score(detector: Any, x: Any, original: Callable) -> tuple[float, float, float]:
    """p-value, MMD² and threshold, as `MMDDriftTorch.score`."""
    if not _is_known(detector.kernel):
        return original(detector, x)
    x_ref, x = (torch.as_tensor(np.asarray(t)) for t in detector.preprocess(x))
    x_ref, x = x_ref.to(detector.device), x.to(detector.device)
    _prepare(detector.kernel, x_ref, x, detector.infer_sigma)
    matrix = _matrix(detector.kernel, x_ref, x)
    n, size = len(x_ref), len(x_ref) + len(x)
    in_x = torch.zeros(1 + detector.n_permutations, size, dtype=torch.bool)
    in_x[0, :n] = True
    for row in in_x[1:]:
        row[torch.randperm(size)[:n]] = True
    values = matrix.mmd2_of_splits(in_x, 0).cpu()
    distance, permuted = values[0], values[1:].float()
    rank = int(detector.p_val * len(permuted))
    threshold = permuted.sort(descending=True).values[rank]
    return (distance <= permuted).float().mean().item(), distance.item(), threshold.item()
