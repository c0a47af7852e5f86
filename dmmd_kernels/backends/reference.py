"""Every op in plain torch: the definition the other backends are tested against.

Written to be read and to be right: differences before squares, no expanded |x|² + |y|² - 2x·y,
no blocking. Memory is O(n·m·d).

Shapes: points z (n, d) and x (m, d); coefficients c_ij = ⟨v_i, w_j⟩ with v (n, p), w (m, p), where
v = None stands for ones, (n, 1). Any tensor may have one leading batch dimension; those without
are shared by all blocks. With q_ij = |z_i - x_j|², or ⟨z_i, x_j⟩ for polynomials, a kernel is
K(q; θ) = Σ_l λ_l ψ_l(s_l q; a_l) with parameters θ_l = (λ_l, s_l, a_l).
Half precision is computed in float32 and rounded once.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from dmmd_kernels.backends.clouds import joined
from dmmd_kernels.backends.profiles import Profile, profile
from dmmd_kernels.kernels import Mixture

READS_VECTORS = False


def why_not(z: Tensor, kernel: Mixture, precision: str = "highest") -> str | None:
    return None


def kernel_matrix(z: Tensor, x: Tensor, kernel: Mixture, precision: str = "highest") -> Tensor:
    """K[i, j] = K(q_ij)"""
    _, q = _pairs(z, x, kernel)
    return _value(q, kernel).to(z.dtype)


def potential(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    """f[i] = Σⱼ w[j] K(q_ij), (n, p)"""
    _, q = _pairs(z, x, kernel)
    k = _without_diagonal(_value(q, kernel), skip_diagonal)
    return (k @ _work(w)).to(z.dtype)


def potential_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    """g[i] = Σⱼ c_ij K_q ∇_z q_ij, (n, d)"""
    diff, q = _pairs(z, x, kernel)
    k_q = sum(lam * (s * psi.psi_t(s * q, a)) for psi, lam, s, a in _components(kernel))
    pull = _without_diagonal(_coefficients(z, v, w) * k_q, skip_diagonal)
    return _along_gradient(pull, diff, x).to(z.dtype)


def potential_and_grad(
    z: Tensor, x: Tensor, w: Tensor, kernel: Mixture, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    """(f, g) of one cloud with weights w, (m, 1)"""
    return potential(z, x, w, kernel), potential_grad(z, x, None, w, kernel)


def params_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    """q[l] = Σᵢⱼ c_ij (K_λ, K_s, K_a), (L, 3)"""
    _, q = _pairs(z, x, kernel)
    c = _without_diagonal(_coefficients(z, v, w), skip_diagonal)
    return _parameter_sums(c, [_theta(q, part) for part in _components(kernel)], skip_diagonal)


def tangents(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives of (potential, potential_grad, params_grad) along ż = a, ẋ = b, θ̇ = c.

    With K̇ = K_q q̇ + ⟨θ̇, K_θ⟩:  f[i] = Σⱼ w[j] K̇_ij,  g[i] = Σⱼ c_ij ∇_z K̇_ij,
    q[l] = Σᵢⱼ c_ij ∂K̇_ij/∂θ_l.
    """
    diff, q = _pairs(z, x, kernel)
    a = torch.zeros_like(z) if a is None else a
    b = torch.zeros_like(x) if b is None else b
    c = torch.zeros_like(kernel.params) if c is None else c
    turn, q_dot = _pair_tangents(z, x, a, b, diff)

    value = slope = slope_dot = torch.zeros_like(q)
    parameters = []
    rows = _components(Mixture(kernel.profiles, c))
    for (psi, lam, s, shape), (_, lam_dot, s_dot, shape_dot) in zip(
        _components(kernel), rows, strict=True
    ):
        t = s * q
        p, p_t, p_tt = psi.psi(t, shape), psi.psi_t(t, shape), psi.psi_tt(t, shape)
        p_a, p_ta, p_aa = psi.psi_a(t, shape), psi.psi_ta(t, shape), psi.psi_aa(t, shape)
        k_q, k_qs = lam * (s * p_t), lam * (p_t + t * p_tt)  # s may be huge where ψ' is 0
        slope = slope + k_q
        value = value + k_q * q_dot + lam_dot * p + s_dot * lam * q * p_t + shape_dot * lam * p_a
        slope_dot = slope_dot + (
            lam * (s * (s * p_tt * q_dot))
            + lam_dot * (s * p_t)
            + s_dot * k_qs
            + shape_dot * lam * (s * p_ta)
        )
        parameters.append(
            (
                s * p_t * q_dot + s_dot * q * p_t + shape_dot * p_a,
                k_qs * q_dot + lam_dot * q * p_t + s_dot * lam * q**2 * p_tt
                + shape_dot * lam * q * p_ta,
                lam * s * p_ta * q_dot + lam_dot * p_a + s_dot * lam * q * p_ta
                + shape_dot * lam * p_aa,
            )
        )  # fmt: skip

    pair = _coefficients(z, v, w)
    pull = _without_diagonal(pair * slope_dot, skip_diagonal)
    twist = _without_diagonal(pair * slope, skip_diagonal)
    f = _without_diagonal(value, skip_diagonal) @ _work(w)
    g = _along_gradient(pull, diff, x) + _along_turn(twist, turn, b)
    params = _parameter_sums(_without_diagonal(pair, skip_diagonal), parameters, skip_diagonal)
    return f.to(z.dtype), g.to(z.dtype), params


