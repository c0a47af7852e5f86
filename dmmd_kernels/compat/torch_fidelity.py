"""The kernel inception distance of torch-fidelity.

    from dmmd_kernels.compat.torch_fidelity import kernel_mmd
        in place of: from torch_fidelity.metric_kid import kernel_mmd

Convention: (gamma ⟨x, y⟩ + coef0)^degree with gamma = 1/d, or exp(-|x - y|² / 2σ²); MMD² unbiased.
NumPy features in, a float out. Mended: it is computed in float64, whatever the features' dtype.
"""

from typing import Any

import numpy as np
import torch

import dmmd_kernels as dk
from dmmd_kernels.compat.patching import Swap
from dmmd_kernels.compat.sums import require_same_size


def kernel_mmd(
    features_1: np.ndarray,
    features_2: np.ndarray,
    *,
    kid_kernel: str = "poly",
    kid_kernel_poly_degree: int = 3,
    kid_kernel_poly_gamma: float | None = None,
    kid_kernel_poly_coef0: float = 1.0,
    kid_kernel_rbf_sigma: float = 10.0,
    **others: Any,
) -> float:
    """features_1, features_2 (m, d). The other settings of the metric are accepted and not used."""
    require_same_size("kernel_mmd", features_1, features_2)
    if kid_kernel not in ("poly", "rbf"):
        raise ValueError(f"kernel_mmd: kid_kernel must be 'poly' or 'rbf', got {kid_kernel!r}")
    if kid_kernel == "rbf":
        kernel = dk.gaussian(kid_kernel_rbf_sigma)
    else:
        coef = float(kid_kernel_poly_coef0)
        kernel = dk.polynomial(kid_kernel_poly_degree, kid_kernel_poly_gamma, coef)
    x, y = (torch.from_numpy(f).double() for f in (features_1, features_2))
    return dk.mmd2(x, y, kernel).item()


def swaps() -> list[Swap]:
    from torch_fidelity import metric_kid

    return [Swap(metric_kid, "kernel_mmd", kernel_mmd)]
