"""The potential and its gradient through tensor cores: precision="high".

Distances come from |z|² + |x|² - 2⟨z, x⟩ with the product in TF32. The clouds are centred at the
mean of x and rounded to TF32 beforehand, and the norms are those of the rounded points, so that the
error is that of points moved by up to 5e-4 of their distance from the centre. The second product of
the gradient rounds its coefficients likewise, and their sum is that of the rounded ones.

Relative errors, emulated, not yet measured on a GPU: 2e-5 to 3e-4 in f on independent clouds;
4e-4 (d = 64) to 8e-4 (d = 16) in g where the clouds nearly coincide, and up to 4e-3 more there by
the second product. float16 and bfloat16 inputs take the same road, rounded to TF32 after centring.

One program owns 64 rows of z. Few dimensions, several right-hand sides and polynomials are left to
pairwise.py, which is more accurate.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels._triton.launch import Tile, batch, run
from dmmd_kernels._triton.mixture import slope, value
from dmmd_kernels._triton.tiles import keep
from dmmd_kernels.kernels import Mixture

_TILE = Tile(C=32, J=1, R=2)  # 64 rows
_MOST_COORDINATES = 128  # of the gradient, in one program
_SIZES = ["n", "m", "z_step", "x_step", "v_step", "w_step", "params_step"]


def suits(z: Tensor, w: Tensor, kernel: Mixture, precision: str) -> bool:
    if precision != "high" or not kernel.is_radial:
        return False
    return z.shape[-1] >= 16 and w.shape[-2] > 0 and w.shape[-1] == 1


@triton.jit
def _rounded(pull):
    """To the ten bits of TF32, so that the products and the row sum see the same coefficients."""
    bits = pull.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(pull == pull, rounded, pull)  # a GPU's NaN would become zero


@triton.jit
def _load_tile(ptr, index, count, coords, D):
    """Points as rows or as columns, as index and coords are laid out; zero beyond either."""
    offsets = index.to(tl.int64) * D + coords  # int64: n · D may exceed 2³¹
    return tl.load(ptr + offsets, mask=(index < count) & (coords < D), other=0.0)


@triton.jit
def _distances(
    z_ptr, x_ptr, zz, rows, cols, n, m, D,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """|z_i - x_j|², with zz = |z_i|² given."""
    products = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    xx = tl.zeros([BLOCK_M], tl.float32)
    for start in range(0, D, C):
        coords = start + tl.arange(0, C)
        z = _load_tile(z_ptr, rows[:, None], n, coords[None, :], D)
        x = _load_tile(x_ptr, cols[None, :], m, coords[:, None], D)
        products = tl.dot(z, x, products, input_precision="tf32")
        xx += tl.sum(x * x, axis=0)
    q = zz[:, None] + xx[None, :] - 2 * products
    return tl.where(q < 0, 0.0, q)  # keeps NaN, unlike maximum


@triton.jit(do_not_specialize=_SIZES)
def _tensor_core_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, f_ptr, g_ptr,
    n, m, D, z_step, x_step, v_step, w_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, SKIP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, C: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    programs = tl.cdiv(n, BLOCK_N)
    block = (tl.program_id(0) // programs).to(tl.int64)
    z_ptr += block * z_step * D
    x_ptr += block * x_step * D
    w_ptr += block * w_step
    params_ptr += block * params_step * 3

    rows = (tl.program_id(0) % programs) * BLOCK_N + tl.arange(0, BLOCK_N)
    zz = tl.zeros([BLOCK_N], tl.float32)
    for start in range(0, D, C):
        z = _load_tile(z_ptr, rows[:, None], n, (start + tl.arange(0, C))[None, :], D)
        zz += tl.sum(z * z, axis=1)

    out = tl.program_id(1) * OUT + tl.arange(0, OUT)
    f = tl.zeros([BLOCK_N], tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    pulled = tl.zeros([BLOCK_N, OUT], tl.float32)
    for start in range(0, m, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        w = tl.load(w_ptr + cols, mask=cols < m, other=0.0).to(tl.float32)[None, :]
        q = _distances(z_ptr, x_ptr, zz, rows, cols, n, m, D, BLOCK_N, BLOCK_M, C)
        if f_ptr is not None:
            k = keep(value(q, params_ptr, PROFILES, L), rows[:, None], cols[None, :], SKIP)
            f += tl.sum(w * k, axis=1)
        if g_ptr is not None:
            k_q = keep(slope(q, params_ptr, PROFILES, L), rows[:, None], cols[None, :], SKIP)
            pull = _rounded(2 * w * k_q)
            total += tl.sum(pull, axis=1)
            x = _load_tile(x_ptr, cols[:, None], m, out[None, :], D)
            pulled = tl.dot(pull, x, pulled, input_precision="tf32")

    if f_ptr is not None:
        if tl.program_id(1) == 0:
            tl.store(f_ptr + block * n + rows, f, mask=rows < n)
    if g_ptr is not None:
        z = _load_tile(z_ptr, rows[:, None], n, out[None, :], D)
        g = total[:, None] * z - pulled
        if v_ptr is not None:
            v = tl.load(v_ptr + block * v_step + rows, mask=rows < n, other=0.0)
            g *= v.to(tl.float32)[:, None]
        to = (block * n + rows)[:, None] * D + out[None, :]
        tl.store(g_ptr + to, g, mask=(rows < n)[:, None] & (out < D)[None, :])


def sweep(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool,
    f: Tensor | None,
    g: Tensor | None,
) -> None:
    """Fills f (…, n, 1) and g (…, n, d), as far as they are wanted."""
    (n, d), m = z.shape[-2:], x.shape[-2]
    centre = x.float().mean(-2, keepdim=True)  # of x alone: NaN in z must stay in its row
    out = min(_MOST_COORDINATES, triton.next_power_of_2(d)) if g is not None else 16
    run(
        _tensor_core_kernel,
        dict(z=_tf32(z.float() - centre), x=_tf32(x.float() - centre), v=v, w=w, f=f, g=g),
        kernel,
        tile=_TILE, block=batch(f, g), rows=n,
        parts=triton.cdiv(d, out) if g is not None else 1,
        n=n, m=m, D=d, SKIP=skip_diagonal, BLOCK_N=64, BLOCK_M=64, OUT=out,
    )  # fmt: skip


def _tf32(points: Tensor) -> Tensor:
    """Rounded to ten bits of mantissa: what a tensor core would otherwise cut off."""
    rounded = ((points.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return torch.where(points == points, rounded, points)  # a GPU's NaN would become zero
