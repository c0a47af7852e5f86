"""Maximum mean discrepancy between two samples, and its witness function.

On the joint cloud u = [x; y], MMD² is a quadratic form Σ c_ij k(u_i, u_j) with symmetric signed
coefficients, so value and gradients are one sweep each. For samples with weights a and b,

    biased     Σ aᵢaⱼ k(xᵢ, xⱼ) + Σ bᵢbⱼ k(yᵢ, yⱼ) - 2 Σ aᵢbⱼ k(xᵢ, yⱼ)
    unbiased   the same without the pairs i = j inside x and inside y, each block scaled back to its
               mass: 1/(n(n - 1)) for weights 1/n

Source: Gretton et al., "A kernel two-sample test", JMLR 2012, equations 3 and 5.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.linalg import vecdot

from dmmd_kernels.kernels import PLAIN, Kernel, Mixture, is_tracing
from dmmd_kernels.ops import operators
from dmmd_kernels.ops.checks import check_points, check_weights, common_batch
from dmmd_kernels.ops.pairwise import How, added, gradient_of_cloud, potential_of_cloud, sweep

_HALF = (torch.float16, torch.bfloat16)
_BLOCK = 2**20  # numbers of a cloud in one temporary: larger ones are paged in anew each time
_kept: dict[tuple, Any] = {}


def mmd2(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    estimator: str = "unbiased",
    weights_x: Tensor | None = None,
    weights_y: Tensor | None = None,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """MMD², the squared maximum mean discrepancy between the samples x and y.

    Never rooted, never halved. The unbiased estimate may be negative; the pairs i = i inside a
    sample are left out exactly. The biased one is at least 0 up to rounding.

    Args:
        x: (…, n, d).
        y: (…, m, d).
        kernel: see dmmd_kernels.kernels.
        estimator: "unbiased" (U-statistic within, all pairs across) or "biased" (V-statistic).
        weights_x: (…, n), used as they are; 1/n each when None.
        weights_y: (…, m); 1/m each when None.
        backend, precision: as in `potential`.

    Returns:
        (…,), twice differentiable in x, y, the weights and the kernel's parameters.

    Raises:
        TypeError, ValueError: the inputs do not fit together, or a sample is too small: unbiased
            needs two points in each, biased one.
        BackendError: the named backend cannot run the call.
    """
    check_points("mmd2", x=x, y=y)
    _check_estimator(estimator, x, y)
    dtype = x.dtype
    if dtype in _HALF:  # 1/n does not fit in half precision, nor does a difference of means
        x, y = x.float(), y.float()
        weights_x = None if weights_x is None else weights_x.float()
        weights_y = None if weights_y is None else weights_y.float()
    lowered = kernel.lower(x)
    uniform = weights_x is None and weights_y is None
    skip = estimator == "unbiased"
    parts = []
    if lowered.mixtures or not uniform:
        v, w = _signed_coefficients(x, y, weights_x, weights_y, estimator)
        batch = common_batch("mmd2", x=x, y=y) if x.ndim > 2 or y.ndim > 2 else ()
        u = torch.cat([_spread(x, batch), _spread(y, batch)], -2)
    for mixture in lowered.mixtures:
        how = (skip, precision, backend)
        parts.append(_quadratic_form(u, v, w, mixture, how))
    if lowered.linear is not None:
        form = _linear_mmd2(x, y, skip) if uniform else _linear_form(u, v, w, skip)
        parts.append(lowered.linear * form)
    return _rounded(added(parts), dtype)


def witness(
    z: Tensor,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """f(z) = mean_i k(xᵢ, z) - mean_j k(yⱼ, z), the witness of x against y (DMMD, eq. 1).

    Args:
        z: query points, (…, n, d).
        x, y: samples, (…, N, d) and (…, M, d).
        kernel, backend, precision: as in `potential`.

    Returns:
        (…, n). The flow of x towards y descends it.

    Raises:
        TypeError, ValueError, BackendError: as in `potential`; ValueError for an empty sample.
    """
    return _witness(potential_of_cloud, "witness", z, x, y, kernel, (False, precision, backend))


def witness_grad(
    z: Tensor,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """∇f(z), the gradient of `witness` in z alone, with both samples held (DMMD, eq. 4).

    Args, Raises: as in `witness`.

    Returns:
        (…, n, d). ∂MMD²_biased(x, y)/∂xᵢ = (2/N) ∇f(xᵢ).
    """
    how = (False, precision, backend)
    return _witness(gradient_of_cloud, "witness_grad", z, x, y, kernel, how)


def _witness(of_cloud, op, z, x, y, kernel, how):
    check_points(op, z=z, x=x, y=y)
    if x.shape[-2] == 0 or y.shape[-2] == 0:
        sample = "x" if x.shape[-2] == 0 else "y"
        raise ValueError(f"{op}: {sample} must hold at least one point, got an empty sample")
    dtype = z.dtype
    if dtype in _HALF:
        z, x, y = z.float(), x.float(), y.float()
    batch = common_batch(op, x=x, y=y) if x.ndim > 2 or y.ndim > 2 else ()
    w = _for_sizes(_witness_weights, x, y)
    u = torch.cat([_spread(x, batch), _spread(y, batch)], -2)
    return _rounded(of_cloud(op, z, u, w, kernel, how), dtype)


def _check_estimator(estimator: str, x: Tensor, y: Tensor) -> None:
    if estimator not in ("unbiased", "biased"):
        raise ValueError(f"mmd2: estimator must be 'unbiased' or 'biased', got {estimator!r}")
    least = 2 if estimator == "unbiased" else 1
    n, m = x.shape[-2], y.shape[-2]
    if n < least or m < least:
        name, count = ("x", n) if n < least else ("y", m)
        raise ValueError(
            f"mmd2: estimator={estimator!r} needs at least {least} points in {name}, got {count}"
        )


def _rounded(t: Tensor, dtype: torch.dtype) -> Tensor:
    return t if t.dtype == dtype else t.to(dtype)


def _quadratic_form(u: Tensor, v: Tensor, w: Tensor, mixture: Mixture, how: How) -> Tensor:
    """Σ c_ij K(u_i, u_j); where gradients will be asked for, they come from the same sweep.

    On a GPU they are sweeps of their own, so the parameters' is left out where it isn't needed.
    """
    tensors = (u, v, w)
    by_params = mixture.params.requires_grad
    if torch.is_grad_enabled() and (by_params or (u.requires_grad and not u.is_cuda)):
        return sweep("mmd2", operators.quadratic_form_and_grads, tensors, mixture, how)[0]
    return sweep("mmd2", operators.quadratic_form, tensors, mixture, how)


def _uniform(x: Tensor) -> Tensor:
    return x.new_full((x.shape[-2],), 1 / x.shape[-2])


def _spread(x: Tensor, batch: tuple) -> Tensor:
    return x.expand(*batch, *x.shape[-2:]) if batch else x


def _signed_coefficients(x, y, weights_x, weights_y, estimator) -> tuple[Tensor, Tensor]:
    """v, w (…, n + m, p) with c_ij = ⟨v_i, w_j⟩ the coefficients of the quadratic form."""
    if weights_x is not None:
        check_weights("mmd2", "weights_x", weights_x, "x", x, columns=False)
    if weights_y is not None:
        check_weights("mmd2", "weights_y", weights_y, "y", y, columns=False)
    if weights_x is None and weights_y is None:
        return _for_sizes(_quadratic_coefficients, x, y, estimator)
    a = _uniform(x) if weights_x is None else weights_x
    b = _uniform(y) if weights_y is None else weights_y
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a, b = a.expand(*batch, a.shape[-1]), b.expand(*batch, b.shape[-1])
    return _quadratic_coefficients(a, b, estimator)


def _for_sizes(build: Callable, x: Tensor, y: Tensor, *rest) -> Any:
    """build(1/n, 1/m, *rest), kept for the next samples of the same sizes, dtype and device."""
    if type(x) not in PLAIN or is_tracing():
        return build(_uniform(x), _uniform(y), *rest)
    key = (build, x.shape[-2], y.shape[-2], x.dtype, x.device, *rest)
    kept = _kept.get(key)
    if kept is None:
        if len(_kept) >= 64:
            _kept.clear()
        with torch.inference_mode(False), torch.no_grad():  # they will meet calls that are neither
            kept = _kept[key] = build(_uniform(x), _uniform(y), *rest)
    return kept


def _witness_weights(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a, -b])


def _quadratic_coefficients(a: Tensor, b: Tensor, estimator: str) -> tuple[Tensor, Tensor]:
    """Biased: c = s sᵀ with s = [a; -b]. Unbiased: blocks κ_a a aᵀ, -a bᵀ, κ_b b bᵀ, rank two."""
    if estimator == "biased":
        s = torch.cat([a, -b], -1)[..., None]
        return s, s
    row_a = torch.stack([_off_diagonal_scale(a) * a, -a], -1)
    row_b = torch.stack([-b, _off_diagonal_scale(b) * b], -1)
    column_a = torch.stack([a, torch.zeros_like(a)], -1)
    column_b = torch.stack([torch.zeros_like(b), b], -1)
    return torch.cat([row_a, row_b], -2), torch.cat([column_a, column_b], -2)


def _off_diagonal_scale(a: Tensor) -> Tensor:
    """(Σa)² / ((Σa)² - Σa²): n/(n - 1) for uniform weights."""
    mass = a.sum(-1, keepdim=True).square()
    return mass / (mass - a.square().sum(-1, keepdim=True))


def _linear_mmd2(x: Tensor, y: Tensor, skip_diagonal: bool) -> Tensor:
    """|x̄ - ȳ|², less Σ|xᵢ - x̄|²/n(n - 1) and the same of y when unbiased.

    That is the quadratic form for weights 1/n. It does not feel the origin, so it is taken at the
    mean o of a sixteenth of y, where sums keep their digits: m|ȳ - o|² ≤ 16 Σ|yⱼ - ȳ|² for any
    such o.
    """
    origin = y.detach()[..., ::16, :].mean(-2, keepdim=True)
    n, m = x.shape[-2], y.shape[-2]
    if not skip_diagonal:
        return ((x - origin).mean(-2) - (y - origin).mean(-2)).square().sum(-1)
    (sum_x, squares_x), (sum_y, squares_y) = _sums(x, origin), _sums(y, origin)
    mean_x, mean_y = sum_x / n, sum_y / m
    difference = mean_x - mean_y
    within_x = (squares_x / n - vecdot(mean_x, mean_x)) / (n - 1)
    within_y = (squares_y / m - vecdot(mean_y, mean_y)) / (m - 1)
    return vecdot(difference, difference) - within_x - within_y


def _sums(x: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Σ(xᵢ - o), (…, d), and Σ|xᵢ - o|², (…,)."""
    if type(x) not in PLAIN or is_tracing() or forward_ad._current_level >= 0:
        return _sums_of_block(x, origin)
    if x.requires_grad and torch.is_grad_enabled():
        return _Sums.apply(x, origin)
    return _sums_by_blocks(x, origin)


