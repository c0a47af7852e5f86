"""The noise-conditional kernel k(x, y; t) = k_base(φ(x, t), φ(y, t); t) (DMMD, eq. 2)."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

import dmmd_kernels as dk
from dmmd_kernels.networks.features import IdentityFeatures, Width
from dmmd_kernels.runs.backbone import make_features
from dmmd_kernels.systems.dmmd.settings import DmmdSettings


class NoiseConditional(Protocol):
    """What losses and samplers need of a deep kernel.

    Attributes:
        on_points: whether φ(x, t) = x, so that particles flow without a network.
    """

    @property
    def on_points(self) -> bool: ...

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """φ(x, t): x (T, B, *shape), t (T,) → (T, B, K)"""

    def kernel(self, t: Tensor) -> dk.Kernel:
        """The base kernel at the levels t, with parameters of the shape of t."""


class DeepKernel(nn.Module):
    """The noise-conditional kernel: features φ(x, t) and, at each t, a base kernel on them.

    base "linear" has no parameter; "gaussian" has σ(t; θ) from `width`; "rational_quadratic" the
    same with α = 1. With `autocast` the feature network runs in bfloat16; features,
    and all that is made of them, stay in the dtype of the samples.
    """

    BASES = ("gaussian", "rational_quadratic", "linear")

    def __init__(
        self,
        features: nn.Module,
        base: str,
        width: nn.Module | None = None,
        *,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        if base not in self.BASES:
            raise ValueError(f"DeepKernel: base must be one of {self.BASES}, got {base!r}")
        if (width is None) != (base == "linear"):
            raise ValueError(f"DeepKernel: base={base!r} must come with a width unless linear")
        self.features, self.base, self.width, self.autocast = features, base, width, autocast

    @property
    def on_points(self) -> bool:
        """Whether φ(x, t) = x, so that particles flow without a network."""
        return isinstance(self.features, IdentityFeatures)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """φ(x, t): x (T, B, *shape), t (T,) → (T, B, K)"""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.autocast):
            if self._differentiated_twice(x):
                return self.features.forward(x, t).to(x.dtype)
            return self.features(x, t).to(x.dtype)

    def _differentiated_twice(self, x: Tensor) -> bool:
        """In x and then in θ: a compiled network (features.compile()) can only be once."""
        trained = any(p.requires_grad for p in self.features.parameters())
        return trained and x.requires_grad and torch.is_grad_enabled()

    def kernel(self, t: Tensor) -> dk.Kernel:
        """The base kernel at the levels t, with parameters of the shape of t."""
        if self.width is None:
            return dk.linear()
        if self.base == "gaussian":
            return dk.gaussian(self.width(t))
        return dk.rational_quadratic(1.0, self.width(t))


def make_kernel(settings: DmmdSettings, shape: torch.Size, seed: int) -> DeepKernel:
    """The deep kernel for samples of `shape`, with initial weights that follow from the seed.

    Raises:
        ValueError: the feature network can't take samples of this shape.
        ImportError: backbone=diffusers, and that library is not here.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = make_features(settings, shape)
        sigma = None
        if settings.kernel != "linear":
            sigma = Width(settings.width_hidden, start=settings.width_start)
        autocast = settings.precision == "bfloat16"
        return DeepKernel(features, settings.kernel, sigma, autocast=autocast)


def pulled_back(
    deep: NoiseConditional,
    x: Tensor,
    t: Tensor,
    gradient: Callable[[Tensor], Tensor],
    *,
    rows: int | None = None,
    create_graph: bool = False,
) -> Tensor:
    """Jᵀ g(φ(x)), J the Jacobian of φ(·, t) at x: one vector-Jacobian product of the network.

    The sweep over pairs, which `gradient` does, happens on features alone.

    Args:
        deep: the noise-conditional kernel.
        x: (T, n, *shape).
        t: (T,).
        gradient: features (T, n, K) → g (T, n, K), such as the slope of a witness.
        rows: how many of x go through the network at once, all when None. From n on there is one
            pass forward and one back; below, one more forward, and results differ by the network's
            rounding.
        create_graph: keep the graph, through g as well, so that the result can be differentiated.

    Returns:
        Of the shape of x.
    """
    if rows is None or x.shape[1] <= rows:
        return _product(deep, x, t, gradient, create_graph)
    blocks = x.split(rows, 1)
    g = gradient(torch.cat([deep(block, t) for block in blocks], 1)).split(rows, 1)
    parts = zip(blocks, g, strict=True)
    return torch.cat(
        [_product(deep, block, t, lambda _: v, create_graph) for block, v in parts],  # noqa: B023
        1,
    )


def _product(
    deep: NoiseConditional,
    x: Tensor,
    t: Tensor,
    gradient: Callable[[Tensor], Tensor],
    create_graph: bool,
) -> Tensor:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        a = deep(x, t)
        g = gradient(a if create_graph else a.detach())
        (slope,) = torch.autograd.grad(a, x, grad_outputs=g, create_graph=create_graph)
    return slope if create_graph else slope.detach()
