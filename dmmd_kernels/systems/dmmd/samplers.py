"""The flows that draw samples: which way a particle moves at a noise level, and in what order.

Every sampler is steps Z ← Z - η ∇f(Z) on noise levels that fall from t_max to t_min. They differ in
the witness f alone, one function each here:

    exact_slope         the particles themselves against clean data      (DMMD, eqs 9, 10)
    approximate_slope   noised data against clean data                   (DMMD, eq. 13)
    alone_slope         each particle by itself against clean data       (eq. 9 with N_p = 1)

METHODS says which of them a sampler follows along the levels and in its two last steps at t_min.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.systems.dmmd.losses import NoiseConditional

ROWS = 256  # images that go through the network at once
FINAL_STEPS = 2
ENERGY_KNEE = 0.2  # the noise level below which steps of an energy kernel shorten


class Level(NamedTuple):
    """All that a flow knows of the data at one noise level.

    Attributes:
        t: (1,).
        kernel: the base kernel at t.
        eta: η, the step.
        clean: features φ(X_0^j, t), (N_c, K); for a linear kernel their mean, (1, K).
        noised: the same of noised data, φ(X_t^i, t); None for flows that don't use them.
    """

    t: Tensor
    kernel: dk.Kernel
    eta: float
    clean: Tensor
    noised: Tensor | None = None


Slope = Callable[..., Tensor]


class Method(NamedTuple):
    """A sampler: the slope followed along the levels, and in two steps after them, if any.

    Attributes:
        body: from t_max down to t_min.
        final: in FINAL_STEPS steps at t_min, with a rate η_final of their own.
    """

    body: Slope
    final: Slope | None = None


def exact_slope(
    deep: NoiseConditional, z: Tensor, level: Level, *, backend: str = "auto", rows: int = ROWS
) -> Tensor:
    """∇f at Z_i, f(z) = mean_i k(φ(Z_i), φ(z)) - mean_j k(φ(X_0^j), φ(z)) (DMMD, eqs 9, 10).

    Args:
        deep: the noise-conditional kernel.
        z: one cloud of particles, (1, N_p, *shape); all of them pull at each other.
        level: see Level.
        backend: of the ops.
        rows: see `pulled_back`.

    Returns:
        Of the shape of z.
    """

    def gradient(a: Tensor) -> Tensor:
        return dk.witness_grad(a, a, level.clean, level.kernel, backend=backend)

    return pulled_back(deep, z, level.t, gradient, rows)


def approximate_slope(
    deep: NoiseConditional, z: Tensor, level: Level, *, backend: str = "auto", rows: int = ROWS
) -> Tensor:
    """∇f̂ at Z_i, f̂(z) = mean_i k(φ(X_t^i), φ(z)) - mean_j k(φ(X_0^j), φ(z)) (DMMD, eq. 13).

    The noised data stand in for the particles, which therefore don't feel each other. With a linear
    kernel it is ⟨φ(z), φ̄(X_t) - φ̄(X_0)⟩ and two vectors replace all data.

    Args: as in `exact_slope`.

    Raises:
        ValueError: the level has no features of noised data.
    """
    x_t = level.noised
    if x_t is None:
        raise ValueError("approximate_slope: level.noised must hold features, got None")

    def gradient(a: Tensor) -> Tensor:
        return dk.witness_grad(a, x_t, level.clean, level.kernel, backend=backend)

    return pulled_back(deep, z, level.t, gradient, rows)


def alone_slope(
    deep: NoiseConditional, z: Tensor, level: Level, *, backend: str = "auto", rows: int = ROWS
) -> Tensor:
    """∇f at each Z_i as if it were the only particle: N_p = 1 in eq. 9 (a-DMMD-e).

    f(z) = k(φ(Z_i), φ(z)) - mean_j k(φ(X_0^j), φ(z)), Z_i held; Jᵀ(φ(Z_i) - φ̄(X_0)) for a linear
    kernel. Args: as in `exact_slope`.
    """

    def gradient(a: Tensor) -> Tensor:
        one = a.new_ones(1)
        itself = dk.potential_grad(a[0, :, None], a[0, :, None], one, level.kernel, backend=backend)
        share = a.new_full((len(level.clean),), 1 / len(level.clean))
        data = dk.potential_grad(a, level.clean, share, level.kernel, backend=backend)
        return itself[None, :, 0] - data

    return pulled_back(deep, z, level.t, gradient, rows)


METHODS = {
    "dmmd": Method(exact_slope),
    "dmmd_e": Method(exact_slope, exact_slope),
    "a_dmmd": Method(approximate_slope),
    "a_dmmd_a": Method(approximate_slope, approximate_slope),
    "a_dmmd_e": Method(approximate_slope, alone_slope),
}


def pulled_back(
    deep: NoiseConditional, z: Tensor, t: Tensor, gradient: Callable[[Tensor], Tensor], rows: int
) -> Tensor:
    """Jᵀ g(φ(z)), J the Jacobian of φ(·, t) at z: one vector-Jacobian product of the network.

    Args:
        deep: the noise-conditional kernel.
        z: (1, n, *shape).
        t: (1,).
        gradient: features (1, n, K) → g (1, n, K).
        rows: how many of z go through the network at once. From n on there is one pass forward and
            one back; below, one more forward, and results differ by the network's rounding.
    """
    if z.shape[1] <= rows:
        return _product(deep, z, t, gradient)
    blocks = z.split(rows, 1)
    g = gradient(torch.cat([deep(block, t) for block in blocks], 1)).split(rows, 1)
    parts = zip(blocks, g, strict=True)
    return torch.cat([_product(deep, block, t, lambda _: v) for block, v in parts], 1)  # noqa: B023


def _product(
    deep: NoiseConditional, z: Tensor, t: Tensor, gradient: Callable[[Tensor], Tensor]
) -> Tensor:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        a = deep(z, t)
        (slope,) = torch.autograd.grad(a, z, grad_outputs=gradient(a.detach()))
    return slope


def descend(
    deep: NoiseConditional, z: Tensor, level: Level, slope: Slope, steps: int, **how
) -> None:
    """`steps` times Z_i ← Z_i - η ∇f(Z_i, t), in place, for each cloud of z (clouds, N_p, *shape).

    Clouds go through the network one at a time: then what becomes of one does not depend on how
    many others there are, not even in its last bit.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    for cloud in z.split(1):
        for _ in range(steps):
            moved = slope(deep, cloud, level, **how)
            dk.flow_update(cloud.flatten(2), moved.flatten(2), step_size=level.eta)
    if not torch.isfinite(z).all():
        raise not_finite(level.t.item())


