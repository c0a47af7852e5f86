"""ψ(t; a) and its derivatives as Triton functions.

The same formulas as backends/profiles.py; adding a profile means a code and one case per function.
A mixture travels as one whole number, a byte per component, because no Triton version refuses that
as a constant: a byte is one of the codes below, or POLYNOMIAL + N for (t + a)^N. Sums of ψ and ψ'
(mixture.py) also know SQUARED + j, the component before squared j times, and ROOTS + N,
(1 + t)^(-N/2).

Laplace and energy kernels have a kink at t = 0, where derivatives are taken as 0: a point does not
push itself. Comparisons are written so that a NaN in t falls on the side that keeps it.
"""

import os

import torch
import triton
import triton.language as tl

from dmmd_kernels.kernels import Mixture

CODES = {
    "gaussian": 1,
    "rational_quadratic": 2,
    "imq": 3,
    "laplace": 4,
    "energy": 5,
    "square_distance": 6,
    "matern32": 7,
    "matern52": 8,
}
GAUSSIAN = tl.constexpr(1)
RATIONAL_QUADRATIC = tl.constexpr(2)
IMQ = tl.constexpr(3)
LAPLACE = tl.constexpr(4)
ENERGY = tl.constexpr(5)
SQUARE_DISTANCE = tl.constexpr(6)
MATERN32 = tl.constexpr(7)
MATERN52 = tl.constexpr(8)
# Codes of profiles end here; up to SQUARED there is room for more.
SQUARED = tl.constexpr(48)
ROOTS = tl.constexpr(56)
POLYNOMIAL = tl.constexpr(96)
_MOST_SQUARINGS = 4  # in a row: each doubles the relative error of the exponential, 2^-22.5
_MOST_ROOTS = 32

LOG2_E = tl.constexpr(1.4426950408889634)
# NVIDIA's logarithm in one instruction; tl.log2 is 25, most of them for arguments we do not have.
HAS_LG2 = tl.constexpr(torch.version.hip is None and os.environ.get("TRITON_INTERPRET") != "1")
TINY = tl.constexpr(1.1754944e-38)  # below it the GPU's roots and logarithms flush to zero


def code(names: list[str]) -> int | None:
    """The mixture as one number; None for a name this file does not have."""
    total = 0
    for name in reversed(names):
        degree = name.removeprefix("polynomial")
        byte = CODES.get(name, POLYNOMIAL.value + int(degree) if degree.isdigit() else 0)
        if not 0 < byte < 256:
            return None
        total = 256 * total + byte
    return total


def has_one_weight(kernel: Mixture) -> bool:
    """Whether all components are known to have the same λ."""
    return all(name.endswith("=") for name in kernel.profiles.split("+")[1:])


def shortcuts(kernel: Mixture) -> int:
    """The same with what is known of the parameters: one exponential for several widths.

    A byte more where all weights are the same.
    """
    total, squarings = code(kernel.names), 0
    if has_one_weight(kernel):
        total += 1 << (8 * len(kernel.names))
    for index, name in enumerate(kernel.profiles.split("+")):
        profile, _, known = name.rstrip("=").partition(":")
        if profile == "rational_quadratic" and known and int(known) <= _MOST_ROOTS:
            total += (ROOTS.value + int(known) - CODES[profile]) << (8 * index)
        if profile == "gaussian":
            squarings += int(known) if known else _MOST_SQUARINGS + 1
            if squarings > _MOST_SQUARINGS:
                squarings = 0
            else:
                total += (SQUARED.value + int(known) - CODES[profile]) << (8 * index)
    return total


@triton.jit
def _exp_minus(t):
    """e^-t. In base 2 it is one instruction; tl.exp has three more to save subnormal results."""
    return tl.exp2(t * -LOG2_E)


@triton.jit
def whole_power(base, EXPONENT: tl.constexpr):
    """base^EXPONENT by repeated squaring."""
    result = tl.full(base.shape, 1.0, tl.float32)
    for bit in tl.static_range(8):
        if (EXPONENT >> bit) % 2 == 1:
            result *= base
        if (EXPONENT >> bit) > 1:
            base *= base
    return result


@triton.jit
def _log2_from_1(u):
    """log₂ u for u ≥ 1; at most 2 ulps, or 2^-22 below 2, where u = 1 + t was rounded before."""
    if HAS_LG2:
        return tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [u], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return tl.log2(u)


@triton.jit
def _power_off_zero(t, exponent):
    safe = tl.where(t < TINY, 1.0, t)
    return tl.where(t < TINY, 0.0, tl.exp2(exponent * tl.log2(safe)))


@triton.jit
def _root(t):
    """√t, cut where e^-√t is 0, so that √t e^-√t is 0 there. NaN stays NaN."""
    r = tl.sqrt(t)
    return tl.where(r > 1e4, 1e4, r)


@triton.jit
def _inverse_root(t):
    return tl.where(t < TINY, 0.0, tl.rsqrt(tl.where(t < TINY, 1.0, t)))


@triton.jit
def _log_off_zero(t):
    return tl.log(tl.where(t < TINY, 1.0, t))


@triton.jit
def _log1p(t):
    """log(1 + t) with what rounding 1 + t lost put back; t may be far below 1."""
    u = 1 + t
    return tl.log(u) + (t - (u - 1)) / u


