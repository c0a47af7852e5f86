"""Kernels as immutable values, and their compiled form.

A kernel is a sum of terms λ·ψ(t; a) with t = scale · q, where q is |x - y|² for radial profiles and
⟨x, y⟩ for polynomial ones. Compiled code receives the profile names and one row (λ, scale, a) per
term, so adding a kernel means a constructor here, a `Profile` in backends/profiles.py, and the same
ψ in csrc/profile.h and backends/_triton/profile.py.
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from numbers import Integral, Real
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.parameters import (
    PLAIN,
    Formula,
    Parameter,
    are_equal,
    changed,
    half_over_product,
    half_over_square,
    is_jit_tracing,
    is_learned,
    is_tracing,
    made_of,
    number,
    one_over_square,
    positive,
    readable,
    scale_of,
    shown,
    table,
    tensors_of,
    twice_over_square,
)

_MOST_DEGREE = 2**15  # degree · (degree - 1) fits in 32 bits


@dataclass(frozen=True, eq=False)
class Term:
    """λ·ψ(scale · q; shape). A polynomial's scale is None until d is known (γ = 1/d)."""

    profile: str
    weight: Parameter | Formula
    scale: Parameter | Formula | None
    shape: Parameter
    label: str

    @property
    def values(self) -> tuple[Parameter | Formula | None, ...]:
        return self.weight, self.scale, self.shape

    def changed(self, value: Callable[[Any], Any]) -> "Term":
        """With value(v) in place of every number and tensor v."""
        names = ("weight", "scale", "shape")
        return replace(
            self, **{name: changed(v, value) for name, v in zip(names, self.values, strict=True)}
        )

    def __eq__(self, other: object) -> bool:
        """The same values now; tensors are compared by what they hold."""
        if not isinstance(other, Term):
            return NotImplemented
        return self.profile == other.profile and all(map(are_equal, self.values, other.values))

    def __hash__(self) -> int:
        """Of the numbers alone, since tensors may change."""
        return hash((self.profile, *(v for v in self.values if isinstance(v, float))))

    def __str__(self) -> str:
        if is_learned(self.weight):
            return f"tensor * {self.label}"
        return self.label if self.weight == 1.0 else f"{self.weight:g} * {self.label}"


class Mixture(NamedTuple):
    """What compiled code receives: "gaussian+imq" and the rows (λ, scale, a), (L, 3) or (B, L, 3).

    Either all radial, and one distance per pair serves every component, or all polynomial. What
    numbers tell before any tensor is read may stand behind a name, for code that knows a shortcut:
    "gaussian:2" is the component before it squared twice, "rational_quadratic:3" has 2a = 3, and
    "imq:=" has the weight of the one before it.
    """

    profiles: str
    params: Tensor

    @property
    def names(self) -> list[str]:
        return component_names(self.profiles)

    @property
    def is_radial(self) -> bool:
        return not self.profiles.startswith("polynomial")


def component_names(profiles: str) -> list[str]:
    return [name.partition(":")[0] for name in profiles.split("+")]


class Lowered(NamedTuple):
    """A kernel in compiled form: mixtures for the backends; linear terms have closed forms."""

    mixtures: tuple[Mixture, ...]
    linear: Tensor | None