def tangent(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    """The derivative of potential alone: f of `tangents`."""
    v = w.new_zeros(z.shape[-2], w.shape[-1])
    return tangents(z, x, v, w, kernel, a, b, c, skip_diagonal)[0]


def tangent_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    """The derivative of potential_grad alone: g of `tangents`."""
    return tangents(z, x, v, w, kernel, a, b, c, skip_diagonal)[1]


def quadratic_form(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    """Σᵢⱼ c_ij K(u_i, u_j), one number per block, for symmetric c."""
    _, q = _pairs(u, u, kernel)
    pairs = _coefficients(u, v, w) * _value(q, kernel)
    return _total(_without_diagonal(pairs, skip_diagonal))


def quadratic_form_and_grad(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None = None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor]:
    """The quadratic form s of the points u and those of `held` after them, and ∂s/∂u (n, d)."""
    points = joined(u, held)
    s = quadratic_form(points, v, w, kernel, skip_diagonal)
    moving = v[..., : u.shape[-2], :]
    return s, 2 * potential_grad(u, points, moving, w, kernel, skip_diagonal)


def quadratic_form_and_grads(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None = None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    """The same, and ∂s/∂θ (L, 3)."""
    s, g = quadratic_form_and_grad(u, v, w, kernel, held, skip_diagonal)
    points = joined(u, held)
    return s, g, params_grad(points, points, v, w, kernel, skip_diagonal)


def row_sums(
    x: Tensor, w: Tensor | None, o: Tensor, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    """s = Σ wᵢ(xᵢ - o), (1, d), and q = Σ wᵢ|xᵢ - o|², (1, 1); o is (1, d)."""
    difference = _work(x) - _work(o)
    weighted = difference if w is None else _work(w) * difference
    s = weighted.sum(-2, keepdim=True)
    q = (weighted * difference).sum((-2, -1), keepdim=True)
    return s.to(x.dtype), q.to(x.dtype)


def row_sums_grad(
    x: Tensor, w: Tensor | None, o: Tensor, a: Tensor, b: Tensor, precision: str = "highest"
) -> Tensor:
    """g[i] = wᵢ(a + 2b(xᵢ - o)), the gradient of ⟨a, s⟩ + b q in x, for a (1, d) and b (1, 1)"""
    pull = _work(a) + 2 * _work(b) * (_work(x) - _work(o))
    return (pull if w is None else _work(w) * pull).to(x.dtype)


def _work(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _pairs(z: Tensor, x: Tensor, kernel: Mixture) -> tuple[Tensor | None, Tensor]:
    """z_i - x_j, (n, m, d), and q, (n, m). Polynomials need no differences."""
    z, x = _work(z), _work(x)
    if not kernel.is_radial:
        return None, z @ x.mT
    diff = z[..., :, None, :] - x[..., None, :, :]
    return diff, diff.square().sum(-1)


def _pair_tangents(
    z: Tensor, x: Tensor, a: Tensor, b: Tensor, diff: Tensor | None
) -> tuple[Tensor | None, Tensor]:
    """a_i - b_j, (n, m, d), and q̇, (n, m)."""
    z, x, a, b = map(_work, (z, x, a, b))
    if diff is None:
        return None, a @ x.mT + z @ b.mT
    turn = a[..., :, None, :] - b[..., None, :, :]
    return turn, 2 * (diff * turn).sum(-1)


def _components(kernel: Mixture) -> Iterator[tuple[Profile, Tensor, Tensor, Tensor]]:
    """(profile, λ, s, a) of every component, with λ, s, a ready to meet an (n, m) matrix."""
    for index, name in enumerate(kernel.names):
        lam, s, a = kernel.params[..., index, :, None, None].unbind(-3)
        yield profile(name), lam, s, a


def _value(q: Tensor, kernel: Mixture) -> Tensor:
    values = [lam * psi.psi(s * q, a) for psi, lam, s, a in _components(kernel)]
    return sum(values[1:], values[0])


def _theta(q: Tensor, component: tuple) -> tuple[Tensor, Tensor, Tensor]:
    psi, lam, s, a = component
    t = s * q
    return psi.psi(t, a), lam * q * psi.psi_t(t, a), lam * psi.psi_a(t, a)


def _coefficients(z: Tensor, v: Tensor | None, w: Tensor) -> Tensor:
    v = w.new_ones(z.shape[-2], 1) if v is None else v
    return _work(v) @ _work(w).mT


def _without_diagonal(pairs: Tensor, skip: bool) -> Tensor:
    if not skip:
        return pairs
    itself = torch.eye(*pairs.shape[-2:], dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(itself, 0.0)


def _along_gradient(pull: Tensor, diff: Tensor | None, x: Tensor) -> Tensor:
    """Σⱼ pull_ij ∇_z q_ij"""
    if diff is None:
        return pull @ _work(x)
    return 2 * torch.einsum("...nm,...nmd->...nd", pull, diff)


def _along_turn(twist: Tensor, turn: Tensor | None, b: Tensor) -> Tensor:
    """Σⱼ twist_ij ∇_z q̇_ij"""
    if turn is None:
        return twist @ _work(b)
    return 2 * torch.einsum("...nm,...nmd->...nd", twist, turn)


def _parameter_sums(pair: Tensor, values: list[tuple], skip_diagonal: bool) -> Tensor:
    """Σᵢⱼ pair_ij · values_ij for each component and parameter, (L, 3)."""
    sums = [
        [_total(_without_diagonal(pair * value, skip_diagonal)) for value in component]
        for component in values
    ]
    return torch.stack([torch.stack(row, -1) for row in sums], -2)


def _total(pairs: Tensor) -> Tensor:
    """The sum of a matrix, of its rows first: bits that no number of threads changes."""
    return pairs.sum(-1).sum(-1)
