"""Small feature networks φ(x, t), and the width σ(t). torch only.

A feature network is a module (x (T, B, *shape), t (T,)) → (T, B, K): T noise levels at once, one t
each. A new one is a class here and a name in runs/backbone.py.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def fourier(t: Tensor, frequencies: int) -> Tensor:
    """(…, 1 + 2F): t itself with cos(πft) and sin(πft), f = 1..F."""
    angle = math.pi * t[..., None] * torch.arange(1, frequencies + 1, device=t.device)
    return torch.cat([t[..., None], angle.cos(), angle.sin()], -1)


def dense(sizes: Sequence[int]) -> nn.Sequential:
    """Dense layers of the given sizes, first to last, with SiLU between them."""
    layers: list[nn.Module] = []
    for into, out in pairwise(sizes):
        layers += [nn.Linear(into, out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Width(nn.Module):
    """The bandwidth σ(t; θ) of a kernel: softplus of a small MLP on Fourier features of √t.

    The paper says "a network of t with non-negative output"; the layers are ours. The root gives
    low noise, where σ changes most, more room. A floor keeps σ away from 0, where every gradient
    vanishes.
    """

    def __init__(
        self, hidden: int = 64, *, start: float = 0.5, floor: float = 0.01, frequencies: int = 6
    ) -> None:
        """
        Args:
            hidden: units in each of the two hidden layers.
            start: σ at every t before training.
            floor: the least σ.
            frequencies: of the Fourier features.
        """
        super().__init__()
        self.frequencies, self.floor = frequencies, floor
        last = nn.Linear(hidden, 1)
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, math.log(math.expm1(start - floor)))
        self.body = nn.Sequential(
            nn.Linear(1 + 2 * frequencies, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            last,
        )

    def forward(self, t: Tensor) -> Tensor:
        """t (…,) → σ (…,)"""
        return self.floor + nn.functional.softplus(
            self.body(fourier(t.sqrt(), self.frequencies))[..., 0]
        )


class IdentityFeatures(nn.Module):
    """φ(x, t) = x, flattened: the paper's 2-D experiment."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (T, B, *shape), t (T,) → (T, B, K)"""
        return x.flatten(2)


class MLPFeatures(nn.Module):
    """φ(x, t) for points: an MLP on x, and waves of it, beside Fourier features of t."""

    def __init__(
        self,
        d: int,
        features: int,
        hidden: int = 128,
        frequencies: int = 4,
        *,
        layers: int = 2,
        input_frequencies: int = 0,
    ) -> None:
        """
        Args:
            d: coordinates of a point.
            features: K.
            hidden: units in each hidden layer.
            frequencies: of the Fourier features of t.
            layers: hidden ones.
            input_frequencies: F of cos and sin of π 2^k x / 2, k < F, for data with edges.
        """
        super().__init__()
        self.frequencies, self.input_frequencies = frequencies, input_frequencies
        into = d * (1 + 2 * input_frequencies) + 1 + 2 * frequencies
        self.body = dense([into, *[hidden] * layers, features])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (T, B, *shape), t (T,) → (T, B, K)"""
        x = x.flatten(2)
        if self.input_frequencies:
            rates = math.pi / 2 * 2 ** torch.arange(self.input_frequencies, device=x.device)
            angle = (x[..., None] * rates).flatten(2)
            x = torch.cat([x, angle.cos(), angle.sin()], -1)
        at = fourier(t, self.frequencies)[:, None].expand(*x.shape[:2], -1)
        return self.body(torch.cat([x, at], -1))


class ConvFeatures(nn.Module):
    """φ(x, t) for small images: two convolutions, two dense layers, the second residual, then K.

    t scales and shifts the channels of each. Smooth and without normalisation, since the gradient
    penalty differentiates the network twice. At 8 × 8 pixels the dense layers see 4 × 4 places.
    """

    def __init__(
        self, shape: tuple[int, int, int], features: int, width: int = 16, frequencies: int = 6
    ) -> None:
        """
        Args:
            shape: (C, H, W) of an image; H and W even.
            features: K.
            width: channels of the first convolution; the next has 2, the dense layers 16 times it.
            frequencies: of the Fourier features of t.
        """
        super().__init__()
        channels, height, breadth = shape
        if height % 2 or breadth % 2:
            raise ValueError(f"ConvFeatures: height and width must be even, got {shape}")
        self.frequencies = frequencies
        places, hidden = height * breadth // 4, 16 * width
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            ]
        )
        self.dense = nn.Linear(2 * width * places, hidden)
        self.residual = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, features)
        self.sizes = [2 * width, 4 * width, 2 * hidden, 2 * hidden]
        self.modulation = nn.Sequential(
            nn.Linear(1 + 2 * frequencies, 64),
            nn.SiLU(),
            nn.Linear(64, 64),
            nn.SiLU(),
            nn.Linear(64, sum(self.sizes)),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (T, B, C, H, W), t (T,) → (T, B, K)"""
        by_layer = self.modulation(fourier(t, self.frequencies)).split(self.sizes, -1)
        parts = [part.repeat_interleave(x.shape[1], 0) for part in by_layer]
        h = x.flatten(0, 1)
        for convolution, part in zip(self.convolutions, parts, strict=False):
            h = _modulated(convolution(h), part[..., None, None])
        h = _modulated(self.dense(h.flatten(1)), parts[2])
        h = h + _modulated(self.residual(h), parts[3])
        return self.head(h).unflatten(0, x.shape[:2])


def _modulated(h: Tensor, part: Tensor) -> Tensor:
    scale, shift = part.chunk(2, 1)
    return nn.functional.silu(h * (1 + scale) + shift)