@dataclass(frozen=True)
class Kernel:
    """k(x, y), a positive combination of terms. Made by the constructors below, `+` and `*`."""

    terms: tuple[Term, ...]
    parameters: tuple[Tensor, ...] = field(init=False, compare=False, repr=False)
    _named: tuple[tuple[str, Term], ...] = field(init=False, compare=False, repr=False)
    prepared: dict = field(default_factory=dict, init=False, compare=False, repr=False)
    _lowered: dict = field(default_factory=dict, init=False, compare=False, repr=False)
    __array_ufunc__ = None  # a NumPy number times a kernel is for the kernel to answer

    @property
    def is_radial(self) -> bool:
        return not any(term.profile.startswith(("linear", "polynomial")) for term in self.terms)

    def __post_init__(self):
        """Collects the parameters that are tensors."""
        tensors = tuple(p for t in self.terms for v in t.values for p in tensors_of(v))
        object.__setattr__(self, "parameters", tensors)
        object.__setattr__(self, "_named", _named(self.terms))

    def __reduce__(self):
        """Copies and pickles are the terms; what was kept beside them is found again."""
        return Kernel, (self.terms,)

    def __add__(self, other: "Kernel") -> "Kernel":
        if not isinstance(other, Kernel):
            return NotImplemented
        return Kernel(self.terms + other.terms)

    def __radd__(self, other: object) -> "Kernel":
        """0 + k, with which `sum` begins."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: Parameter) -> "Kernel":
        return self._weighted(operator.mul, factor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: Parameter) -> "Kernel":
        return self._weighted(operator.truediv, divisor)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """tensor * k, which torch.compile takes for a product of tensors."""
        if func in _PRODUCTS and len(args) == 2:
            a, b = args
            return b.__mul__(a) if isinstance(b, cls) else a.__mul__(b)
        return NotImplemented

    def _weighted(self, change: Callable[..., Any], factor: Parameter) -> "Kernel":
        if not isinstance(factor, float | int | Tensor | Real):
            return NotImplemented
        by = positive("kernel multiple", "the factor", factor)
        weights = [made_of(change, t.weight, by) for t in self.terms]
        if not all(is_learned(w) or 0 < w < math.inf for w in weights):
            raise ValueError(f"kernel multiple: the factor {factor} takes a weight out of range")
        return Kernel(tuple(replace(t, weight=w) for t, w in zip(self.terms, weights, strict=True)))

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))

    __repr__ = __str__

    def changed(self, value: Callable[[Parameter], Parameter]) -> "Kernel":
        """With value(p) in place of every parameter p, be it a number or a tensor."""
        return Kernel(tuple(term.changed(value) for term in self.terms))

    def lower(self, points: Tensor) -> Lowered:
        """The compiled form, for points (…, d); kept for the next call when all are numbers."""
        d = points.shape[-1]
        if is_jit_tracing():  # a tensor then, whose reciprocal would be of single precision
            return self._lower(int(d), points.dtype, points.device)
        key = (d, points.dtype, points.device)
        if self.parameters or torch.compiler.is_compiling() or type(points) not in PLAIN:
            return self._lower(*key)
        lowered = self._lowered.get(key)
        if lowered is None:
            if is_tracing():
                return self._lower(*key)
            with torch.inference_mode(False):  # it will also meet calls that differentiate
                lowered = self._lowered[key] = self._lower(*key)
        return lowered

    def keep(self, like: tuple, form: Any) -> None:
        """Keeps what an op prepared for calls like this one, of at most 64 kinds."""
        if len(self.prepared) >= 64:
            self.prepared.clear()
        self.prepared[like] = form

    def _lower(self, d: int, dtype: torch.dtype, device: torch.device) -> Lowered:
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        polynomial = [t for t in self._named if t[0].startswith("polynomial")]
        radial = [t for t in self._named if not t[0].startswith(("linear", "polynomial"))]
        linear = [t for t in self.terms if t.profile == "linear"]
        mixtures = tuple(
            Mixture(
                "+".join(name for name, _ in named),
                _table([term for _, term in named], d, dtype, device),
            )
            for named in (radial, polynomial)
            if named
        )
        weight = _table(linear, d, dtype, device)[..., 0].sum(-1) if linear else None
        return Lowered(mixtures, weight)


_PRODUCTS = (torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__)


def _named(terms: tuple[Term, ...]) -> tuple[tuple[str, Term], ...]:
    """The terms with their profiles, and with what is known of them (Mixture).

    Gaussians of known width come first, widest first: powers then follow what they are powers of.
    """
    if torch.compiler.is_compiling():  # numbers are symbols then; kernels made before keep theirs
        return tuple((t.profile, t) for t in terms)
    last = math.inf
    width = lambda t: _known(t.scale, last) if t.profile == "gaussian" else last
    named, before, weight = [], math.nan, math.nan
    for term in sorted(terms, key=width):
        scale = _known(term.scale) if term.profile == "gaussian" else math.nan
        squarings = math.log2(scale / before)
        double = 2 * _known(term.shape)
        is_power = 0.5 < squarings < 64 and abs(squarings - round(squarings)) < 1e-12
        name = f"{term.profile}:{round(squarings)}" if is_power else term.profile
        if term.profile == "rational_quadratic" and double == double // 1:
            name = f"{term.profile}:{double:.0f}"
        if _known(term.weight) == weight:
            name = f"{name}=" if ":" in name else f"{name}:="
        named.append((name, term))
        before, weight = scale, _known(term.weight)
    return tuple(named)


def _known(value: Any, otherwise: float = math.nan) -> float:
    """The value of what is a number."""
    return otherwise if value is None or is_learned(value) else float(value)


def _table(terms: Sequence[Term], d: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The rows (λ, scale, a) of the terms in d dimensions."""
    rows = [(t.weight, 1 / max(d, 1) if t.scale is None else t.scale, t.shape) for t in terms]
    return table(rows, terms, dtype, device)


