"""The torch operators dmmd::*, and their derivatives.

All are derivatives of one bilinear form of two clouds z, x with coefficients c_ij = ⟨v_i, w_j⟩:

    E(z, x, v, w; θ) = Σᵢⱼ c_ij K(z_i, x_j; θ)

    potential      = ∂E/∂v        potential_grad = ∂E/∂z        params_grad = ∂E/∂θ
    ∂E/∂x and ∂E/∂w are the same operators with (z, v) and (x, w) exchanged
    tangents       = the derivative of all three along (ż, ẋ, θ̇); tangent of the first alone, and
                     tangent_grad of the second

so first derivatives need no operator of their own, and second ones need `tangents` alone. E of one
cloud with itself is in forms.py.
Derivations: docs/derivations.md.
"""

from torch import Tensor

from dmmd_kernels.autograd.register import Operator


def added(*parts: Tensor | None) -> Tensor | None:
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
    if x_dot is None and params_dot is None and w.shape[-1] == 1:
        pulled = (z_dot * potential_grad(z, x, None, w, params, *how)).sum(-1, keepdim=True)
        return added(pulled, along_w)
    return added(tangent(z, x, w, params, z_dot, x_dot, params_dot, *how), along_w)


# -- potential_grad -------------------------------------------------------------------------------


def second_order(tensors, how, needs, along_z, along_params):
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
    return second_order(tensors, how, needs, u.contiguous(), None)


def potential_grad_jvp(tensors, how, z_dot, x_dot, v_dot, w_dot, params_dot):
    z, x, v, w, params = tensors
    moved = None
    if any(t is not None for t in (z_dot, x_dot, params_dot)):
        moved = tangent_grad(z, x, v, w, params, z_dot, x_dot, params_dot, *how)
    return added(
        moved,
        None if v_dot is None else potential_grad(z, x, v_dot, w, params, *how),
        None if w_dot is None else potential_grad(z, x, v, w_dot, params, *how),
    )


# -- potential_and_grad ---------------------------------------------------------------------------


def _both_backward(tensors, how, needs, v, u):
    z, x, w, params = tensors[:4]
    first = second = (None,) * 4
    if v is not None:
        first = _potential_backward((z, x, w, params), how, needs, v)
    if u is not None:
        pairs, needs = (z, x, None, w, params), (*needs[:2], False, *needs[2:])
        dz, dx, _, dw, dparams = second_order(pairs, how, needs, u.contiguous(), None)
        second = (dz, dx, dw, dparams)
    return tuple(map(added, first, second))


def _both_jvp(tensors, how, z_dot, x_dot, w_dot, params_dot):
    z, x, w, params = tensors
    moved = along_w = (None, None)
    if any(t is not None for t in (z_dot, x_dot, params_dot)):
        moved = tangents(z, x, None, w, params, z_dot, x_dot, params_dot, *how)[:2]
    if w_dot is not None:
        along_w = potential_and_grad(z, x, w_dot, params, *how)
    return tuple(map(added, moved, along_w))


# -- params_grad ----------------------------------------------------------------------------------


def _params_grad_backward(tensors, how, needs, c):
    return second_order(tensors, how, needs, None, c.contiguous())


def params_grad_jvp(tensors, how, z_dot, x_dot, v_dot, w_dot, params_dot):
    z, x, v, w, params = tensors
    along_rest = None
    if any(t is not None for t in (z_dot, x_dot, params_dot)):
        _, _, along_rest = tangents(z, x, v, w, params, z_dot, x_dot, params_dot, *how)
    return added(
        along_rest,
        None if v_dot is None else params_grad(z, x, v_dot, w, params, *how),
        None if w_dot is None else params_grad(z, x, v, w_dot, params, *how),
    )


# -- tangent --------------------------------------------------------------------------------------


def _tangent_backward(tensors, how, needs, h):
    """With v = h, ⟨h, ḟ⟩ is E along the direction: its gradients are tangents of those of E."""
    z, x, w, params, a, b, c = tensors
    h = h.contiguous()
    dw = dx = dparams = None
    if needs[3]:
        dw, dx, dparams = tangents(x, z, w, h, params, b, a, c, *how)
    else:
        dx = tangent_grad(x, z, w, h, params, b, a, c, *how) if needs[1] else None
        dw = tangent(x, z, h, params, b, a, c, *how) if needs[2] else None
    return (
        tangent_grad(z, x, h, w, params, a, b, c, *how) if needs[0] else None,
        dx,
        dw,
        dparams,
        potential_grad(z, x, h, w, params, *how) if needs[4] else None,
        potential_grad(x, z, w, h, params, *how) if needs[5] else None,
        params_grad(z, x, h, w, params, *how) if needs[6] else None,
    )


