"""The two MMD functions of sbi.

    from dmmd_kernels.compat.sbi import unbiased_mmd_squared, biased_mmd
        in place of: from sbi.utils.metrics import …

Convention: exp(-|x - y|² / 2 scale²). `unbiased_mmd_squared` is MMD² unbiased, `biased_mmd` is the
*root* of MMD² biased. When None, scale is the lower median of the distances, *not detached*: a
gradient flows to the one pair that has it. The unbiased function takes that median over the pairs i
< j of x and of y and over all pairs across, and at least 1e-8; the biased one counts each pair of x
and of y twice, the zeros of their diagonals, and each pair across once.

Mended: no (n, n, d) differences; the root of a value that rounding made negative is 0, not NaN, and
its gradient there is 0; where the median is 0, the limit of narrow kernels is taken, not NaN.
"""

from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.patching import Swap
from dmmd_kernels.compat.sums import of_samples
from dmmd_kernels.ops.bandwidth import PairGroup, narrow_distance, pair_at, select_distance


@of_samples("x", "y")
def unbiased_mmd_squared(x: Tensor, y: Tensor, scale: float | Tensor | None = None) -> Tensor:
    """x (n, d), y (m, d) → ()."""
    if scale is None:
        scale = _median([PairGroup(x), PairGroup(y), PairGroup(x, y)])
    if isinstance(scale, Tensor):
        return dk.mmd2(x, y, dk.gaussian(scale.clamp(min=1e-8)))
    return dk.mmd2(x, y, dk.gaussian(max(scale, 1e-8)))


@of_samples("x", "y")
def biased_mmd(x: Tensor, y: Tensor, scale: float | Tensor | None = None) -> Tensor:
    """x (n, d), y (m, d) → (), the root."""
    if scale is None:
        groups = [PairGroup(x, times=2), PairGroup(y, times=2), PairGroup(x, y)]
        scale = _median(groups, zeros=len(x) + len(y))
    return dk.MMDLoss(dk.gaussian(scale), root=True)(x, y)


def _median(groups: list[PairGroup], zeros: int = 0) -> Tensor:
    """The lower median of the distances and so many zeros; its gradient goes to one pair."""
    rank = (sum(group.size() for group in groups) + zeros - 1) // 2 - zeros
    distance = select_distance(groups, max(rank, 0))
    if distance.isnan():
        return distance
    if rank < 0 or distance == 0:  # where no pair has a gradient
        return narrow_distance(groups)
    a, b = pair_at(groups, distance)
    return (a - b).square().sum().sqrt()


def swaps() -> list[Swap]:
    from sbi.utils import metrics

    return [
        Swap(metrics, "unbiased_mmd_squared", unbiased_mmd_squared),
        Swap(metrics, "biased_mmd", biased_mmd),
    ]