# -- Constructors ---------------------------------------------------------------------------------
# Parameters are numbers, or tensors of shape () or of the batch shape, which may require grad and
# change in place: a call takes them as they are then. Numbers are checked here, and tensors on the
# CPU, as they are now. Others are not read (that would stall a GPU): keep them positive.


def _of_numbers_once(make: Callable[..., "Kernel"]) -> Callable[..., "Kernel"]:
    """Of the same numbers the same kernel: one made in every call then keeps what calls left."""
    kept = lru_cache(maxsize=256, typed=True)(make)

    @wraps(make)
    def constructor(*args, **named):
        for value in (*args, *named.values()):
            if type(value) not in (int, float):
                return make(*args, **named)
        return (make if torch.compiler.is_compiling() else kept)(*args, **named)

    return constructor


@_of_numbers_once
def gaussian(sigma: Parameter) -> Kernel:
    """k(x, y) = exp(-|x - y|² / 2σ²)"""
    sigma = positive("gaussian", "sigma", sigma)
    scale = scale_of("gaussian", "sigma", half_over_square, sigma)
    return _kernel("gaussian", scale=scale, label=f"gaussian({shown(sigma)})")


@_of_numbers_once
def rational_quadratic(alpha: Parameter, sigma: Parameter = 1.0) -> Kernel:
    """k(x, y) = (1 + |x - y|² / 2ασ²)^(-α)"""
    alpha = positive("rational_quadratic", "alpha", alpha)
    sigma = positive("rational_quadratic", "sigma", sigma)
    label = f"rational_quadratic({shown(alpha)}, {shown(sigma)})"
    scale = scale_of("rational_quadratic", "alpha and sigma", half_over_product, alpha, sigma)
    return _kernel("rational_quadratic", scale=scale, shape=alpha, label=label)


@_of_numbers_once
def laplace(sigma: Parameter) -> Kernel:
    """k(x, y) = exp(-|x - y| / σ), with the Euclidean norm."""
    sigma = positive("laplace", "sigma", sigma)
    scale = scale_of("laplace", "sigma", one_over_square, sigma)
    return _kernel("laplace", scale=scale, label=f"laplace({shown(sigma)})")


_MATERN = {1.5: "matern32", 2.5: "matern52"}


@_of_numbers_once
def matern(nu: float, sigma: Parameter = 1.0) -> Kernel:
    """k(x, y) = (1 + r) e^-r with r = √3 |x - y| / σ for ν = 3/2; ν = 5/2: (1 + r + r²/3) e^-r with
    r = √5 |x - y| / σ; ν = 1/2 is laplace(σ).

    The covariances of Matérn as Rasmussen and Williams write them ("Gaussian processes for machine
    learning", 2006, equations 4.16 and 4.17): between laplace and gaussian in smoothness.
    """
    if isinstance(nu, Tensor) or nu not in (0.5, *_MATERN):
        raise ValueError(f"matern: nu must be 0.5, 1.5 or 2.5, got {nu}")
    if nu == 0.5:
        return laplace(sigma)
    sigma = positive("matern", "sigma", sigma)
    scale = scale_of("matern", "sigma", twice_over_square, float(nu), sigma)
    return _kernel(_MATERN[nu], scale=scale, label=f"matern({nu:g}, {shown(sigma)})")


