"""The potential of a weighted point cloud, its gradient, and the kernel matrix.

    f(z) = Σⱼ wⱼ k(z, xⱼ)        potential
    g(z) = Σⱼ wⱼ ∇_z k(z, xⱼ)    potential_grad

Radial and polynomial terms of a kernel are sweeps over the pairs, on a backend. Linear terms have
closed forms in O((n + m) d): f(z) = ⟨z, Σⱼ wⱼ xⱼ⟩. No op stores an n × m matrix but kernel_matrix.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel, Lowered, Mixture
from dmmd_kernels.ops import operators
from dmmd_kernels.ops.checks import (
    check_points,
    check_weights,
    common_batch,
    fits,
    one_batch,
)

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
        (…, n, m), differentiable in x, y and the kernel's parameters.

    Raises:
        TypeError, ValueError: x and y do not fit together.
        BackendError: the named backend cannot run the call.
    """
    check_points("kernel_matrix", x=x, y=y)
    how = (False, precision, backend)
    lowered = kernel.lower(x)
    parts = []
    for mixture in lowered.mixtures:
        if mixture.is_radial:
            parts.append(_sweep("kernel_matrix", operators.kernel_matrix, (x, y), mixture, how))
        else:
            parts.append(_polynomial_matrix(x, y, mixture))
    if lowered.linear is not None:
        parts.append(lowered.linear[..., None, None].to(x.dtype) * (x @ y.mT))
    return _total(parts)


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
    if not fits(z, x, w):
        check_points("potential", z=z, x=x)
        check_weights("potential", "w", w, "x", x, columns=True)
    one_column = w.ndim < x.ndim
    columns = w.unsqueeze(-1) if one_column else w
    lowered = kernel.lower(z)
    how = (False, precision, backend)
    parts = [
        _sweep("potential", operators.potential, (z, x, columns), mixture, how)
        for mixture in lowered.mixtures
    ]
    if lowered.linear is not None:
        parts.append(z @ _linear_moment(x, columns, lowered))
    f = _total(parts)
    return f.squeeze(-1) if one_column else f


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
        (…, n, d). Differentiable once more, in z, x, w and the kernel's parameters.

    Raises:
        TypeError, ValueError, BackendError: as in `potential`.
    """
    if not fits(z, x, w):
        check_points("potential_grad", z=z, x=x)
        check_weights("potential_grad", "w", w, "x", x, columns=False)
    w = w.unsqueeze(-1)
    lowered = kernel.lower(z)
    how = (False, precision, backend)
    parts = [
        _sweep("potential_grad", operators.potential_grad, (z, x, None, w), mixture, how)
        for mixture in lowered.mixtures
    ]
    if lowered.linear is not None:
        parts.append(_linear_gradient(z, x, w, lowered))
    return _total(parts)


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
        f, (…, n), and g, (…, n, d). Differentiable once more.
    """
    if not fits(z, x, w):
        check_points("potential_and_grad", z=z, x=x)
        check_weights("potential_and_grad", "w", w, "x", x, columns=False)
    w = w.unsqueeze(-1)
    lowered = kernel.lower(z)
    how = (False, precision, backend)
    both = [
        _sweep("potential_and_grad", operators.potential_and_grad, (z, x, w), mixture, how)
        for mixture in lowered.mixtures
    ]
    if lowered.linear is not None:
        both.append((z @ _linear_moment(x, w, lowered), _linear_gradient(z, x, w, lowered)))
    f, g = (_total(list(parts)) for parts in zip(*both, strict=True))
    return f.squeeze(-1), g


def _sweep(op: str, operator: Callable, tensors: tuple, mixture: Mixture, how: How):
    """Runs an operator on blocks (…, rows, columns), folding the batch dimensions into one."""
    params = mixture.params
    most = params.ndim
    for t in tensors:
        if t is not None and t.ndim > most:
            most = t.ndim
    if most == 2:
        return operator(*tensors, params, mixture.profiles, *how)
    names = ("z", "x", "v", "w") if len(tensors) == 4 else ("z", "x", "w")
    named = {name: t for name, t in zip(names, tensors, strict=False) if t is not None}
    batch = common_batch(op, **named, parameters=params)
    folded = [None if t is None else one_batch(t, batch) for t in tensors]
    result = operator(*folded, one_batch(params, batch), mixture.profiles, *how)
    if isinstance(result, tuple):
        return tuple(_unfold(r, batch) for r in result)
    return _unfold(result, batch)


def _unfold(result: Tensor, batch: torch.Size) -> Tensor:
    blocks = result.shape if result.ndim == 2 else result.shape[1:]
    return result.reshape(*batch, *blocks)


def _linear_moment(x: Tensor, columns: Tensor, lowered: Lowered) -> Tensor:
    """λ Σⱼ xⱼ wⱼ, (…, d, p)"""
    assert lowered.linear is not None
    return lowered.linear[..., None, None].to(x.dtype) * (x.mT @ columns)


def _linear_gradient(z: Tensor, x: Tensor, w: Tensor, lowered: Lowered) -> Tensor:
    moment = _linear_moment(x, w, lowered).mT  # the same at every z, (…, 1, d)
    batch = torch.broadcast_shapes(z.shape[:-2], moment.shape[:-2])
    return moment.expand(*batch, *z.shape[-2:])


def _polynomial_matrix(x: Tensor, y: Tensor, mixture: Mixture) -> Tensor:
    products = x @ y.mT
    total = []
    for index, name in enumerate(mixture.names):
        weight, gamma, coef = mixture.params[..., index, :, None, None].unbind(-3)
        total.append(weight * (gamma * products + coef) ** int(name.removeprefix("polynomial")))
    return _total(total).to(x.dtype)


def _total(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0])
