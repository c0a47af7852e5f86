"""A mixture and its derivatives as Triton functions of q: sums over the components.

With parameters θ_l = (λ, s, a) and t = s q, component l is λ ψ(t; a). The second-order functions
take a direction: q̇, and θ̇ in a table like that of the parameters (None means 0).
"""

import triton
import triton.language as tl

from dmmd_kernels.backends._triton.profile import (
    GAUSSIAN,
    LOG2_E,
    ROOTS,
    SQUARED,
    psi,
    psi_a,
    psi_aa,
    psi_t,
    psi_ta,
    psi_tt,
    whole_power,
)


@triton.jit
def component(params_ptr, l):
    """λ, s and a of component l, read on the device; zeros without a table."""
    if params_ptr is None:
        return 0.0, 0.0, 0.0
    else:
        row = params_ptr + 3 * l
        return tl.load(row), tl.load(row + 1), tl.load(row + 2)


@triton.jit
def value(q, params_ptr, PROFILES: tl.constexpr, L: tl.constexpr):
    """K = Σ λ ψ"""
    e = _exponential(q, q, params_ptr, PROFILES % 256)
    k = _weighted_psi(q, e, params_ptr, PROFILES % 256)
    for l in tl.static_range(1, L):
        e = _exponential(q, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256)
        k += _weighted_psi(q, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256)
    return k


@triton.jit
def relative_value(t, params_ptr, PROFILES: tl.constexpr, L: tl.constexpr):
    """The same as `scaling.relative` has it: of t, without the factor it took out."""
    EQUAL: tl.constexpr = (PROFILES >> (8 * L)) > 0
    e = _exponential_of_unit(t, PROFILES % 256)
    lam, _, a = component(params_ptr, 0)
    k = e if PROFILES % 256 == GAUSSIAN else psi(t, a, PROFILES % 256)
    if not EQUAL:
        k = lam * k
    for l in tl.static_range(1, L):
        e = _exponential(t, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256)
        k += _weighted_psi(t, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256, not EQUAL)
    return k


@triton.jit
def relative_slope(t, params_ptr, PROFILES: tl.constexpr, L: tl.constexpr):
    """And its slope."""
    EQUAL: tl.constexpr = (PROFILES >> (8 * L)) > 0
    UNIT: tl.constexpr = LOG2_E if PROFILES % 256 == GAUSSIAN else 1.0
    e = _exponential_of_unit(t, PROFILES % 256)
    lam, _, a = component(params_ptr, 0)
    k_t = -e if PROFILES % 256 == GAUSSIAN else psi_t(t, a, PROFILES % 256)
    if not EQUAL:
        k_t = lam * k_t
    for l in tl.static_range(1, L):
        e = _exponential(t, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256)
        k_t += _weighted_slope(
            t, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256, UNIT, not EQUAL
        )
    return k_t


@triton.jit
def _exponential_of_unit(t, PROFILE: tl.constexpr):
    """2^-t where it is a gaussian's."""
    return tl.exp2(-t) if PROFILE == GAUSSIAN else t


@triton.jit
def slope(q, params_ptr, PROFILES: tl.constexpr, L: tl.constexpr):
    """K_q = Σ λ s ψ'"""
    e = _exponential(q, q, params_ptr, PROFILES % 256)
    k_q = _weighted_slope(q, e, params_ptr, PROFILES % 256)
    for l in tl.static_range(1, L):
        e = _exponential(q, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256)
        k_q += _weighted_slope(q, e, params_ptr + 3 * l, (PROFILES >> (8 * l)) % 256)
    return k_q


@triton.jit
def _exponential(q, before, params_ptr, PROFILE: tl.constexpr):
    """e^(-s q) of a gaussian, as a power of the one `before` where it is one.

    Its scale is multiplied by log₂ e before it meets the pairs.
    """
    if PROFILE == GAUSSIAN:
        return tl.exp2(q * (tl.load(params_ptr + 1) * -LOG2_E))
    elif PROFILE > SQUARED and PROFILE < ROOTS:
        return whole_power(before, 2 ** (PROFILE - SQUARED))
    else:
        return before