@_of_numbers_once
def imq(c: Parameter) -> Kernel:
    """k(x, y) = (1 + |x - y|² / c²)^(-1/2), the inverse multiquadric."""
    c = positive("imq", "c", c)
    return _kernel("imq", scale=scale_of("imq", "c", one_over_square, c), label=f"imq({shown(c)})")


@_of_numbers_once
def energy(beta: Parameter = 1.0) -> Kernel:
    """k(x, y) = -|x - y|^β, 0 < β < 2. Its MMD² is the energy distance (β = 1)."""
    beta = number("energy", "beta", beta)
    if any(not 0 < value < 2 for value in readable(beta)):
        raise ValueError(f"energy: beta must lie strictly between 0 and 2, got {beta}")
    return _kernel("energy", scale=1.0, shape=beta, label=f"energy({shown(beta)})")


@_of_numbers_once
def linear() -> Kernel:
    """k(x, y) = ⟨x, y⟩. Every op has a closed form in O((n + m) d); no pair is visited."""
    return _kernel("linear", scale=1.0, label="linear()")


@_of_numbers_once
def polynomial(degree: int = 3, gamma: Parameter | None = None, coef: Parameter = 1.0) -> Kernel:
    """k(x, y) = (γ⟨x, y⟩ + c)^degree, with γ = 1/d when None."""
    if not isinstance(degree, Integral) or not 1 <= degree <= _MOST_DEGREE or degree is True:
        raise ValueError(
            f"polynomial: degree must be a whole number from 1 to {_MOST_DEGREE}, got {degree!r}"
        )
    if gamma is not None:
        gamma = positive("polynomial", "gamma", gamma)
    coef = number("polynomial", "coef", coef)
    if any(not 0 <= value < math.inf for value in readable(coef)):
        raise ValueError(f"polynomial: coef must be a number of at least 0, got {coef}")
    label = f"polynomial({int(degree)}, {shown(gamma)}, {shown(coef)})"
    return _kernel(f"polynomial{int(degree)}", scale=gamma, shape=coef, label=label)


def mixture(kernels: Sequence[Kernel], weights: Sequence[Parameter] | None = None) -> Kernel:
    """Σ weight · kernel; weights default to 1 each, so a mixture is a sum, not a mean."""
    if isinstance(kernels, Kernel):
        raise TypeError("mixture: kernels must be a sequence of kernels, got one; pass [kernel]")
    kernels = list(kernels)
    if not kernels:
        raise ValueError("mixture: kernels must hold at least one kernel, got an empty sequence")
    weights = [1.0] * len(kernels) if weights is None else list(weights)
    if len(weights) != len(kernels):
        raise ValueError(
            f"mixture: weights must have one entry per kernel, {len(kernels)}, got {len(weights)}"
        )
    for kernel in kernels:
        check_kernel("mixture", kernel, name="each of kernels")
    weights = [positive("mixture", "each of weights", weight) for weight in weights]
    terms = [(k * w).terms for w, k in zip(weights, kernels, strict=True)]
    return Kernel(sum(terms, ()))


def check_kernel(op: str, kernel: object, name: str = "kernel") -> None:
    """Raises a TypeError for what is no Kernel, with what would make it one."""
    if isinstance(kernel, Kernel):
        return
    if isinstance(kernel, list | tuple):
        remedy = "add them up with dk.mixture"
    elif callable(kernel):
        remedy = "call it first, or give it to dk.MMDLoss"
    else:
        remedy = "make one, as by dk.gaussian(1.0)"
    raise TypeError(f"{op}: {name} must be a Kernel, got {type(kernel).__name__}; {remedy}")


def _kernel(profile: str, *, scale, label: str, shape: Parameter = 0.0) -> Kernel:
    return Kernel((Term(profile, 1.0, scale, shape, label),))
