"""How a sweep over the pairs is launched: how points lie in memory, and who takes which pairs.

Points reach a Triton kernel in one of two layouts, and every kernel can read both:

    by coordinate   (B, d, pitch), float32, padded with zeros: for one coordinate, neighbouring
                    points are neighbours in memory, so loads are wide and need no mask
    by point        (B, n, d), as the caller has them, and each lane finds its own block of the
                    batch: for many small blocks, and for calls too small to be worth a copy

Nothing is compiled for particular n or m: they decide the layout and the number of programs only.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy
import torch
import triton
from torch import Tensor

from dmmd_kernels.backends._triton.profile import code
from dmmd_kernels.kernels import Mixture

ALIGNMENT = 16  # points; a pitch is a multiple of it
ENOUGH_PROGRAMS = 1024  # to fill the largest GPU; a constant, so that sums do not depend on the GPU
LEAST_STRIP = 512  # columns that are worth a program of their own
_FEW_PAIRS = 2**16
_GATHERED = 4  # columns of a tile whose points are looked up lane by lane


@dataclass(frozen=True)
class Tile:
    """The pairs one program holds at a time: a row per lane, columns in a thread's registers."""

    columns: int  # divides ALIGNMENT, so that no tile reads beyond the padding
    warps: int = 4

    @property
    def rows(self) -> int:
        return 32 * self.warps


def batch(*tensors: Tensor | None) -> tuple[int, ...]:
    """The leading dimension of the result: (B,) if any tensor has one, else ()."""
    return next((t.shape[:1] for t in tensors if t is not None and t.ndim == 3), ())


def pitch(count: int) -> int:
    return triton.cdiv(max(count, 1), ALIGNMENT) * ALIGNMENT


def by_coordinate(points: Tensor) -> Tensor:
    """(…, n, d) as float32 (…, d, pitch), zero beyond n."""
    n, d = points.shape[-2:]
    moved = points.new_empty(*points.shape[:-2], d, pitch(n), dtype=torch.float32)
    moved[..., :n] = points.mT
    moved[..., n:] = 0
    return moved


@dataclass(frozen=True)
class Sweep:
    """n rows against m columns, block by block, divided among programs."""

    n: int
    m: int
    d: int
    block: tuple[int, ...]
    tile: Tile

    @property
    def blocks(self) -> int:
        return prod(self.block)

    @property
    def is_by_point(self) -> bool:
        few_rows = self.blocks > 1 and 2 * self.n <= self.tile.rows
        return few_rows or self.n * self.m * self.blocks <= _FEW_PAIRS

    @property
    def programs(self) -> int:
        """Of one strip of columns."""
        if self.is_by_point:
            return triton.cdiv(self.n * self.blocks, self.tile.rows)
        return triton.cdiv(self.n, self.tile.rows) * self.blocks

    @property
    def strip(self) -> int:
        """Columns per program; more than one strip only if rows alone would leave the GPU idle."""
        wanted = triton.cdiv(ENOUGH_PROGRAMS, max(self.programs, 1))
        strip = max(triton.cdiv(self.m, wanted), LEAST_STRIP)
        return pitch(strip)

    @property
    def strips(self) -> int:
        return max(triton.cdiv(self.m, self.strip), 1)

    @property
    def unroll(self) -> int:
        """Coordinates a program takes without a loop."""
        if self.d <= 8:
            return max(self.d, 1)
        return next(u for u in (4, 2, 1) if self.d % u == 0)

    def partial(self, like: Tensor, *shape: int) -> Tensor:
        """Room for what each strip has for each block; zeros if no program will write there."""
        make = like.new_zeros if self.m == 0 else like.new_empty
        return make(self.strips, *self.block, *shape, dtype=torch.float32)

    def partial_points(self, like: Tensor, d: int) -> Tensor:
        """The same for points (n, d), in the layout of this sweep."""
        shape = (self.n, d) if self.is_by_point else (d, pitch(self.n))
        return self.partial(like, *shape)

    def total(self, partial: Tensor) -> Tensor:
        """The sum over the strips, in a fixed order."""
        if self.strips == 1:
            return partial[0]
        return partial.sum(0, dtype=torch.float64).float()

    def total_points(self, partial: Tensor) -> Tensor:
        """The same for points: (…, n, d), contiguous."""
        if self.is_by_point:
            return self.total(partial)
        return self.total(partial[..., : self.n]).mT.contiguous()

    def run(
        self,
        jit_kernel,
        kernel: Mixture,
        points: dict[str, Tensor | None],
        results: dict[str, Tensor | None],
        *,
        columns: int = 1,
        axis: int = 1,
        **constants,
    ) -> None:
        """Launches programs × strips × axis programs.

        Args:
            points: the tensors (…, rows, columns) of either cloud; t enters as t_ptr and t_step,
                its rows per block of the batch, or 0 if all blocks share it; rows, pitches and
                strips are counted in sixteens where a kernel needs to know that they divide by 16.
            results: enter as t_ptr, as they are.
            columns: P, those of the coefficients.
            axis: programs along the third axis.
        """
        if self.programs == 0 or self.m == 0 or axis == 0:
            return
        moved = self._moved(points)
        pointers = {**moved, **results, "params": kernel.params}
        tables = {"params": kernel.params, "c": pointers.get("c")}
        steps = {name: self._step(t) for name, t in moved.items()}
        steps |= {name: _table_step(t) for name, t in tables.items()}
        sizes = dict(
            n=self.n, m=self.m, D=self.d, P=columns, blocks=self.blocks, strip=self.strip //
            ALIGNMENT, n_pitch=pitch(self.n) // ALIGNMENT, m_pitch=pitch(self.m) // ALIGNMENT,
        )  # fmt: skip
        constants = dict(
            RADIAL=kernel.is_radial, PROFILES=code(kernel.names), L=len(kernel.names),
            RANK=columns if columns <= 2 else 0, GATHER=self.is_by_point, UNROLL=self.unroll,
            BLOCK_N=self.tile.rows, BLOCK_M=_GATHERED if self.is_by_point else self.tile.columns,
        ) | constants  # fmt: skip
        arguments = {f"{name}_ptr": t for name, t in pointers.items()}
        arguments |= {f"{name}_step": step for name, step in steps.items()}
        arguments |= sizes | constants
        with quiet(jit_kernel):
            jit_kernel[(self.programs, self.strips, axis)](
                **{name: arguments[name] for name in jit_kernel.arg_names},
                num_warps=self.tile.warps,
                enable_fp_fusion=True,  # differences are followed by one fused multiply-add
            )

    def _moved(self, points: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
        """In the layout of this sweep; a cloud that stands on both sides is copied once."""
        if self.is_by_point:
            return points
        copies = {id(t): by_coordinate(t) for t in points.values() if t is not None}
        return {name: None if t is None else copies[id(t)] for name, t in points.items()}

    def _step(self, t: Tensor | None) -> int:
        if t is None or t.ndim < 3:
            return 0
        return t.shape[-2] if self.is_by_point else t.shape[-1] // ALIGNMENT


def _table_step(t: Tensor | None) -> int:
    return t.shape[-2] if t is not None and t.ndim == 3 else 0


@contextmanager
def quiet(jit_kernel) -> Iterator[None]:
    """NaN is no warning on a GPU; Triton's interpreter computes with numpy, which warns."""
    if isinstance(jit_kernel, triton.JITFunction):
        yield
        return
    with numpy.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
