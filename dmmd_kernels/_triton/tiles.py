"""What the Triton kernels share: who owns which pairs, how points are read, how q is summed.

A tile has the axes (C, J, R, WARPS, LANES): C coordinates, J columns (points of x) and R rows
(points of z) in the registers of a thread, one more row per lane. Warps divide the columns, or,
with SPLIT, the coordinates, when one point has too many for a thread. Everything about a pair has
the axes (J, R, WARPS, LANES); what does not depend on an axis has length 1 there. Sums over C and J
stay inside a thread, and threads meet once, at the end (with SPLIT, once per tile).

Triton arranges a tile so only if no load suggests otherwise, hence two habits: loads have the full
last two axes, and coordinates run backwards, which keeps them from being taken for a vector.

Padding: coordinates beyond D are read as zero. Columns beyond m repeat the last point *with weight
zero*, so they add nothing and need no other mask. Rows beyond n repeat the last one, unstored.
"""

import triton
import triton.language as tl

LANES = tl.constexpr(32)


@triton.jit
def place(n, R: tl.constexpr):
    """The rows of this program, (1, R, 1, LANES), and its block of the batch."""
    programs = tl.cdiv(n, R * LANES)
    pid = tl.program_id(0)
    rows = (pid % programs) * (R * LANES) + tl.arange(0, R)[:, None] * LANES
    rows += tl.arange(0, LANES)[None, :]
    return rows[None, :, None, :], (pid // programs).to(tl.int64)


@triton.jit
def columns(start, J: tl.constexpr, WARPS: tl.constexpr, SPLIT: tl.constexpr):
    """(J, 1, WARPS, 1), or (J, 1, 1, 1) with SPLIT"""
    if SPLIT:
        return start + tl.arange(0, J)[:, None, None, None]
    else:
        cols = tl.arange(0, J)[:, None] * WARPS + tl.arange(0, WARPS)[None, :]
        return start + cols[:, None, :, None]


@triton.jit
def backwards(start, COUNT: tl.constexpr):
    """start + COUNT - 1, …, start along the first of five axes"""
    return start + (COUNT - 1) - tl.arange(0, COUNT)[:, None, None, None, None]


@triton.jit
def coordinates(part, C: tl.constexpr, WARPS: tl.constexpr, SPLIT: tl.constexpr):
    """Those of one part of all coordinates: (C, 1, 1, 1, 1), or (C, 1, 1, WARPS, 1) with SPLIT"""
    if SPLIT:
        warps = tl.arange(0, WARPS)[None, None, None, :, None]
        return backwards(part * (C * WARPS), C) + warps * C
    else:
        return backwards(part * C, C)


@triton.jit
def load_points(ptr, index, count, coords, D, WARPS: tl.constexpr, MASKED: tl.constexpr):
    """Coordinates of the points `index`; zero if there are no points (None)."""
    if ptr is None:
        return tl.zeros([1, 1, 1, 1, 1], tl.float32)
    else:
        point = tl.minimum(index, count - 1).to(tl.int64)  # int64: n · D may exceed 2³¹
        offsets = point[None, :, :, :, :] * D + coords
        shape: tl.constexpr = [coords.shape[0], index.shape[0], index.shape[1], WARPS, LANES]
        pointers = ptr + tl.broadcast_to(offsets, shape)
        if MASKED:
            inside = tl.broadcast_to(coords < D, shape)
            return tl.load(pointers, mask=inside, other=0.0).to(tl.float32)
        else:
            return tl.load(pointers).to(tl.float32)


@triton.jit
def load_weights(ptr, index, count, k, P):
    """Column k of the weights (count, P) at `index`, zero beyond count."""
    offsets = index.to(tl.int64) * P + k
    return tl.load(ptr + offsets, mask=index < count, other=0.0).to(tl.float32)


@triton.jit
def load_sides(ptr, index, count, sides, P, WARPS: tl.constexpr):
    """Columns `sides` of the weights (count, P) at `index`, zero beyond both."""
    offsets = index.to(tl.int64)[None, :, :, :, :] * P + sides
    inside = (index < count)[None, :, :, :, :] & (sides < P)
    shape: tl.constexpr = [sides.shape[0], index.shape[0], 1, WARPS, LANES]
    pointers = ptr + tl.broadcast_to(offsets, shape)
    return tl.load(pointers, mask=tl.broadcast_to(inside, shape), other=0.0).to(tl.float32)


@triton.jit
def store_sides(ptr, f, rows, n, sides, P, BLOCK_P: tl.constexpr):
    """Writes the columns `sides` (BLOCK_P, R, SUMS, LANES) of the rows of the result (n, P)."""
    sides = tl.reshape(sides, [BLOCK_P, 1, 1, 1])
    total = tl.sum(f, axis=2, keep_dims=True)
    tl.store(ptr + (rows.to(tl.int64) * P + sides), total, mask=(rows < n) & (sides < P))


@triton.jit
def store_points(
    ptr, g, rows, n, part, D,
    C: tl.constexpr, WARPS: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Writes the coordinates (C, R, WARPS, LANES) of the rows, which are this program's alone."""
    coords = tl.reshape(coordinates(part, C, WARPS, SPLIT), [C, 1, WARPS if SPLIT else 1, 1])
    total = g if SPLIT else tl.sum(g, axis=2, keep_dims=True)
    tl.store(ptr + (rows.to(tl.int64) * D + coords), total, mask=(rows < n) & (coords < D))


@triton.jit
def affinity(z, x, RADIAL: tl.constexpr):
    """The part of q = |z - x|², or ⟨z, x⟩, in these coordinates."""
    if RADIAL:
        diff = z - x
        return tl.sum(diff * diff, axis=0)
    else:
        return tl.sum(z * x, axis=0)


@triton.jit
def affinities(
    z_ptr, x_ptr, rows, cols, n, m, D,
    RADIAL: tl.constexpr, MASKED: tl.constexpr, SPLIT: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """q of all pairs of the tile, from all parts of the coordinates in turn."""
    q = tl.zeros([J, R, WARPS, LANES], tl.float32)
    for part in range(0, tl.cdiv(D, C * WARPS if SPLIT else C)):
        coords = coordinates(part, C, WARPS, SPLIT)
        z = load_points(z_ptr, rows, n, coords, D, WARPS, MASKED)
        x = load_points(x_ptr, cols, m, coords, D, WARPS, MASKED)
        q += affinity(z, x, RADIAL)
    return q


@triton.jit
def affinity_dot(z, x, a, b, RADIAL: tl.constexpr):
    """The part of q̇ = 2⟨z - x, a - b⟩, or ⟨a, x⟩ + ⟨z, b⟩, in these coordinates."""
    if RADIAL:
        return 2 * tl.sum((z - x) * (a - b), axis=0)
    else:
        return tl.sum(a * x + z * b, axis=0)


@triton.jit
def affinity_dots(
    z_ptr, x_ptr, a_ptr, b_ptr, rows, cols, n, m, D,
    RADIAL: tl.constexpr, MASKED: tl.constexpr, SPLIT: tl.constexpr,
    C: tl.constexpr, J: tl.constexpr, R: tl.constexpr, WARPS: tl.constexpr,
):  # fmt: skip
    """q and q̇ of all pairs of the tile, from all parts of the coordinates in turn."""
    q = tl.zeros([J, R, WARPS, LANES], tl.float32)
    q_dot = tl.zeros([J, R, WARPS, LANES], tl.float32)
    for part in range(0, tl.cdiv(D, C * WARPS if SPLIT else C)):
        coords = coordinates(part, C, WARPS, SPLIT)
        z = load_points(z_ptr, rows, n, coords, D, WARPS, MASKED)
        x = load_points(x_ptr, cols, m, coords, D, WARPS, MASKED)
        a = load_points(a_ptr, rows, n, coords, D, WARPS, MASKED)
        b = load_points(b_ptr, cols, m, coords, D, WARPS, MASKED)
        q += affinity(z, x, RADIAL)
        q_dot += affinity_dot(z, x, a, b, RADIAL)
    return q, q_dot


@triton.jit
def over_warps(q, SPLIT: tl.constexpr):
    """With SPLIT, the sum of what each warp has from its coordinates."""
    return tl.sum(q, axis=2, keep_dims=True) if SPLIT else q


@triton.jit
def coefficients(v_ptr, w_ptr, rows, cols, n, m, P):
    """c_ij = ⟨v_i, w_j⟩; without v it is w_j."""
    if v_ptr is None:
        return load_weights(w_ptr, cols, m, 0, 1)
    else:
        c = load_weights(v_ptr, rows, n, 0, P) * load_weights(w_ptr, cols, m, 0, P)
        for k in range(1, P):
            c += load_weights(v_ptr, rows, n, k, P) * load_weights(w_ptr, cols, m, k, P)
        return c


@triton.jit
def keep(pairs, rows, cols, SKIP: tl.constexpr):
    """The pairs that count: with SKIP, those off the diagonal."""
    return tl.where(rows == cols, 0.0, pairs) if SKIP else pairs


@triton.jit
def add(total, lost, part):
    """total + part, and what rounding lost of it (Kahan), for sums over very many columns."""
    part = part - lost
    new = total + part
    return new, (new - total) - part
