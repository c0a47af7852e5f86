"""What a small call costs beside its sums: process time of whole calls on a few points.

    python -m benchmarks.overhead       µs, without gradients and with (forward), on one thread

`torch.add` of 16 numbers stands beside them for the machine. Each result is first compared with
plain torch's. docs/performance.md keeps what was found.
"""

import sys
from collections.abc import Callable

import torch

import dmmd_kernels as dk
from benchmarks.clock import process_seconds

CALLS, REPEATS = 2000, 9


def ops(z, x, y, w, kernel, **how) -> dict[str, Callable]:
    return {
        "kernel_matrix": lambda: dk.kernel_matrix(z, x, kernel, **how),
        "potential": lambda: dk.potential(z, x, w, kernel, **how),
        "potential_grad": lambda: dk.potential_grad(z, x, w, kernel, **how),
        "potential_and_grad": lambda: dk.potential_and_grad(z, x, w, kernel, **how),
        "mmd2": lambda: dk.mmd2(z, y, kernel, **how),
        "mmd2, kernel made anew": lambda: dk.mmd2(z, y, dk.gaussian(1.0), **how),
        "witness": lambda: dk.witness(z, x, y, kernel, **how),
        "witness_grad": lambda: dk.witness_grad(z, x, y, kernel, **how),
    }


def microseconds(call: Callable) -> float:
    return 1e6 * process_seconds(call, calls=CALLS, repeats=REPEATS)


def write(line: str) -> None:
    sys.stdout.write(line + "\n")


def main() -> None:
    torch.set_num_threads(1)
    z, x, y = torch.randn(4, 3), torch.randn(6, 3), torch.randn(5, 3)
    w, kernel, few = torch.randn(6), dk.gaussian(1.0), torch.randn(16)
    plain = ops(z, x, y, w, kernel)
    recorded = ops(z.clone().requires_grad_(), x, y, w, kernel)
    expected = ops(z, x, y, w, kernel, backend="reference")
    write(f"{'torch.add':24}{microseconds(lambda: torch.add(few, few)):6.1f}")
    for name, call in plain.items():
        torch.testing.assert_close(call(), expected[name](), rtol=1e-4, atol=1e-5)
        write(f"{name:24}{microseconds(call):6.1f}{microseconds(recorded[name]):8.1f}")


if __name__ == "__main__":
    main()
