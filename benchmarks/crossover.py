"""Where plain torch is faster than C++ on this CPU, as data for backend="auto".

    python -m benchmarks.crossover            print it, a minute on an idle machine
    python -m benchmarks.crossover --save     and keep it in dmmd_kernels/backends/crossover.json

`reference` is the only plain torch that obeys the accuracy rule, so it is what C++ is held against:
every operator that meets pairs, for radial and polynomial kernels, n × n pairs of points in d
dimensions. Torch is faster where it is by a tenth, in float32 and in float64. Of each d one
interval of pairs is kept, the longest without a gap; it holds up to the next d that was measured.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import dmmd_kernels as dk
from benchmarks.clock import by_turns
from benchmarks.probes import cpu_name

FILE = Path(dk.__file__).parent / "backends" / "crossover.json"
KERNELS: dict[str, Callable[[int], dk.Kernel]] = {  # of d, by which distances grow
    "radial": lambda d: dk.gaussian(d**0.5),
    "polynomial": lambda _: dk.polynomial(3),
}
SIDES = (2, 4, 16, 64, 256, 1024)
DIMENSIONS = (1, 4, 16, 64, 256, 512, 1024, 2048, 3072)
MOST = {"radial": 2**23, "polynomial": 2**30}  # pairs times d; radial ones are stored in torch
FASTER = 0.9  # of the time
WRONG = 1e-2  # relative L2 error, as in conftest.py
SECONDS = 0.01
LEAST_ROUNDS = 5

Call = Callable[[], object]
Make = Callable[[str, Tensor, Tensor, dk.Kernel], Call]


def pulled(value: Tensor, *leaves: Tensor) -> Call:
    """The backward pass alone."""
    v = torch.ones_like(value)
    return partial(torch.autograd.grad, value, leaves, v, retain_graph=True)


def params_grad(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    weight = z.new_ones(()).requires_grad_()
    return pulled(dk.potential(z, x, x[:, 0], weight * kernel, backend=backend), weight)


def tangents(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    w = x[:, 0].clone().requires_grad_()
    return pulled(dk.potential_grad(z, x, w, kernel, backend=backend), w)


def tangent_grad(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    z = z.clone().requires_grad_()
    return pulled(dk.potential_grad(z, x, x[:, 0], kernel, backend=backend), z)


def mmd2(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    """Two halves, so that they meet in as many pairs as z and x."""
    half = len(z) // 2
    return partial(dk.mmd2, z[:half], z[half:], kernel, estimator="biased", backend=backend)


def mmd2_and_grad(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    return mmd2(backend, z.clone().requires_grad_(), x, kernel)


def mmd2_and_grads(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    weight = z.new_ones(()).requires_grad_()
    return mmd2(backend, z.clone().requires_grad_(), x, weight * kernel)


def cloud(op: Callable, backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    return partial(op, z, x, x[:, 0].clone(), kernel, backend=backend)


def matrix(backend: str, z: Tensor, x: Tensor, kernel: dk.Kernel) -> Call:
    return partial(dk.kernel_matrix, z, x, kernel, backend=backend)


# What each operator of the backends is called for.
OPERATORS: dict[str, Make] = {
    "potential": partial(cloud, dk.potential),
    "potential_grad": partial(cloud, dk.potential_grad),
    "potential_and_grad": partial(cloud, dk.potential_and_grad),
    "params_grad": params_grad,
    "tangents": tangents,
    "tangent_grad": tangent_grad,
    "quadratic_form": mmd2,
    "quadratic_form_and_grad": mmd2_and_grad,
    "quadratic_form_and_grads": mmd2_and_grads,
    "kernel_matrix": matrix,
}


def share(make: Make, kernel: dk.Kernel, n: int, d: int, dtype: torch.dtype) -> float:
    """The time of plain torch as a share of that of C++: the fastest of calls that take turns."""
    z, x = torch.randn(n, d, dtype=dtype), torch.randn(n, d, dtype=dtype)
    calls = [make(backend, z, x, kernel) for backend in ("native", "reference")]
    check(*(call() for call in calls))
    ours, plain = by_turns(calls, seconds=SECONDS, least=LEAST_ROUNDS)
    return min(plain) / min(ours)


def check(result: object, other: object) -> None:
    """Both backends must give the same, or neither time means anything."""
    pairs = [(result, other)] if isinstance(result, Tensor) else zip(result, other, strict=True)
    for a, b in pairs:
        error = torch.linalg.vector_norm(a.detach() - b.detach())
        size = torch.linalg.vector_norm(b.detach())
        if not error <= WRONG * size:
            raise SystemExit(f"the backends differ by {error:.1e} of {size:.1e}; nothing was kept")


def is_ahead(make: Make, kernel: dk.Kernel, n: int, d: int) -> bool:
    """Whether plain torch is faster, in both dtypes."""
    return all(
        share(make, kernel, n, d, dtype) < FASTER for dtype in (torch.float32, torch.float64)
    )


def intervals(op: str, kind: str) -> Iterator[tuple[int, int, int]]:
    """(d, least, most): the pairs at which plain torch is faster; none of them if least > most."""
    for d in DIMENSIONS:
        sides = [n for n in SIDES if n * n * d <= MOST[kind]]
        ahead = [is_ahead(OPERATORS[op], KERNELS[kind](d), n, d) for n in sides]
        best = longest(ahead)
        least = sides[best.start] ** 2 if best.start else 1
        yield (d, least, sides[best.stop - 1] ** 2) if best else (d, 1, 0)


def longest(flags: list[bool]) -> range:
    """The longest run of what is true."""
    runs = [range(0)]
    for index, flag in enumerate(flags):
        if flag:
            run = runs[-1]
            runs.append(range(run.start if run and run.stop == index else index, index + 1))
    return max(runs, key=len)


def short(rows: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Without rows that say what the one before says; before the first, C++ is faster."""
    kept, last = [], (1, 0)
    for d, *pairs in rows:
        if tuple(pairs) != last:
            kept.append((d, *pairs))
        last = tuple(pairs)
    return kept


def measure() -> dict:
    table: dict[str, dict[str, list]] = {kind: {} for kind in KERNELS}
    for kind, op in product(KERNELS, OPERATORS):
        if (kind, op) == ("polynomial", "kernel_matrix"):
            continue  # torch's own product, on every backend
        if rows := short(list(intervals(op, kind))):
            table[kind][op] = rows
    return table


def text(table: dict) -> str:
    """JSON with a line for each operator."""
    head = {
        "rows": "[d, least, most]: reference is faster on that many pairs, up to the next row's d",
        "measured": f"{date.today()}, {cpu_name()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"threads: {torch.get_num_threads()}, torch {torch.__version__}",
    }
    lines = [f' "{key}": {json.dumps(value)}' for key, value in head.items()]
    for kind, ops in table.items():
        own = ",\n".join(f'  "{op}": {json.dumps(rows)}' for op, rows in ops.items())
        lines.append(f' "{kind}": {{\n{own}\n }}' if own else f' "{kind}": {{}}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", action="store_true", help=f"write {FILE.name} of the package")
    options = parser.parse_args()
    torch.manual_seed(0)
    found = text(measure())
    if options.save:
        FILE.write_text(found)
    sys.stdout.write(found)


if __name__ == "__main__":
    main()
