"""How often the two-sample tests reject at 5 % where both samples have one distribution, with ties.

    python benchmarks/levels.py [nulls] [float32 or float64]

The table in docs/dropin.md: of 2000 nulls a share of 5 % is known to ± 1 % (two deviations). Where
few values are possible, as of rare events, an exact test rejects less often.
"""

import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor

import dmmd_kernels as dk

GAUSSIAN = dk.gaussian(1.0)
NULLS: dict[str, tuple[Callable[[Generator, int], Tensor], dk.Kernel]] = {
    "Poisson, mean 1": (lambda g, n: torch.poisson(torch.ones(n, 1), generator=g), GAUSSIAN),
    "normals rounded to integers, d = 2": (
        lambda g, n: torch.randn(n, 2, generator=g).round(),
        GAUSSIAN,
    ),
    "one-hot, 5 categories": (
        lambda g, n: torch.eye(5)[torch.randint(5, (n,), generator=g)],
        GAUSSIAN,
    ),
    "80 % zeros, d = 3": (
        lambda g, n: torch.randn(n, 3, generator=g) * (torch.rand(n, 1, generator=g) < 0.2),
        GAUSSIAN,
    ),
    "0/1, 2 % ones": (lambda g, n: (torch.rand(n, 1, generator=g) < 0.02).float(), GAUSSIAN),
    "normals, σ = 3000": (lambda g, n: torch.randn(n, 2, generator=g), dk.gaussian(3000.0)),
}
SOME = [dk.gaussian(0.5), GAUSSIAN, dk.gaussian(4.0)]
HOW = {"permutations": 99}
TESTS: dict[str, Callable[[Tensor, Tensor, dk.Kernel, Generator], float]] = {
    "permutation": lambda x, y, k, g: dk.permutation_test(x, y, k, generator=g, **HOW).p_value,
    "biased": lambda x, y, k, g: (
        dk.permutation_test(x, y, k, estimator="biased", generator=g, **HOW).p_value
    ),
    "wild bootstrap": lambda x, y, k, g: (
        dk.wild_bootstrap_test(x, y[:30], k, draws=99, generator=g).p_value
    ),
    "aggregated": lambda x, y, k, g: (
        dk.aggregated_test(x, y, [k, *SOME], generator=g, **HOW).p_value
    ),
}


def level(
    null: Callable, kernel: dk.Kernel, test: Callable, dtype: torch.dtype, nulls: int
) -> float:
    """The share of p-values of at most 5 %."""
    rejected = 0
    for seed in range(nulls):
        g = torch.Generator().manual_seed(seed)
        rejected += test(null(g, 30).to(dtype), null(g, 40).to(dtype), kernel, g) <= 0.05
    return rejected / nulls


def main() -> None:
    nulls, dtype = (*sys.argv[1:], *("2000", "float32")[len(sys.argv) - 1 :])
    print("| data |", " | ".join(TESTS), "|\n|---|" + "--:|" * len(TESTS))
    for name, (null, kernel) in NULLS.items():
        shares = (
            level(null, kernel, test, getattr(torch, dtype), int(nulls)) for test in TESTS.values()
        )
        print(
            f"| {name} |", " | ".join(f"{100 * share:.2f} %" for share in shares), "|", flush=True
        )


if __name__ == "__main__":
    main()
