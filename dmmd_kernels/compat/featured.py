"""A kernel matrix of points that several features describe, K = Σ_l k_l(a_l, a_l), not stored.

Deep kernels are of this form: a kernel of learned features, and one of the points themselves.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import RowSums, paired, peak
from dmmd_kernels.ops.pooled import Pool
from dmmd_kernels.ops.two_sample import mmd2_beside


def _of_dense(name: str) -> Callable[..., Any]:
    """The operator of tensors; Python looks operators up in the class, past __getattr__."""

    def operator(self: "FeaturedMatrix", *others: Any) -> Any:
        return getattr(self.dense(), name)(*others)

    return operator


class FeaturedMatrix:
    """K (N, N) of N points, from parts (features (N, d_l), radial kernel).

    Given `points` (N, d), those that are equal have equal features: a network makes of equal rows
    of a batch what may differ by rounding, and permutation tests see that.

    It becomes a tensor where one is needed: when indexed, in arithmetic and comparisons of order,
    when torch or NumPy computes with it, or by `dense()`. Sums over it are taken without.
    """

    __neg__, __abs__ = _of_dense("__neg__"), _of_dense("__abs__")
    __add__, __radd__ = _of_dense("__add__"), _of_dense("__radd__")
    __sub__, __rsub__ = _of_dense("__sub__"), _of_dense("__rsub__")
    __mul__, __rmul__ = _of_dense("__mul__"), _of_dense("__rmul__")
    __truediv__, __rtruediv__ = _of_dense("__truediv__"), _of_dense("__rtruediv__")
    __matmul__, __rmatmul__ = _of_dense("__matmul__"), _of_dense("__rmatmul__")
    __pow__, __rpow__ = _of_dense("__pow__"), _of_dense("__rpow__")
    __lt__, __le__ = _of_dense("__lt__"), _of_dense("__le__")
    __gt__, __ge__ = _of_dense("__gt__"), _of_dense("__ge__")

    def __init__(self, *parts: tuple[Tensor, dk.Kernel], points: Tensor | None = None) -> None:
        self.parts = parts
        self.points = points
        self._dense: Tensor | None = None

    def dense(self) -> Tensor:
        if self._dense is None:
            self._dense = _total(dk.kernel_matrix(a, a, kernel) for a, kernel in self.parts)
        return self._dense

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self.parts[0][0])] * 2)

    def __len__(self) -> int:
        return len(self.parts[0][0])

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense()[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.dense().detach().cpu(), dtype=dtype)

    def __dlpack__(self, **how: Any) -> Any:
        return self.dense().detach().__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.dense().__dlpack_device__()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        def made(value):
            if isinstance(value, FeaturedMatrix):
                return value.dense()
            return type(value)(map(made, value)) if type(value) in (list, tuple) else value

        return function(*map(made, args), **{k: made(v) for k, v in (kwargs or {}).items()})

    def mmd2(self, n: int) -> Tensor:
        """MMD² unbiased of the first n points against the others."""
        return _total(dk.mmd2(a[:n], a[n:], kernel) for a, kernel in self.parts)

    def pool(self) -> Pool:
        """The distinct points, for sums over many labellings."""
        return Pool(self.parts, "auto", self.points)

    def exact(self) -> "FeaturedMatrix":
        """In float64, detached, the features of equal points being equal."""
        same = self.pool().same
        return FeaturedMatrix(*((a.detach()[same].double(), kernel) for a, kernel in self.parts))

    def mmd2_of_splits(self, in_x: Tensor, observed: int) -> Tensor:
        """MMD² unbiased of the points that each row of in_x (p, N) names, against the others.

        Those that are equal to that of the observed row but for rounding are equal to it.
        """
        return mmd2_beside(self.pool(), in_x, observed)

    def row_sums(self, n: int) -> list[Tensor]:
        """xx, yy, xy and yx of RowSums, for the first n points against the others."""
        parts = [RowSums(a[:n], a[n:], kernel) for a, kernel in self.parts]
        return [_total(getattr(p, name) for p in parts) for name in ("xx", "yy", "xy", "yx")]

    def pairs(self, rows: Tensor, columns: Tensor) -> Tensor:
        """K[rows, columns] for numbers of one shape."""
        return _total(paired(a[rows], a[columns], kernel) for a, kernel in self.parts)

    def peak(self) -> Tensor:
        """The value on the diagonal, the same everywhere since the kernels are radial: ()."""
        return _total(peak(a, kernel) for a, kernel in self.parts)


def _total(parts: Iterator[Tensor]) -> Tensor:
    total = next(parts)
    for part in parts:
        total = total + part
    return total
