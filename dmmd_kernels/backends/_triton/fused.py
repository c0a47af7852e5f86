"""A sweep through tensor cores, launch by launch: split both clouds, sweep, add what was near.

Everything that depends on the data is computed on the device, so a call can be captured in a CUDA
graph, and never waits.
"""

from dataclasses import replace
from math import prod

import torch
import triton
from torch import Tensor

from dmmd_kernels.backends._triton import regimes
from dmmd_kernels.backends._triton.float16 import centre_and_scale, split
from dmmd_kernels.backends._triton.launch import batch, quiet
from dmmd_kernels.backends._triton.near import near_kernel
from dmmd_kernels.backends._triton.panels import PANEL, Panels, panel_kernel
from dmmd_kernels.backends._triton.profile import ROOTS, SQUARED, shortcuts
from dmmd_kernels.backends._triton.regimes import Regime, architecture, via_histogram
from dmmd_kernels.backends._triton.scaling import (
    over_strips,
    padded,
    relative,
    scaled,
    step,
    strip_of,
)
from dmmd_kernels.backends._triton.tensor_cores import CAPACITY, fused_kernel
from dmmd_kernels.backends._triton.tuning import faster
from dmmd_kernels.kernels import Mixture

FEW_COMPONENTS = 2
LANE_COLUMNS = 8192
LEAST_WORK = 2**29  # pairs times d; below, preparing the clouds takes longer than differences


def chosen(
    z: Tensor, x: Tensor, p: int, kernel: Mixture, *, grad: bool, both: bool = False
) -> Regime:
    """The row of the table for a call with coefficients of p columns; both: f and its gradient.

    Polynomials, many columns and few pairs are swept from differences in any number of dimensions.
    """
    (n, d), m = z.shape[-2:], x.shape[-2]
    blocks = prod(batch(z, x, kernel.params))
    suits = kernel.is_radial and p <= 2 and blocks * n * m * d >= LEAST_WORK
    row = regimes.device_regime(d if suits else 0, grad, z.device)
    if both:  # needs more registers than what is tuned
        is_crowded = len(kernel.names) > FEW_COMPONENTS and row.kind == "fused"
        return replace(row, columns=16) if is_crowded else row
    if row.kind == "fused" and independent(kernel) > FEW_COMPONENTS:
        row = replace(row, columns=16 if grad else 32)  # components need registers of their own
    return faster("gradient" if grad else "value", row, shortcuts(kernel), z.device)


def lane_columns(p: int, sm: int) -> int:
    """How many columns of K a lane adds up by itself in a sweep without a gradient.

    That saves shuffles, and on sm_100 half of the arithmetic, which it lets the compiler pack two
    by two. For one column of coefficients on sm_90 its registers would cost two programs of four.
    """
    return LANE_COLUMNS if p == 2 or sm >= 100 else 0


def independent(kernel: Mixture) -> int:
    """Components that are no powers of others."""
    codes = shortcuts(kernel).to_bytes(len(kernel.names) + 1, "little")[:-1]
    return sum(not SQUARED.value < code < ROOTS.value for code in codes)


