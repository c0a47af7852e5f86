"""The torch operators dmmd::*, and their derivatives.

All are derivatives of one bilinear form of two clouds z, x with coefficients c_ij = ⟨v_i, w_j⟩:

    E(z, x, v, w; θ) = Σᵢⱼ c_ij K(z_i, x_j; θ)

    potential      = ∂E/∂v        potential_grad = ∂E/∂z        params_grad = ∂E/∂θ
    ∂E/∂x and ∂E/∂w are the same operators with (z, v) and (x, w) exchanged
    tangents       = the derivative of all three along (ż, ẋ, θ̇), tangent_grad of the second alone

so first derivatives need no operator of their own, and second ones need `tangents` alone.
Derivations: docs/derivations.md.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from dmmd_kernels.autograd.register import Operator
from dmmd_kernels.backends.clouds import joined


def _sum(*parts: Tensor | None) -> Tensor | None:
    present = [p for p in parts if p is not None]
    return sum(present[1:], present[0]) if present else None


def _ones(z: Tensor, w: Tensor) -> Tensor:
    """The column that v = None stands for; a vector if w is one."""
    return z.new_ones(z.shape[-2]) if w.ndim == 1 else z.new_ones(z.shape[-2], 1)


# -- potential ------------------------------------------------------------------------------------


def _potential_backward(tensors, how, needs, v):
    z, x, w, params = tensors
    v = v.contiguous()
    return (
        potential_grad(z, x, v, w, params, *how) if needs[0] else None,
        potential_grad(x, z, w, v, params, *how) if needs[1] else None,
        potential(x, z, v, params, *how) if needs[2] else None,
        params_grad(z, x, v, w, params, *how) if needs[3] else None,
    )


def _potential_jvp(tensors, how, z_dot, x_dot, w_dot, params_dot):
    z, x, w, params = tensors
    along_w = None if w_dot is None else potential(z, x, w_dot, params, *how)
    if z_dot is None and x_dot is None and params_dot is None:
        return along_w
    v = z.new_zeros(z.shape[-2], w.shape[-1])  # only f is wanted
    f, _, _ = tangents(z, x, v, w, params, z_dot, x_dot, params_dot, *how)
    return _sum(f, along_w)


# -- potential_grad -------------------------------------------------------------------------------


def _second_order(tensors, how, needs, along_z, along_params):
    """Gradients of ⟨along_z, ∂E/∂z⟩ + ⟨along_params, ∂E/∂θ⟩ in (z, x, v, w, θ)."""
    z, x, v, w, params = tensors
    dz = dx = dv = dw = dparams = None
    if needs[4] or (needs[2] and v is not None):
        dv, dz, dparams = tangents(z, x, v, w, params, along_z, None, along_params, *how)
    elif needs[0]:
        dz = tangent_grad(z, x, v, w, params, along_z, None, along_params, *how)
    columns = _ones(z, w) if v is None else v
    if needs[3]:
        dw, dx, _ = tangents(x, z, w, columns, params, None, along_z, along_params, *how)
    elif needs[1]:
        dx = tangent_grad(x, z, w, columns, params, None, along_z, along_params, *how)
    return dz, dx, None if v is None else dv, dw, dparams


def _potential_grad_backward(tensors, how, needs, u):
    return _second_order(tensors, how, needs, u.contiguous(), None)


def _potential_grad_jvp(tensors, how, z_dot, x_dot, v_dot, w_dot, params_dot):
    z, x, v, w, params = tensors
    return _sum(
        tangent_grad(z, x, v, w, params, z_dot, x_dot, params_dot, *how),
        None if v_dot is None else potential_grad(z, x, v_dot, w, params, *how),
        None if w_dot is None else potential_grad(z, x, v, w_dot, params, *how),
    )


# -- potential_and_grad ---------------------------------------------------------------------------


def _both_backward(tensors, how, needs, v, u):
    z, x, w, params = tensors
    first = _potential_backward(tensors, how, needs, v)
    dz, dx, _, dw, dparams = _second_order(
        (z, x, None, w, params), how, (*needs[:2], False, *needs[2:]), u.contiguous(), None
    )
    return tuple(map(_sum, first, (dz, dx, dw, dparams)))


def _both_jvp(tensors, how, z_dot, x_dot, w_dot, params_dot):
    z, x, w, params = tensors
    f, g, _ = tangents(z, x, None, w, params, z_dot, x_dot, params_dot, *how)
    if w_dot is None:
        return f, g
    f_w, g_w = potential_and_grad(z, x, w_dot, params, *how)
    return f + f_w, g + g_w


# -- params_grad ----------------------------------------------------------------------------------


def _params_grad_backward(tensors, how, needs, c):
    return _second_order(tensors, how, needs, None, c.contiguous())


def _params_grad_jvp(tensors, how, z_dot, x_dot, v_dot, w_dot, params_dot):
    z, x, v, w, params = tensors
    _, _, along_rest = tangents(z, x, v, w, params, z_dot, x_dot, params_dot, *how)
    return _sum(
        along_rest,
        None if v_dot is None else params_grad(z, x, v_dot, w, params, *how),
        None if w_dot is None else params_grad(z, x, v, w_dot, params, *how),
    )


# -- quadratic_form -------------------------------------------------------------------------------


def _pulling(how):
    """A radial pair i = i pulls nowhere. Left out, it leaves no rounding in second derivatives."""
    profiles, skip_diagonal, *rest = how
    return profiles, skip_diagonal or not profiles.startswith("polynomial"), *rest


def _form_backward(tensors, how, needs, s):
    """c is symmetric, so both roles of u contribute alike."""
    u, v, w, params = tensors
    s = s[..., None, None]
    sv = (s * v).to(u.dtype)
    return (
        2 * potential_grad(u, u, sv, w, params, *_pulling(how)) if needs[0] else None,
        (s * potential(u, u, w, params, *how)).to(u.dtype) if needs[1] else None,
        potential(u, u, sv, params, *how) if needs[2] else None,
        params_grad(u, u, sv, w, params, *how) if needs[3] else None,
    )


def _form_jvp(tensors, how, u_dot, v_dot, w_dot, params_dot):
    u, v, w, params = tensors
    f = _potential_jvp((u, u, w, params), how, u_dot, u_dot, w_dot, params_dot)
    along_v = None if v_dot is None else (v_dot * potential(u, u, w, params, *how)).sum((-2, -1))
    total = _sum(None if f is None else (v * f).sum((-2, -1)), along_v)
    return None if total is None else total.to(params.dtype)


# -- quadratic_form_and_grads ---------------------------------------------------------------------
# s of the points u and, after them, of `held`, with g = ∂s/∂u, and with q = ∂s/∂θ or without, all
# from one sweep. As g and q are results of the operator and not only kept for its backward,
# differentiating s twice is differentiating them once.


def _form_and_grad_backward(tensors, how, needs, s, along_u):
    return _form_and_grads_backward((*tensors, None), how, needs, s, along_u, None)


def _form_and_grad_jvp(tensors, how, *dots):
    return _form_and_grads_jvp(tensors, how, *dots)[:2]


def _form_and_grads_backward(tensors, how, needs, s, along_u, along_params):
    u, v, w, params, held, _s, g, q = tensors
    points = joined(u, held)
    first = second = (None,) * 5  # in u, in all points, in v, w and the parameters
    if s is not None:
        rest = (needs[4], *needs[1:3], needs[3] and q is None)
        _, dv, dw, dparams = both = _form_backward((points, v, w, params), how, rest, s)
        s = s[..., None, None]
        du = None if needs[4] else (s * g).to(u.dtype)  # or it is among those of all points
        first = (du, both[0], dv, dw, dparams if q is None else s * q)
    if along_u is not None or along_params is not None:
        pairs = (u, points, v, w, params)
        second = _form_second_order(pairs, how, needs, along_u, along_params)
    du, dpoints, *others = map(_sum, first, second)
    if held is None or dpoints is None:
        return _sum(du, dpoints), *others, None
    mine, theirs = dpoints.split([u.shape[-2], held.shape[-2]], -2)
    return _sum(du, mine), *others, theirs


def _form_second_order(tensors, how, needs, along_u, along_params):
    """Gradients of ⟨along_u, ∂s/∂u⟩ + ⟨along_params, ∂s/∂θ⟩ in u, all points, v, w and θ."""
    u, points, v, w, params = tensors
    needs = (needs[0], needs[0] or needs[4], *needs[1:4])
    twice = None if along_u is None else 2 * along_u.contiguous()
    n, held = u.shape[-2], points.shape[-2] - u.shape[-2]
    if along_params is not None:
        pairs, along = (points, points, v, w, params), along_params.contiguous()
        dz, dx, *rest = _second_order(
            pairs, how, needs[1:2] + needs[1:], _padded(twice, held), along
        )
        return None, _sum(dz, dx), *rest
    pairs = (u, points, v[..., :n, :].contiguous(), w, params)
    dz, dx, dv, *rest = _second_order(pairs, _pulling(how), needs, twice, None)
    return dz, dx, _padded(dv, held), *rest


def _padded(t, rows):
    """With rows of zeros after its own."""
    return t if t is None or rows == 0 else pad(t, (0, 0, 0, rows))


def _form_and_grads_jvp(tensors, how, u_dot, v_dot, w_dot, params_dot, held_dot):
    u, v, w, params, held = tensors
    points, dots = joined(u, held), (v_dot, w_dot, params_dot)
    points_dot = u_dot
    if held is not None and (u_dot is not None or held_dot is not None):
        parts = ((u, u_dot), (held, held_dot))
        points_dot = joined(*(torch.zeros_like(t) if dot is None else dot for t, dot in parts))
    first = lambda t: t if t is None else t[..., : u.shape[-2], :].contiguous()
    rows, rows_dot = (u, points, first(v), w, params), (u_dot, points_dot, first(v_dot), *dots[1:])
    pairs = (points, points, v, w, params)
    return (
        _form_jvp((points, v, w, params), how, points_dot, *dots),
        2 * _potential_grad_jvp(rows, how, *rows_dot),
        _params_grad_jvp(pairs, how, points_dot, points_dot, *dots),
    )


# -- tangents -------------------------------------------------------------------------------------


def _refuse(*_):
    raise NotImplementedError(
        "dmmd_kernels: the ops have first and second derivatives, and a third was asked for; "
        "for third order write the kernel in plain torch"
    )


_CLOUDS = ["z", "x", "w", "params"]
_PAIRS = ["z", "x", "v?", "w", "params"]


def _by_columns(z, x, w, params):
    return [(z.shape[-2], w.shape[-1])]


potential = Operator(
    "potential",
    _CLOUDS,
    shapes=_by_columns,
    backward=_potential_backward,
    jvp=_potential_jvp,
    has_sums=True,
)
potential_grad = Operator(
    "potential_grad",
    _PAIRS,
    shapes=lambda z, *_: [z.shape[-2:]],
    backward=_potential_grad_backward,
    jvp=_potential_grad_jvp,
)
potential_and_grad = Operator(
    "potential_and_grad",
    _CLOUDS,
    shapes=lambda z, *_: [(z.shape[-2], 1), z.shape[-2:]],
    params_dtype=(False, False),
    backward=_both_backward,
    jvp=_both_jvp,
    has_diagonal=False,
    has_sums=True,
)
params_grad = Operator(
    "params_grad",
    _PAIRS,
    shapes=lambda *tensors: [tensors[-1].shape[-2:]],
    params_dtype=(True,),
    backward=_params_grad_backward,
    jvp=_params_grad_jvp,
)
quadratic_form = Operator(
    "quadratic_form",
    ["u", "v", "w", "params"],
    shapes=lambda *_: [()],
    params_dtype=(True,),
    backward=_form_backward,
    jvp=_form_jvp,
)
quadratic_form_and_grad = Operator(
    "quadratic_form_and_grad",
    ["u", "v", "w", "params", "held?"],
    shapes=lambda u, *_: [(), u.shape[-2:]],
    params_dtype=(True, False),
    backward=_form_and_grad_backward,
    jvp=_form_and_grad_jvp,
    saves_results=True,
)
quadratic_form_and_grads = Operator(
    "quadratic_form_and_grads",
    ["u", "v", "w", "params", "held?"],
    shapes=lambda u, v, w, params, _: [(), u.shape[-2:], params.shape[-2:]],
    params_dtype=(True, False, True),
    backward=_form_and_grads_backward,
    jvp=_form_and_grads_jvp,
    saves_results=True,
)
tangent_grad = Operator(
    "tangent_grad",
    [*_PAIRS, "a?", "b?", "c?"],
    shapes=lambda z, *_: [z.shape[-2:]],
    backward=_refuse,
    jvp=_refuse,
)
tangents = Operator(
    "tangents",
    [*_PAIRS, "a?", "b?", "c?"],
    shapes=lambda z, x, v, w, params, *_: [
        (z.shape[-2], w.shape[-1]),
        z.shape[-2:],
        params.shape[-2:],
    ],
    params_dtype=(False, False, True),
    backward=_refuse,
    jvp=_refuse,
    has_sums=True,
)