def _tangent_jvp(tensors, how, z_dot, x_dot, w_dot, params_dot, a_dot, b_dot, c_dot):
    z, x, w, params, a, b, c = tensors
    f = None
    if any(t is not None for t in (a_dot, b_dot, c_dot)):
        f = tangent(z, x, w, params, a_dot, b_dot, c_dot, *how)
    along_w = None if w_dot is None else tangent(z, x, w_dot, params, a, b, c, *how)
    if z_dot is None and x_dot is None and params_dot is None:
        return added(f, along_w)
    twice = _twice_along(tensors, how, z_dot, x_dot, params_dot)
    return added(twice, f, along_w)


def _twice_along(tensors, how, z_dot, x_dot, params_dot):
    """f̈ along (a, b, c) and (ż, ẋ, θ̇), with every row and column of it a block of its own.

    A block's f is its E, so f̈ = ⟨ż, ∂Ė/∂z⟩ + ⟨ẋ, ∂Ė/∂x⟩ + ⟨θ̇, ∂Ė/∂θ⟩. The second is n m d numbers.
    """
    z, x, w, params, a, b, c = tensors
    shape = (*_batch(*tensors, z_dot, x_dot, params_dot), z.shape[-2], w.shape[-1])
    row = lambda t: t if t is None else t[..., :, None, None, :]
    every = lambda t: t if t is None else t[..., None, None, :, :]
    column = w.mT[..., None, :, :, None]
    blocks = (row(z), every(x), column, every(params), row(a), every(b), every(c))
    z, x, w, params, a, b, c = (_as_blocks(t, shape) for t in blocks)
    one = w.new_ones(1, 1)
    _, g, q = tangents(z, x, one, w, params, a, b, c, *how)
    along = []
    if z_dot is not None:
        along.append(g * _as_blocks(row(z_dot), shape))
    if x_dot is not None:
        pulled = tangent_grad(x, z, w, one, params, b, a, c, *how)
        along.append(pulled * _as_blocks(every(x_dot), shape))
    if params_dot is not None:
        along.append((q * _as_blocks(every(params_dot), shape)).to(z.dtype))
    return sum(t.sum((-2, -1)) for t in along).unflatten(0, shape)


def _batch(*tensors):
    return next((t.shape[:1] for t in tensors if t is not None and t.ndim == 3), ())


def _as_blocks(t, shape):
    """(…, rows, columns) as one block for each entry of the shape."""
    return t if t is None else t.expand(*shape, *t.shape[-2:]).flatten(0, len(shape) - 1)


# -- tangents -------------------------------------------------------------------------------------


def _refuse(*_):
    raise NotImplementedError(
        "dmmd_kernels: kernels have first and second derivatives here, and a third was asked for: "
        "potential_grad, witness_grad and potential_and_grad are first ones, so they have one "
        "more; for third order write the kernel in plain torch"
    )


def _tangents_backward(tensors, how, needs, along_f, along_g, along_q):
    """Of ḟ alone, as of `tangent`; ġ and q̇ are second derivatives."""
    if along_g is not None or along_q is not None:
        _refuse()
    if along_f is None:
        return (None,) * 8
    z, x, _v, w, params, a, b, c = tensors[:8]
    needs = (*needs[:2], *needs[3:])
    dz, dx, *rest = _tangent_backward((z, x, w, params, a, b, c), how, needs, along_f)
    return dz, dx, None, *rest


_CLOUDS = ["z", "x", "w", "params"]
_DIRECTION = ["a?", "b?", "c?"]
_PAIRS = ["z", "x", "v?", "w", "params"]


def _by_columns(z, x, w, *_):
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
    jvp=potential_grad_jvp,
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
    saves_results=True,
)
params_grad = Operator(
    "params_grad",
    _PAIRS,
    shapes=lambda *tensors: [tensors[-1].shape[-2:]],
    params_dtype=(True,),
    backward=_params_grad_backward,
    jvp=params_grad_jvp,
)
tangent = Operator(
    "tangent",
    [*_CLOUDS, *_DIRECTION],
    shapes=_by_columns,
    backward=_tangent_backward,
    jvp=_tangent_jvp,
    has_sums=True,
)
tangent_grad = Operator(
    "tangent_grad",
    [*_PAIRS, *_DIRECTION],
    shapes=lambda z, *_: [z.shape[-2:]],
    backward=_refuse,
    jvp=_refuse,
)
tangents = Operator(
    "tangents",
    [*_PAIRS, *_DIRECTION],
    shapes=lambda z, x, v, w, params, *_: [
        (z.shape[-2], w.shape[-1]),
        z.shape[-2:],
        params.shape[-2:],
    ],
    params_dtype=(False, False, True),
    backward=_tangents_backward,
    jvp=_refuse,
    has_sums=True,
    saves_results=True,
)
