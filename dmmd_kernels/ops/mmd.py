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

from dmmd_kernels.autograd import bilinear, forms, row_sums
from dmmd_kernels.backends.clouds import joined
from dmmd_kernels.kernels import Kernel, Mixture, check_kernel
from dmmd_kernels.ops.checks import check_points, check_weights, common_batch
from dmmd_kernels.ops.dtypes import common_dtype, working
from dmmd_kernels.ops.pairwise import How, added, gradient_of_cloud, potential_of_cloud, run
from dmmd_kernels.ops.products import product
from dmmd_kernels.ops.shortcuts import PreparedForm, is_small, likeness, prepare_sweep
from dmmd_kernels.parameters import PLAIN, is_jit_tracing, is_tracing

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
    if not isinstance(kernel, Kernel):
        check_kernel("mmd2", kernel)
    uniform = weights_x is None and weights_y is None
    like = likeness(("mmd2", estimator, backend, precision), x, y) if uniform else None
    if (form := kernel.prepared.get(like)) is not None:
        return form(x, y)
    check_points("mmd2", x=x, y=y)
    _check_estimator(estimator, x, y)
    _check_both_weights(x, y, weights_x, weights_y)
    dtype = common_dtype(x, y, weights_x, weights_y)
    work = working(dtype)
    is_cast = not x.dtype == y.dtype == work
    if like and not is_cast and (form := _prepared(x, y, kernel, estimator, precision, backend)):
        kernel.keep(like, form)
        return form(x, y)
    x, y = _rounded(x, work), _rounded(y, work)
    lowered = kernel.lower(x)
    how = (estimator == "unbiased", precision, backend)
    weights = None if uniform else _weights(x, y, weights_x, weights_y)
    parts = []
    if lowered.mixtures:
        common_batch("mmd2", x=x, y=y)
        points = _joint_points(x, y, weights, estimator)
        parts += [_quadratic_form(*points, mixture, how) for mixture in lowered.mixtures]
    if lowered.linear is not None:
        form = _weighted_linear_mmd2(x, y, *weights, how) if weights else _linear_mmd2(x, y, how)
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
        (…, n), twice differentiable. The flow of x towards y descends it.

    Raises:
        TypeError, ValueError, BackendError: as in `potential`; ValueError for an empty sample.
    """
    return _witness("witness", bilinear.potential, z, x, y, kernel, (False, precision, backend))


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
        (…, n, d). ∂MMD²_biased(x, y)/∂xᵢ = (2/N) ∇f(xᵢ). Differentiable once, in z, x, y and the
        kernel's parameters: it is a first derivative itself.
    """
    how = (False, precision, backend)
    return _witness("witness_grad", bilinear.potential_grad, z, x, y, kernel, how)


def _witness(op, operator, z, x, y, kernel, how):
    if not isinstance(kernel, Kernel):
        check_kernel(op, kernel)
    like = likeness((op, how[2], how[1]), z, x, y)
    if (known := kernel.prepared.get(like)) is not None:
        return known(z, torch.cat((x, y)))
    check_points(op, z=z, x=x, y=y)
    if x.shape[-2] == 0 or y.shape[-2] == 0:
        sample = "x" if x.shape[-2] == 0 else "y"
        raise ValueError(f"{op}: {sample} must hold at least one point, got an empty sample")
    dtype = common_dtype(z, x, y)
    work = working(dtype)
    if not z.dtype == x.dtype == y.dtype == work:
        z, x, y, like = _rounded(z, work), _rounded(x, work), _rounded(y, work), None
    common_batch(op, x=x, y=y)
    w = _for_sizes(_witness_weights, x, y)
    u = joined(x, y)
    if operator is bilinear.potential:
        prepare_sweep(like, operator, kernel, z, u, (w,), how)
        return _rounded(potential_of_cloud(op, z, u, w, kernel, how), dtype)
    prepare_sweep(like, operator, kernel, z, u, (None, w), how)
    return _rounded(gradient_of_cloud(op, z, u, w, kernel, how), dtype)


