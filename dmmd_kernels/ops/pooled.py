"""Sums over a pooled sample for many labellings at once, and what rounding can do to them.

Equal points are one point that counts several times, and the distinct ones are sorted. A sum thus
follows from which points there are and how many of each bear which label, not from the order they
came in: labellings that mean the same give the same bits, and the observed one is summed like all
others. K is symmetric, so a strip of rows meets itself and the rows after it, half of all pairs; no
matrix is stored.

Beside each sum stands its mass Σ |s_i||K_ij||s_j|, over the points as they were before equal ones
were merged, which rounding is proportional to: docs/derivations.md#rounding-in-the-tests.
"""

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.backends.choice import load, pick
from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops.pairwise import kernel_diagonal, kernel_matrix, potential

_STRIP = 2048  # rows that meet all later ones at a time
_PAIRS = 2**25  # numbers that plain torch may make of pairs at a time
_HALF = (torch.float16, torch.bfloat16)


class Sums(NamedTuple):
    """For labels s (D, p), counts c, in float64: sᵀKs and sᵀKc, (p,); cᵀKc, (); the mass, (p,)."""

    forms: Tensor
    mixed: Tensor
    total: Tensor
    mass: Tensor


class Part(NamedTuple):
    """A summand of the kernel at the distinct points, (D, d).

    Attributes:
        sign: that of all its values; 0 where they have both, but |K_ij| ≤ √(K_ii K_jj).
    """

    points: Tensor
    kernel: Kernel
    sign: int


