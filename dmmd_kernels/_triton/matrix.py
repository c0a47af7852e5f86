"""The Triton kernel for the matrix of all k(z_i, x_j).

K is symmetric in its arguments, so the lanes of a warp take points of x and the columns of a tile
are points of z: neighbouring lanes then write neighbouring entries of a row.
"""

import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels._triton.launch import batch, run, tile
from dmmd_kernels._triton.mixture import value
from dmmd_kernels._triton.tiles import affinities, columns, over_warps, place
from dmmd_kernels.kernels import Mixture

_SIZES = ["n", "m", "strip", "z_step", "x_step", "params_step"]
_STRIP = 64  # rows of K per program
_MOST_STRIPS = 65535  # what CUDA allows on the second axis of a grid


@triton.jit(do_not_specialize=_SIZES)
def _kernel_matrix_kernel(
    z_ptr, x_ptr, params_ptr, k_ptr,
    n, m, D, strip, z_step, x_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr,
    MASKED: tl.constexpr, SPLIT: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    rows, block = place(m, R)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    params_ptr += block * params_step * 3
    k_ptr += block * n * m

    COLUMNS: tl.constexpr = J if SPLIT else J * WARPS
    first = tl.program_id(1) * strip
    stop = tl.minimum(first + strip, n)
    for start in range(first, stop, COLUMNS):
        cols = columns(start, J, WARPS, SPLIT)
        q = affinities(x_ptr, z_ptr, rows, cols, m, n, D, RADIAL, MASKED, SPLIT, C, J, R, WARPS)
        k = value(over_warps(q, SPLIT), params_ptr, PROFILES, L)
        to = cols.to(tl.int64) * m + rows  # int64: n · m may exceed 2³¹
        tl.store(k_ptr + to, k, mask=(cols < stop) & (rows < m))


def kernel_matrix(z: Tensor, x: Tensor, kernel: Mixture, precision: str = "highest") -> Tensor:
    (n, d), m = z.shape[-2:], x.shape[-2]
    block = batch(z, x, kernel.params)
    k = z.new_empty(*block, n, m)
    strips = min(triton.cdiv(n, _STRIP), _MOST_STRIPS)
    run(
        _kernel_matrix_kernel, dict(z=z, x=x, k=k), kernel,
        tile=tile(d), block=block, rows=m, parts=strips,
        n=n, m=m, D=d, strip=triton.cdiv(n, max(1, strips)),
    )  # fmt: skip
    return k
