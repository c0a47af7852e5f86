"""The potential of a weighted point cloud, its gradient, and the kernel matrix.

    f(z) = Σⱼ wⱼ k(z, xⱼ)        potential
    g(z) = Σⱼ wⱼ ∇_z k(z, xⱼ)    potential_grad

Radial and polynomial terms of a kernel are sweeps over the pairs, on a backend. Linear terms have
closed forms in O((n + m) d): f(z) = ⟨z, Σⱼ wⱼ xⱼ⟩. No op stores an n × m matrix but kernel_matrix.
"""

import torch
from torch import Tensor

from dmmd_kernels.autograd import bilinear, matrix
from dmmd_kernels.autograd.register import Operator
from dmmd_kernels.autograd.routes import recordable
from dmmd_kernels.kernels import Kernel, Lowered, Mixture, check_kernel
from dmmd_kernels.ops.checks import check_cloud, check_points, common_batch, one_batch
from dmmd_kernels.ops.dtypes import recast
from dmmd_kernels.ops.products import product
from dmmd_kernels.ops.shortcuts import likeness, prepare_sweep

How = tuple[bool, str, str]


def kernel_matrix(
    x: Tensor, y: Tensor, kernel: Kernel, *, backend: str = "auto", precision: str = "highest"
) -> Tensor:
    """K[i, j] = k(x_i, y_j).

    Args:
        x: (…, n, d).
        y: (…, m, d).
        kernel: see dmmd_kernels.kernels.
        backend: "auto", "triton", "native" or "reference".
        precision: "highest", or "high" for faster passes where the backend has them.

    Returns:
        (…, n, m), twice differentiable in x, y and the kernel's parameters.

    Raises:
        TypeError, ValueError: x and y do not fit together.
        BackendError: the named backend cannot run the call.
    """
    if not isinstance(kernel, Kernel):
        check_kernel("kernel_matrix", kernel)
    like = likeness(("kernel_matrix", backend, precision), x, y)
    if (known := kernel.prepared.get(like)) is not None:
        return known(x, y)
    check_points("kernel_matrix", x=x, y=y)
    options = {"backend": backend, "precision": precision}
    if (result := recast(kernel_matrix, kernel, x, y, **options)) is not None:
        return result
    how = (False, precision, backend)
    lowered = kernel.lower(x)
    if all(mixture.is_radial for mixture in lowered.mixtures):
        prepare_sweep(like, matrix.kernel_matrix, kernel, x, y, (), how)
    parts = []
    x, y = recordable(x, y)
    for mixture in lowered.mixtures:
        if mixture.is_radial:
            parts.append(sweep("kernel_matrix", matrix.kernel_matrix, (x, y), mixture, how))
        else:
            parts.append(_polynomial_matrix(x, y, mixture))
    if lowered.linear is not None:
        parts.append(lowered.linear[..., None, None] * product(x, y.mT))
    return added(parts)


