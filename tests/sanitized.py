"""Runs every op of one backend on awkward shapes, for the eyes of a memory checker.

    python tests/sanitized.py native --extension build/asan      (under AddressSanitizer)
    compute-sanitizer python tests/sanitized.py auto --device cuda

Values are the business of the tests; here only the memory that is read and written counts.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch

# (n, m, d): empty, one point, one beside a power of two, ragged in all, more points than a tile.
SHAPES = [(0, 3, 2), (3, 0, 2), (1, 1, 1), (17, 33, 3), (65, 130, 17), (5, 257, 100)]


def load_extension(folder: Path) -> None:
    """Makes `import dmmd_kernels._C` find the module built in `folder`."""
    (path,) = folder.glob("_C*.so")
    spec = importlib.util.spec_from_file_location("dmmd_kernels._C", path)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])


def run(backend: str, device: str, dtype: torch.dtype, n: int, m: int, d: int) -> None:
    import dmmd_kernels as dk

    z, x = (torch.randn(size, d, device=device, dtype=dtype) for size in (n, m))
    w = torch.randn(m, device=device, dtype=dtype)
    for kernel in [
        dk.gaussian(0.7),
        dk.laplace(1.3) + 0.5 * dk.rational_quadratic(0.2),
        dk.imq(0.9) + dk.energy(),
        dk.polynomial(degree=3),
    ]:
        z.requires_grad_(), x.requires_grad_(), w.requires_grad_()
        dk.potential(z, x, w, kernel, backend=backend)
        dk.potential(z, x, w[:, None].repeat(1, 17), kernel, backend=backend)
        dk.potential_and_grad(z, x, w, kernel, backend=backend)
        g = dk.potential_grad(z, x, w, kernel, backend=backend)
        first = torch.autograd.grad(g.square().sum(), (z, x, w))
        assert all(torch.isfinite(t).all() for t in first)
        if n > 1 and m > 1:
            dk.mmd2(z, x, kernel, backend=backend).backward()
            how = {"noise": 0.1, "seed": 1, "momentum": 0.5, "max_norm": 1.0, "backend": backend}
            dk.flow(z.detach(), x.detach(), kernel, step_size=0.01, steps=2, **how)
            moved = z.detach().clone()
            dk.flow_update(
                moved, g.detach(), step_size=0.1, velocity=torch.zeros_like(moved), **how
            )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("backend", choices=["auto", "native", "triton", "reference"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--extension", type=Path, help="a folder with another build of _C")
    options = parser.parse_args()
    if options.extension:
        load_extension(options.extension)
    torch.manual_seed(0)
    dtypes = [torch.float32] if options.device == "cuda" else [torch.float32, torch.float64]
    if options.device == "cuda":
        from dmmd_kernels.backends._triton import fused

        fused.LEAST_WORK = 0  # tensor cores for small clouds too
    for dtype in dtypes:
        for shape in SHAPES:
            run(options.backend, options.device, dtype, *shape)
    print(f"{options.backend}: {len(SHAPES)} shapes, {len(dtypes)} dtypes")


if __name__ == "__main__":
    main()
