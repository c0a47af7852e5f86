"""The Triton kernel for the matrix of all k(z_i, x_j).

K is symmetric in its arguments, so the lanes take points of x and the columns of a tile are points
of z: neighbouring lanes then write neighbouring entries of a row."""

import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton.direct import (
    affinities,
    columns,
    of_block,
    place,
    table_of_block,
)
from dmmd_kernels.backends._triton.launch import Sweep, Tile, batch
from dmmd_kernels.backends._triton.mixture import value
from dmmd_kernels.backends._triton.profile import shortcuts
from dmmd_kernels.kernels import Mixture

_TILE = Tile(columns=16)
_SIZES = [
    "n", "m", "D", "blocks", "strip", "n_pitch", "m_pitch", "z_step", "x_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def _kernel_matrix_kernel(
    z_ptr, x_ptr, params_ptr, k_ptr,
    n, m, D, blocks, strip, n_pitch, m_pitch, z_step, x_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr,
    GATHER: tl.constexpr, UNROLL: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    k_ptr += block * m * n + rows
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    x_ptr = of_block(x_ptr, block, x_step, D, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q = affinities(
            z_ptr, x_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        k = value(q, params_ptr, PROFILES, L)
        to = k_ptr[None, :] + cols.to(tl.int64)[:, None] * n  # int64: n · m may exceed 2³¹
        tl.store(to, k, mask=(cols < stop)[:, None] & exists[None, :])


def kernel_matrix(z: Tensor, x: Tensor, kernel: Mixture, precision: str = "highest") -> Tensor:
    (n, d), m = z.shape[-2:], x.shape[-2]
    block = batch(z, x, kernel.params)
    k = z.new_empty(*block, n, m)
    sweep = Sweep(m, n, d, block, _TILE)
    sweep.run(_kernel_matrix_kernel, kernel, dict(z=x, x=z), dict(k=k), PROFILES=shortcuts(kernel))
    return k