def not_finite(t: float) -> FloatingPointError:
    return FloatingPointError(
        f"sample: particles are not finite after level t = {t:.3f}; take a smaller step_size"
    )


def adaptive_flow(
    deep: NoiseConditional, z: Tensor, x_0: Tensor, settings: Settings, ts: list[float]
) -> Iterator[tuple[float, Tensor]]:
    """Algorithm 2: at each level t, N_s times Z_i ← Z_i - η_t ∇f(Z_i, t), all i at once.

    f is the witness of the particles' features against those of the clean data at the current t,
    both held (DMMD, eqs 9, 10).

    Args:
        deep: the noise-conditional kernel.
        z: particles, (clouds, N_p, *shape).
        x_0: clean samples, (N_c, *shape).
        settings: step_size, step_rule, sample_steps, backend.
        ts: noise levels, in the order of the flow.

    Yields:
        (t, z) after the steps of each level.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    if getattr(deep, "on_points", False):
        yield from _flow_of_points(deep, z, x_0, settings, ts)
    else:
        sides = (level_of(deep, settings, t, data_features(deep, x_0, t)) for t in ts)
        yield from flow_of_features(deep, z, sides, exact_slope, settings)


@torch.no_grad()
def flow_of_features(
    deep: NoiseConditional,
    z: Tensor,
    sides: Iterable[Level],
    slope: Slope,
    settings: Settings,
    rows: int = ROWS,
) -> Iterator[tuple[float, Tensor]]:
    """N_s steps along the slope at each level. Args, Yields, Raises: as in `adaptive_flow`."""
    z = z.clone()
    for level in sides:
        how = {"backend": settings.backend, "rows": rows}
        descend(deep, z, level, slope, settings.sample_steps, **how)
        yield level.t.item(), z.clone()


@torch.no_grad()
def _flow_of_points(
    deep: NoiseConditional, z: Tensor, x_0: Tensor, settings: Settings, ts: list[float]
) -> Iterator[tuple[float, Tensor]]:
    """φ(x, t) = x: all levels are one flow, with tables of σ(t) and η_t."""
    count = settings.sample_steps
    t = torch.tensor(ts, device=z.device).to(z)
    etas = torch.tensor([step_length(settings, deep, x_0.flatten(1), level[None]) for level in t])
    reached: list[Tensor] = []
    try:
        dk.flow(
            z.flatten(2),
            x_0.flatten(1),
            deep.kernel(t.repeat_interleave(count)[:, None]),
            step_size=etas.repeat_interleave(count),
            steps=count * len(ts),
            callback=lambda _, particles: reached.append(particles.view_as(z)),
            callback_every=count,
            backend=settings.backend,
        )
    except dk.FlowError as error:
        raise not_finite(ts[(error.step - 1) // count]) from error
    yield from zip(ts, reached, strict=True)


def level_of(
    deep: NoiseConditional,
    settings: Settings,
    t: float,
    clean: Tensor,
    noised: Tensor | None = None,
) -> Level:
    """The Level at t, given the features of the data there; η by settings.step_rule."""
    at = torch.tensor([t], dtype=clean.dtype, device=clean.device)
    with torch.no_grad():
        eta = step_length(settings, deep, clean, at)
        return Level(at, deep.kernel(at), eta, clean, noised)


@torch.no_grad()
def data_features(deep: NoiseConditional, x: Tensor, t: float | Tensor, rows: int = ROWS) -> Tensor:
    """b_j = φ(X^j, t), (N, K); only their mean, (1, K), for a linear kernel (DMMD, eq. 12).

    The witness of a linear kernel depends on the mean alone. Sums of blocks are in float64.
    """
    at = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(1)
    parts = _features(deep, x, at, rows)
    if not is_linear(deep.kernel(at)):
        return torch.cat(list(parts))
    total = torch.stack([part.double().sum(0) for part in parts]).sum(0)
    return (total / len(x)).to(x.dtype)[None]


@torch.no_grad()
def energy_level(
    deep: NoiseConditional, settings: Settings, t: float, x_0: Tensor, rows: int = ROWS
) -> Level:
    """The Level at t with k = -|φ(x) - φ(y)| in place of the trained base kernel (ours).

    Why: with a linear kernel particles rest once mean features agree, though single images are
    not yet like the data. This witness is zero only where all of the features' distribution
    agrees. Its slope does not fall with the distance, so steps are short where features change fast
    with x, at small t.
    """
    at = torch.tensor([t], dtype=x_0.dtype, device=x_0.device)
    eta = settings.energy_step * min(1.0, t / ENERGY_KNEE)
    return Level(at, dk.energy(), eta, torch.cat(list(_features(deep, x_0, at, rows))))


def _features(deep: NoiseConditional, x: Tensor, at: Tensor, rows: int) -> Iterator[Tensor]:
    return (deep(block[None], at)[0] for block in x.split(rows))


def is_linear(kernel: dk.Kernel) -> bool:
    return all(term.profile == "linear" for term in kernel.terms)


def step_length(settings: Settings, deep: NoiseConditional, a_0: Tensor, t: Tensor) -> float:
    """η = c, or for step_rule = "stable" η = c σ(t)² / k̄, k̄ = mean k(x, x') over clean features.

    Why: a ripple of wave number κ on a cloud of even density decays at the rate k̄ κ² e^(-κ²σ²/2)
    times η per step. It is fastest at κ² = 2/σ², so steps overshoot from η = e σ²/k̄ on: c < e for
    every σ, and equal c means equally bold. This rule is ours; the paper gives none for 2-D.
    """
    if settings.step_rule == "constant":
        return settings.step_size
    kernel = deep.kernel(t[0])
    some = a_0[:1000]
    share = some.new_full((len(some),), 1 / len(some))
    mean = dk.potential(some, some, share, kernel, backend=settings.backend).mean().item()
    scale = kernel.terms[0].scale
    sigma2 = 0.5 / float(scale) if scale is not None else 1.0
    return settings.step_size * sigma2 / mean
