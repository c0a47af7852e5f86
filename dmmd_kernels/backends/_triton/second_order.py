"""Triton kernels for the derivative of potential, potential_grad and params_grad along a direction.

With q̇ and K̇ as in mixture.py, f[i] = Σⱼ w[j] K̇_ij and q[l] = Σᵢⱼ c_ij ∂K̇_ij/∂θ_l come from one
sweep over the pairs, and g[i] = Σⱼ c_ij ∇_z K̇_ij from a second one: together they would need more
registers than a thread has. The directions a of z, b of x and c of the parameters may be absent.
"""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from dmmd_kernels.backends._triton import fused, regimes
from dmmd_kernels.backends._triton.direct import (
    accumulate,
    add,
    affinity_dots,
    coefficients,
    columns,
    into_slot,
    keep,
    load_columns,
    load_rows,
    of_block,
    place,
    table_of_block,
)
from dmmd_kernels.backends._triton.float16 import Halves
from dmmd_kernels.backends._triton.launch import Sweep, Tile, batch, quiet
from dmmd_kernels.backends._triton.mixture import (
    component,
    slope,
    tangent_slope,
    tangent_value,
    theta_dot,
)
from dmmd_kernels.backends._triton.near_tiles import frame
from dmmd_kernels.backends._triton.profile import code
from dmmd_kernels.backends._triton.regimes import TANGENTS, Regime, architecture, via_histogram
from dmmd_kernels.backends._triton.scaling import LONGEST_STRIP, over_strips, padded, step, strip_of
from dmmd_kernels.backends._triton.sums import parameter_sums
from dmmd_kernels.backends._triton.tangent_tiles import tangent_grad_kernel, tangent_sums_kernel
from dmmd_kernels.backends._triton.tuning import faster
from dmmd_kernels.kernels import Mixture

_TILE = Tile(columns=16)
_NARROW = Tile(columns=8)  # where a pair has many values
_SIDES = 8  # right-hand sides per program, at most
_SIZES = [
    "n", "m", "D", "P", "blocks", "strip", "n_pitch", "m_pitch",
    "z_step", "x_step", "v_step", "w_step", "a_step", "b_step", "c_step", "params_step",
]  # fmt: skip


