"""Ops and transforms of torch: the two sides of the table in docs/transforms.md.

OPS has each op as a function of one cloud, beside the same in dense plain torch, written anew here,
and how many derivatives it has. TRANSFORMS has each transform of such a function, and how many
derivatives it takes. Where an op has enough, transform(op) must be transform(plain); else one
sentence must say so.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.functional import hessian as vectorised_hessian
from torch.autograd.functional import jacobian as vectorised_jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import dmmd_kernels as dk
from tests.cases import DEVICE

Function = Callable[[Tensor], Tensor]

_draw = lambda seed, *shape: torch.randn(
    shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
).to(DEVICE)
Z, X, Y, ALONG = _draw(1, 4, 3), _draw(2, 6, 3), _draw(3, 5, 3), _draw(4, 4, 3)
W, WEIGHTS = _draw(5, 6), _draw(6, 6, 2)
POSITIVE = 0.5 + _draw(7, 6).square()

MIXTURE = dk.gaussian(1.0) + 0.5 * dk.laplace(2.0) + 2 * dk.linear() + dk.polynomial(2, 0.3, 1.0)


def dense(x: Tensor, y: Tensor) -> Tensor:
    """The matrix of MIXTURE, of points that do not coincide but on the diagonal."""
    q, products = (x[:, None] - y[None]).square().sum(-1), x @ y.mT
    r = torch.where(q == 0, 1.0, q).sqrt()
    laplace = torch.where(q == 0, 1.0, torch.exp(-r / 2))
    return torch.exp(-q / 2) + 0.5 * laplace + 2 * products + (0.3 * products + 1) ** 2


class Kernel(NamedTuple):
    """A kernel and its dense matrix."""

    ours: dk.Kernel
    dense: Callable[[Tensor, Tensor], Tensor]


KERNELS = {
    "mixture": Kernel(MIXTURE, dense),
    "linear": Kernel(dk.linear(), lambda x, y: x @ y.mT),
    "gaussian": Kernel(
        dk.gaussian(1.3), lambda x, y: torch.exp(-(x[:, None] - y).square().sum(-1) / 3.38)
    ),
}


def _equal(x: Tensor) -> Tensor:
    return torch.full((len(x),), 1 / len(x), dtype=x.dtype, device=x.device)


def _within(k: Tensor, a: Tensor, unbiased: bool) -> Tensor:
    """Σ aᵢaⱼ k_ij; unbiased, the sum over i ≠ j scaled back to the mass (Σa)²."""
    pairs = torch.outer(a, a)
    if not unbiased:
        return (pairs * k).sum()
    others = 1 - torch.eye(len(a), dtype=k.dtype, device=k.device)
    return (pairs * others * k).sum() * a.sum() ** 2 / (pairs * others).sum()


def plain_mmd2(kernel, x, y, a=None, b=None, unbiased=True) -> Tensor:
    a, b = _equal(x) if a is None else a, _equal(y) if b is None else b
    across = (torch.outer(a, b) * kernel(x, y)).sum()
    within = _within(kernel(x, x), a, unbiased) + _within(kernel(y, y), b, unbiased)
    return within - 2 * across


def plain_gradient(kernel, z: Tensor, x: Tensor, w: Tensor) -> Tensor:
    return vmap(grad(lambda point: (kernel(point[None], x) @ w)[0]))(z)


class Op(NamedTuple):
    """ours(kernel, z), plain(dense kernel, z), and how many derivatives it has."""

    ours: Callable[[dk.Kernel, Tensor], Tensor]
    plain: Callable[[Callable, Tensor], Tensor]
    order: int = 2


def _both(pair: tuple[Tensor, Tensor]) -> Tensor:
    return torch.cat([pair[0][:, None], pair[1]], 1)


def _weights_of(z: Tensor) -> Tensor:
    return z[:, 0].square() + 0.5


def _width(z: Tensor) -> Tensor:
    return 0.5 + z[0, 0].square()


def _learned(z: Tensor) -> dk.Kernel:
    """A kernel whose every kind of parameter follows z."""
    s = _width(z)
    quadratic, polynomial = dk.rational_quadratic(s, 1.2), dk.polynomial(2, s, s)
    return dk.mixture([dk.gaussian(s), quadratic, polynomial], weights=[s, 1.0, 1.0])


def _learned_dense(z: Tensor, x: Tensor, y: Tensor) -> Tensor:
    s, q = _width(z), (x[:, None] - y[None]).square().sum(-1)
    gaussian, quadratic = s * torch.exp(-q / (2 * s**2)), (1 + q / (2 * s * 1.44)) ** -s
    return gaussian + quadratic + (s * (x @ y.mT) + s) ** 2


OPS = {
    "potential": Op(
        lambda k, z: dk.potential(z, X, W, k),
        lambda k, z: k(z, X) @ W,
    ),
    "potential, columns": Op(
        lambda k, z: dk.potential(z, X, WEIGHTS, k),
        lambda k, z: k(z, X) @ WEIGHTS,
    ),
    "potential, of the cloud": Op(
        lambda k, z: dk.potential(X, z, z[:, 1], k),
        lambda k, z: k(X, z) @ z[:, 1],
    ),
    "potential, of parameters": Op(
        lambda k, z: dk.potential(X, z, z[:, 1], k + _learned(z)),
        lambda k, z: (k(X, z) + _learned_dense(z, X, z)) @ z[:, 1],
    ),
    "potential_grad": Op(
        lambda k, z: dk.potential_grad(z, X, W, k),
        lambda k, z: plain_gradient(k, z, X, W),
        order=1,
    ),
    "potential_and_grad": Op(
        lambda k, z: _both(dk.potential_and_grad(z, X, W, k)),
        lambda k, z: _both((k(z, X) @ W, plain_gradient(k, z, X, W))),
        order=1,
    ),
    "kernel_matrix": Op(
        lambda k, z: dk.kernel_matrix(z, X, k),
        lambda k, z: k(z, X),
    ),
    "kernel_matrix, of parameters": Op(
        lambda k, z: dk.kernel_matrix(X, Y, k + _learned(z)),
        lambda k, z: k(X, Y) + _learned_dense(z, X, Y),
    ),
    "mmd2": Op(
        lambda k, z: dk.mmd2(z, X, k),
        lambda k, z: plain_mmd2(k, z, X),
    ),
    "mmd2, biased": Op(
        lambda k, z: dk.mmd2(X, z, k, estimator="biased"),
        lambda k, z: plain_mmd2(k, X, z, unbiased=False),
    ),
    "mmd2, weighted": Op(
        lambda k, z: dk.mmd2(z, X, k, weights_x=_weights_of(z), weights_y=POSITIVE),
        lambda k, z: plain_mmd2(k, z, X, _weights_of(z), POSITIVE),
    ),
    "mmd2, of parameters": Op(
        lambda k, z: dk.mmd2(z, X, k + _learned(z)),
        lambda k, z: plain_mmd2(lambda x, y: k(x, y) + _learned_dense(z, x, y), z, X),
    ),
    "witness": Op(
        lambda k, z: dk.witness(z, X, Y, k),
        lambda k, z: k(z, X).mean(1) - k(z, Y).mean(1),
    ),
    "witness, of all": Op(
        lambda k, z: dk.witness(z, X + z[:1], 2 * z, k),
        lambda k, z: k(z, X + z[:1]).mean(1) - k(z, 2 * z).mean(1),
    ),
    "witness_grad": Op(
        lambda k, z: dk.witness_grad(z, X, Y, k),
        lambda k, z: plain_gradient(k, z, X, _equal(X)) - plain_gradient(k, z, Y, _equal(Y)),
        order=1,
    ),
    "hold": Op(
        lambda k, z: dk.hold(X, k).mmd2(z),
        lambda k, z: plain_mmd2(k, z, X),
    ),
    "MMDLoss": Op(
        lambda k, z: dk.MMDLoss(k)(z, X),
        lambda k, z: plain_mmd2(k, z, X, unbiased=False),
    ),
}


class Transform(NamedTuple):
    """of(function) is a function of Z; order is how many derivatives it takes."""

    of: Callable[[Function], Function]
    order: int


def scalar(f: Function) -> Function:
    """A number made of f, in which no derivative up to the second is 0."""
    return lambda z: f(z).square().sum() + f(z).sum()


def _backward(f: Function) -> Function:
    def gradient(z):
        z = z.detach().requires_grad_()
        return torch.autograd.grad(scalar(f)(z), z)[0]

    return gradient


def _double_backward(f: Function) -> Function:
    def product(z):
        z = z.detach().requires_grad_()
        (first,) = torch.autograd.grad(scalar(f)(z), z, create_graph=True)
        return torch.autograd.grad((first * ALONG).sum(), z)[0]

    return product


def _dual(f: Function) -> Function:
    def tangent(z):
        with forward_ad.dual_level():
            result = scalar(f)(forward_ad.make_dual(z, ALONG))
            return forward_ad.unpack_dual(result).tangent

    return tangent


def _batched(f: Function) -> Function:
    def gradients(z):
        z = z.detach().requires_grad_()
        result = f(z)
        many = torch.arange(3.0 * result.numel()).sin().to(result).view(3, *result.shape)
        return torch.autograd.grad(result, z, many, is_grads_batched=True)[0]

    return gradients


def _forward(f: Function) -> Function:
    return lambda z: jvp(f, (z,), (ALONG,))[1]


def _many(f: Function) -> Function:
    return lambda z: vmap(f)(torch.stack([z, z + 0.1]))


TRANSFORMS = {
    "backward": Transform(_backward, 1),
    "double backward": Transform(_double_backward, 2),
    "forward_ad": Transform(_dual, 1),
    "is_grads_batched": Transform(_batched, 1),
    "jacobian(vectorize=True)": Transform(
        lambda f: lambda z: vectorised_jacobian(f, z, vectorize=True), 1
    ),
    "jacobian(vectorize=True), forward": Transform(
        lambda f: lambda z: vectorised_jacobian(f, z, vectorize=True, strategy="forward-mode"), 1
    ),
    "hessian(vectorize=True)": Transform(
        lambda f: lambda z: vectorised_hessian(scalar(f), z, vectorize=True), 2
    ),
    "hessian(vectorize=True), forward": Transform(
        lambda f: (
            lambda z: vectorised_hessian(
                scalar(f), z, vectorize=True, outer_jacobian_strategy="forward-mode"
            )
        ),
        2,
    ),
    "grad": Transform(lambda f: grad(scalar(f)), 1),
    "vjp": Transform(lambda f: lambda z: vjp(f, z)[1](f(z))[0], 1),
    "jvp": Transform(_forward, 1),
    "linearize": Transform(lambda f: lambda z: linearize(f, z)[1](ALONG), 1),
    "jvp(jvp)": Transform(lambda f: _forward(_forward(f)), 2),
    "jvp(grad)": Transform(lambda f: _forward(grad(scalar(f))), 2),
    "grad(jvp)": Transform(lambda f: grad(_forward(scalar(f))), 2),
    "vmap": Transform(_many, 0),
    "vmap(grad)": Transform(lambda f: _many(grad(scalar(f))), 1),
    "vmap(jvp)": Transform(lambda f: _many(_forward(f)), 1),
    "jacrev": Transform(jacrev, 1),
    "jacfwd": Transform(jacfwd, 1),
    "hessian": Transform(lambda f: hessian(scalar(f)), 2),
    "jacrev(jacrev)": Transform(lambda f: jacrev(jacrev(scalar(f))), 2),
    "jacfwd(jacfwd)": Transform(lambda f: jacfwd(jacfwd(scalar(f))), 2),
    "jacrev(jacfwd)": Transform(lambda f: jacrev(jacfwd(scalar(f))), 2),
}
