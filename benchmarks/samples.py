"""Points that are no normals, where many pairs are near: of these a GPU's tensor cores know least.

Each draws clouds of the given sizes, (size, d), from one distribution.
"""

import os
from functools import cache

import numpy
import torch
from torch import Tensor

_CLUSTERS = 10
_APART = 2.0  # the spread of the centres, in those of a cluster


def clusters(sizes: tuple[int, ...], d: int, draw: torch.Generator) -> list[Tensor]:
    centres = _APART * torch.randn(_CLUSTERS, d, generator=draw)
    own = lambda size: centres[torch.randint(_CLUSTERS, (size,), generator=draw)]
    return [own(size) + torch.randn(size, d, generator=draw) for size in sizes]


def digits(sizes: tuple[int, ...], d: int, draw: torch.Generator) -> list[Tensor]:
    """Handwritten digits of 8 × 8 pixels, of 16 grays, drawn again and again and dequantised."""
    images = torch.from_numpy(_pixels())
    if d != images.shape[1]:
        raise ValueError(f"digits have {images.shape[1]} dimensions, got d={d}")
    own = lambda size: images[torch.randint(len(images), (size,), generator=draw)]
    return [(own(size) + torch.rand(size, d, generator=draw)) / 17 for size in sizes]


SAMPLES = {"clusters": clusters, "digits": digits}


@cache
def _pixels() -> numpy.ndarray:
    """Those of the file DMMD_DIGITS (prewarm.py writes it), else of scikit-learn; (1797, 64)."""
    if path := os.environ.get("DMMD_DIGITS"):
        return numpy.load(path)["pixels"].astype(numpy.float32)
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise RuntimeError(
            "digits: scikit-learn is not installed, and DMMD_DIGITS names no file of them"
        ) from None
    return load_digits().data.astype(numpy.float32)
