"""Rules that read a Gaussian bandwidth σ off the data. All return a detached tensor.

Means have a closed form in O((n + m) d). Medians are selected from all distances, exactly, a tile
at a time: a sample brackets the rank, and one pass counts what lies below the bracket and keeps
what lies within, a small share of the pairs, of which equal ones are kept once. Memory is that of
the points and of one tile, at any d. Where a point is not finite, σ is NaN.

No kernel has the width 0, so where a rule gives 0 its limit is taken: a width that tells equal
points from others and sees nothing else. Where all points are equal, any does, and σ is 1.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.backends.choice import load, pick
from dmmd_kernels.kernels import energy
from dmmd_kernels.ops.checks import check_points, common_batch, refuse_trace
from dmmd_kernels.ops.dtypes import in_one_dtype
from dmmd_kernels.ops.pairwise import kernel_matrix

_ROWS = 4096
_TILE = 2**22  # pairs at a time
_COORDINATES = 2**25  # of pairs that are drawn, and of those that plain torch makes at a time
_SAMPLED = 2**19
_NARROW = 32  # smallest distances over such a width: exp(-32²/2) is 0 in float32, exp(-32) nearly
_LEAST = 2.0**-60  # of narrow widths: 1/σ² must be a float32

Times = int | Tensor  # how often distances count: one number for all, or one each


@in_one_dtype("x", "y")
def mean_sigma(x: Tensor, y: Tensor) -> Tensor:
    """σ with 2σ² = the mean of |u - u'|² over the pairs u ≠ u' of the pooled sample [x; y].

    In O((n + m) d), from Σᵢⱼ |uᵢ - uⱼ|² = 2N Σ|uᵢ|² for centred u.

    Args:
        x: (…, n, d).
        y: (…, m, d).

    Returns:
        (…,), detached and positive: 1 where all points are equal; NaN where one is not finite.

    Raises:
        TypeError, ValueError: x and y do not fit together, or hold fewer than two points.
    """
    u = _pooled("mean_sigma", x, y)
    size = u.shape[-2]
    # Far from the origin a mean is rounded, differences to it are not; what is left is put right.
    u = u - u.mean(-2, keepdim=True, dtype=torch.float64).to(u.dtype)
    largest = u.abs().amax((-2, -1), keepdim=True)  # so that no square overflows or vanishes
    u = u.div_(largest.where(largest > 0, 1))
    squares = u.square().sum((-2, -1), dtype=torch.float64)
    excess = size * u.mean(-2, dtype=torch.float64).square().sum(-1)
    sigma = ((squares - excess) / (size - 1)).sqrt() * largest[..., 0, 0]
    return sigma.where(sigma != 0, 1).to(x.dtype)


@in_one_dtype("x", "y")
def median_sigma(
    x: Tensor, y: Tensor, *, pairs: str = "pooled", max_points: int | None = _ROWS
) -> Tensor:
    """σ with 2σ² = the median of |u - u'|² over pairs of points; of an even number, the lower one.

    Where it is 0, as of sparse counts most of which are equal, √2 σ is a 32nd of the least distance
    that is not 0: kernels then are those of equal points, the limit of narrow ones.

    Args:
        x: (…, n, d).
        y: (…, m, d).
        pairs: "pooled", the pairs u ≠ u' of [x; y]; "within", those of x and those of y; or
            "across", one point of each.
        max_points: a larger sample (the pool, or x or y) is thinned to so many evenly spaced rows.
            At least 2; None looks at every pair, in O((n + m)²) time and little memory.

    Returns:
        (…,), detached and positive: 1 where all distances are 0; NaN where a point is not finite.

    Raises:
        TypeError, ValueError: x and y do not fit together, `pairs` is unknown, `max_points` is less
            than 2, the batch is empty, or there is no pair.
    """
    return _median_sigma("median_sigma", x, y, pairs, max_points)


def _median_sigma(op: str, x: Tensor, y: Tensor, pairs: str, max_points: int | None) -> Tensor:
    if pairs not in ("pooled", "within", "across"):
        raise ValueError(f"{op}: pairs must be 'pooled', 'within' or 'across', got {pairs!r}")
    if max_points is not None and max_points < 2:
        raise ValueError(f"{op}: max_points must be None or at least 2, got {max_points}")
    refuse_trace(op)
    u = _pooled(op, x, y)
    n = x.shape[-2]
    clouds = [u] if pairs == "pooled" else [u[..., :n, :], u[..., n:, :]]
    blocks = u.shape[:-2].numel()
    if blocks == 0:
        raise ValueError(f"{op}: the batch must not be empty, got {tuple(u.shape[:-2])}")
    thin = [_thinned(cloud, max_points) for cloud in clouds]
    clouds = [cloud.reshape(blocks, *cloud.shape[-2:]) for cloud in thin]
    medians = [
        _median(op, [PairGroup(*block)] if pairs == "across" else [PairGroup(c) for c in block])
        for block in zip(*clouds, strict=True)
    ]
    sigma = torch.stack(medians).reshape(u.shape[:-2]) / 2**0.5
    return sigma.where(u.isfinite().flatten(-2).all(-1), float("nan")).to(x.dtype)


def sigma_range(x: Tensor, y: Tensor, *, count: int = 7, max_points: int | None = _ROWS) -> Tensor:
    """So many σ in steps of 2, `median_sigma(x, y)` in the middle: for mixtures, aggregated tests.

    Args:
        x, y, max_points: as in `median_sigma`.
        count: at least 1.

    Returns:
        (…, count), ascending, detached.

    Raises:
        TypeError, ValueError: as in `median_sigma`; ValueError for a count of less than 1.
    """
    if count < 1:
        raise ValueError(f"sigma_range: count must be at least 1, got {count}")
    sigma = _median_sigma("sigma_range", x, y, "pooled", max_points)
    steps = torch.arange(count, dtype=sigma.dtype, device=sigma.device) - (count - 1) / 2
    return sigma.unsqueeze(-1) * 2.0**steps


class PairGroup(NamedTuple):
    """The pairs (a_i, b_j), or those i < j of a alone, each counted so many times."""

    a: Tensor
    b: Tensor | None = None
    times: int = 1

    def size(self) -> int:
        n = len(self.a)
        return self.times * (n * (n - 1) // 2 if self.b is None else n * len(self.b))


def select_distance(groups: Sequence[PairGroup], rank: int) -> Tensor:
    """The distance of that rank, from 0, among all pairs of the groups: (), detached.

    NaN where a point is not finite.

    Raises:
        ValueError: there are not so many pairs.
    """
    size = sum(group.size() for group in groups)
    if not 0 <= rank < size:
        raise ValueError(f"select_distance: rank must be in [0, {size}), got {rank}")
    clouds = [cloud for a, b, _ in groups for cloud in (a, b) if cloud is not None]
    if not all(cloud.isfinite().all() for cloud in clouds):
        return clouds[0].new_tensor(float("nan"))
    low, high = _bracket(groups, rank, size)
    below, kept = _inside(groups, low, high)
    if not below <= rank < below + sum(_number(*part) for part in kept):
        below, kept = _inside(groups, -float("inf"), float("inf"))
    if all(isinstance(times, int) for _, times in kept):  # the common case, which need not sort
        values = torch.cat([v.repeat_interleave(times) for v, times in kept])
        return values.kthvalue(rank - below + 1).values
    values, counts = _distinct(kept)
    return values[torch.searchsorted(counts.cumsum(0), rank - below, right=True)]


def narrow_distance(groups: Sequence[PairGroup]) -> Tensor:
    """A distance in whose stead 0 stands, (): far below all others of the groups, but not 0.

    As a width it tells equal points from others. Where no other distance is there, √2, of σ = 1.
    """
    zeros = sum(_count(group, lambda tile: tile == 0) * group.times for group in groups)
    size = sum(group.size() for group in groups)
    if zeros == size:
        return groups[0].a.new_tensor(2.0).sqrt()
    return (select_distance(groups, zeros) / _NARROW).clamp(min=2 * _LEAST)


def pair_at(groups: Sequence[PairGroup], distance: Tensor) -> tuple[Tensor, Tensor]:
    """The first two points (d,) at a selected distance, differentiable."""
    for group in groups:
        others = group.a if group.b is None else group.b
        for row, column, tile in _tiles(group):
            hit = (tile == distance).nonzero()
            if len(hit):
                return group.a[row + hit[0, 0]], others[column + hit[0, 1]]
    raise ValueError("pair_at: no pair has that distance; points must be finite")


def _median(op: str, groups: list[PairGroup]) -> Tensor:
    size = sum(group.size() for group in groups)
    if size == 0:
        raise ValueError(f"{op}: x and y must hold a pair of points, got none")
    median = select_distance(groups, (size - 1) // 2)
    return median if median != 0 else narrow_distance(groups)


def _bracket(groups: Sequence[PairGroup], rank: int, size: int) -> tuple[float, float]:
    """Two distances that the one of that rank lies between, with all but certainty."""
    if size <= 4 * _SAMPLED:
        return -float("inf"), float("inf")
    generator = torch.Generator().manual_seed(0)
    d = max(groups[0].a.shape[1], 1)
    count = min(_SAMPLED, max(_SAMPLED // 32, _COORDINATES // d))
    drawn = []
    for group in groups:
        others = group.a if group.b is None else group.b
        share = count * group.size() // size
        i = torch.randint(len(group.a), (share,), generator=generator).to(group.a.device)
        j = torch.randint(len(others), (share,), generator=generator).to(group.a.device)
        if group.b is None:  # the next row, so that no point meets itself
            j = torch.where(i == j, (i + 1) % len(others), j)
        drawn.append(_distances(group.a.detach(), others.detach(), i, j))
    values = torch.cat(drawn).sort().values
    middle = rank / size * len(values)
    margin = 3 * len(values) ** 0.5  # six standard deviations of the sample's median
    low, high = int(middle - margin), int(middle + margin)
    slack = 16 * torch.finfo(values.dtype).eps  # the tiles may round otherwise
    return (
        values[low].item() * (1 - slack) if low >= 0 else -float("inf"),
        values[high].item() * (1 + slack) if high < len(values) else float("inf"),
    )


def _distances(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """|a_i - b_j| of those rows and columns, some at a time."""
    found = a.new_empty(len(rows))
    step = max(1, _COORDINATES // 32 // max(a.shape[1], 1))
    for to, i, j in zip(found.split(step), rows.split(step), columns.split(step), strict=True):
        torch.linalg.vector_norm(a[i].sub_(b[j]), dim=1, out=to)
    return found


def _inside(
    groups: Sequence[PairGroup], low: float, high: float
) -> tuple[int, list[tuple[Tensor, Times]]]:
    """How many distances are below `low`, and those in [low, high] with their counts."""
    below, held, most = 0, 0, 4 * _SAMPLED
    kept: list[tuple[Tensor, Times]] = []
    for group in groups:
        for *_, tile in _tiles(group):
            below += int(torch.count_nonzero(tile < low)) * group.times
            kept.append((tile[(tile >= low) & (tile <= high)], group.times))
            held += len(kept[-1][0])
            if held > most:
                kept = [_distinct(kept)]
                held = len(kept[0][0])
                most = 4 * _SAMPLED + 2 * held  # so that it is done seldom if there are no ties
    return below, kept


def _count(group: PairGroup, holds: Callable[[Tensor], Tensor]) -> int:
    return sum(int(torch.count_nonzero(holds(tile))) for *_, tile in _tiles(group))


def _number(values: Tensor, times: Times) -> int:
    return len(values) * times if isinstance(times, int) else int(times.sum())


def _distinct(kept: Sequence[tuple[Tensor, Times]]) -> tuple[Tensor, Tensor]:
    """The values, ascending, each once, and how often each counts."""
    values, which = torch.cat([values for values, _ in kept]).unique(return_inverse=True)
    counts = [torch.as_tensor(t, device=v.device).expand(len(v)) for v, t in kept]
    total = torch.zeros(len(values), dtype=torch.long, device=values.device)
    return values, total.index_add_(0, which, torch.cat(counts))


def _tiles(group: PairGroup) -> Iterator[tuple[int, int, Tensor]]:
    """First row, first column and distances, NaN where a pair does not count, a tile at a time."""
    a, b = group.a.detach(), (group.a if group.b is None else group.b).detach()
    rows = max(1, _TILE // max(len(b), 1))
    mixture = energy().lower(a).mixtures[0]
    if pick("auto", a, mixture, "highest", "kernel_matrix", b) is load("reference"):
        rows = max(1, min(rows, _COORDINATES // max(b.numel(), 1)))
    for start in range(0, len(a), rows):
        part = a[start : start + rows]
        column = start if group.b is None else 0
        tile = kernel_matrix(part, b[column:], energy()).abs_()
        if group.b is None:
            square = tile[:, : len(part)]
            square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril(), float("nan"))
        yield start, column, tile


def _thinned(u: Tensor, max_points: int | None) -> Tensor:
    if max_points is None or u.shape[-2] <= max_points:
        return u
    keep = torch.linspace(0, u.shape[-2] - 1, max_points, device=u.device).long()
    return u[..., keep, :]


def _pooled(op: str, x: Tensor, y: Tensor) -> Tensor:
    check_points(op, x=x, y=y)
    batch = common_batch(op, x=x, y=y)
    u = torch.cat([t.detach().expand(*batch, *t.shape[-2:]) for t in (x, y)], -2)
    if u.shape[-2] < 2:
        raise ValueError(f"{op}: x and y must hold at least two points together, got {u.shape[-2]}")
    return u if u.dtype == torch.float64 else u.float()