@triton.jit
def _weighted_psi(q, e, params_ptr, PROFILE: tl.constexpr, WEIGHTED: tl.constexpr = True):
    """λ ψ(s q; a), or without λ; e is the exponential of a gaussian."""
    lam, s, a = component(params_ptr, 0)
    if PROFILE == GAUSSIAN or (PROFILE > SQUARED and PROFILE < ROOTS):
        k = e
    else:
        k = psi(s * q, a, PROFILE)
    return lam * k if WEIGHTED else k


@triton.jit
def _weighted_slope(
    q, e, params_ptr, PROFILE: tl.constexpr, UNIT: tl.constexpr = 1.0,
    WEIGHTED: tl.constexpr = True,
):  # fmt: skip
    """λ s ψ'(s q; a), or without λ; times UNIT"""
    lam, s, a = component(params_ptr, 0)
    if not WEIGHTED:
        lam = UNIT
    elif UNIT != 1.0:
        lam *= UNIT
    if PROFILE == GAUSSIAN or (PROFILE > SQUARED and PROFILE < ROOTS):
        return (-lam * s) * e
    else:
        return (lam * s) * psi_t(s * q, a, PROFILE)


@triton.jit
def tangent_value(q, q_dot, params_ptr, c_ptr, PROFILES: tl.constexpr, L: tl.constexpr):
    """K̇ = K_q q̇ + ⟨θ̇, K_θ⟩"""
    k_dot = slope(q, params_ptr, PROFILES, L) * q_dot
    if c_ptr is not None:
        for l in tl.static_range(L):
            lam, s, a = component(params_ptr, l)
            lam_dot, s_dot, a_dot = component(c_ptr, l)
            k_lam, k_s, k_a = theta(q, lam, s, a, (PROFILES >> (8 * l)) % 256)
            k_dot += lam_dot * k_lam + s_dot * k_s + a_dot * k_a
    return k_dot


@triton.jit
def tangent_slope(q, q_dot, params_ptr, c_ptr, PROFILES: tl.constexpr, L: tl.constexpr):
    """∂K̇/∂q = K_qq q̇ + ⟨θ̇, K_qθ⟩"""
    k_q_dot = tl.zeros(q.shape, tl.float32)
    for l in tl.static_range(L):
        lam, s, a = component(params_ptr, l)
        t = s * q
        if (PROFILES >> (8 * l)) % 256 == GAUSSIAN:  # the exponential of `slope`, and not another
            p_tt = _exponential(q, q, params_ptr + 3 * l, GAUSSIAN)
        else:
            p_tt = psi_tt(t, a, (PROFILES >> (8 * l)) % 256)
        k_q_dot += (lam * s * s) * p_tt * q_dot
        if c_ptr is not None:
            lam_dot, s_dot, a_dot = component(c_ptr, l)
            p_t = psi_t(t, a, (PROFILES >> (8 * l)) % 256)
            p_ta = psi_ta(t, a, (PROFILES >> (8 * l)) % 256)
            k_q_dot += (lam_dot * s) * p_t + (lam * s_dot) * (p_t + t * p_tt)
            k_q_dot += (lam * s * a_dot) * p_ta
    return k_q_dot


@triton.jit
def theta(q, lam, s, a, PROFILE: tl.constexpr):
    """∂K/∂θ_l = (K_λ, K_s, K_a)"""
    t = s * q
    return (
        psi(t, a, PROFILE),
        lam * q * psi_t(t, a, PROFILE),
        lam * psi_a(t, a, PROFILE),
    )


@triton.jit
def theta_dot(q, q_dot, lam, s, a, lam_dot, s_dot, a_dot, PROFILE: tl.constexpr):
    """∂K̇/∂θ_l"""
    t = s * q
    p_t, p_tt = psi_t(t, a, PROFILE), psi_tt(t, a, PROFILE)
    p_a, p_ta = psi_a(t, a, PROFILE), psi_ta(t, a, PROFILE)
    along_lam = s * p_t * q_dot + s_dot * q * p_t + a_dot * p_a
    along_s = lam * (p_t + t * p_tt) * q_dot + lam_dot * q * p_t
    along_s += lam * q * (s_dot * q * p_tt + a_dot * p_ta)
    along_a = lam * s * p_ta * q_dot + lam_dot * p_a
    along_a += lam * (s_dot * q * p_ta + a_dot * psi_aa(t, a, PROFILE))
    return along_lam, along_s, along_a
