"""How the Triton kernels are launched: tile sizes by dimension, and steps through a batch.

Tile sizes are a static table. Nothing is tuned at run time and nothing depends on n or m, so a
program that has run once never compiles again for other sizes.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace

import numpy
import triton
from torch import Tensor

from dmmd_kernels._triton.profile import code
from dmmd_kernels.kernels import Mixture

LANES = 32


@dataclass(frozen=True)
class Tile:
    """What one program works on at a time; tiles.py explains the letters."""

    C: int
    J: int
    R: int
    WARPS: int = 4
    SPLIT: bool = False

    @property
    def width(self) -> int:
        """Coordinates one program holds."""
        return self.C * self.WARPS if self.SPLIT else self.C

    def parts(self, d: int) -> int:
        return max(1, triton.cdiv(d, self.width))

    def constants(self, d: int) -> dict:
        return {**asdict(self), "WHOLE": d <= self.width, "MASKED": d == 0 or d % self.width != 0}


def tile(d: int) -> Tile:
    """The tile of a sweep over the pairs of points in d dimensions."""
    if d > 32:
        warps = min(8, triton.next_power_of_2(triton.cdiv(d, 32)))
        return Tile(C=32, J=4, R=1, WARPS=warps, SPLIT=True)
    if d > 16:
        return Tile(C=32, J=4, R=1)
    return Tile(C=triton.next_power_of_2(max(d, 1)), J=4, R=2)


def narrow_tile(d: int) -> Tile:
    """A smaller one, for sweeps that keep many values per pair or sums per row."""
    wide = tile(d)
    return replace(wide, R=1, J=2 if d > 16 else 4)


def batch(*tensors: Tensor | None) -> tuple[int, ...]:
    """The leading dimension of the result: (B,) if any tensor has one, else ()."""
    return next((t.shape[:1] for t in tensors if t is not None and t.ndim == 3), ())


def programs(rows: int, tile: Tile) -> int:
    return triton.cdiv(rows, tile.R * LANES)


def run(
    jit_kernel,
    pointers: dict[str, Tensor | None],
    kernel: Mixture,
    *,
    tile: Tile,
    block: tuple[int, ...],
    rows: int,
    parts: int = 1,
    **arguments,
) -> None:
    """Launches `parts` programs for every tile.R · LANES rows of every block of the batch.

    Each tensor t enters as t_ptr and, where the Triton kernel asks for it, t_step: its rows per
    block of the batch, or 0 if all blocks share it.
    """
    count = programs(rows, tile) * (block[0] if block else 1)
    if count == 0 or parts == 0:
        return
    pointers = {**pointers, "params": kernel.params}
    constants = {
        **tile.constants(arguments["D"]),
        "RADIAL": kernel.is_radial,
        "PROFILES": code(kernel.names),
        "L": len(kernel.names),
    }
    steps = {f"{name}_step": _step(t) for name, t in pointers.items()}
    with _quiet(jit_kernel):
        jit_kernel[(count, parts)](
            **{f"{name}_ptr": t for name, t in pointers.items()},
            **{name: step for name, step in steps.items() if name in jit_kernel.arg_names},
            **arguments,
            **{name: value for name, value in constants.items() if name in jit_kernel.arg_names},
            num_warps=tile.WARPS,
            enable_fp_fusion=True,  # differences are followed by one fused multiply-add
        )


def _quiet(jit_kernel) -> AbstractContextManager:
    """Infinities are no warning on a GPU; Triton's interpreter computes with numpy, which warns."""
    is_compiled = isinstance(jit_kernel, triton.JITFunction)
    return nullcontext() if is_compiled else numpy.errstate(all="ignore")


def _step(t: Tensor | None) -> int:
    return t.shape[1] if t is not None and t.ndim == 3 else 0
