"""MMD and its gradient flow for millions of particles, in linear memory."""

from dmmd_kernels.backend import BackendError
from dmmd_kernels.bandwidth import mean_sigma, median_sigma
from dmmd_kernels.flows import FlowError, FlowResult, flow, flow_update, velocity
from dmmd_kernels.kernels import (
    Kernel,
    energy,
    gaussian,
    imq,
    laplace,
    linear,
    mixture,
    polynomial,
    rational_quadratic,
)
from dmmd_kernels.ops import (
    kernel_matrix,
    mmd2,
    potential,
    potential_and_grad,
    potential_grad,
    witness,
    witness_grad,
)

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "FlowError",
    "FlowResult",
    "Kernel",
    "energy",
    "flow",
    "flow_update",
    "gaussian",
    "imq",
    "kernel_matrix",
    "laplace",
    "linear",
    "mean_sigma",
    "median_sigma",
    "mixture",
    "mmd2",
    "polynomial",
    "potential",
    "potential_and_grad",
    "potential_grad",
    "rational_quadratic",
    "velocity",
    "witness",
    "witness_grad",
]
