"""Points as tensor cores take them: centred, scaled, and each number as a sum of two float16.

    r (x - centre) = hi + lo        centre: the mean of x; r: a power of two, so that |hi| < 2¹⁴

hi and lo together keep 22 bits of every number down to 2⁻¹⁸ of the largest. The norms |hi + lo|²/2
are those of the rounded points, so that |z|²/2 + |x|²/2 - ⟨z, x⟩ is half the squared distance of
points that moved by 2⁻²³ of their distance from the centre. Nothing waits for r: it stays on the
device.

One program splits 32 points. Rows and coordinates are padded with zeros to whole tiles.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton.launch import quiet

ROWS = 128  # clouds are padded to a multiple of this


@dataclass(frozen=True)
class Halves:
    """A split cloud: hi and lo (B, rows, width) in float16, half (B, rows) = |hi + lo|²/2.

    One pass needs no lo, and half = |hi|²/2 then. half may be in a unit of its own.
    """

    hi: Tensor
    lo: Tensor | None
    half: Tensor

    @property
    def rows(self) -> int:
        return self.hi.shape[-2]


@triton.jit(do_not_specialize=["n", "D", "rows", "step", "centre_step"])
def _split_kernel(
    x_ptr, centre_ptr, scale_ptr, units_ptr, hi_ptr, lo_ptr, half_ptr,
    n, D, rows, step, centre_step,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(1).to(tl.int64)
    index = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    x_ptr += block * step * D
    centre_ptr += block * centre_step * D
    to = ((block * rows + index) * WIDTH)[:, None]
    scale = tl.load(scale_ptr + block * centre_step)
    half = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, CHUNK):
        coords = start + tl.arange(0, CHUNK)
        inside = (index < n)[:, None] & (coords < D)[None, :]
        x = tl.load(x_ptr + index[:, None] * D + coords[None, :], mask=inside, other=0.0)
        centre = tl.load(centre_ptr + coords, mask=coords < D, other=0.0)
        x = tl.where(inside, scale * (x.to(tl.float32) - centre[None, :]), 0.0)
        hi = x.to(tl.float16)
        rounded = hi.to(tl.float32)
        tl.store(hi_ptr + to + coords[None, :], hi)
        if lo_ptr is not None:
            lo = (x - rounded).to(tl.float16)
            rounded += lo.to(tl.float32)
            tl.store(lo_ptr + to + coords[None, :], lo)
        half += tl.sum(rounded * rounded, axis=1)
    half *= 0.5
    if units_ptr is not None:
        half *= tl.load(units_ptr + block * centre_step * 3)
    tl.store(half_ptr + block * rows + index, half)


def centre_and_scale(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The centre, (…, 1, d), NaN where a point of x is not finite; the scale, (…, 1, 1)."""
    centre, reach = centre_and_reach(z, x)
    return centre, towards_2_14(reach)


def centre_and_reach(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The centre, and the largest distance from it along a coordinate, NaN where not finite."""
    centre = x.float().mean(-2, keepdim=True)
    reach = (x - centre).abs().amax((-2, -1), keepdim=True)
    if z is not x:
        reach = torch.maximum(reach, (z - centre).abs().amax((-2, -1), keepdim=True))
    return centre, reach


def towards_2_14(reach: Tensor) -> Tensor:
    """The power of two that brings `reach` just below 2¹⁴."""
    exponent = 14 - torch.frexp(reach).exponent
    return ((127 + exponent).clamp(1, 254) << 23).int().view(torch.float32)  # its bits


def split(
    points: Tensor,
    centre: Tensor,
    scale: Tensor,
    width: int,
    passes: int,
    units: Tensor | None = None,
) -> Halves:
    """Halves with one block per block of the centre, or of the points if there is one centre.

    With units (…, 3), half is multiplied by the first of them.
    """
    n, d = points.shape[-2:]
    batch = torch.broadcast_shapes(points.shape[:-2], centre.shape[:-2])
    rows = triton.cdiv(n, ROWS) * ROWS
    halves = Halves(
        points.new_empty(*batch, rows, width, dtype=torch.float16),
        points.new_empty(*batch, rows, width, dtype=torch.float16) if passes > 1 else None,
        points.new_empty(*batch, rows, dtype=torch.float32),
    )
    with quiet(_split_kernel):
        _split_kernel[(rows // 32, batch.numel())](
            x_ptr=points, centre_ptr=centre, scale_ptr=scale, units_ptr=units,
            hi_ptr=halves.hi, lo_ptr=halves.lo, half_ptr=halves.half,
            n=n, D=d, rows=rows, step=n if points.ndim == 3 else 0,
            centre_step=1 if centre.ndim == 3 else 0,
            WIDTH=width, CHUNK=min(width, 64), BLOCK=32, num_warps=4,
        )  # fmt: skip
    return halves