@triton.jit(do_not_specialize=_SIZES)
def _tangent_sums_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, a_ptr, b_ptr, c_ptr, f_ptr, q_ptr,
    n, m, D, P, blocks, strip, n_pitch, m_pitch,
    z_step, x_step, v_step, w_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    RANK: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr, SLOTS: tl.constexpr,
    SIDES: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    row = (tl.program_id(1).to(tl.int64) * blocks + block) * n + rows
    f_ptr += row * P
    q_ptr += row * (3 * L)
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    x_ptr = of_block(x_ptr, block, x_step, D, GATHER)
    w_ptr = of_block(w_ptr, block, w_step, P, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)
    if v_ptr is not None:
        v_ptr = of_block(v_ptr, block, v_step, P, GATHER)
    if a_ptr is not None:
        a_ptr = of_block(a_ptr, block, a_step, D, GATHER)
    if b_ptr is not None:
        b_ptr = of_block(b_ptr, block, b_step, D, GATHER)
    if c_ptr is not None:
        c_ptr = table_of_block(c_ptr, block, c_step, GATHER)

    side = tl.program_id(2) * SIDES
    f = tl.zeros([SIDES, BLOCK_N], tl.float32)
    f_lost = tl.zeros([SIDES, BLOCK_N], tl.float32)
    total = tl.zeros([SLOTS, BLOCK_N], tl.float32)
    lost = tl.zeros([SLOTS, BLOCK_N], tl.float32)
    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q, q_dot = affinity_dots(
            z_ptr, x_ptr, a_ptr, b_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        k_dot = keep(tangent_value(q, q_dot, params_ptr, c_ptr, PROFILES, L), rows, cols, SKIP)
        part = tl.zeros([SIDES, BLOCK_N], tl.float32)
        for s in tl.static_range(SIDES):
            w = load_columns(w_ptr, cols, m, tl.minimum(side + s, P - 1), P, m_pitch, GATHER)
            part = into_slot(part, tl.sum(w * k_dot, axis=0), s, SIDES)
        f, f_lost = add(f, f_lost, part)

        pair = coefficients(v_ptr, w_ptr, rows, cols, m, P, n_pitch, m_pitch, RANK, GATHER)
        part = tl.zeros([SLOTS, BLOCK_N], tl.float32)
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            lam_dot, s_dot, a_dot = component(c_ptr, l)
            by_lam, by_s, by_a = theta_dot(
                q, q_dot, lam, s, a, lam_dot, s_dot, a_dot, (PROFILES >> (8 * l)) % 256
            )
            along_lam = tl.sum(keep(pair * by_lam, rows, cols, SKIP), axis=0)
            along_s = tl.sum(keep(pair * by_s, rows, cols, SKIP), axis=0)
            along_a = tl.sum(keep(pair * by_a, rows, cols, SKIP), axis=0)
            part = into_slot(part, along_lam, 3 * l, SLOTS)
            part = into_slot(part, along_s, 3 * l + 1, SLOTS)
            part = into_slot(part, along_a, 3 * l + 2, SLOTS)
        total, lost = add(total, lost, part)

    sides = side + tl.arange(0, SIDES)[:, None]
    tl.store(f_ptr[None, :] + sides, f, mask=exists[None, :] & (sides < P))
    if tl.program_id(2) == 0:
        slots = tl.arange(0, SLOTS)[:, None]
        tl.store(q_ptr[None, :] + slots, total, mask=exists[None, :] & (slots < 3 * L))


@triton.jit(do_not_specialize=_SIZES)
def _tangent_grad_kernel(
    z_ptr, x_ptr, v_ptr, w_ptr, params_ptr, a_ptr, b_ptr, c_ptr, g_ptr,
    n, m, D, P, blocks, strip, n_pitch, m_pitch,
    z_step, x_step, v_step, w_step, a_step, b_step, c_step, params_step,
    PROFILES: tl.constexpr, L: tl.constexpr, RADIAL: tl.constexpr, SKIP: tl.constexpr,
    RANK: tl.constexpr, GATHER: tl.constexpr, UNROLL: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    rows, block, exists = place(n, blocks, BLOCK_N, GATHER)
    first, stop = columns(m, strip)
    part_of = tl.program_id(1).to(tl.int64) * blocks + block
    g_ptr += part_of * D * (n if GATHER else n_pitch * 16)
    z_ptr = of_block(z_ptr, block, z_step, D, GATHER)
    x_ptr = of_block(x_ptr, block, x_step, D, GATHER)
    w_ptr = of_block(w_ptr, block, w_step, P, GATHER)
    params_ptr = table_of_block(params_ptr, block, params_step, GATHER)
    if v_ptr is not None:
        v_ptr = of_block(v_ptr, block, v_step, P, GATHER)
    if a_ptr is not None:
        a_ptr = of_block(a_ptr, block, a_step, D, GATHER)
    if b_ptr is not None:
        b_ptr = of_block(b_ptr, block, b_step, D, GATHER)
    if c_ptr is not None:
        c_ptr = table_of_block(c_ptr, block, c_step, GATHER)

    for start in range(first, stop, BLOCK_M):
        cols = start + tl.arange(0, BLOCK_M)
        q, q_dot = affinity_dots(
            z_ptr, x_ptr, a_ptr, b_ptr, rows, cols, m, D, n_pitch, m_pitch,
            RADIAL, GATHER, UNROLL, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        pair = coefficients(v_ptr, w_ptr, rows, cols, m, P, n_pitch, m_pitch, RANK, GATHER)
        pull = pair * tangent_slope(q, q_dot, params_ptr, c_ptr, PROFILES, L)
        twist = pair * slope(q, params_ptr, PROFILES, L)
        pull, twist = keep(pull, rows, cols, SKIP), keep(twist, rows, cols, SKIP)
        if RADIAL:
            pull, twist = 2 * pull, 2 * twist
        for c in range(0, D):
            x = load_columns(x_ptr, cols, m, c, D, m_pitch, GATHER)
            b = load_columns(b_ptr, cols, m, c, D, m_pitch, GATHER)
            if RADIAL:
                x = load_rows(z_ptr, rows, c, D, n_pitch, GATHER) - x
                b = load_rows(a_ptr, rows, c, D, n_pitch, GATHER) - b
            part = tl.sum(pull * x + twist * b, axis=0)
            accumulate(g_ptr, rows, c, D, n_pitch, part, exists, start > first, GATHER)


def tangents(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    clouds = dict(z=z, x=x, v=v, w=w, a=a, b=b)
    if row := chosen(kernel, **clouds):
        f, g, q = _through_tiles(kernel, c, row, skip_diagonal, wants_sums=True, **clouds)
        return f.to(z.dtype), g.to(z.dtype).contiguous(), q.to(kernel.params.dtype)
    (n, d), p, count = z.shape[-2:], w.shape[-1], 3 * len(kernel.names)
    sides = min(triton.next_power_of_2(max(p, 1)), _SIDES)
    sweep = Sweep(n, x.shape[-2], d, batch(kernel.params, c, *clouds.values()), _NARROW)
    f, q = sweep.partial(z, n, p), sweep.partial(z, n, count)
    sweep.run(
        _tangent_sums_kernel, kernel, clouds, dict(c=c, f=f, q=q),
        columns=p, axis=max(1, triton.cdiv(p, sides)), SKIP=skip_diagonal,
        SLOTS=triton.next_power_of_2(count), SIDES=sides,
    )  # fmt: skip
    g = _gradient(kernel, c, skip_diagonal, **clouds)
    return sweep.total(f).to(z.dtype), g.to(z.dtype), parameter_sums(q, kernel)


def tangent(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    v = w.new_zeros(z.shape[-2], w.shape[-1])
    return tangents(z, x, v, w, kernel, a, b, c, skip_diagonal, precision)[0]


def tangent_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    clouds = dict(z=z, x=x, v=v, w=w, a=a, b=b)
    if row := chosen(kernel, **clouds):
        _, g, _ = _through_tiles(kernel, c, row, skip_diagonal, wants_sums=False, **clouds)
        return g.to(z.dtype).contiguous()
    return _gradient(kernel, c, skip_diagonal, **clouds).to(z.dtype)


def _gradient(kernel: Mixture, c: Tensor | None, skip_diagonal: bool, **clouds) -> Tensor:
    """g of `tangents` from differences."""
    z, x, w = clouds["z"], clouds["x"], clouds["w"]
    n, d = z.shape[-2:]
    sweep = Sweep(n, x.shape[-2], d, batch(kernel.params, c, *clouds.values()), _TILE)
    g = sweep.partial_points(z, d)
    sweep.run(
        _tangent_grad_kernel, kernel, clouds, dict(c=c, g=g),
        columns=w.shape[-1], SKIP=skip_diagonal,
    )  # fmt: skip
    return sweep.total_points(g)


def chosen(kernel: Mixture, *, z, x, v, w, a, b) -> Regime | None:
    """The row of the table, or None if lanes of their own are to do it.

    Tiles take one column of coefficients, a cloud that moves, and enough pairs to pay.
    """
    (n, d), m = z.shape[-2:], x.shape[-2]
    work = 2 * d * n * m * prod(batch(z, x, v, w, kernel.params, a, b))
    suits = kernel.is_radial and w.shape[-1] == 1 and not (a is None and b is None)
    if not suits or work < max(fused.LEAST_WORK, 1):
        return None
    row = regimes.device_regime(d, True, z.device, TANGENTS)
    if row.kind != "tiles":
        return None
    return faster("second_order", row, code(kernel.names), z.device)


def _through_tiles(
    kernel: Mixture, c: Tensor | None, row: Regime, skip_diagonal: bool, *, wants_sums: bool,
    a: Tensor | None, b: Tensor | None, **clouds,
) -> tuple[Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """f (…, n, 1), g (…, n, d) and the parameters' (…, L, 3) in float32, f and they if wanted.

    All are linear in the directions. Of two only their difference counts, so they are centred.
    """
    how = clouds | dict(kernel=kernel, skip_diagonal=skip_diagonal, wants_sums=wants_sums)
    if a is None or b is None:
        return _in_tiles(row, at_z=b is None, a=a, b=b, c=c, **how)
    middle = b.float().mean(-2, keepdim=True)
    how |= dict(a=a - middle, b=b - middle)
    first, other = (_in_tiles(row, at_z=z, c=c if z else None, **how) for z in (True, False))
    f, g, q = (None if s is None else s + t for s, t in zip(first, other, strict=True))
    return f, g, q


def _in_tiles(
    row: Regime, *, kernel: Mixture, c: Tensor | None, skip_diagonal: bool, wants_sums: bool,
    at_z: bool, z: Tensor, x: Tensor, v: Tensor | None, w: Tensor,
    a: Tensor | None, b: Tensor | None,
) -> tuple[Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """The same along a (at_z) or b. With both, near pairs are the first's (tangent_pairs.py)."""
    n, m, count = z.shape[-2], x.shape[-2], len(kernel.names)
    block = batch(z, x, v, w, kernel.params, a, b, c)
    both = frame(z, x, block)
    direction, up = both.direction(a if at_z else b)
    along = _along(both.z if at_z else both.x, direction)
    table, floor = both.table(kernel, row.near, grad=True)
    by_parameter = both.by_parameter()

    blocks = block[0] if block else 1
    programs = both.z.rows // row.rows * blocks
    strip = min(strip_of(m, programs), LONGEST_STRIP)
    new = lambda make, *shape: make(triton.cdiv(m, strip), *block, *shape, dtype=torch.float32)
    g = new(z.new_zeros, both.z.rows, both.width)
    arguments = both.arguments() | dict(
        z_ptr=z, x_ptr=x, a_ptr=a, b_ptr=b, t_hi_ptr=direction.hi, t_lo_ptr=direction.lo,
        along_ptr=along, rate_ptr=both.unit / up, floor_ptr=floor,
        v_ptr=None if v is None else padded(v, both.z.rows, block),
        w_ptr=padded(w, both.x.rows, block), params_ptr=table,
        c_ptr=None if c is None else (c * by_parameter).contiguous(),
        n=n, m=m, D=z.shape[-1], strip=strip, blocks=blocks, z_step=step(z), x_step=step(x),
        a_step=step(a), b_step=step(b), c_step=step(c), params_step=step(table),
        PROFILES=code(kernel.names), L=count, SKIP=skip_diagonal, NEAR=row.near, AT_Z=at_z,
        VIA_HISTOGRAM=via_histogram(architecture(z.device)), BLOCK_N=row.rows, BLOCK_M=row.columns,
        num_warps=row.warps, num_stages=row.stages, enable_fp_fusion=True,
    )  # fmt: skip
    with quiet(tangent_grad_kernel):
        chunks = both.width // both.chunk
        tangent_grad_kernel[(programs, len(g), chunks)](g_ptr=g, **arguments)
        g = over_strips(g)[..., :n, : z.shape[-1]]
        if not wants_sums:
            return None, g, None
        f, q = new(z.new_empty, n), new(z.new_empty, 3 * count, both.z.rows)
        tangent_sums_kernel[(programs, len(f))](f_ptr=f, q_ptr=q, **arguments)
    q = q[..., :n].sum((0, -1), dtype=torch.float64).unflatten(-1, (count, 3)).float()
    return over_strips(f)[..., None], g, q * by_parameter


def _along(points: Halves, direction: Halves) -> Tensor:
    """⟨z, a⟩ row by row."""
    whole = lambda t: t.hi.float() + t.lo.float()
    return (whole(points) * whole(direction)).sum(-1)
