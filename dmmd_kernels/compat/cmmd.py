"""The CMMD metric of google-research and of its PyTorch port.

    from dmmd_kernels.compat.cmmd import mmd
        in place of: from distance import mmd

Convention: 1000 · MMD², biased, with exp(-|x - y|² / 200), σ = 10, on embeddings that the caller
has normalised. NumPy arrays in, a tensor () on the CPU out.

Kept: the result has the dtype of the arrays. Mended: distances are taken from differences, so that
close embeddings keep their digits; the n × m matrices are not stored.
"""

import numpy as np
import torch
from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.sums import of_samples

EXCHANGED = {"mmd": ()}


def mmd(x: np.ndarray, y: np.ndarray) -> Tensor:
    """x (n, d), y (m, d) → ()."""
    return _thousandfold(torch.from_numpy(x), torch.from_numpy(y))


@of_samples("a", "b")
def _thousandfold(a: Tensor, b: Tensor) -> Tensor:
    return 1000 * dk.mmd2(a, b, dk.gaussian(10.0), estimator="biased")
