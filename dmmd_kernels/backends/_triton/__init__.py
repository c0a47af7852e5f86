"""The Triton backend. Triton itself is optional."""

import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from dmmd_kernels.kernels import Mixture

try:
    import triton
except ImportError:
    triton = None
else:
    from dmmd_kernels.backends._triton import tunable, tuning
    from dmmd_kernels.backends._triton.matrix import kernel_matrix
    from dmmd_kernels.backends._triton.moments import row_sums, row_sums_grad
    from dmmd_kernels.backends._triton.pairwise import potential, potential_and_grad, potential_grad
    from dmmd_kernels.backends._triton.profile import code
    from dmmd_kernels.backends._triton.second_order import tangent, tangent_grad, tangents
    from dmmd_kernels.backends._triton.sums import (
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
    "tangent",
    "tangent_grad",
    "tangents",
    "tune",
    "why_not",
]

READS_VECTORS = False
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_OLDEST = (3, 4)  # the compiler of 3.3 ends the process at most sweeps on tensor cores


def why_not(z: Tensor, kernel: Mixture, precision: str = "highest") -> str | None:
    if triton is None:
        return "Triton is not installed; run `pip install triton`"
    if reason := _too_old(triton.__version__):
        return reason
    if not z.is_cuda and not _is_interpreted():
        return "inputs are on the CPU and TRITON_INTERPRET=1 is not set"
    if z.dtype not in _DTYPES:
        return f"inputs must be float32, float16 or bfloat16, got {z.dtype}"
    if code(kernel.names) is None:
        return f"there is no Triton code for the kernel {kernel.profiles!r}"
    return None


@cache
def _too_old(version: str) -> str | None:
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers >= _OLDEST:
        return None
    least = ".".join(map(str, _OLDEST))
    remedy = "take torch 2.8 or later, which brings it"
    return f"Triton must be {least} or later, got {version}; {remedy}"


def regime(z: Tensor, x: Tensor, kernel: Mixture, *, op: str) -> str:
    """The way an op of tunable.py takes, from its table in regimes.py."""
    return _in_words(tunable.OPS[op](z, x, kernel).row)


def tune(
    z: Tensor,
    x: Tensor,
    kernel: Mixture,
    *,
    op: str,
    file: Path | None,
    clock: Callable[[Callable[[], object]], float] | None = None,
) -> str:
    """Finds the fastest tiles for such an op and keeps them; `clock` returns a call's seconds."""
    row, profiles, call = tunable.OPS[op](z, x, kernel)
    if row is not None:
        clock = clock or tuning.median_seconds
        row = tuning.search(op, row, profiles, z.device, call, clock, file)
    return _in_words(row)


def _in_words(row) -> str:
    if row is None:
        return "direct, fixed tiles"
    return f"{row.kind}, tiles of {row.rows} × {row.columns}, {row.warps} warps"


def _is_interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"
