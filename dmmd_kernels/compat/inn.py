"""The multiscale inverse multiquadrics of the invertible networks of VLL-HD and FrEIA.

    from dmmd_kernels.compat.inn import MMD_multiscale, MMD_matrix_multiscale

Convention: `MMD_multiscale` is MMD², biased, of Σ_a a²/(a² + |x - y|²), a = 0.05, 0.2, 0.9.
`MMD_matrix_multiscale` returns the matrix K_xx + K_yy - 2 K_xy of Σ C^a ((C + |x - y|²)/a)^-a,
whose mean is MMD².

Mended: the device is that of the data and no global; `MMD_multiscale` takes samples of different
sizes; the matrix is there of one size, as its sum demands.
"""

from collections.abc import Sequence

from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import of_samples, require_same_size

EXCHANGED = {"MMD_multiscale": (), "MMD_matrix_multiscale": ()}
WIDTHS = (0.05, 0.2, 0.9)


@of_samples("x", "y")
def MMD_multiscale(x: Tensor, y: Tensor) -> Tensor:
    """x (n, d), y (m, d) → ()."""
    kernel = dk.mixture([dk.rational_quadratic(1.0, a / 2**0.5) for a in WIDTHS])
    return dk.mmd2(x, y, kernel, estimator="biased")


@of_samples("x", "y")
def MMD_matrix_multiscale(
    x: Tensor, y: Tensor, widths_exponents: Sequence[tuple[float, float]]
) -> Tensor:
    """x, y (n, d) → (n, n); C^a ((C + D)/a)^-a = a^a (1 + D/C)^-a."""
    require_same_size("MMD_matrix_multiscale", x, y)
    terms = [a**a * dk.rational_quadratic(a, (c / (2 * a)) ** 0.5) for c, a in widths_exponents]
    kernel = dk.mixture(terms)
    same = dk.kernel_matrix(x, x, kernel) + dk.kernel_matrix(y, y, kernel)
    return same - 2 * dk.kernel_matrix(x, y, kernel)