def _prepared(x, y, kernel, estimator, precision, backend) -> PreparedForm | None:
    """What serves later samples like x and y too; None if each must find its own way."""
    same_blocks = x.ndim == y.ndim <= 3 and x.shape[:-2] == y.shape[:-2]
    if not (same_blocks and is_small(kernel, x, y)):
        return None
    v, w = _for_sizes(_quadratic_coefficients, x, y, estimator)
    how = (estimator == "unbiased", precision, backend)
    with torch.inference_mode(False):  # it will also meet calls that differentiate
        return PreparedForm.of(torch.cat([x, y], -2), v, w, kernel.lower(x), how)


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


def _joint_points(x, y, weights, estimator) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """(u, held, v, w): the points of the form, those after them that want no gradient, and c_ij.

    MMD² is symmetric, so of two samples the one that moves comes first.
    """
    held = None
    if x.requires_grad != y.requires_grad and _in_one_sweep():
        if y.requires_grad:
            x, y, weights = y, x, weights and weights[::-1]
        held = y
    v, w = _signed_coefficients(x, y, weights, estimator)
    return joined(x, y) if held is None else x, held, v, w


def _quadratic_form(
    u: Tensor, held: Tensor | None, v: Tensor, w: Tensor, mixture: Mixture, how: How
) -> Tensor:
    """Σ c_ij K(u_i, u_j); where gradients will be asked for, they come from the same sweep."""
    tensors, statics = (u, v, w, mixture.params), (mixture.profiles, *how)
    if not ((mixture.params.requires_grad or u.requires_grad) and _in_one_sweep()):
        return run("mmd2", forms.quadratic_form, tensors, statics)
    operator = forms.quadratic_form_and_grad
    if mixture.params.requires_grad:
        operator = forms.quadratic_form_and_grads
    return run("mmd2", operator, (*tensors, held), statics)[0]


def _in_one_sweep() -> bool:
    """Whether the gradient may come with the value: in forward mode it would be followed too, which
    takes a derivative more, and a trace is run again where other tensors require grad."""
    if torch.compiler.is_compiling():
        return torch.is_grad_enabled()
    is_followed = torch._C._is_tracing() or forward_ad._current_level >= 0
    return torch.is_grad_enabled() and not is_followed


def _uniform(x: Tensor) -> Tensor:
    n = x.shape[-2]
    if is_jit_tracing():  # a tensor then, whose reciprocal would be of single precision
        return x.new_ones((n,)) / n
    return x.new_full((n,), 1 / n)


def _signed_coefficients(x, y, weights, estimator) -> tuple[Tensor, Tensor]:
    """v, w (…, n + m, p) with c_ij = ⟨v_i, w_j⟩ the coefficients of the quadratic form."""
    if weights is None:
        return _for_sizes(_quadratic_coefficients, x, y, estimator)
    a, b = weights
    batch = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    a, b = a.expand(*batch, a.shape[-1]), b.expand(*batch, b.shape[-1])
    return _quadratic_coefficients(a, b, estimator)


def _check_both_weights(x, y, weights_x, weights_y) -> None:
    if weights_x is not None:
        check_weights("mmd2", "weights_x", weights_x, "x", x, columns=False)
    if weights_y is not None:
        check_weights("mmd2", "weights_y", weights_y, "y", y, columns=False)


def _weights(x, y, weights_x, weights_y) -> tuple[Tensor, Tensor]:
    a = _uniform(x) if weights_x is None else weights_x.to(x.dtype)
    return a, _uniform(y) if weights_y is None else weights_y.to(y.dtype)


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
    """(Σa)² / ((Σa)² - Σa²): n/(n - 1) for uniform weights.

    Raises:
        ValueError: it is infinite, as for one weight that is not zero; seen on the CPU alone, since
            to look would stall a GPU.
    """
    mass = a.sum(-1, keepdim=True).square()
    pairs = mass - a.square().sum(-1, keepdim=True)
    if type(a) in PLAIN and a.is_cpu and not is_tracing() and not pairs.detach().all():
        raise ValueError(
            "mmd2: weights must have pairs i ≠ j in x and in y for estimator='unbiased', so two "
            "that are not zero in each; estimator='biased' takes one"
        )
    return mass / pairs