def _sums_of_block(x: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    centred = x - origin
    flat = centred.flatten(-2)
    return centred.sum(-2), vecdot(flat, flat)


def _sums_by_blocks(x: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    if x.numel() <= _BLOCK:
        return _sums_of_block(x, origin)
    rows = max(1, _BLOCK * x.shape[-2] // x.numel())
    parts = [_sums_of_block(block, origin) for block in x.split(rows, -2)]
    sums, squares = (added(list(part)) for part in zip(*parts, strict=True))
    return sums, squares


class _Sums(torch.autograd.Function):
    """_sums with a gradient in two passes over x; plain autograd would take eight."""

    @staticmethod
    def forward(ctx, x, origin):
        ctx.save_for_backward(x, origin)
        return _sums_by_blocks(x, origin)

    @staticmethod
    def backward(ctx, along_sums, along_squares):
        x, origin = ctx.saved_tensors
        slope = 2 * along_squares[..., None, None]
        grad = torch.addcmul(along_sums[..., None, :], x - origin, slope)
        return grad.sum_to_size(x.shape), None


def _linear_form(u: Tensor, v: Tensor, w: Tensor, skip_diagonal: bool) -> Tensor:
    """Σ c_ij ⟨u_i, u_j⟩ in O((n + m) d): ⟨Σ v_i u_i, Σ w_j u_j⟩, less Σ c_ii |u_i|²."""
    total = ((v.mT @ u) * (w.mT @ u)).sum((-2, -1))
    if not skip_diagonal:
        return total
    return total - ((v * w).sum(-1) * u.square().sum(-1)).sum(-1)
