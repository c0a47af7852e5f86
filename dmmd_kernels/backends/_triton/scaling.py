"""What a sweep of split points (float16.py) needs besides them: parameters, strips, padding."""

import torch
import triton
from torch import Tensor

from dmmd_kernels.backends._triton.float16 import ROWS
from dmmd_kernels.backends._triton.launch import ENOUGH_PROGRAMS
from dmmd_kernels.backends._triton.profile import LOG2_E, has_one_weight
from dmmd_kernels.kernels import Mixture

_SMOOTH = {"gaussian", "rational_quadratic", "imq", "square_distance"}
_LEAST_RATE = 1e-30  # s of a kernel that is flat; others are divided by it
_LEAST_STRIP = 1024  # columns that are worth a program of their own
LONGEST_STRIP = 8192  # columns whose tiles' sums may be added in float32


def scaled(
    kernel: Mixture, scale: Tensor, near: float, *, grad: bool, reach: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The parameters for q/2 of scaled points, and the q/2 that a kernel cannot tell from zero.

    Where s (|z|² + |x|²) is below 8, s q errs by less than 8 roundings of 1: near pairs may stay.
    Not with laplace and energy, which tell all distances apart, nor in gradients: what such a pair
    adds there, c (z - x), is told from zero however small it is. Then the second result is 0; it is
    -inf, so that all pairs are near, where the reach of the points is given and not finite.
    """
    unit = (2 / scale.square())[..., 0]
    params = kernel.params
    columns = torch.broadcast_tensors(params[..., 0], params[..., 1] * unit, params[..., 2])
    table = torch.stack(columns, -1)
    may_stay = _SMOOTH.issuperset(kernel.names) and not grad
    floor = 8 * (near if may_stay else 0.0) / table[..., 1].amax(-1)
    floor = floor.expand(scale.shape[:-2])
    if reach is not None:
        floor = floor.where(reach[..., 0, 0].isfinite(), -torch.inf)
    return table, floor.contiguous()


def relative(
    kernel: Mixture, table: Tensor, floor: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A table for distances in the unit of the first component, t = unit · q/2, the floor in that
    unit, and (…, 3): the unit, and what sums of K and of K_t (z - x) are still to be multiplied by.

    A gaussian's unit has log₂ e in it, so that it is 2^-t. Where all weights are known to be the
    same (shortcuts) they are that factor, and no pair is multiplied by them.
    """
    weight, rate = table[..., 0, 0], table[..., 0, 1].clamp(min=_LEAST_RATE)
    if not has_one_weight(kernel):
        weight = torch.ones_like(weight)
    unit = rate * (LOG2_E.value if kernel.names[0] == "gaussian" else 1.0)
    columns = table[..., 0], table[..., 1] / unit[..., None], table[..., 2]
    units = torch.stack([unit, weight, weight * rate * scale[..., 0, 0]], -1)
    return torch.stack(columns, -1), floor * unit, units


def strip_of(m: int, programs: int) -> int:
    """Columns per program, in whole tiles."""
    wanted = triton.cdiv(ENOUGH_PROGRAMS, max(programs, 1))
    return triton.cdiv(max(triton.cdiv(m, wanted), _LEAST_STRIP), ROWS) * ROWS


def step(t: Tensor | None) -> int:
    """Rows from one block of the batch to the next; 0 where all share them."""
    return t.shape[-2] if t is not None and t.ndim == 3 else 0


def padded(columns: Tensor, rows: int, block: tuple[int, ...]) -> Tensor:
    """(…, n, p) as float32 (*block, p, rows), zero beyond n."""
    padded = columns.new_zeros(*block, columns.shape[-1], rows, dtype=torch.float32)
    padded[..., : columns.shape[-2]] = columns.mT
    return padded


def over_strips(partial: Tensor) -> Tensor:
    """The sum over the strips, in a fixed order."""
    return partial[0] if len(partial) == 1 else partial.sum(0, dtype=torch.float64).float()
