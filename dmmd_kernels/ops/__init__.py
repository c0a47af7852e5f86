"""The public functions: checked inputs, any backend, differentiable."""

from dmmd_kernels.ops.held import HeldSample, hold
from dmmd_kernels.ops.mmd import mmd2, witness, witness_grad
from dmmd_kernels.ops.pairwise import (
    kernel_matrix,
    potential,
    potential_and_grad,
    potential_grad,
)

__all__ = [
    "HeldSample",
    "hold",
    "kernel_matrix",
    "mmd2",
    "potential",
    "potential_and_grad",
    "potential_grad",
    "witness",
    "witness_grad",
]
