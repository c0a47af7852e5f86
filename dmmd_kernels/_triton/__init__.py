"""The Triton backend. Triton itself is optional."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dmmd_kernels.kernels import Mixture

try:
    import triton
except ImportError:
    triton = None
else:
    from dmmd_kernels._triton import fused, tuning
    from dmmd_kernels._triton.matrix import kernel_matrix
    from dmmd_kernels._triton.moments import row_sums, row_sums_grad
    from dmmd_kernels._triton.pairwise import potential, potential_and_grad, potential_grad
    from dmmd_kernels._triton.profile import code, shortcuts
    from dmmd_kernels._triton.second_order import tangent_grad, tangents
    from dmmd_kernels._triton.sums import (
        params_grad,
        quadratic_form,
        quadratic_form_and_grad,
        quadratic_form_and_grads,
    )

__all__ = [
    "kernel_matrix",
    "params_grad",
    "potential",
    "potential_and_grad",
    "potential_grad",
    "quadratic_form",
    "quadratic_form_and_grad",
    "quadratic_form_and_grads",
    "regime",
    "row_sums",
    "row_sums_grad",
    "tangent_grad",
    "tangents",
    "tune",
    "why_not",
]

READS_VECTORS = False
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not(z: Tensor, kernel: Mixture, precision: str = "highest") -> str | None:
    if triton is None:
        return "Triton is not installed; run `pip install triton`"
    if not z.is_cuda and not _is_interpreted():
        return "inputs are on the CPU and TRITON_INTERPRET=1 is not set"
    if z.dtype not in _DTYPES:
        return f"inputs must be float32, float16 or bfloat16, got {z.dtype}"
    if code(kernel.names) is None:
        return f"there is no Triton code for the kernel {kernel.profiles!r}"
    return None


def regime(z: Tensor, x: Tensor, kernel: Mixture, *, grad: bool) -> str:
    """The way a sweep of one right-hand side takes, from the table in regimes.py."""
    return _in_words(fused.chosen(z, x, 1, kernel, grad=grad))


def tune(
    z: Tensor,
    x: Tensor,
    kernel: Mixture,
    *,
    grad: bool,
    file: Path | None,
    clock: Callable[[Callable[[], Tensor]], float] | None = None,
) -> str:
    """Finds the fastest tiles for such a sweep and keeps them; `clock` returns a call's seconds."""
    w = x.new_ones(*x.shape[:-1], 1, dtype=torch.float32)
    call = lambda: potential_grad(z, x, None, w, kernel) if grad else potential(z, x, w, kernel)
    row, known = fused.chosen(z, x, 1, kernel, grad=grad), shortcuts(kernel)
    best = tuning.search(row, known, z.device, call, clock or tuning.median_seconds, file)
    return _in_words(best)


def _in_words(row) -> str:
    return f"{row.kind}, tiles of {row.rows} × {row.columns}, {row.warps} warps"


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