class Pool:
    """The distinct points of a pooled sample, with a kernel on each of their features.

    Attributes:
        size: N, how many points there are.
        counts: how often each distinct point occurs, (D,).
        same: the first of the points that each one is equal to, (N,).
        dtype: of the points.
        roundings: an exact value is off by at most so many roundings of float64 of its mass.
    """

    def __init__(
        self, features: Sequence[tuple[Tensor, Kernel]], backend: str, points: Tensor | None = None
    ) -> None:
        """Features (N, d) and their kernels; `points` (N, d) tell which are equal, if not these."""
        clouds = [without_gradient(a) for a, _ in features]
        points = torch.cat(clouds, 1) if points is None else without_gradient(points)
        first, self._place, self.counts = _distinct(points)
        self.same = first[self._place]
        self._parts = [
            part
            for cloud, (_, kernel) in zip(clouds, features, strict=True)
            for part in _parts(cloud[first], kernel)
        ]
        self.size, self.dtype, self._backend = len(self._place), clouds[0].dtype, backend
        self.roundings = len(self.counts) + 64 * (sum(cloud.shape[1] for cloud in clouds) + 4)

    @property
    def has_double(self) -> bool:
        """Whether the backend that was asked for sums in float64, too."""
        return able(self._backend, self._parts[0].points, torch.float64) == self._backend

    def merged(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        """Labels (p, N) summed over equal points, (D, p)."""
        labels = labels.to(self.counts.device)
        if len(self.counts) == self.size:  # then places are a permutation
            ordered = labels[:, self._place.argsort()]
            return ordered.T.to(dtype, memory_format=torch.contiguous_format)
        sums = torch.zeros(len(self.counts), len(labels), dtype=dtype, device=labels.device)
        return sums.index_add_(0, self._place, labels.T.to(dtype))

    def sums(self, s: Tensor, of_counts: float, of_labels: float) -> Sums:
        """The sums of s (D, p), where |s| before merging is of_counts · c + of_labels · s."""
        c = self.counts[:, None].to(s)
        found = []
        for part in self._parts:
            forms, mixed, total = self._forms(part, torch.cat([s, c], 1))
            if part.sign:
                mass = of_counts**2 * total + 2 * of_counts * of_labels * mixed
                mass = (mass + of_labels**2 * forms).abs()
            else:
                roots = self._own(part, s.dtype).abs().sqrt()
                mass = (of_counts * (roots @ c) + of_labels * (roots @ s)).double().square()
            found.append((forms, mixed, total, mass))
        return Sums(*(sum(of_parts[1:], of_parts[0]) for of_parts in zip(*found, strict=True)))

    def traces(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Σ labels_i K_ii of labels (D, p) and Σ c_i K_ii, in float64: (p,) and ()."""
        of_labels = labels.sum(0, dtype=torch.float64)
        of_counts = torch.full_like(of_labels[0], self.size)
        sums = []
        for part in self._parts:
            own = self._own(part, labels.dtype).double()
            level = own[0] if part.sign else own.mean()  # around which the digits are kept
            excess = own - level
            more = excess.to(labels) @ labels if part.sign == 0 else torch.zeros_like(of_labels)
            sums.append(
                (level * of_labels + more, level * of_counts + excess @ self.counts.double())
            )
        x, both = zip(*sums, strict=True)
        return torch.stack(x).sum(0), torch.stack(both).sum(0)

    def _own(self, part: Part, dtype: torch.dtype) -> Tensor:
        """K_ii of the part, (D,)."""
        points, backend = part.points.to(dtype), able(self._backend, part.points, dtype)
        if part.sign:  # radial: the same everywhere
            return kernel_matrix(points[:1], points[:1], part.kernel, backend=backend)[0].expand(
                len(points)
            )
        return kernel_diagonal(points, part.kernel, backend)

    def _forms(self, part: Part, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """sᵀKs, sᵀKc (p,) and cᵀKc (), where c is the last of the columns."""
        u = part.points.to(columns.dtype)
        forms = mixed = torch.zeros(columns.shape[1], dtype=torch.float64, device=u.device)
        for z, x, rows, others in self._tiles(u, part.kernel):
            s, w = columns[rows], columns[others]
            f = potential(z, x, w, part.kernel, backend=able(self._backend, u, u.dtype))
            times = 1 if rows == others else 2
            forms = forms + times * (s * f).sum(0, dtype=torch.float64)
            across = (s * f[:, -1:]).sum(0, dtype=torch.float64)
            across = across + (s[:, -1:] * f).sum(0, dtype=torch.float64)
            mixed = mixed + times / 2 * across
        return forms[:-1], mixed[:-1], forms[-1]

    def _tiles(self, u: Tensor, kernel: Kernel) -> Iterator[tuple[Tensor, Tensor, slice, slice]]:
        """Points of a strip and of itself or of some later rows, and which rows those are."""
        size = width = len(u)
        strip, mixtures = _STRIP, kernel.lower(u).mixtures
        backend = able(self._backend, u, u.dtype)
        if mixtures and pick(backend, u, mixtures[0], "highest") is load("reference"):
            numbers = _PAIRS // max(u.shape[1], 1)  # which plain torch makes of pairs
            strip = min(strip, max(isqrt(numbers), 1))
            width = max(numbers // strip, 1)
        for start in range(0, size, strip):
            rows = slice(start, min(start + strip, size))
            yield u[rows], u[rows], rows, rows
            for later in range(rows.stop, size, width):
                others = slice(later, min(later + width, size))
                yield u[rows], u[others], rows, others


def able(backend: str, u: Tensor, dtype: torch.dtype) -> str:
    """The backend, or plain torch for float64 where Triton would be it."""
    has_no_double = backend == "triton" or not u.is_cpu
    return "reference" if dtype == torch.float64 and has_no_double else backend


def without_gradient(x: Tensor) -> Tensor:
    """Not in half precision either, which has no digits for a difference of means."""
    return x.detach().float() if x.dtype in _HALF else x.detach()


def _distinct(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The first of each kind of equal points, which kind each is, how many of it: (D,), (N,), (D,).

    Points with NaN, which equals nothing and has no place in an order, stay as they are.
    """
    numbers = torch.arange(len(points), device=points.device)
    if not points.isfinite().all():
        return numbers, numbers, torch.ones_like(numbers)
    _, place, counts = torch.unique(points, dim=0, return_inverse=True, return_counts=True)
    first = torch.full_like(counts, len(points)).scatter_reduce(0, place, numbers, "amin")
    return first, place, counts


def _parts(points: Tensor, kernel: Kernel) -> Iterator[Part]:
    """The kernel's terms by the sign of their values.

    A linear kernel is taken about the point nearest the mean, where its values are small. MMD² does
    not feel it, nor do differences of points, which stay exact.
    """
    kinds = {"energy": -1, "linear": 0, "polynomial": 0}
    kind = lambda term: kinds.get(term.profile.rstrip("0123456789"), 1)
    for sign in (1, -1, 0):
        terms = tuple(term for term in kernel.terms if kind(term) == sign)
        if terms and all(term.profile == "linear" for term in terms):
            yield Part(points - _middle(points), Kernel(terms), sign)
        elif terms:
            yield Part(points, Kernel(terms), sign)


def _middle(points: Tensor) -> Tensor:
    mean = points.double().mean(0)
    return points[(points - mean).square().sum(1).argmin()]
