"""Who is timed. A provider has a name, its ops, a reason why it sits a problem out, and

    prepare(op, problem) -> call     a function of nothing; only calling it is timed

Ours appear once for each backend, so that what ran is never in doubt.
"""

import os
from functools import cache, partial

import torch

import dmmd_kernels as dk
from benchmarks.model import FLOW_STEPS
from benchmarks.peers import GeomLoss, KeOps
from benchmarks.plain import (
    Call,
    Chunked,
    ClosedForm,
    Compiled,
    Differences,
    InPlace,
    Plain,
    cdist,
    expanded,
)
from benchmarks.problems import FLOW_STEP_SIZE, STEP_SIZE, Problem, penalty

MODE = os.environ.get("DMMD_BENCH", "default")


class Ours:
    ops = Plain.ops

    def __init__(self, backend: str, device: str):
        self.name = f"dmmd-{backend}"
        self.backend = backend
        self.device = device

    def why_not(self, op: str, p: Problem) -> str | None:
        if p.case.device != self.device:
            return f"the backend is not meant for {p.case.device}"
        if op == "mmd2_linear":
            return (
                "closed form in torch, whatever the backend"
                if self.backend == "reference"
                else None
            )
        if self.backend == "reference":  # it is torch-differences, and as large
            return Plain.why_not(_reference, op, p)
        return _unable(self.backend, p.case.device)

    def prepare(self, op: str, p: Problem) -> Call:
        if op in ("mmd2_grad", "mmd2_grad_x", "mmd2_grad_sigma", "penalty"):
            return partial(getattr(self, op), p)
        calls = {
            "kernel_matrix": (p.z, p.y, p.kernel),
            "potential": (p.z, p.y, p.w, p.kernel),
            "potential_grad": (p.z, p.y, p.w, p.kernel),
            "potential_and_grad": (p.z, p.y, p.w, p.kernel),
            "witness": (p.z, p.x, p.y, p.kernel),
            "witness_grad": (p.z, p.x, p.y, p.kernel),
            "mmd2": (p.x, p.y, p.kernel),
            "mmd2_linear": (p.x, p.y, p.kernel),
        }
        if op.startswith("flow"):
            return partial(getattr(self, op), p)
        if op == "mmd2_biased":
            return self.bind(dk.mmd2, p.x, p.y, p.kernel, estimator="biased")
        return self.bind(getattr(dk, op.removesuffix("_linear")), *calls[op])

    def bind(self, op, *arguments, **options) -> Call:
        return partial(op, *arguments, backend=self.backend, **options)

    def flow_step(self, p):
        run = self.bind(dk.flow, p.x, p.y, p.kernel, step_size=STEP_SIZE, steps=1)
        return run().particles

    def flow(self, p):
        how = {"step_size": FLOW_STEP_SIZE, "steps": FLOW_STEPS}
        return self.bind(dk.flow, p.x, p.y, p.kernel, **how)().particles

    def mmd2_grad(self, p):
        return torch.autograd.grad(self.bind(dk.mmd2, *p.leaves, p.kernel)().sum(), p.leaves)

    def mmd2_grad_x(self, p):
        x = p.leaves[0]
        return torch.autograd.grad(self.bind(dk.mmd2, x, p.y, p.kernel)().sum(), x)

    def mmd2_grad_sigma(self, p):
        value = self.bind(dk.mmd2, *p.leaves, p.formula.make(p.sigma_leaf))()
        return torch.autograd.grad(value.sum(), (*p.leaves, p.sigma_leaf))

    def penalty(self, p):
        points = [t.detach().requires_grad_() for t in (p.z, p.x, p.y)]
        g = self.bind(dk.witness_grad, *points, p.kernel)()
        return torch.autograd.grad(penalty(g), points)


@cache
def _unable(backend: str, device: str) -> str | None:
    points = torch.zeros(1, 1, device=device)
    try:
        dk.potential(points, points, points[0], dk.gaussian(1.0), backend=backend)
    except dk.BackendError as error:
        return str(error)
    return None


def _is_worth_compiling(op: str, p: Problem) -> bool:
    """Inductor: seconds to minutes a problem."""
    if op == "flow":
        return MODE != "small" and p.case.device == "cpu"
    if MODE == "small" or p.case.batch or p.case.kernel != "gaussian":
        return False
    usual = {"cpu": 2048, "cuda": 8192}[p.case.device]
    return p.case.d == 64 and (MODE == "large" or p.case.n == usual)


def _is_worth_keops(op: str, p: Problem) -> bool:
    """KeOps: a compilation per formula and d, and slow code at large d (getkeops/keops#57)."""
    if MODE == "small":
        return False
    if MODE == "default" and p.case.device == "cpu":
        return p.case.kernel == "gaussian" and p.case.d in (2, 64) and not p.case.batch
    return p.case.d <= 128


_reference = Differences()

PROVIDERS = [
    Ours("native", "cpu"),
    Ours("triton", "cuda"),
    Ours("native", "cuda"),
    *(Ours("reference", device) for device in ("cpu", "cuda")),
    Differences(),
    Plain("expanded", expanded),
    Plain("cdist", cdist),
    Chunked(),
    InPlace(),
    Compiled(_is_worth_compiling),
    ClosedForm(),
    KeOps(_is_worth_keops),
    GeomLoss(),
]


def providers(op: str, device: str) -> list:
    """Those with the op, on the device, in the order they are timed."""
    return [p for p in PROVIDERS if op in p.ops and getattr(p, "device", device) == device]
