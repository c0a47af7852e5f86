"""The flows that draw samples: which way a particle moves at a noise level, and in what order.

Every sampler is steps Z ← Z - η ∇f(Z) on noise levels that fall from t_max to t_min. They differ in
the witness f alone, one function each here:

    exact_slope         the particles themselves against clean data      (DMMD, eqs 9, 10)
    approximate_slope   noised data against clean data                   (DMMD, eq. 13)
    alone_slope         each particle by itself against clean data       (eq. 9 with N_p = 1)

draws.METHODS says which of them a sampler follows along the levels and in its two last steps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.systems.dmmd.deep_kernel import NoiseConditional, pulled_back
from dmmd_kernels.systems.step_rule import stable_step

ROWS = 256  # images that go through the network at once
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


class Step(NamedTuple):
    """η of a step: c, or where `is_stable` c σ(t)²/mean k(x, x'); see `step_length`."""

    c: float
    is_stable: bool = False


# (deep, cloud of particles (1, N_p, *shape), level, backend=, rows=) → ∇f at each, of its shape.
Slope = Callable[..., Tensor]


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

    return pulled_back(deep, z, level.t, gradient, rows=rows)


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

    return pulled_back(deep, z, level.t, gradient, rows=rows)


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

    return pulled_back(deep, z, level.t, gradient, rows=rows)


def descend(
    deep: NoiseConditional,
    z: Tensor,
    level: Level,
    slope: Slope,
    steps: int,
    *,
    backend: str = "auto",
    rows: int = ROWS,
) -> None:
    """`steps` times Z_i ← Z_i - η ∇f(Z_i, t), in place, for each cloud of z (clouds, N_p, *shape).

    Clouds go through the network one at a time: then what becomes of one does not depend on how
    many others there are, not even in its last bit.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    for cloud in z.split(1):
        for _ in range(steps):
            moved = slope(deep, cloud, level, backend=backend, rows=rows)
            dk.flow_update(cloud.flatten(2), moved.flatten(2), step_size=level.eta)
    if not torch.isfinite(z).all():
        raise not_finite(level.t.item())


def not_finite(t: float) -> FloatingPointError:
    return FloatingPointError(
        f"sample: particles are not finite after level t = {t:.3f}; take a smaller step_size"
    )


def adaptive_flow(
    deep: NoiseConditional,
    z: Tensor,
    x_0: Tensor,
    ts: Sequence[float],
    step: Step,
    count: int,
    *,
    backend: str = "auto",
) -> Iterator[tuple[float, Tensor]]:
    """Algorithm 2: at each level t, N_s times Z_i ← Z_i - η_t ∇f(Z_i, t), all i at once.

    f is the witness of the particles' features against those of the clean data at the current t,
    both held (DMMD, eqs 9, 10).

    Args:
        deep: the noise-conditional kernel.
        z: particles, (clouds, N_p, *shape).
        x_0: clean samples, (N_c, *shape).
        ts: noise levels, in the order of the flow.
        step: η.
        count: N_s.
        backend: of the ops.

    Yields:
        (t, z) after the steps of each level.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    if deep.on_points:
        yield from _flow_of_points(deep, z, x_0, ts, step, count, backend)
    else:
        levels = (level_of(deep, step, t, data_features(deep, x_0, t), backend=backend) for t in ts)
        yield from flow_of_features(deep, z, levels, exact_slope, count, backend=backend)


@torch.no_grad()
def flow_of_features(
    deep: NoiseConditional,
    z: Tensor,
    levels: Iterable[Level],
    slope: Slope,
    count: int,
    *,
    backend: str = "auto",
    rows: int = ROWS,
) -> Iterator[tuple[float, Tensor]]:
    """N_s = count steps along the slope at each level. Yields, Raises: as in `adaptive_flow`."""
    z = z.clone()
    for level in levels:
        descend(deep, z, level, slope, count, backend=backend, rows=rows)
        yield level.t.item(), z.clone()


@torch.no_grad()
def _flow_of_points(
    deep: NoiseConditional,
    z: Tensor,
    x_0: Tensor,
    ts: Sequence[float],
    step: Step,
    count: int,
    backend: str,
) -> Iterator[tuple[float, Tensor]]:
    """φ(x, t) = x: all levels are one flow, with tables of σ(t) and η_t."""
    t, x_0 = torch.tensor(ts, device=z.device).to(z), x_0.flatten(1)
    etas = torch.tensor([step_length(deep, step, x_0, at[None], backend=backend) for at in t])
    reached: list[Tensor] = []
    try:
        dk.flow(
            z.flatten(2),
            x_0,
            deep.kernel(t.repeat_interleave(count)[:, None]),
            step_size=etas.repeat_interleave(count),
            steps=count * len(ts),
            callback=lambda _, particles: reached.append(particles.view_as(z)),
            callback_every=count,
            backend=backend,
        )
    except dk.FlowError as error:
        raise not_finite(ts[(error.step - 1) // count]) from error
    yield from zip(ts, reached, strict=True)


def level_of(
    deep: NoiseConditional,
    step: Step,
    t: float,
    clean: Tensor,
    noised: Tensor | None = None,
    *,
    backend: str = "auto",
) -> Level:
    """The Level at t, given the features of the data there."""
    at = torch.tensor([t], dtype=clean.dtype, device=clean.device)
    with torch.no_grad():
        eta = step_length(deep, step, clean, at, backend=backend)
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
    deep: NoiseConditional, c: float, t: float, x_0: Tensor, *, rows: int = ROWS
) -> Level:
    """The Level at t with k = -|φ(x) - φ(y)| in place of the trained base kernel (ours).

    Why: with a linear kernel particles rest once mean features agree, though single images are
    not yet like the data. This witness is zero only where all of the features' distribution
    agrees. Its slope does not fall with the distance, so steps are short where features change fast
    with x, at small t: η = c min(1, t / ENERGY_KNEE).
    """
    at = torch.tensor([t], dtype=x_0.dtype, device=x_0.device)
    eta = c * min(1.0, t / ENERGY_KNEE)
    return Level(at, dk.energy(), eta, torch.cat(list(_features(deep, x_0, at, rows))))


def _features(deep: NoiseConditional, x: Tensor, at: Tensor, rows: int) -> Iterator[Tensor]:
    return (deep(block[None], at)[0] for block in x.split(rows))


def is_linear(kernel: dk.Kernel) -> bool:
    return all(term.profile == "linear" for term in kernel.terms)


def step_length(
    deep: NoiseConditional, step: Step, a_0: Tensor, t: Tensor, *, backend: str = "auto"
) -> float:
    """η = c, or if stable c times `stable_step` of the kernel at t over clean features a_0."""
    if not step.is_stable:
        return step.c
    return step.c * stable_step(a_0, deep.kernel(t[0]), backend=backend)
