"""What dk.tune can time: for each op the row of its table, its compiled profiles, and a call.

A tile that is kept for an op has to fit its other calls too, so sides, and columns of coefficients
beyond a plain sweep, are as many as a program takes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.backends._triton import fused, parameter_tiles, second_order, sides
from dmmd_kernels.backends._triton.pairwise import potential, potential_grad
from dmmd_kernels.backends._triton.profile import code, shortcuts
from dmmd_kernels.backends._triton.regimes import Regime
from dmmd_kernels.backends._triton.sums import params_grad
from dmmd_kernels.kernels import Mixture


class Tunable(NamedTuple):
    """row: None where the op takes lanes of its own, whose tiles are no table's."""

    row: Regime | None
    profiles: int
    call: Callable[[], object]


def _value(z: Tensor, x: Tensor, kernel: Mixture) -> Tunable:
    row, w = fused.chosen(z, x, 1, kernel, grad=False), _ones(x)
    return Tunable(row, shortcuts(kernel), lambda: potential(z, x, w, kernel))


def _gradient(z: Tensor, x: Tensor, kernel: Mixture) -> Tunable:
    row, w = fused.chosen(z, x, 1, kernel, grad=True), _ones(x)
    return Tunable(row, shortcuts(kernel), lambda: potential_grad(z, x, None, w, kernel))


def _sides(z: Tensor, x: Tensor, kernel: Mixture) -> Tunable:
    """As many as one program takes."""
    row, w = sides.chosen(z, x, sides.MOST_SIDES, kernel), _ones(x, sides.MOST_SIDES)
    return Tunable(row, shortcuts(kernel), lambda: potential(z, x, w, kernel))


def _second_order(z: Tensor, x: Tensor, kernel: Mixture) -> Tunable:
    """What a gradient's backward pass calls: z moves, once before the other points, once behind."""
    v, w = _ones(z), _ones(x)
    row = second_order.chosen(kernel, z=z, x=x, v=v, w=w, a=z, b=None)

    def call():
        second_order.tangents(z, x, v, w, kernel, z, None, None)
        second_order.tangents(x, z, w, v, kernel, None, z, None)

    return Tunable(row, code(kernel.names), call)


def _parameters(z: Tensor, x: Tensor, kernel: Mixture) -> Tunable:
    """Of two columns of coefficients, as the unbiased MMD² has them."""
    v, w = _ones(z, 2), _ones(x, 2)
    row = parameter_tiles.chosen(z, x, 2, kernel)
    return Tunable(row, code(kernel.names), lambda: params_grad(z, x, v, w, kernel))


OPS = {
    "value": _value,
    "gradient": _gradient,
    "sides": _sides,
    "second_order": _second_order,
    "parameters": _parameters,
}


def _ones(points: Tensor, p: int = 1) -> Tensor:
    return points.new_ones(*points.shape[:-1], p, dtype=torch.float32)
