"""MMD and its gradient flow for millions of particles, in linear memory."""

from dmmd_kernels.autograd.recorded import refuse_scripting
from dmmd_kernels.backends.choice import BackendError, regime, tune
from dmmd_kernels.kernels import (
    Kernel,
    energy,
    gaussian,
    imq,
    laplace,
    linear,
    matern,
    mixture,
    polynomial,
    rational_quadratic,
)
from dmmd_kernels.ops import (
    HeldSample,
    hold,
    kernel_matrix,
    mmd2,
    potential,
    potential_and_grad,
    potential_grad,
    witness,
    witness_grad,
)
from dmmd_kernels.ops.bandwidth import mean_sigma, median_sigma, sigma_range
from dmmd_kernels.ops.flows import FlowError, FlowResult, flow, flow_update, velocity
from dmmd_kernels.ops.modules import EnergyLoss, LearnableKernel, MMDLoss
from dmmd_kernels.ops.power import mmd2_variance, power_criterion, select_kernel
from dmmd_kernels.ops.two_sample import (
    AggregatedResult,
    TwoSampleResult,
    aggregated_test,
    permutation_test,
    wild_bootstrap_test,
)

__version__ = "0.1.0"

__all__ = [
    "AggregatedResult",
    "BackendError",
    "EnergyLoss",
    "FlowError",
    "FlowResult",
    "HeldSample",
    "Kernel",
    "LearnableKernel",
    "MMDLoss",
    "TwoSampleResult",
    "aggregated_test",
    "energy",
    "flow",
    "flow_update",
    "gaussian",
    "hold",
    "imq",
    "kernel_matrix",
    "laplace",
    "linear",
    "matern",
    "mean_sigma",
    "median_sigma",
    "mixture",
    "mmd2",
    "mmd2_variance",
    "permutation_test",
    "polynomial",
    "potential",
    "potential_and_grad",
    "potential_grad",
    "power_criterion",
    "rational_quadratic",
    "regime",
    "select_kernel",
    "sigma_range",
    "tune",
    "velocity",
    "wild_bootstrap_test",
    "witness",
    "witness_grad",
]

refuse_scripting({name: globals()[name] for name in __all__})
