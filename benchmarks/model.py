"""The least time an op can take on a piece of hardware. Pure functions; no torch.

An op on n queries or particles, m samples and d dimensions costs (`work`)

    evaluations   values of k: each takes `exps` exponentials and `slots` other instructions
    distances     inner products of length d, one for each value of k
    sums          rows of length d added up, for gradients
    traffic       bytes: every input read once, every output written once

A symmetric matrix is evaluated in one half: MMD² takes (n² + m²)/2 + nm values, not n² + nm + m².
The floor is the slowest of the units, each as if it were alone and perfectly fed:

    memory    traffic / bandwidth
    exp       exps · evaluations / exponentials per second       (GPU: a unit of its own)
    tensor    2d (distances + sums) · passes / tensor flop/s     (GPU, d > 8)
    issue     instructions / instructions per second

with passes = 3 for fp32-grade results from 16-bit hi and lo parts, 1 for precision="high". For
d ≤ 8 distances are taken from differences, 2d instructions each, and sums cost d. On a CPU one
kind of unit does the multiply-adds and the exponentials, so their instructions add up:

    slots/s   measured multiply-adds of sgemm;  one exp = `exp_slots` of them
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.hardware import HARDWARE, Hardware
from benchmarks.probes import cpu

NEAR = 8  # up to this d, differences are the better way to a distance
_FLOAT = 4
FLOW_STEPS = 100  # of the op "flow"


# (exponentials, other instructions for a value, and for a value with its slope). The mixture is
# dyadic: one exponential, the others are its squares.
KERNELS = {
    "gaussian": (1, 4.0, 4.5),
    "rational_quadratic": (2, 6.0, 7.0),
    "inverse_root": (1, 5.0, 6.0),  # rational quadratic with α = 1/2
    "mixture": (1, 12.0, 12.5),
    "linear": (0, 0.0, 0.0),
}


@dataclass(frozen=True)
class Work:
    evaluations: float
    distances: float
    sums: float
    traffic: float
    d: int

    @property
    def flops(self) -> float:
        """Of the inner products and sums; what a profile costs is in its slots."""
        return 2.0 * self.d * (self.distances + self.sums)


def work(op: str, n: int, m: int, d: int, batch: int = 0) -> Work:
    """What the best algorithm known for the op has to do."""
    both = n + m
    half = both * both / 2
    pairs, distances, sums, traffic = {
        "kernel_matrix": (n * m, n * m, 0, both * d + n * m),
        "potential": (n * m, n * m, 0, both * d + m + n),
        "potential_grad": (n * m, n * m, n * m, both * d + m + n * d),
        "potential_and_grad": (n * m, n * m, n * m, both * d + m + n * d + n),
        "witness": (n * both, n * both, 0, (n + both) * d + n),
        "witness_grad": (n * both, n * both, n * both, (n + both) * d + n * d),
        "flow_step": (n * both, n * both, n * both, both * d + n * d),
        "flow": (*[FLOW_STEPS * n * both] * 3, both * d + n * d),
        "mmd2": (half, half, 0, both * d),
        "mmd2_biased": (half, half, 0, both * d),
        # A pair pulls at both of its points.
        "mmd2_grad": (half, half, 2 * half, 2 * both * d),
        "mmd2_grad_x": (half, half, n * both, (both + n) * d),  # pairs of samples at neither
        "mmd2_grad_sigma": (half, half, 2 * half, 2 * both * d),
        "mmd2_linear": (0, both, 0, both * d),
        # Forward one distance and one sum. Backward ⟨z, x⟩, ⟨v, x⟩ and ⟨v, z⟩ again, and two sums
        # each for the gradients at z and at the samples.
        "penalty": (n * both, 4 * n * both, 5 * n * both, 2 * (n + both) * d),
    }[op]
    blocks = max(batch, 1)
    return Work(pairs * blocks, distances * blocks, sums * blocks, traffic * blocks * _FLOAT, d)


def floor(
    work: Work, kernel: str, hardware: Hardware, precision: str = "highest"
) -> tuple[float, str]:
    """(seconds, the unit that binds)."""
    exps, value_slots, slope_slots = KERNELS[kernel]
    slots = work.evaluations * (slope_slots if work.sums else value_slots)
    direct = work.d * ((2 if work.d <= NEAR else 1) * work.distances + work.sums)
    times = {"memory": work.traffic / hardware.bandwidth}
    if hardware.tensor == 0:
        exp = work.evaluations * exps * hardware.exp_slots
        # The few other instructions of a profile overlap with nothing either, but not all are
        # multiply-adds; leaving them out keeps this a lower bound.
        times["compute"] = (direct + exp) / hardware.slots
    else:
        times["exp"] = work.evaluations * exps / hardware.exps
        if work.d <= NEAR:
            slots += direct
        else:
            passes = 1 if precision == "high" else 3
            times["tensor"] = work.flops * passes / hardware.tensor
        times["issue"] = slots / hardware.slots
    unit = max(times, key=times.__getitem__)
    return times[unit], unit


def table(hardware: Hardware, n: int, precision: str) -> str:
    """Floors of every op in milliseconds, as Markdown."""
    dims = (2, 16, 64, 512, 3072)
    lines = [
        f"Floors on {hardware.name}, n = m = {n}, precision={precision!r}, ms",
        "",
        "| op | kernel | " + " | ".join(f"d = {d}" for d in dims) + " |",
        "|---|---|" + "---|" * len(dims),
    ]
    for op in ("kernel_matrix", "potential", "potential_grad", "witness_grad", "mmd2", "mmd2_grad"):
        for kernel in ("gaussian", "rational_quadratic", "mixture"):
            floors = [floor(work(op, n, n, d), kernel, hardware, precision) for d in dims]
            cells = [f"{1e3 * seconds:.3g} {unit}" for seconds, unit in floors]
            lines.append(f"| {op} | {kernel} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# (what has to be reached, pairs/s on an H200, fp32 grade; op, kernel, n = m, d, precision).
TARGETS = (
    ("witness gradient", 1.0e12, "potential_grad", "gaussian", 32768, 64, "highest"),
    ("the same, high", 1.5e12, "potential_grad", "gaussian", 32768, 64, "high"),
    ("MMD², three full blocks", 2.0e12, "mmd2", "gaussian", 32768, 32, "highest"),
    ("MMD², five widths", 1.33e12, "mmd2", "mixture", 32768, 32, "highest"),
)
# The compiled Triton kernels that do this, in tests/triton_baseline.json.
COMPILED = {
    ("potential_grad", "gaussian", "highest"): "fused_kernel gaussian grad d=64 sm_90",
    ("potential_grad", "gaussian", "high"): "fused_kernel gaussian high d=64 sm_90",
    ("mmd2", "gaussian", "highest"): "fused_kernel gaussian form d=64 sm_90",
    ("mmd2", "mixture", "highest"): "fused_kernel octaves form d=64 sm_90",
}
BASELINE = Path(__file__).parents[1] / "tests" / "triton_baseline.json"


def issue_floor(evaluations: float, issued: float, hardware: Hardware) -> float:
    """Seconds for which the instructions of a compiled sweep keep the issue slots busy."""
    return evaluations * issued / hardware.slots


def against_targets() -> str:
    """The floors of an H200, and those of our compiled code, beside the targets, as Markdown."""
    compiled, hardware = json.loads(BASELINE.read_text()), HARDWARE["H200"]
    lines = [
        "Pairs per second on H200: the target, what the hardware allows, and what the instructions"
        f" of our Triton kernels allow (Triton {compiled['triton']}; MMD²: three full blocks)",
        "",
        "| | target | hardware | unit | instructions per pair | issue slots allow |",
        "|---|---|---|---|---|---|",
    ]
    for name, target, op, kernel, n, d, precision in TARGETS:
        task = work(op, n, n, d)
        counted = 3 * n * n if op == "mmd2" else n * n
        seconds, unit = floor(task, kernel, hardware, precision)
        issued = compiled["costs"][COMPILED[op, kernel, precision]]["issued"]
        ours = counted / issue_floor(task.evaluations, issued, hardware)
        lines.append(
            f"| {name}, d = {d} | {target:.3g} | {counted / seconds:.3g} | {unit} "
            f"| {issued} | {ours:.3g} |"
        )
    return "\n".join(lines)


# One sweep, and the sweeps that would do the same: (compiled code, how often it meets each pair).
INSTEAD = {
    "MMD² and its gradient, d = 64": (
        "fused_kernel gaussian form, grad d=64 sm_90",
        (
            ("fused_kernel gaussian form d=64 sm_90", 0.5),
            ("fused_kernel gaussian grad d=64 p=2 sm_90", 1),
        ),
    ),
}


def against_separate_sweeps() -> str:
    """Instructions per pair of sweeps that do two things at once, as Markdown."""
    costs = json.loads(BASELINE.read_text())["costs"]
    lines = ["| | in one sweep | in two |", "|---|---|---|"]
    for name, (one, several) in INSTEAD.items():
        separate = sum(costs[label]["issued"] * times for label, times in several)
        lines.append(f"| {name} | {costs[one]['issued']} | {separate:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", choices=sorted(HARDWARE), help="the CPU of this machine if absent")
    parser.add_argument("--n", type=int, default=32768)
    parser.add_argument("--precision", choices=("highest", "high"), default="highest")
    parser.add_argument("--targets", action="store_true", help="compiled code against the targets")
    options = parser.parse_args()
    if options.targets:
        print(f"{against_targets()}\n\n{against_separate_sweeps()}")  # noqa: T201
        return
    hardware = HARDWARE[options.gpu] if options.gpu else cpu()
    print(table(hardware, options.n, options.precision))  # noqa: T201


if __name__ == "__main__":
    main()
