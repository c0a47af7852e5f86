"""2-D toy distributions: functions (n, generator) → (n, 2) in float32, spread about unit scale.

A new one is a function here and an entry of TOYS.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor


def checkerboard(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): uniform on the dark cells of a 4 × 4 board that fills [-2, 2]².

    Cells are squares of side 1 between integer coordinates. (x, y) lies on a dark one when
    ⌊x⌋ + ⌊y⌋ is even; there are 8. Each coordinate has mean 0 and variance 4/3.
    """
    row = torch.randint(4, (n,), generator=generator)
    column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
    corner = torch.stack([column, row], 1) - 2
    return corner + torch.rand(n, 2, generator=generator)


def inside_checkerboard(points: Tensor) -> float:
    """The share of points (n, 2) on the dark cells of `checkerboard`; 1/2 for uniform ones."""
    on_board = (points >= -2).all(1) & (points < 2).all(1)
    return (on_board & (points.floor().sum(1) % 2 == 0)).double().mean().item()


def eight_gaussians(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): normal clouds of deviation 0.1 at 8 even angles of the circle of radius √2."""
    angle = math.pi / 4 * torch.randint(8, (n,), generator=generator)
    return math.sqrt(2) * _on_circle(angle) + 0.1 * torch.randn(n, 2, generator=generator)


def two_moons(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): two interleaved half circles of radius 1, blurred by 0.1.

    The upper is centred at (-1/2, -1/4), the lower at (1/2, 1/4).
    """
    side = 1 - 2.0 * torch.randint(2, (n,), generator=generator)
    arc = _on_circle(math.pi * torch.rand(n, generator=generator))
    moons = side[:, None] * (arc + torch.tensor([-0.5, -0.25]))
    return moons + 0.1 * torch.randn(n, 2, generator=generator)


def swiss_roll(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): the spiral r = θ/2π, θ uniform in [3π/2, 9π/2], blurred by 0.05."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    spiral = angle[:, None] / (2 * math.pi) * _on_circle(angle)
    return spiral + 0.05 * torch.randn(n, 2, generator=generator)


def three_rings(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): three circles of radius 0.3 centred at (0, -3/4), (0, 0) and (0, 3/4).

    The target of Glaser, Arbel and Gretton (KALE flow, NeurIPS 2021), moved to mean 0.
    """
    ring = torch.randint(3, (n,), generator=generator) - 1
    points = 0.3 * _on_circle(2 * math.pi * torch.rand(n, generator=generator))
    points[:, 1] += 0.75 * ring
    return points


def _on_circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


TOYS: dict[str, Callable[..., Tensor]] = {
    toy.__name__: toy for toy in (checkerboard, eight_gaussians, two_moons, swiss_roll, three_rings)
}
