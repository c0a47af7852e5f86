"""The step of a flow that is equally bold for every width of a Gaussian kernel."""

from torch import Tensor

import dmmd_kernels as dk


def stable_step(points: Tensor, kernel: dk.Kernel, *, backend: str = "auto") -> float:
    """σ²/k̄, k̄ = mean k(x, x') over the first 1000 of the points (N, d): η in units of c.

    Why: a ripple of wave number κ on a cloud of even density decays at the rate k̄ κ² e^(-κ²σ²/2)
    times η per step. It is fastest at κ² = 2/σ², so steps overshoot from η = e σ²/k̄ on: c < e for
    every σ, and equal c means equally bold. This rule is ours; the paper of DMMD gives none for
    2-D.
    """
    some = points[:1000]
    share = some.new_full((len(some),), 1 / len(some))
    mean = dk.potential(some, some, share, kernel, backend=backend).mean().item()
    scale = kernel.terms[0].scale
    sigma2 = 0.5 / float(scale) if scale is not None else 1.0
    return sigma2 / mean
