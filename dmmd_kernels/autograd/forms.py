"""The quadratic form of one cloud u with itself, Σᵢⱼ c_ij K(u_i, u_j) for symmetric c.

It is E of bilinear.py with z = x, and its derivatives are those of E, with both roles of u.
Derivations: docs/derivations.md.
"""

import torch
from torch.nn.functional import pad

from dmmd_kernels.autograd.bilinear import (
    added,
    params_grad,
    params_grad_jvp,
    potential,
    potential_grad,
    potential_grad_jvp,
    second_order,
)
from dmmd_kernels.autograd.register import Operator
from dmmd_kernels.backends.clouds import joined


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
    """⟨gradient, tangent⟩, of one sweep each: so what is of second order is so of forward mode."""
    u, v, w, params = tensors
    along = []
    if u_dot is not None:
        along.append(2 * u_dot * potential_grad(u, u, v, w, params, *_pulling(how)))
    if v_dot is not None:
        along.append(v_dot * potential(u, u, w, params, *how))
    if w_dot is not None:
        along.append(v * potential(u, u, w_dot, params, *how))
    if params_dot is not None:
        along.append(params_dot * params_grad(u, u, v, w, params, *how))
    return added(*[t.to(params.dtype).sum((-2, -1)) for t in along])


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
    du, dpoints, *others = map(added, first, second)
    if held is None or dpoints is None:
        return added(du, dpoints), *others, None
    mine, theirs = dpoints.split([u.shape[-2], held.shape[-2]], -2)
    return added(du, mine), *others, theirs


def _form_second_order(tensors, how, needs, along_u, along_params):
    """Gradients of ⟨along_u, ∂s/∂u⟩ + ⟨along_params, ∂s/∂θ⟩ in u, all points, v, w and θ."""
    u, points, v, w, params = tensors
    needs = (needs[0], needs[0] or needs[4], *needs[1:4])
    twice = None if along_u is None else 2 * along_u.contiguous()
    n, held = u.shape[-2], points.shape[-2] - u.shape[-2]
    if along_params is not None:
        pairs, along = (points, points, v, w, params), along_params.contiguous()
        dz, dx, *rest = second_order(
            pairs, how, needs[1:2] + needs[1:], _padded(twice, held), along
        )
        return None, added(dz, dx), *rest
    pairs = (u, points, v[..., :n, :].contiguous(), w, params)
    dz, dx, dv, *rest = second_order(pairs, _pulling(how), needs, twice, None)
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
    half = potential_grad_jvp(rows, how, *rows_dot)
    return (
        _form_jvp((points, v, w, params), how, points_dot, *dots),
        None if half is None else 2 * half,
        params_grad_jvp(pairs, how, points_dot, points_dot, *dots),
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