def _linear_mmd2(x: Tensor, y: Tensor, how: How) -> Tensor:
    """The quadratic form for weights 1/n: |x̄ - ȳ|², or unbiased

        (n|x̄|² - Σ|xᵢ|²/n)/(n - 1) + (m|ȳ|² - Σ|yⱼ|²/m)/(m - 1) - 2⟨x̄, ȳ⟩.

    It does not feel the origin, so it is taken at the mean o of a sixteenth of y, where sums keep
    their digits: m|ȳ - o|² ≤ 16 Σ|yⱼ - ȳ|² for any such o.
    """
    origin = _origin(y)
    sum_x, squares_x = _sums(x, None, origin, how)
    sum_y, squares_y = _sums(y, None, origin, how)
    if not how[0]:
        return (sum_x / x.shape[-2] - sum_y / y.shape[-2]).square().sum((-2, -1))
    shares, of_means, of_squares = _for_sizes(_linear_coefficients, x, y)
    means, squares = shares * _joined(sum_x, sum_y), shares * _joined(squares_x, squares_y)
    return (of_means * product(means, means.mT)).sum((-2, -1)) - (of_squares * squares).sum(
        (-2, -1)
    )


def _joined(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat((a, b) if a.shape == b.shape else torch.broadcast_tensors(a, b), -2)


def _linear_coefficients(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """1/n and 1/m, (2, 1); (2, 2) of the products of the two means, (2, 1) of the mean squares."""
    n, m = (t.new_full((1,), t.shape[-1]) for t in (a, b))  # sizes stay alive in a recorded graph
    across = -torch.ones_like(n)
    of_means = torch.stack([torch.cat([n / (n - 1), across]), torch.cat([across, m / (m - 1)])])
    of_squares = torch.stack([1 / (n - 1), 1 / (m - 1)])
    return torch.stack([a[:1], b[:1]]), of_means, of_squares


def _weighted_linear_mmd2(x: Tensor, y: Tensor, a: Tensor, b: Tensor, how: How) -> Tensor:
    """The quadratic form for weights a and b.

    With A = Σ aᵢ(xᵢ - o), α = Σ aᵢ and B, β alike: |A - B + (α - β)o|² when biased. Unbiased,
    what is left of o is a term linear in it, and (α - β)²|o|²: points cancel before they meet it.
    """
    origin = _origin(y)
    o, alpha, beta = origin.double(), _mass(a), _mass(b)
    sum_a, sum_b = (_sums(*at, origin, how)[0].double() for at in ((x, a), (y, b)))
    if not how[0]:
        return (sum_a - sum_b + (alpha - beta) * o).square().sum((-2, -1)).to(x.dtype)
    within_a, line_a = _weighted_within(x, a, origin, sum_a, how)
    within_b, line_b = _weighted_within(y, b, origin, sum_b, how)
    line = line_a - beta * sum_a + line_b - alpha * sum_b
    total = within_a + within_b + (alpha - beta).square() * o.square()
    return (total + 2 * (o * line - sum_a * sum_b)).sum((-2, -1)).to(x.dtype)


def _weighted_within(x, a, origin, total, how) -> tuple[Tensor, Tensor]:
    """κ(|A|² - Σaᵢ²|xᵢ - o|²) spread over coordinates, and κ(αA - Σaᵢ²(xᵢ - o)): (…, 1, d)."""
    sums, squares = (t.double() for t in _sums(x, a.square(), origin, how))
    scale = _off_diagonal_scale(a.double())[..., None]
    d = x.shape[-1]
    return scale * (total.square() - squares / d), scale * (_mass(a) * total - sums)


def _origin(y: Tensor) -> Tensor:
    return y.detach()[..., ::16, :].mean(-2, keepdim=True)


def _mass(a: Tensor) -> Tensor:
    return a.double().sum(-1)[..., None, None]


def _sums(x: Tensor, w: Tensor | None, origin: Tensor, how: How) -> tuple[Tensor, Tensor]:
    """Σ wᵢ(xᵢ - o), (…, 1, d), and Σ wᵢ|xᵢ - o|², (…, 1, 1)."""
    _, precision, backend = how
    if backend == "auto" and not x.is_cpu:
        backend = "reference"  # torch's reductions, of any dtype: memory binds them
    return run("mmd2", row_sums.row_sums, (x, w, origin), (*row_sums.HOW, precision, backend))