@triton.jit
def psi(t, a, PROFILE: tl.constexpr):
    if PROFILE == GAUSSIAN:
        return _exp_minus(t)
    elif PROFILE == RATIONAL_QUADRATIC:
        return tl.exp2(-a * _log2_from_1(1 + t))
    elif PROFILE == IMQ:
        return tl.rsqrt(1 + t)
    elif PROFILE > ROOTS and PROFILE < POLYNOMIAL:
        return whole_power(tl.rsqrt(1 + t), PROFILE - ROOTS)
    elif PROFILE == LAPLACE:
        return _exp_minus(tl.sqrt(t))
    elif PROFILE == MATERN32:
        r = _root(t)
        return (1 + r) * _exp_minus(r)
    elif PROFILE == MATERN52:
        r = _root(t)
        return (1 + r * (1 + r * (1.0 / 3))) * _exp_minus(r)
    elif PROFILE == ENERGY:
        if len(a.shape) > 0:  # one a per lane
            power = tl.where(a == 1.0, tl.sqrt(t), _power_off_zero(t, 0.5 * a))
        elif a == 1.0:
            power = tl.sqrt(t)
        else:
            power = _power_off_zero(t, 0.5 * a)
        return -power
    elif PROFILE == SQUARE_DISTANCE:
        return t
    else:
        return whole_power(t + a, PROFILE - POLYNOMIAL)


@triton.jit
def psi_t(t, a, PROFILE: tl.constexpr):
    if PROFILE == GAUSSIAN:
        return -_exp_minus(t)
    elif PROFILE == RATIONAL_QUADRATIC:
        return -a * tl.exp2((-a - 1) * _log2_from_1(1 + t))
    elif PROFILE == IMQ:
        return -0.5 * whole_power(tl.rsqrt(1 + t), 3)
    elif PROFILE > ROOTS and PROFILE < POLYNOMIAL:
        return (-0.5 * (PROFILE - ROOTS)) * whole_power(tl.rsqrt(1 + t), PROFILE - ROOTS + 2)
    elif PROFILE == LAPLACE:
        return -0.5 * _exp_minus(tl.sqrt(t)) * _inverse_root(t)
    elif PROFILE == MATERN32:
        return -0.5 * _exp_minus(tl.sqrt(t))
    elif PROFILE == MATERN52:
        r = _root(t)
        return (-1.0 / 6) * (1 + r) * _exp_minus(r)
    elif PROFILE == ENERGY:
        if len(a.shape) > 0:
            power = tl.where(a == 1.0, _inverse_root(t), _power_off_zero(t, 0.5 * a - 1))
        elif a == 1.0:
            power = _inverse_root(t)
        else:
            power = _power_off_zero(t, 0.5 * a - 1)
        return -0.5 * a * power
    elif PROFILE == SQUARE_DISTANCE:
        return tl.full(t.shape, 1.0, tl.float32)
    else:
        return (PROFILE - POLYNOMIAL) * whole_power(t + a, PROFILE - POLYNOMIAL - 1)


@triton.jit
def psi_tt(t, a, PROFILE: tl.constexpr):
    if PROFILE == GAUSSIAN:
        return _exp_minus(t)
    elif PROFILE == RATIONAL_QUADRATIC:
        u = 1 + t
        return a * (a + 1) * psi(t, a, PROFILE) / (u * u)
    elif PROFILE == IMQ:
        u = 1 + t
        return 0.75 * tl.rsqrt(u) / (u * u)
    elif PROFILE == LAPLACE:
        root = _inverse_root(t)
        return 0.25 * _exp_minus(tl.sqrt(t)) * (1 + root) * root * root
    elif PROFILE == MATERN32:
        return 0.25 * _exp_minus(tl.sqrt(t)) * _inverse_root(t)
    elif PROFILE == MATERN52:
        return (1.0 / 12) * _exp_minus(tl.sqrt(t))
    elif PROFILE == ENERGY:
        return -0.5 * a * (0.5 * a - 1) * _power_off_zero(t, 0.5 * a - 2)
    elif PROFILE == SQUARE_DISTANCE or PROFILE == POLYNOMIAL + 1:
        return tl.zeros(t.shape, tl.float32)
    else:
        N: tl.constexpr = PROFILE - POLYNOMIAL
        return N * (N - 1) * whole_power(t + a, N - 2)


@triton.jit
def psi_a(t, a, PROFILE: tl.constexpr):
    if PROFILE == RATIONAL_QUADRATIC:
        return -_log1p(t) * psi(t, a, PROFILE)
    elif PROFILE == ENERGY:
        return -0.5 * _log_off_zero(t) * _power_off_zero(t, 0.5 * a)
    elif PROFILE >= POLYNOMIAL:
        return psi_t(t, a, PROFILE)
    else:
        return tl.zeros(t.shape, tl.float32)


@triton.jit
def psi_ta(t, a, PROFILE: tl.constexpr):
    if PROFILE == RATIONAL_QUADRATIC:
        return (a * _log1p(t) - 1) * psi(t, a, PROFILE) / (1 + t)
    elif PROFILE == ENERGY:
        return -(0.5 + 0.25 * a * _log_off_zero(t)) * _power_off_zero(t, 0.5 * a - 1)
    elif PROFILE >= POLYNOMIAL:
        return psi_tt(t, a, PROFILE)
    else:
        return tl.zeros(t.shape, tl.float32)


@triton.jit
def psi_aa(t, a, PROFILE: tl.constexpr):
    if PROFILE == RATIONAL_QUADRATIC:
        log = _log1p(t)
        return log * log * psi(t, a, PROFILE)
    elif PROFILE == ENERGY:
        log = _log_off_zero(t)
        return -0.25 * log * log * _power_off_zero(t, 0.5 * a)
    elif PROFILE >= POLYNOMIAL:
        return psi_tt(t, a, PROFILE)
    else:
        return tl.zeros(t.shape, tl.float32)
