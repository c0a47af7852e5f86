"""The forward process x_t = α_t x_0 + β_t ε, variance preserving: α² + β² = 1 (DMMD, eq. 6).

A schedule says how α falls from 1 at t = 0 to almost 0 at t = 1. It is an immutable value with one
method, `log_alpha(t)`; the rest follows from it. A new schedule is a dataclass here.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """What every schedule can do, given its log α_t."""

    def log_alpha(self, t: Tensor) -> Tensor:
        """log α_t, of the shape of t."""
        raise NotImplementedError("Schedule: log_alpha must be defined by the schedule")

    def alpha(self, t: Tensor) -> Tensor:
        """α_t, the share of the data that is left."""
        return self.log_alpha(t).exp()

    def beta(self, t: Tensor) -> Tensor:
        """β_t = √(1 - α_t²), the deviation of the noise; accurate where it is small."""
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def noised(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t = α_t x_0 + β_t ε (DMMD, eq. 6).

        Args:
            x: clean samples x_0, (*t.shape, …), or without the leading dimensions of t.
            t: noise levels in [0, 1].
            noise: ε, standard normal, of the shape of the result.

        Returns:
            (*t.shape, …).

        Raises:
            ValueError: the leading dimensions of noise are not the shape of t.
        """
        if noise.shape[: t.ndim] != t.shape:
            raise ValueError(
                f"noised: noise must begin with the shape of t, {tuple(t.shape)}, "
                f"got {tuple(noise.shape)}"
            )
        column = t.reshape(*t.shape, *[1] * (noise.ndim - t.ndim))
        return self.alpha(column) * x + self.beta(column) * noise


@dataclass(frozen=True)
class LinearBeta(Schedule):
    """log α_t = -t² (b_1 - b_0)/4 - t b_0/2: a diffusion rate that grows linearly from b_0 to b_1.

    The continuous form of the schedule of Ho et al. (DDPM, 2020), as in Song et al. (2021).
    With the defaults α_1 ≈ 0.0066.

    Attributes:
        rate_at_zero: b_0.
        rate_at_one: b_1.
    """

    rate_at_zero: float = 0.1
    rate_at_one: float = 20.0

    def log_alpha(self, t: Tensor) -> Tensor:
        """-t² (b_1 - b_0)/4 - t b_0/2"""
        return -t * (t * (self.rate_at_one - self.rate_at_zero) / 4 + self.rate_at_zero / 2)


@dataclass(frozen=True)
class DiscreteBeta(Schedule):
    """α_t² = Π_{i ≤ n} (1 - b_i), n = round(t · steps), b_i linear (Ho et al., 2020, eq. 4).

    Attributes:
        steps: how many steps the chain has.
        first, last: b_1 and b_steps.
    """

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02

    def log_alpha(self, t: Tensor) -> Tensor:
        """½ Σ_{i ≤ n} log(1 - b_i), n = round(t · steps); 0 at n = 0."""
        rates = torch.linspace(
            self.first, self.last, self.steps, dtype=torch.float64, device=t.device
        )
        table = torch.cat([rates.new_zeros(1), torch.log1p(-rates).cumsum(0)]) / 2
        n = (t * self.steps).round().long().clamp(0, self.steps)
        return table[n].to(t.dtype)


def levels(t_max: float, t_min: float, count: int) -> Tensor:
    """(count,): the noise levels of the sampler, from t_max down to t_min, both included.

    Raises:
        ValueError: not 0 ≤ t_min ≤ t_max ≤ 1, or count is not positive.
    """
    if count < 1 or not 0 <= t_min <= t_max <= 1:
        raise ValueError(
            "levels: 0 <= t_min <= t_max <= 1 and count >= 1 must hold, "
            f"got t_min={t_min}, t_max={t_max}, count={count}"
        )
    return torch.linspace(t_max, t_min, count)


def random_levels(
    t_max: float, t_min: float, count: int, generator: torch.Generator | None = None
) -> Tensor:
    """(count,): t ~ U[t_min, t_max], one draw in each of `count` slices of equal length.

    Each t is uniform over its slice, so the mean over all of them is that of independent draws
    with less variance.
    """
    places = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return t_min + (t_max - t_min) * places