def potential(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """f(z_i) = Σⱼ wⱼ k(z_i, xⱼ), the potential of the cloud (x, w) at the points z.

    Args:
        z: query points, (…, n, d).
        x: cloud points, (…, m, d).
        w: weights, (…, m), or (…, m, p) for p right-hand sides at once. They may be negative and
            need not sum to one.
        kernel: see dmmd_kernels.kernels. Its tensor parameters may have the batch shape.
        backend: "auto", "triton", "native" or "reference".
        precision: "highest", or "high" for faster passes where the backend has them.

    Returns:
        (…, n), or (…, n, p). Twice differentiable in z, x, w and the kernel's parameters.

    Raises:
        TypeError, ValueError: z, x and w do not fit together.
        BackendError: the named backend cannot run the call.
    """
    if not isinstance(kernel, Kernel):
        check_kernel("potential", kernel)
    like = likeness(("potential", backend, precision), z, x, w)
    if (known := kernel.prepared.get(like)) is not None:
        return known(z, x, w)
    check_cloud("potential", z, x, w, columns=True)
    options = {"backend": backend, "precision": precision}
    if (result := recast(potential, kernel, z, x, w, **options)) is not None:
        return result
    how = (False, precision, backend)
    prepare_sweep(like, bilinear.potential, kernel, z, x, (), how)
    return potential_of_cloud("potential", z, x, w, kernel, how)


def potential_grad(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """g(z_i) = Σⱼ wⱼ ∇_z k(z_i, xⱼ), the gradient in z of `potential`.

    laplace and energy have a kink where points coincide; such a pair contributes 0.

    Args:
        z, x, kernel, backend, precision: as in `potential`.
        w: weights, (…, m).

    Returns:
        (…, n, d). Differentiable once, in z, x, w and the kernel's parameters: it is a first
        derivative itself.

    Raises:
        TypeError, ValueError, BackendError: as in `potential`.
    """
    if not isinstance(kernel, Kernel):
        check_kernel("potential_grad", kernel)
    like = likeness(("potential_grad", backend, precision), z, x, w)
    if (known := kernel.prepared.get(like)) is not None:
        return known(z, x, None, w)
    check_cloud("potential_grad", z, x, w, columns=False)
    options = {"backend": backend, "precision": precision}
    if (result := recast(potential_grad, kernel, z, x, w, **options)) is not None:
        return result
    how = (False, precision, backend)
    prepare_sweep(like, bilinear.potential_grad, kernel, z, x, (), how)
    return gradient_of_cloud("potential_grad", z, x, w, kernel, how)


def potential_and_grad(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> tuple[Tensor, Tensor]:
    """(potential, potential_grad) in one sweep over the pairs.

    Args, Raises: as in `potential_grad`.

    Returns:
        f, (…, n), twice differentiable as `potential`, and g, (…, n, d), once as `potential_grad`.
    """
    if not isinstance(kernel, Kernel):
        check_kernel("potential_and_grad", kernel)
    like = likeness(("potential_and_grad", backend, precision), z, x, w)
    if (known := kernel.prepared.get(like)) is not None:
        return known(z, x, w)
    check_cloud("potential_and_grad", z, x, w, columns=False)
    options = {"backend": backend, "precision": precision}
    if (result := recast(potential_and_grad, kernel, z, x, w, **options)) is not None:
        return result
    lowered = kernel.lower(z)
    how = (False, precision, backend)
    prepare_sweep(like, bilinear.potential_and_grad, kernel, z, x, (), how)
    both = [
        sweep("potential_and_grad", bilinear.potential_and_grad, (z, x, w), mixture, how)
        for mixture in lowered.mixtures
    ]
    if lowered.linear is not None:
        both.append((_linear_potential(z, x, w, lowered), _linear_gradient(z, x, w, lowered)))
    f, g = (added(list(parts)) for parts in zip(*both, strict=True))
    return f, g


def potential_of_cloud(op: str, z: Tensor, x: Tensor, w: Tensor, kernel: Kernel, how: How):
    """`potential` of inputs that have passed the checks; errors bear the name `op`."""
    lowered = kernel.lower(z)
    parts = [sweep(op, bilinear.potential, (z, x, w), mixture, how) for mixture in lowered.mixtures]
    if lowered.linear is not None:
        parts.append(_linear_potential(z, x, w, lowered))
    return added(parts)


def gradient_of_cloud(op: str, z: Tensor, x: Tensor, w: Tensor, kernel: Kernel, how: How):
    """`potential_grad` of inputs that have passed the checks."""
    lowered = kernel.lower(z)
    parts = [
        sweep(op, bilinear.potential_grad, (z, x, None, w), mixture, how)
        for mixture in lowered.mixtures
    ]
    if lowered.linear is not None:
        parts.append(_linear_gradient(z, x, w, lowered))
    return added(parts)


def sweep(op: str, operator: Operator, tensors: tuple, mixture: Mixture, how: How):
    """Runs an operator on its tensors and the mixture; the last weights may be (…, m)."""
    return run(op, operator, (*tensors, mixture.params), (mixture.profiles, *how))


def run(op: str, operator: Operator, tensors: tuple, how: tuple):
    """Runs an operator on all its tensors; the last weights may be (…, m)."""
    for t in tensors:
        if t is not None and t.ndim > 2:
            return _run_blocks(op, operator, tensors, how)
    return operator(*tensors, *how)


def _run_blocks(op: str, operator: Operator, tensors: tuple, how: tuple):
    """The same for tensors (…, rows, columns), folding the batch dimensions into one."""
    named = dict(zip(operator.tensors, tensors, strict=True))
    x, w = named.get("x"), named.get("w")
    is_vector = False
    if x is not None and w is not None and w.ndim < x.ndim:
        named["w"], is_vector = w.unsqueeze(-1), True
    batch = common_batch(op, **{name: t for name, t in named.items() if t is not None})
    folded = [None if t is None else one_batch(t, batch) for t in named.values()]
    result = operator(*folded, *how)
    results = [_unfold(r, batch) for r in (result if isinstance(result, tuple) else (result,))]
    if is_vector and operator.has_sums:
        results[0] = results[0].squeeze(-1)
    return results[0] if len(results) == 1 else tuple(results)


def _unfold(result: Tensor, batch: torch.Size) -> Tensor:
    blocks = result.shape if result.ndim == 2 else result.shape[1:]
    return result.reshape(*batch, *blocks)


def _linear_moment(x: Tensor, w: Tensor, lowered: Lowered) -> Tensor:
    """λ Σⱼ xⱼ wⱼ, (…, d, p), with p = 1 for weights (…, m)"""
    assert lowered.linear is not None
    x, w = recordable(x, w)
    columns = w.unsqueeze(-1) if w.ndim < x.ndim else w
    return lowered.linear[..., None, None] * product(x.mT, columns)


def _linear_potential(z: Tensor, x: Tensor, w: Tensor, lowered: Lowered) -> Tensor:
    (z,) = recordable(z)
    f = product(z, _linear_moment(x, w, lowered))
    return f.squeeze(-1) if w.ndim < x.ndim else f


def _linear_gradient(z: Tensor, x: Tensor, w: Tensor, lowered: Lowered) -> Tensor:
    moment = _linear_moment(x, w, lowered).mT  # the same at every z, (…, 1, d)
    batch = torch.broadcast_shapes(z.shape[:-2], moment.shape[:-2])
    return moment.expand(*batch, *z.shape[-2:])


def _polynomial_matrix(x: Tensor, y: Tensor, mixture: Mixture) -> Tensor:
    products = product(x, y.mT)
    total = []
    for index, name in enumerate(mixture.names):
        weight, gamma, coef = mixture.params[..., index, :, None, None].unbind(-3)
        total.append(weight * (gamma * products + coef) ** int(name.removeprefix("polynomial")))
    return added(total)


def added(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])


def kernel_diagonal(u: Tensor, kernel: Kernel, backend: str) -> Tensor:
    """k(u_i, u_i), (…, N)."""
    points = u.unsqueeze(-2)
    return kernel_matrix(points, points, kernel, backend=backend)[..., 0, 0]
