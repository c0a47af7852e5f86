"""Tiles of pairs through tensor cores, and from differences where a near pair is among them.

    q/2 = |z|²/2 + |x|²/2 - ⟨z, x⟩, of points in two float16 (float16.py)

Where the expanded form does badly for one pair (tensor_cores.py says where), or is not finite, the
whole tile is taken from differences of the points as they were given. So a program may do with a
tile what it likes, and needs no second one, as near.py is for sums of listed columns; the price is
a branch that takes registers.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton.float16 import Halves, centre_and_reach, split, towards_2_14
from dmmd_kernels.backends._triton.scaling import scaled
from dmmd_kernels.backends._triton.tensor_cores import how_many, scales
from dmmd_kernels.kernels import Mixture


@triton.jit
def program(n_rows, m, strip, blocks, BLOCK_N: tl.constexpr):
    """This program's block, its first row, its columns from first to stop, and their part."""
    programs = n_rows // BLOCK_N
    block = (tl.program_id(0) // programs).to(tl.int64)
    first = tl.program_id(1) * strip
    part = tl.program_id(1).to(tl.int64) * blocks + block
    return block, (tl.program_id(0) % programs) * BLOCK_N, first, tl.minimum(first + strip, m), part


@triton.jit
def tile_of(hi_ptr, lo_ptr, lines, coords, WIDTH: tl.constexpr):
    """hi and lo of some coordinates of some points."""
    at = lines[:, None] * WIDTH + coords[None, :]
    return tl.load(hi_ptr + at), tl.load(lo_ptr + at)


@triton.jit
def products(a_hi, a_lo, b_hi, b_lo):
    """⟨a_i, b_j⟩ of rows of two float16, small parts first."""
    s = tl.dot(a_lo, tl.trans(b_hi))
    s = tl.dot(a_hi, tl.trans(b_lo), s)
    return tl.dot(a_hi, tl.trans(b_hi), s)


@triton.jit
def split_rows(t):
    """(hi, lo, what undoes their scale) of a tile, scaled row by row."""
    up, down = scales(tl.max(tl.abs(t), axis=1))
    t = t * up[:, None]
    hi = t.to(tl.float16)
    return hi, (t - hi.to(tl.float32)).to(tl.float16), down


@triton.jit
def sum_of_products(hi, lo, x_hi, x_lo):
    """Σⱼ t_ij xⱼ of both in two float16, small parts first."""
    piece = tl.dot(lo, x_hi)
    piece = tl.dot(hi, x_lo, piece)
    return tl.dot(hi, x_hi, piece)


@triton.jit
def streamed_products(
    a_hi_ptr, a_lo_ptr, b_hi_ptr, b_lo_ptr, lines, other_lines,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """The same for rows too wide to be held: they are read CHUNK coordinates at a time."""
    s = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, WIDTH, CHUNK):
        coords = start + tl.arange(0, CHUNK)
        a_hi, a_lo = tile_of(a_hi_ptr, a_lo_ptr, lines, coords, WIDTH)
        b_hi, b_lo = tile_of(b_hi_ptr, b_lo_ptr, other_lines, coords, WIDTH)
        s = tl.dot(a_lo, tl.trans(b_hi), s)
        s = tl.dot(a_hi, tl.trans(b_lo), s)
        s = tl.dot(a_hi, tl.trans(b_hi), s)
    return s


@triton.jit
def has_near(q, both, floor, NEAR: tl.constexpr, VIA_HISTOGRAM: tl.constexpr):
    """Whether a pair wants differences; all do where a point is not finite (floor = -inf)."""
    slack = q - NEAR * both
    if VIA_HISTOGRAM:
        near = tl.where(slack >= -floor, 0, 1)
        return how_many(tl.max(near, axis=0), True) > 0
    else:
        return (tl.min(tl.min(slack, axis=1), axis=0) >= -floor) == 0


@triton.jit
def offsets_from(first, count, D, BLOCK: tl.constexpr):
    """Where BLOCK points from `first` on begin, seen from the first; none is beyond the last."""
    return tl.minimum(tl.arange(0, BLOCK), count - 1 - first) * D


@triton.jit
def square_distances(z_ptr, x_ptr, rows, cols, D, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr):
    """|z - x|² from differences; the pointers are to the tile, rows and cols are offsets."""
    q = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for c in range(0, D):
        diff = tl.load(z_ptr + c + rows).to(tl.float32)[:, None]
        diff = diff - tl.load(x_ptr + c + cols).to(tl.float32)[None, :]
        q += diff * diff
    return q


@triton.jit
def add_to(ptr, part, again):
    """Writes part, or adds it to what was there before the last barrier."""
    if again:
        part += tl.load(ptr)
    tl.store(ptr, part)


@dataclass(frozen=True)
class Frame:
    """Two clouds as tiles take them: split, about one centre, in one unit per block, (…, 1, 1)."""

    z: Halves
    x: Halves
    unit: Tensor
    reach: Tensor
    width: int

    @property
    def chunk(self) -> int:
        """Coordinates that are held at a time."""
        return min(self.width, 64)

    def direction(self, t: Tensor) -> tuple[Halves, Tensor]:
        """A direction at one of the clouds, in a unit of its own, and that unit."""
        reach = t.float().abs().amax((-2, -1), keepdim=True)
        unit = towards_2_14(reach).expand_as(self.unit).contiguous()
        origin = torch.zeros(*unit.shape[:-1], t.shape[-1], device=t.device)
        return split(t, origin, unit, self.width, 3), unit

    def table(self, kernel: Mixture, near: float, *, grad: bool) -> tuple[Tensor, Tensor]:
        """The kernel's parameters in this unit, and what they cannot tell from zero."""
        return scaled(kernel, self.unit, near, grad=grad, reach=self.reach)

    def by_parameter(self) -> Tensor:
        """What the scaled parameters' derivatives are to be multiplied with, (…, 1, 3)."""
        ones = torch.ones_like(self.unit)
        return torch.cat([ones, 2 / self.unit.square(), ones], -1)

    def arguments(self) -> dict:
        """Of a Triton kernel."""
        return dict(
            z_hi_ptr=self.z.hi, z_lo_ptr=self.z.lo, z_half_ptr=self.z.half, x_hi_ptr=self.x.hi,
            x_lo_ptr=self.x.lo, x_half_ptr=self.x.half, unit_ptr=self.unit, WIDTH=self.width,
            CHUNK=self.chunk, n_rows=self.z.rows, m_rows=self.x.rows,
        )  # fmt: skip


def frame(z: Tensor, x: Tensor, block: tuple[int, ...]) -> Frame:
    """The frame of all blocks of a batch."""
    d = z.shape[-1]
    width = max(16, triton.next_power_of_2(d)) if d <= 64 else triton.cdiv(d, 64) * 64
    expanded = lambda t: t.expand(*block, *t.shape[-2:]).contiguous()
    centre, reach = map(expanded, centre_and_reach(z, x))
    unit = towards_2_14(reach)
    halves = split(z, centre, unit, width, 3)
    return Frame(halves, halves if z is x else split(x, centre, unit, width, 3), unit, reach, width)
