"""The `guassian_kernel` family of domain adaptation: transferlearning, DeepDA, easezyc, Xlearn.

    from dmmd_kernels.compat.transferlearning import MMD_loss
        in place of: from mmd_pytorch import MMD_loss
    from dmmd_kernels.compat.transferlearning import MMDLoss
        in place of: from loss_funcs.mmd import MMDLoss
    from dmmd_kernels.compat.transferlearning import LMMDLoss
        in place of: from loss_funcs.lmmd import LMMDLoss
    from dmmd_kernels.compat.transferlearning import mmd_rbf_noaccelerate, mmd_rbf_accelerate

Convention: with bw the mean of |u - u'|² over the pairs u ≠ u' of the pooled sample, detached, and
divided by mul^(num // 2), the kernel is Σ_{i < num} exp(-|x - y|² / (bw · mul^i)): a sum, not a
mean (Xlearn takes the mean: `average=True`). MMD² is biased and not rooted.

Kept from the originals: MMDLoss ignores its fix_sigma; a tensor fix_sigma is divided in place; an
unknown kernel_type returns None; `accelerate` sums consecutive pairs only and may be negative.
Mended: the functions need not have batches of one size; LMMDLoss runs on any device and takes
labels beside any batch size. The labels of `cmmd` may be of any number of classes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import (
    consecutive,
    gaussian_ladder,
    mean_square_distance,
    of_samples,
    require_same_size,
)

EXCHANGED = {
    "MMD_loss": ("guassian_kernel", "forward"),
    "MMDLoss": ("guassian_kernel", "forward"),
    "LMMDLoss": ("forward",),
    "guassian_kernel": (),
    "cmmd": (),
    "mmd": (),
    "mmd_rbf_noaccelerate": (),
    "mmd_rbf_accelerate": (),
    "DAN": (),
    "mmd_linear": (),
}


def _ladder(source, target, kernel_mul, kernel_num, fix_sigma, average=False) -> dk.Kernel:
    bandwidth = fix_sigma if fix_sigma else mean_square_distance(source, target)
    bandwidth /= kernel_mul ** (kernel_num // 2)  # in place for a tensor, as in the originals
    weight = 1 / kernel_num if average else 1.0
    return gaussian_ladder(bandwidth, kernel_mul, kernel_num, weight)


@of_samples("source", "target")
def guassian_kernel(
    source: Tensor,
    target: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | Tensor | None = None,
    *,
    average: bool = False,
) -> Tensor:
    """The kernel matrix of the pooled sample, (n + m, n + m); the losses below do without it."""
    kernel = _ladder(source, target, kernel_mul, kernel_num, fix_sigma, average)
    pooled = torch.cat([source, target])
    return dk.kernel_matrix(pooled, pooled, kernel)


@of_samples("source", "target")
def mmd_rbf_noaccelerate(
    source: Tensor,
    target: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | Tensor | None = None,
    *,
    average: bool = False,
) -> Tensor:
    """MMD², biased; source (n, d), target (m, d) → ()."""
    kernel = _ladder(source, target, kernel_mul, kernel_num, fix_sigma, average)
    return dk.mmd2(source, target, kernel, estimator="biased")


mmd = mmd_rbf_noaccelerate
DAN = mmd_rbf_noaccelerate


@of_samples("source", "target")
def mmd_rbf_accelerate(
    source: Tensor,
    target: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | Tensor | None = None,
    *,
    average: bool = False,
) -> Tensor:
    """The linear-time estimate from the pairs (i, i + 1 mod n) alone."""
    require_same_size("mmd_rbf_accelerate", source, target)
    kernel = _ladder(source, target, kernel_mul, kernel_num, fix_sigma, average)
    return consecutive(source, target, kernel).sum() / len(source)


@of_samples("f_of_X", "f_of_Y")
def mmd_linear(f_of_X: Tensor, f_of_Y: Tensor) -> Tensor:
    """The mean over all entries of (X - Y)(X - Y)ᵀ, that is |mean X - mean Y|² for equal sizes."""
    require_same_size("mmd_linear", f_of_X, f_of_Y)
    return (f_of_X - f_of_Y).mean(0).square().sum()


@of_samples("source", "target")
def cmmd(
    source: Tensor,
    target: Tensor,
    s_label: Tensor,
    t_label: Tensor,
    kernel_mul: float = 2.0,
    kernel_num: int = 5,
    fix_sigma: float | Tensor | None = None,
) -> Tensor:
    """Class-conditional MMD: 1/n² Σ_c |Σ_i S_ic φ(x_i) - Σ_j T_jc φ(y_j)|².

    s_label and t_label are class numbers, (n,) or (n, 1).
    """
    require_same_size("cmmd", source, target)
    kernel = _ladder(source, target, kernel_mul, kernel_num, fix_sigma)
    labels = torch.cat([s_label.flatten(), t_label.flatten()])
    one_hot = F.one_hot(labels, int(labels.max()) + 1).to(source)
    signs = one_hot[: len(source)], -one_hot[len(source) :]
    return _signed_form(source, target, torch.cat(signs), kernel) / len(source) ** 2


def _signed_form(source: Tensor, target: Tensor, w: Tensor, kernel: dk.Kernel) -> Tensor:
    """Σ_c w_cᵀ K w_c over the pooled sample; w (n + m, C)."""
    pooled = torch.cat([source, target])
    return (w * dk.potential(pooled, pooled, w, kernel)).sum()


class MMD_loss(nn.Module):
    """The loss of transferlearning and easezyc: `forward(source (n, d), target (m, d))` → ()."""

    def __init__(self, kernel_type: str = "rbf", kernel_mul: float = 2.0, kernel_num: int = 5):
        super().__init__()
        self.kernel_type = kernel_type
        self.kernel_mul = kernel_mul
        self.kernel_num = kernel_num
        self.fix_sigma = None

    def guassian_kernel(self, source, target, kernel_mul=2.0, kernel_num=5, fix_sigma=None):
        return guassian_kernel(source, target, kernel_mul, kernel_num, fix_sigma)

    def linear_mmd2(self, f_of_X: Tensor, f_of_Y: Tensor) -> Tensor:
        """|mean X - mean Y|²"""
        return dk.mmd2(f_of_X.float(), f_of_Y.float(), dk.linear(), estimator="biased")

    def forward(self, source: Tensor, target: Tensor) -> Tensor | None:
        if self.kernel_type == "linear":
            return self.linear_mmd2(source, target)
        if self.kernel_type == "rbf":
            how = (self.kernel_mul, self.kernel_num, self.fix_sigma)
            return mmd_rbf_noaccelerate(source, target, *how)
        return None


class MMDLoss(MMD_loss):
    """The loss of DeepDA. `fix_sigma` is accepted and ignored, as there."""

    def __init__(
        self,
        kernel_type: str = "rbf",
        kernel_mul: float = 2.0,
        kernel_num: int = 5,
        fix_sigma: float | None = None,
        **kwargs,
    ):
        super().__init__(kernel_type, kernel_mul, kernel_num)


class LMMDLoss(MMDLoss):
    """The local MMD of DSAN, of DeepDA: MMD² of each class, over the classes C on both sides.

        λ/C Σ_c |Σ_i S_ic φ(x_i) - Σ_j T_jc φ(y_j)|²

    S are the one-hot labels of the source and T the probabilities of the target, each column
    divided by its sum. C counts the classes that the labels hold and the target is predicted to
    hold. λ = 2/(1 + exp(-gamma · p)) - 1 grows with the share p of max_iter calls. No gradient
    goes to target_logits. The result is (1,), and 0 where a kernel value is NaN, as there.
    Source: Zhu et al., "Deep subdomain adaptation network for image classification", 2021.
    """

    def __init__(
        self,
        num_class: int,
        kernel_type: str = "rbf",
        kernel_mul: float = 2.0,
        kernel_num: int = 5,
        fix_sigma: float | None = None,
        gamma: float = 1.0,
        max_iter: int = 1000,
        **kwargs,
    ):
        super().__init__(kernel_type, kernel_mul, kernel_num, fix_sigma)
        self.num_class = num_class
        self.gamma = gamma
        self.max_iter = max_iter
        self.curr_iter = 0

    def lamb(self) -> float:
        return 2 / (1 + math.exp(-self.gamma * self.curr_iter / self.max_iter)) - 1

    def step(self) -> None:
        self.curr_iter = min(self.curr_iter + 1, self.max_iter)

    @of_samples("source", "target")
    def forward(self, source, target, source_label, target_logits):  # type: ignore[override]
        if self.kernel_type == "linear":
            raise NotImplementedError("LMMDLoss: kernel_type must be 'rbf', got 'linear'")
        if self.kernel_type != "rbf":
            return None
        wide = torch.promote_types(target_logits.dtype, source.dtype)
        w = class_weights(source_label, target_logits.to(wide), self.num_class).to(source)
        kernel = _ladder(source, target, self.kernel_mul, self.kernel_num, self.fix_sigma)
        loss = _signed_form(source, target, w, kernel).reshape(1)
        if loss.isnan():
            return torch.zeros_like(loss)
        loss = loss * self.lamb()
        self.step()
        return loss


@torch.no_grad()
def class_weights(source_label: Tensor, target_logits: Tensor, classes: int) -> Tensor:
    """[S; -T]/√C of LMMDLoss, (n + m, classes)."""
    s = F.one_hot(source_label, classes).to(target_logits)
    present = (s.sum(0) > 0) & (F.one_hot(target_logits.argmax(1), classes).sum(0) > 0)
    sides = [t / t.sum(0).where(t.sum(0) != 0, 1) for t in (s, target_logits)]
    count = present.sum().clamp(min=1).to(s)
    return torch.cat([sides[0], -sides[1]]) * present / count.sqrt()
