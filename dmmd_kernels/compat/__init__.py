"""Third-party MMD code, computed by dmmd_kernels: value for value, without the n × m × d memory.

One file per library or family of copies. Each can be used in two ways:

    from dmmd_kernels.compat.geomloss import SamplesLoss     an import swap, in code of one's own
    with compat.patch("geomloss"): ...                       a library that is installed, for a
    while

A shim returns what the original returns, its mixtures, factors and missing roots included. Its
docstring says the convention and which defects are kept. New code is better served by `dk.mmd2`
and `dk.MMDLoss`, where scale, mixture and estimator are arguments.
"""

from dmmd_kernels.compat.patching import patch, patchable

__all__ = ["patch", "patchable"]
