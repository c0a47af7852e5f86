"""Before and after: what the stand-ins of dmmd_kernels.compat cost beside what they stand in for.

    python -m benchmarks.dropin [family ...]        the table of docs/dropin.md, on standard output

Each cell is a process of its own: value and gradient (a value alone where the original has no
gradient), the best time of a few, and the growth of the process's peak memory. Processes may take 8
GiB and 120 s. Packages that are installed are used as they are; copied files are written here as
they are pasted, (n, n, d) differences or Gram matrices and all.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.clock import timed

GIB = 2**30
SECONDS = 120
Case = tuple[Callable, Callable]


def _pooled_differences(x: Tensor, y: Tensor) -> Tensor:
    u = torch.cat([x, y])
    n, d = u.shape
    return ((u[None].expand(n, n, d) - u[:, None].expand(n, n, d)) ** 2).sum(2)


def _blocks_mean(k: Tensor, n: int) -> Tensor:
    return k[:n, :n].mean() + k[n:, n:].mean() - k[:n, n:].mean() - k[n:, :n].mean()


def _gram_squares(x: Tensor, y: Tensor) -> Tensor:
    return x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T


def guassian_kernel() -> Case:
    from dmmd_kernels.compat.transferlearning import MMD_loss

    def pasted(x, y):
        squares = _pooled_differences(x, y)
        width = squares.detach().sum() / (len(squares) ** 2 - len(squares)) / 4
        return _blocks_mean(sum(torch.exp(-squares / (width * 2**i)) for i in range(5)), len(x))

    return pasted, MMD_loss()


def tllib() -> Case:
    from dmmd_kernels.compat import tllib

    kernels = [tllib.GaussianKernel(alpha=2.0**k) for k in range(-3, 2)]
    index = {}

    def signs(n):
        """The matrix of the library, entry by entry, kept for the next call."""
        if n not in index:
            index[n] = torch.zeros(2 * n, 2 * n)
            for i in range(n):
                for j in range(n):
                    if i != j:
                        index[n][i, j] = index[n][i + n, j + n] = 1 / (n * (n - 1))
                    index[n][i, j + n] = index[n][i + n, j] = -1 / n**2
        return index[n]

    def original(x, y):
        matrix = 0.0
        for k in range(-3, 2):
            squares = _pooled_differences(x, y)
            matrix = matrix + torch.exp(-squares / (2 * 2.0**k * squares.detach().mean()))
        return (matrix * signs(len(x))).sum() + 2 / (len(x) - 1)

    return original, tllib.MultipleKernelMaximumMeanDiscrepancy(kernels)


def mix_rbf_mmd2() -> Case:
    from dmmd_kernels.compat.mmd_gan import mix_rbf_mmd2 as ours

    sigmas = (1, 2, 4, 8, 16)

    def pasted(x, y):
        u = torch.cat([x, y])
        squares = _gram_squares(u, u)
        return _blocks_mean(sum(torch.exp(-squares / (2 * s**2)) for s in sigmas), len(x))

    return pasted, lambda x, y: ours(x, y, sigmas)


def dk_tst() -> Case:
    from dmmd_kernels.compat.dk_tst import MMDu

    def pasted(x, y):
        u, n = torch.cat([x, y]), len(x)
        squares, inner = _gram_squares(u, u).clamp(min=0), _gram_squares(2 * u, 2 * u).clamp(min=0)
        outer = torch.exp(-squares / 30)
        k = 0.9 * torch.exp(-inner / 90 - squares / 30) + 0.1 * outer
        h = k[:n, :n] + k[n:, n:] - k[:n, n:] - k[:n, n:].T
        mmd2 = (h.sum() - h.trace()) / (n * (n - 1))
        return mmd2 + 4 * (h.mean(1).square().mean() - h.mean() ** 2)

    def ours(x, y):
        u = torch.cat([x, y])
        return sum(MMDu(2 * u, len(x), u, 30.0, 90.0, 0.1)[:2])

    return pasted, ours


def cmmd() -> Case:
    from dmmd_kernels.compat.cmmd import mmd

    def pasted(x, y):
        k = [torch.exp(-_gram_squares(a, b) / 200).mean() for a, b in ((x, x), (x, y), (y, y))]
        return 1000 * (k[0] + k[2] - 2 * k[1])

    return pasted, lambda x, y: mmd(x.numpy(), y.numpy())


def sbi() -> Case:
    from dmmd_kernels.compat.sbi import unbiased_mmd_squared

    def pasted(x, y):
        squares = [((a[None] - b[:, None]) ** 2).sum(-1) for a, b in ((x, x), (x, y), (y, y))]
        below = [squares[i][torch.ones_like(squares[i]).tril(-1).bool()] for i in (0, 2)]
        scale = torch.cat([below[0], squares[1].flatten(), below[1]]).sqrt().median()
        within = sum(torch.exp(-s / (2 * scale**2)).mean() for s in below)
        return within - 2 * torch.exp(-squares[1] / (2 * scale**2)).mean()

    return pasted, unbiased_mmd_squared


def geomloss() -> Case:
    from geomloss import SamplesLoss

    from dmmd_kernels.compat.geomloss import SamplesLoss as Ours

    return SamplesLoss("energy", backend="tensorized"), Ours("energy")


def torchmetrics() -> Case:
    from torchmetrics.image.kid import poly_mmd

    from dmmd_kernels.compat.torchmetrics import poly_mmd as ours

    return poly_mmd, ours


def ignite() -> Case:
    from ignite.metrics import MaximumMeanDiscrepancy

    from dmmd_kernels.compat.ignite import MaximumMeanDiscrepancy as Ours

    def run(made):
        def metric(x, y):
            instance = made(var=float(x.shape[1]))
            instance.update((x, y))
            return torch.tensor(instance.compute())

        return metric

    return run(MaximumMeanDiscrepancy), run(Ours)


def alibi_detect() -> Case:
    from alibi_detect.cd import MMDDrift

    from dmmd_kernels import compat

    def detect(x, y):
        detector = MMDDrift(x.numpy(), backend="pytorch", n_permutations=100, device="cpu")
        return torch.tensor(detector.predict(y.numpy())["data"]["distance"])

    def patched(x, y):
        with compat.patch("alibi_detect"):
            return detect(x, y)

    return detect, patched


# Family: (sizes n of both samples, d, whether there is a gradient).
FAMILIES = {
    "geomloss": ((500, 2000, 20000), 64, True),
    "guassian_kernel": ((64, 256, 4096), 256, True),
    "tllib": ((32, 128, 2048), 256, True),
    "mix_rbf_mmd2": ((64, 1024, 16384), 64, True),
    "dk_tst": ((100, 1000, 16384), 32, True),
    "sbi": ((100, 1000, 10000), 16, True),
    "cmmd": ((1000, 5000, 30000), 256, False),
    "torchmetrics": ((1000, 5000, 30000), 256, False),
    "ignite": ((128, 1024, 16384), 64, False),
    "alibi_detect": ((500, 2000, 20000), 32, False),
}
MAKERS = {name: globals()[name] for name in FAMILIES}


def measured(family: Callable, side: int, n: int, d: int, with_gradient: bool) -> dict[str, float]:
    """Runs in this process: seconds, growth of the peak memory in MiB, and the value."""
    call = family()[side]

    def once(n: int) -> tuple[float, float]:
        draw = torch.Generator().manual_seed(0)
        x, y = torch.randn(n, d, generator=draw), torch.randn(n, d, generator=draw) + 0.2
        x.requires_grad_(with_gradient)

        def value_with_gradient():
            value = call(x, y)
            if with_gradient:
                value.backward()
            return value

        value, seconds = timed(value_with_gradient)
        return seconds, value.item()

    once(16)
    before = _peak_mib()
    resource.setrlimit(resource.RLIMIT_AS, (_mapped_bytes() + 8 * GIB, -1))
    seconds, value = once(n)
    peak = _peak_mib() - before
    for _ in range(5 if seconds < 1 else 0):
        seconds = min(seconds, once(n)[0])
    return {"seconds": seconds, "mib": peak, "value": value}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _mapped_bytes() -> int:
    with open("/proc/self/statm") as pages:
        return int(pages.read().split()[0]) * resource.getpagesize()


def in_process(name: str, side: int, n: int) -> dict[str, float] | str:
    """The same in a process of its own, or why it did not end."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.dropin"]
    command += ["--one", name, str(side), str(n)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"> {SECONDS} s"
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"signal {-done.returncode}"]
        out_of_memory = "alloc" in done.stderr.lower() or "memory" in done.stderr.lower()
        return "more than 8 GiB" if out_of_memory else reason[0]
    return json.loads(done.stdout.splitlines()[-1])


def cell(result: dict[str, float] | str) -> str:
    if isinstance(result, str):
        return f"{result} | "
    seconds, mib = result["seconds"], result["mib"]
    shown = f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"
    return f"{shown} | {mib:.0f}"


def table(names: list[str]) -> None:
    print("| family | n | d | before | MiB | after | MiB | difference |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name in names:
        sizes, d, _ = FAMILIES[name]
        for n in sizes:
            before, after = (in_process(name, side, n) for side in (0, 1))
            difference = ""
            if not isinstance(before, str) and not isinstance(after, str):
                difference = f"{abs(before['value'] - after['value']):.0e}"
            row = f"| `{name}` | {n} | {d} | {cell(before)} | {cell(after)} | {difference} |"
            print(row, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        name, side, n = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        print(json.dumps(measured(MAKERS[name], side, n, *FAMILIES[name][1:])))
    else:
        table(sys.argv[1:] or list(FAMILIES))
