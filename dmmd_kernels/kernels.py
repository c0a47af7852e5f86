"""Kernels as immutable values, and their compiled form.

A kernel is a sum of terms λ·ψ(t; a) with t = scale · q, where q is |x - y|² for radial profiles and
⟨x, y⟩ for polynomial ones. Compiled code receives the profile names and one row (λ, scale, a) per
term, so adding a kernel means a constructor here, a `Profile` in backends/profiles.py, and the same
ψ in csrc/profile.h and backends/_triton/profile.py.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

Parameter = float | Tensor


@dataclass(frozen=True)
class Term:
    """λ·ψ(scale · q; shape). A polynomial's scale is None until d is known (γ = 1/d)."""

    profile: str
    weight: Parameter
    scale: Parameter | None
    shape: Parameter
    label: str = field(compare=False)

    def __str__(self) -> str:
        if isinstance(self.weight, Tensor):
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

    def __post_init__(self):
        """Collects the parameters that are tensors."""
        values = [v for t in self.terms for v in (t.weight, t.scale, t.shape)]
        tensors = tuple(v for v in values if isinstance(v, Tensor))
        object.__setattr__(self, "parameters", tensors)
        object.__setattr__(self, "_named", _named(self.terms))

    def __reduce__(self):
        """Copies and pickles are the terms; what was kept beside them is found again."""
        return Kernel, (self.terms,)

    def __add__(self, other: "Kernel") -> "Kernel":
        if not isinstance(other, Kernel):
            return NotImplemented
        return Kernel(self.terms + other.terms)

    def __mul__(self, factor: Parameter) -> "Kernel":
        if not isinstance(factor, int | float | Tensor):
            return NotImplemented
        factor = _positive("kernel multiple", "the factor", factor)
        return Kernel(tuple(replace(t, weight=t.weight * factor) for t in self.terms))

    __rmul__ = __mul__

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))

    __repr__ = __str__

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


PLAIN = (Tensor, torch.nn.Parameter)


def is_jit_tracing() -> bool:
    """Whether torch.jit.trace records the code: sizes are tensors then."""
    return not torch.compiler.is_compiling() and torch._C._is_tracing()


def is_tracing() -> bool:
    """Whether torch is transforming or recording the code, so that no tensor may be kept."""
    return (
        torch.compiler.is_compiling()
        or torch._C._is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch._C._len_torch_dispatch_stack() > 0
    )


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


def _known(value: Parameter | None, otherwise: float = math.nan) -> float:
    """The value of what is a number."""
    return otherwise if value is None or isinstance(value, Tensor) else float(value)


