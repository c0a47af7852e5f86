"""The torch operator dmmd::kernel_matrix, K[i, j] = K(z_i, x_j; θ), and its derivatives.

They are matrices too, so plain torch on the n × m squared distances does. Σ c (z - x) is taken as
two products, in float64: there they cancel without losing what float32 has.
"""

import torch
from torch import Tensor

from dmmd_kernels.autograd.register import Operator
from dmmd_kernels.backends.profiles import profile
from dmmd_kernels.kernels import Mixture


def _in_double(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Both clouds in float64, shifted by the mean of x, which differences do not feel."""
    z, x = z.double(), x.double()
    if x.shape[-2] == 0:
        return z, x
    centre = x.detach().mean(-2, keepdim=True).nan_to_num(0.0, 0.0, 0.0)
    return z - centre, x - centre


def _matrix_components(tensors, how):
    """(ψ, λ, s, a, q) per component, with λ, s, a ready to meet the (n, m) matrix q."""
    z, x, params = tensors
    z, x = z.to(params.dtype), x.to(params.dtype)
    unit = params.new_tensor([[1.0, 1.0, 0.0]])
    q = kernel_matrix(z, x, unit, "square_distance", *how[1:])
    for index, name in enumerate(Mixture(how[0], params).names):
        yield profile(name), *params[..., index, :, None, None].unbind(-3), q


def _matrix_slope(tensors, how):
    """dK/dq"""
    return sum(
        lam * (s * psi.psi_t(s * q, a)) for psi, lam, s, a, q in _matrix_components(tensors, how)
    )


def _matrix_by_parameter(tensors, how):
    """(∂K/∂λ, ∂K/∂s, ∂K/∂a) per component."""
    return [
        (psi.psi(s * q, a), lam * q * psi.psi_t(s * q, a), lam * psi.psi_a(s * q, a))
        for psi, lam, s, a, q in _matrix_components(tensors, how)
    ]


def _matrix_backward(tensors, how, needs, upstream):
    z, x, _params = tensors
    dz = dx = dparams = None
    if needs[0] or needs[1]:
        pull = (2 * upstream * _matrix_slope(tensors, how)).double()
        zc, xc = _in_double(z, x)
        dz = (pull.sum(-1)[..., None] * zc - pull @ xc).to(z.dtype)
        dx = (pull.sum(-2)[..., None] * xc - pull.mT @ zc).to(x.dtype)
    if needs[2]:
        rows = [
            torch.stack([(upstream * value).sum((-2, -1)) for value in values], -1)
            for values in _matrix_by_parameter(tensors, how)
        ]
        dparams = torch.stack(rows, -2)
    return dz, dx, dparams


def _matrix_jvp(tensors, how, z_dot, x_dot, params_dot):
    z, x, _params = tensors
    along = []
    if z_dot is not None or x_dot is not None:
        a = torch.zeros_like(z) if z_dot is None else z_dot
        b = torch.zeros_like(x) if x_dot is None else x_dot
        (zc, xc), a, b = _in_double(z, x), a.double(), b.double()
        q_dot = (zc * a).sum(-1)[..., None] + (xc * b).sum(-1)[..., None, :]
        q_dot = q_dot - zc @ b.mT - a @ xc.mT
        along.append((2 * _matrix_slope(tensors, how) * q_dot).to(z.dtype))
    if params_dot is not None:
        for index, values in enumerate(_matrix_by_parameter(tensors, how)):
            rows = params_dot[..., index, :, None, None].unbind(-3)
            along.append(sum(row * value for row, value in zip(rows, values, strict=True)))
    return sum(along[1:], along[0])


kernel_matrix = Operator(
    "kernel_matrix",
    ["z", "x", "params"],
    shapes=lambda z, x, _: [(z.shape[-2], x.shape[-2])],
    backward=_matrix_backward,
    jvp=_matrix_jvp,
    has_diagonal=False,
)