def sweep(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    row: Regime,
    *,
    skip_diagonal: bool,
    precision: str,
    wants_f: bool,
    wants_g: bool = False,
    is_symmetric: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """(f (…, n, 1), g (…, n, d)), as far as they are wanted, in float32.

    is_symmetric: z is x and c is symmetric; f is what sums up to the quadratic form, no more.
    """
    (n, d), (m, p) = z.shape[-2:], w.shape[-2:]
    passes = 1 if precision == "high" else 3
    width = triton.cdiv(d, 64) * 64 if row.kind == "panels" else max(16, triton.next_power_of_2(d))
    block = batch(z, x, v, w, kernel.params)
    blocks = block[0] if block else 1
    params = kernel.params

    centre, scale = (t.expand(*block, *t.shape[-2:]).contiguous() for t in centre_and_scale(z, x))
    table, floor, units = relative(kernel, *scaled(kernel, scale, row.near, grad=wants_g), scale)
    halves_z = split(z, centre, scale, width, passes, units)
    halves_x = halves_z if z is x else split(x, centre, scale, width, passes, units)
    programs = halves_z.rows // row.rows
    strip = PANEL if row.kind == "panels" else strip_of(m, programs * blocks)
    strips = triton.cdiv(m, strip)
    make = lambda *shape, dtype=torch.float32: z.new_zeros(*shape, dtype=dtype)
    f = make(strips, *block, n) if wants_f else None
    parts = 1 if row.kind == "panels" else strips
    g = make(parts, *block, n, width) if wants_g else None
    listed, count = (
        make(strips, *block, programs, s, dtype=torch.int32) for s in (CAPACITY.value, 1)
    )
    pairs = dict(
        n=n, m=m, n_rows=halves_z.rows, m_rows=halves_x.rows, blocks=blocks, P=p,
        v_ptr=None if v is None else padded(v, halves_z.rows, block),
        w_ptr=padded(w, halves_x.rows, block),
        f_ptr=f, list_ptr=listed, count_ptr=count, PROFILES=shortcuts(kernel),
        L=len(kernel.names), SKIP=skip_diagonal, SYMMETRIC=is_symmetric, BLOCK_N=row.rows,
    )  # fmt: skip
    far = dict(
        z_half_ptr=halves_z.half, x_half_ptr=halves_x.half, params_ptr=table, units_ptr=units,
        params_step=step(table), floor_ptr=floor, NEAR=row.near, PASSES=passes,
        VIA_HISTOGRAM=via_histogram(architecture(z.device)), BLOCK_M=row.columns,
        num_warps=row.warps, num_stages=row.stages, enable_fp_fusion=True,
    )  # fmt: skip
    near = dict(
        z_ptr=z, x_ptr=x, z_step=step(z), x_step=step(x), params_ptr=params,
        params_step=step(params), D=d, g_width=width, strip=strip,
        BLOCK_M=8 if len(kernel.names) > FEW_COMPONENTS else 16, g_ptr=g,
        num_warps=triton.cdiv(row.rows, 32), enable_fp_fusion=True,
    )  # fmt: skip
    with quiet(fused_kernel):
        if row.kind == "panels":
            _run_panels(Panels(halves_z, halves_x, passes), pairs, far, near, units)
        else:
            fused_kernel[(programs * blocks, strips)](
                z_hi_ptr=halves_z.hi, z_lo_ptr=halves_z.lo, x_hi_ptr=halves_x.hi,
                x_lo_ptr=halves_x.lo, g_ptr=g, strip=strip, WIDTH=width,
                LANE_COLUMNS=0 if wants_g else lane_columns(p, architecture(z.device)),
                **pairs, **far,
            )  # fmt: skip
            if passes == 3:
                near_kernel[(programs * blocks, strips)](base=0, **pairs, **near)
    return (
        None if f is None else over_strips(f)[..., None],
        None if g is None else over_strips(g)[..., :d],
    )


def _run_panels(panels: Panels, pairs: dict, far: dict, near: dict, units: Tensor) -> None:
    """Adds to f and g of all rows, one panel of pairs at a time."""
    z, blocks, g = panels.z, pairs["blocks"], near["g_ptr"]
    rows, width = z.hi.shape[-2:]
    total = z.half.new_zeros(blocks, rows)
    sums = z.half.new_zeros(blocks, rows, width) if g is not None else None
    for index in range(triton.cdiv(pairs["m"], PANEL)):
        for top in range(0, rows, panels.rows):
            if pairs["SYMMETRIC"] and top >= (index + 1) * PANEL:
                continue
            s = panels.products(top, index)
            hi = lo = None
            if sums is not None:
                hi = torch.empty_like(s, dtype=torch.float16)
                lo = torch.empty_like(hi) if panels.passes == 3 else None
            down = total.new_zeros(blocks, rows)
            panel_kernel[(s.shape[1] // pairs["BLOCK_N"] * blocks,)](
                s_ptr=s, hi_ptr=hi, lo_ptr=lo, total_ptr=total, down_ptr=down,
                s_rows=s.shape[1], top=top, width=PANEL, base=index, **pairs, **far,
            )  # fmt: skip
            if sums is not None:
                part = slice(top, top + s.shape[1])
                sums[:, part] += panels.pulled(index, hi, lo) * down[:, part, None]
        if panels.passes == 3:
            near_kernel[(rows // pairs["BLOCK_N"] * blocks,)](base=index, **pairs, **near)
    if sums is not None:
        n = g.shape[-2]
        points = z.hi.float() if z.lo is None else z.hi.float() + z.lo.float()
        far_sum = (total[..., None] * points - sums)[:, :n] * units[..., 2].view(-1, 1, 1)
        if pairs["v_ptr"] is not None and pairs["P"] == 1:
            far_sum = far_sum * pairs["v_ptr"].view(blocks, rows)[:, :n, None]
        g += far_sum.view(g.shape)