def _table(terms: Sequence[Term], d: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The rows (λ, scale, a) of the terms: (L, 3), or (…, L, 3) with parameters of batch shape."""
    rows = [(t.weight, 1 / max(d, 1) if t.scale is None else t.scale, t.shape) for t in terms]
    learned = [value for row in rows for value in row if isinstance(value, Tensor)]
    numbers = tuple(None if isinstance(v, Tensor) else v for row in rows for v in row)
    if max([0.0, *[v for v in numbers if v is not None]]) > torch.finfo(dtype).max:
        kernel = " + ".join(map(str, terms))
        raise ValueError(f"{kernel}: 1/σ² must fit in {dtype}; rescale points and widths")
    build = _table_of_numbers if is_tracing() or not learned else _kept_table_of_numbers
    table, places = build(numbers, dtype, device)
    for place, value in zip(places, learned, strict=True):
        value = value.to(device, dtype)
        table = torch.where(place, value[..., None, None] if value.ndim else value, table)
    return table


def _table_of_numbers(
    numbers: tuple[float | None, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(L, 3), and where a learned value belongs, (L, 3) of bool for each None."""
    rows = lambda values, dtype: torch.tensor(values, dtype=dtype, device=device).view(-1, 3)
    values = [0.0 if number is None else number for number in numbers]
    if torch.compiler.is_dynamo_compiling():  # torch.tensor would be compiled anew for each value
        one = torch.ones((), dtype=torch.float64, device=device)
        table = torch.stack([one * value for value in values]).to(dtype).view(-1, 3)
    else:
        table = rows(values, dtype)
    learned = [i for i, number in enumerate(numbers) if number is None]
    places = [rows([i == place for i in range(len(numbers))], torch.bool) for place in learned]
    return table, tuple(places)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _kept_table_of_numbers(*key):
    return _table_of_numbers(*key)


# -- Constructors ---------------------------------------------------------------------------------
# Parameters are numbers, or tensors of shape () or of the batch shape, which may require grad.
# Numbers are checked here. Tensors are not read (that would stall a GPU): keep them positive.


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
    sigma = _positive("gaussian", "sigma", sigma)
    return _kernel("gaussian", scale=0.5 / sigma**2, label=f"gaussian({_show(sigma)})")


@_of_numbers_once
def rational_quadratic(alpha: Parameter, sigma: Parameter = 1.0) -> Kernel:
    """k(x, y) = (1 + |x - y|² / 2ασ²)^(-α)"""
    alpha = _positive("rational_quadratic", "alpha", alpha)
    sigma = _positive("rational_quadratic", "sigma", sigma)
    label = f"rational_quadratic({_show(alpha)}, {_show(sigma)})"
    return _kernel("rational_quadratic", scale=0.5 / (alpha * sigma**2), shape=alpha, label=label)


@_of_numbers_once
def laplace(sigma: Parameter) -> Kernel:
    """k(x, y) = exp(-|x - y| / σ), with the Euclidean norm."""
    sigma = _positive("laplace", "sigma", sigma)
    return _kernel("laplace", scale=1.0 / sigma**2, label=f"laplace({_show(sigma)})")


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
    sigma = _positive("matern", "sigma", sigma)
    label = f"matern({nu:g}, {_show(sigma)})"
    return _kernel(_MATERN[nu], scale=2 * nu / sigma**2, label=label)


@_of_numbers_once
def imq(c: Parameter) -> Kernel:
    """k(x, y) = (1 + |x - y|² / c²)^(-1/2), the inverse multiquadric."""
    c = _positive("imq", "c", c)
    return _kernel("imq", scale=1.0 / c**2, label=f"imq({_show(c)})")


@_of_numbers_once
def energy(beta: Parameter = 1.0) -> Kernel:
    """k(x, y) = -|x - y|^β, 0 < β < 2. Its MMD² is the energy distance (β = 1)."""
    if not isinstance(beta, Tensor) and not 0 < beta < 2:
        raise ValueError(f"energy: beta must lie strictly between 0 and 2, got {beta}")
    return _kernel("energy", scale=1.0, shape=beta, label=f"energy({_show(beta)})")


@_of_numbers_once
def linear() -> Kernel:
    """k(x, y) = ⟨x, y⟩. Every op has a closed form in O((n + m) d); no pair is visited."""
    return _kernel("linear", scale=1.0, label="linear()")


@_of_numbers_once
def polynomial(degree: int = 3, gamma: Parameter | None = None, coef: Parameter = 1.0) -> Kernel:
    """k(x, y) = (γ⟨x, y⟩ + c)^degree, with γ = 1/d when None."""
    if not isinstance(degree, int) or degree < 1:
        raise ValueError(f"polynomial: degree must be a whole number of at least 1, got {degree!r}")
    if gamma is not None:
        gamma = _positive("polynomial", "gamma", gamma)
    if not isinstance(coef, Tensor) and not 0 <= coef < math.inf:
        raise ValueError(f"polynomial: coef must be a number of at least 0, got {coef}")
    label = f"polynomial({degree}, {_show(gamma)}, {_show(coef)})"
    return _kernel(f"polynomial{degree}", scale=gamma, shape=coef, label=label)


def mixture(kernels: Sequence[Kernel], weights: Sequence[Parameter] | None = None) -> Kernel:
    """Σ weight · kernel; weights default to 1 each, so a mixture is a sum, not a mean."""
    kernels = list(kernels)
    if not kernels:
        raise ValueError("mixture: kernels must hold at least one kernel, got an empty sequence")
    weights = [1.0] * len(kernels) if weights is None else list(weights)
    if len(weights) != len(kernels):
        raise ValueError(
            f"mixture: weights must have one entry per kernel, {len(kernels)}, got {len(weights)}"
        )
    # By its name: for torch.compile, k * w with a tensor w is a product of tensors, and fails.
    terms = [k.__mul__(w).terms for w, k in zip(weights, kernels, strict=True)]
    return Kernel(sum(terms, ()))


def _kernel(profile: str, *, scale, label: str, shape: Parameter = 0.0) -> Kernel:
    return Kernel((Term(profile, 1.0, scale, shape, label),))


def _positive(owner: str, name: str, value: Parameter) -> Parameter:
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{owner}: {name} must be a floating-point tensor, got {value.dtype}")
        return value
    if not 0 < value < math.inf:  # math.isfinite takes no number that a compiler follows
        raise ValueError(f"{owner}: {name} must be a positive finite number, got {value}")
    return value if torch.compiler.is_compiling() else float(value)


def _show(value: Parameter | None) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    return "…" if torch.compiler.is_compiling() else repr(value)  # a symbol has no digits
