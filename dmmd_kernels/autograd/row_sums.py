"""Sums over one cloud without pairs, as torch operators: what the linear kernel needs.

    row_sums(x, w, o)              s = Σ wᵢ(xᵢ - o), (1, d), and q = Σ wᵢ|xᵢ - o|², (1, 1)
    row_sums_grad(x, w, o, a, b)   wᵢ(a + 2b(xᵢ - o)), the gradient of ⟨a, s⟩ + b q in x

w = None stands for ones, (n, 1). Derivatives of `row_sums_grad` are a few lines of torch, which
torch differentiates further.
"""

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor

from dmmd_kernels.autograd.register import Operator

HOW = ("polynomial1", False)  # profiles, skip_diagonal: there are no pairs


def _weighted(t: Tensor, w: Tensor | None) -> Tensor:
    """wᵢtᵢ for rows t, (…, n, d)"""
    if w is None:
        return t
    return (w.unsqueeze(-1) if w.ndim == 1 else w) * t


def _row_sums(t: Tensor, w: Tensor) -> Tensor:
    """Of each row, in the shape of the weights."""
    return t.sum(-1) if w.ndim == 1 else t.sum(-1, keepdim=True)


def _total(t: Tensor) -> Tensor:
    return t.sum((-2, -1), keepdim=True)


def _along(c: Tensor, x_dot: Tensor | None, o_dot: Tensor | None) -> Tensor:
    """The tangent of c = x - o."""
    moved = torch.zeros_like(c) if x_dot is None else x_dot.expand(c.shape)
    return moved if o_dot is None else moved - o_dot


def _pull(x, w, o, a, b, how):
    """row_sums_grad, also of the batched tensors of is_grads_batched, which have no memory."""
    if is_legacy_batchedtensor(a) or is_legacy_batchedtensor(b):
        return _weighted(a + 2 * b * (x - o), w)
    return row_sums_grad(x, w, o, a, b, *how)


def _sums_backward(tensors, how, needs, a, b):
    x, w, o = tensors
    a = torch.zeros_like(o) if a is None else a.contiguous()
    b = torch.zeros_like(o[..., :1]) if b is None else b.contiguous()
    dx = dw = do = None
    if needs[0]:
        dx = _pull(x, w, o, a, b, how)
    if needs[1]:
        c = x - o
        dw = _row_sums(c * (a + b * c), w)
    if needs[2]:
        do = -_pull(x, w, o, a, b, how).sum(-2, keepdim=True)
    return dx, dw, do


def _sums_jvp(tensors, how, x_dot, w_dot, o_dot):
    x, w, o = tensors
    c = x - o
    s, q = torch.zeros_like(c[..., :1, :]), torch.zeros_like(c[..., :1, :1])
    if x_dot is not None or o_dot is not None:
        moved = _weighted(_along(c, x_dot, o_dot), w)
        s, q = s + moved.sum(-2, keepdim=True), q + 2 * _total(moved * c)
    if w_dot is not None:
        moved = _weighted(c, w_dot)
        s, q = s + moved.sum(-2, keepdim=True), q + _total(moved * c)
    return s, q


def _sums_grad_backward(tensors, how, needs, u):
    x, w, o, a, b = tensors
    pulled = _weighted(u, w)
    da = pulled.sum(-2, keepdim=True)
    dx = 2 * b * pulled if needs[0] else None
    dw = _row_sums(u * (a + 2 * b * (x - o)), w) if needs[1] else None
    db = 2 * _total(pulled * (x - o)) if needs[4] else None
    return dx, dw, -2 * b * da, da, db


def _sums_grad_jvp(tensors, how, x_dot, w_dot, o_dot, a_dot, b_dot):
    x, w, o, a, b = tensors
    inner = 2 * b * _along(x - o, x_dot, o_dot)
    inner = inner if a_dot is None else inner + a_dot
    inner = inner if b_dot is None else inner + 2 * b_dot * (x - o)
    g = _weighted(inner, w)
    return g if w_dot is None else g + _weighted(a + 2 * b * (x - o), w_dot)


row_sums = Operator(
    "row_sums",
    ["x", "w?", "o"],
    shapes=lambda x, *_: [(1, x.shape[-1]), (1, 1)],
    params_dtype=(False, False),
    backward=_sums_backward,
    jvp=_sums_jvp,
    has_diagonal=False,
)
row_sums_grad = Operator(
    "row_sums_grad",
    ["x", "w?", "o", "a", "b"],
    shapes=lambda x, *_: [x.shape[-2:]],
    backward=_sums_grad_backward,
    jvp=_sums_grad_jvp,
    has_diagonal=False,
)
