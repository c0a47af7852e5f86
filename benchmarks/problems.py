"""What is computed: formulas, cases, their tensors, and the float64 answer all are held against.

t = |z - x|² / 2σ², and a kernel is ψ(t). A new kernel is one `Formula`; every provider reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

import dmmd_kernels as dk
from benchmarks.model import FLOW_STEPS
from benchmarks.samples import SAMPLES

WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)  # dyadic, as in DAN-style losses
ALPHA = 0.2
FLOW_STEP_SIZE = 0.5  # of `flow`, far below where steps overshoot and roundings grow
STEP_SIZE = 10.0  # large, so that rounding the positions does not hide errors of the velocity


@dataclass(frozen=True)
class Formula:
    """A kernel for us (`make`), for torch (ψ, ψ') and for KeOps (their text; t is spelled T)."""

    make: Callable[[float | Tensor], dk.Kernel]
    psi: Callable[[Tensor], Tensor] | None = None
    slope: Callable[[Tensor], Tensor] | None = None
    psi_text: str = ""
    slope_text: str = ""
    at_zero: float = 1.0


FORMULAS = {
    "gaussian": Formula(
        make=dk.gaussian,
        psi=lambda t: torch.exp(-t),
        slope=lambda t: -torch.exp(-t),
        psi_text="Exp(-T)",
        slope_text="(-Exp(-T))",
    ),
    "rational_quadratic": Formula(
        make=lambda sigma: dk.rational_quadratic(ALPHA, sigma),
        psi=lambda t: (1 + t / ALPHA) ** -ALPHA,
        slope=lambda t: -((1 + t / ALPHA) ** (-ALPHA - 1)),
        psi_text="Exp(-IntInv(5)*Log(IntCst(1)+IntCst(5)*T))",
        slope_text="(-Exp(-IntCst(6)*IntInv(5)*Log(IntCst(1)+IntCst(5)*T)))",
    ),
    "inverse_root": Formula(  # rational quadratic with α = 1/2
        make=lambda sigma: dk.rational_quadratic(0.5, sigma),
        psi=lambda t: (1 + 2 * t).rsqrt(),
        slope=lambda t: -((1 + 2 * t) ** -1.5),
        psi_text="Rsqrt(IntCst(1)+IntCst(2)*T)",
        slope_text="(-Powf(Rsqrt(IntCst(1)+IntCst(2)*T),IntCst(3)))",
    ),
    "mixture": Formula(
        make=lambda sigma: dk.mixture([dk.gaussian(width * sigma) for width in WIDTHS]),
        psi=lambda t: sum(torch.exp(t * -(w**-2)) for w in WIDTHS),
        slope=lambda t: sum(torch.exp(t * -(w**-2)) * -(w**-2) for w in WIDTHS),
        at_zero=len(WIDTHS),
    ),
    "linear": Formula(make=lambda sigma: dk.linear()),
}


@dataclass(frozen=True)
class Case:
    """One problem: n query points or particles, m samples, d dimensions, perhaps B times.

    data: one of SAMPLES; shifted normals unless said otherwise.
    """

    device: str
    kernel: str
    n: int
    m: int
    d: int
    batch: int = 0
    data: str = "normal"

    def __str__(self) -> str:
        blocks = f"{self.batch}of" if self.batch else ""
        data = "" if self.data == "normal" else f"{self.data}-"
        return f"{self.device}-{self.kernel}-{data}{blocks}{self.n}x{self.m}x{self.d}"


class Problem:
    """The tensors of a case: queries z, samples x and y, weights w of x, bandwidth sigma."""

    def __init__(self, case: Case):
        self.case = case
        self.formula = FORMULAS[case.kernel]
        generator = torch.Generator().manual_seed(0)
        blocks = (case.batch,) if case.batch else ()
        if case.data == "normal":
            # The root of half the mean squared distance.
            self.sigma = float(case.d**0.5)
            draw = lambda size: torch.randn(*blocks, size, case.d, generator=generator)
            clouds = (draw(case.n) + 0.25, draw(case.n), draw(case.m) + 0.5)
        else:
            clouds = SAMPLES[case.data]((case.n, case.n, case.m), case.d, generator)
            self.sigma = float(clouds[1].var(0).sum().sqrt())
        self.z, self.x, self.y = (t.to(case.device) for t in clouds)
        self.kernel = self.formula.make(self.sigma)
        self.w = torch.randn(*blocks, case.m, generator=generator).to(case.device) / case.m
        # Leaves of the differentiated ops, made before the clock starts.
        self.leaves = [t.clone().requires_grad_() for t in (self.x, self.y)]
        self.sigma_leaf = torch.tensor(self.sigma, device=case.device, requires_grad=True)


@lru_cache(maxsize=1)
def problem(case: Case) -> Problem:
    return Problem(case)


def penalty(g: Tensor) -> Tensor:
    """DMMD's gradient penalty, mean (|∇f(z)| - 1)²."""
    return (g.square().sum(-1).sqrt() - 1).square().mean()


# -- The answer in float64 ------------------------------------------------------------------------
# Of results with a row per point only some rows are checked; ROWS says which axis has the rows.

ROWS = {
    "kernel_matrix": (-2,),
    "potential": (-1,),
    "potential_grad": (-2,),
    "potential_and_grad": (-1, -2),
    "witness": (-1,),
    "witness_grad": (-2,),
    "flow_step": (-2,),
    "flow": (-2,),
    "mmd2": (None,),
    "mmd2_biased": (None,),
    "mmd2_linear": (None,),
    "mmd2_grad": (-2, -2),
    "mmd2_grad_x": (-2,),
    "mmd2_grad_sigma": (-2, -2, None),
    "penalty": (-2, -2, -2),
}
_CHECKED = 256
_BLOCK = 2**23  # float64 numbers in a block of pairs


def relative_error(op: str, p: Problem, outputs: Tensor | tuple[Tensor, ...]) -> float:
    """The largest relative L2 error of the outputs; NaN counts as infinite."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    if op.startswith("flow"):
        outputs = (outputs[0].double() - p.x.double(),)
    worst = 0.0
    for output, axis, right in zip(outputs, ROWS[op], exact(op, p.case), strict=True):
        shown = output.detach()
        if axis is not None:
            shown = shown.index_select(axis, _rows(shown.shape[axis], p))
        error = float((shown.double() - right).norm() / right.norm())
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _rows(size: int, p: Problem) -> Tensor:
    pairs_in_row = max(p.case.batch, 1) * 2 * max(p.case.n, p.case.m)
    count = min(size, _CHECKED, max(1, 2 * _BLOCK // pairs_in_row))
    return torch.linspace(0, size - 1, count, dtype=torch.float64).long().to(p.case.device)


@lru_cache(maxsize=1)
def exact(op: str, case: Case) -> tuple[Tensor, ...]:
    p = problem(case)
    z, x, y, w = (t.double() for t in (p.z, p.x, p.y, p.w))
    queries = z[..., _rows(case.n, p), :]
    particles, data = x[..., _rows(case.n, p), :], y[..., _rows(case.m, p), :]
    u = torch.cat([x, y], -2)
    if op == "flow":
        return (_flow(p, x, y)[..., _rows(case.n, p), :],)
    if op == "kernel_matrix":
        return (p.formula.psi(_t(p, queries, y)),)
    if op.startswith("potential"):
        f, g = _field(p, queries, y, w)
        return {"potential": (f,), "potential_grad": (g,)}.get(op, (f, g))
    if op.startswith(("witness", "flow")):
        at = particles if op == "flow_step" else queries
        f, g = _field(p, at, u, torch.cat([_full(case.n, 1, x), _full(case.m, -1, y)]))
        return {"witness": (f,), "witness_grad": (g,)}.get(op, (-STEP_SIZE * g,))
    if op == "mmd2_linear":
        return (_linear(x, y),)
    if op == "penalty":
        return _penalty(p, z, x, y)
    value, by_sigma = _mmd2(p, x, y, unbiased=op != "mmd2_biased")
    if not op.startswith("mmd2_grad"):
        return (value,)
    n, m = case.n, case.m
    cross = -2 / (n * m)
    _, x_grad = _field(
        p, particles, u, torch.cat([_full(n, 2 / (n - 1), x), _full(m, m * cross, x)])
    )
    _, y_grad = _field(p, data, u, torch.cat([_full(n, n * cross, x), _full(m, 2 / (m - 1), x)]))
    grads = {"mmd2_grad": (x_grad, y_grad), "mmd2_grad_x": (x_grad,)}
    return grads.get(op, (x_grad, y_grad, by_sigma))


def _full(size: int, mass: float, like: Tensor) -> Tensor:
    return like.new_full((size,), mass / size)


def _t(p: Problem, z: Tensor, x: Tensor) -> Tensor:
    """In float64 the expanded form is exact enough, and a GPU takes a hundredth of the time."""
    norms = z.square().sum(-1)[..., :, None] + x.square().sum(-1)[..., None, :]
    return (norms - 2 * z @ x.mT).clamp(min=0) / (2 * p.sigma**2)


def _field(p: Problem, z: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The potential of (x, w) and its gradient at z."""
    t = _t(p, z, x)
    f = (p.formula.psi(t) * w[..., None, :]).sum(-1)
    pull = p.formula.slope(t) * w[..., None, :]
    return f, (pull.sum(-1, keepdim=True) * z - pull @ x) / p.sigma**2


def _flow(p: Problem, x: Tensor, y: Tensor) -> Tensor:
    """How far the particles get in FLOW_STEPS steps."""
    z, w = x, torch.cat([_full(p.case.n, 1, x), _full(p.case.m, -1, y)])
    for _ in range(FLOW_STEPS):
        z = z - FLOW_STEP_SIZE * _field(p, z, torch.cat([z, y], -2), w)[1]
    return z - x


def _mmd2(p: Problem, x: Tensor, y: Tensor, unbiased: bool) -> tuple[Tensor, Tensor]:
    """MMD² and its derivative in σ."""
    n, m = p.case.n, p.case.m
    xx, yy, xy = (_sums(p, *pair) for pair in ((x, x), (y, y), (x, y)))
    if unbiased:
        xx, yy = (
            xx - xx.new_tensor([n, 0]) * p.formula.at_zero,
            yy - yy.new_tensor([m, 0]) * p.formula.at_zero,
        )
        total = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)
    else:
        total = xx / n**2 + yy / m**2 - 2 * xy / (n * m)
    return total[..., 0], total[..., 1]


def _sums(p: Problem, z: Tensor, x: Tensor) -> Tensor:
    """(Σᵢⱼ k, Σᵢⱼ ∂k/∂σ), block by block."""
    rows = max(1, _BLOCK // (x.shape[-2] * max(p.case.batch, 1)))
    total = 0.0
    for block in z.split(rows, -2):
        t = _t(p, block, x)
        by_sigma = p.formula.slope(t) * t * (-2 / p.sigma)
        total = total + torch.stack([p.formula.psi(t).sum((-2, -1)), by_sigma.sum((-2, -1))], -1)
    return total


def _linear(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased MMD² of ⟨x, y⟩, centred, where the mean of the diagonal is taken out by name."""
    centre = torch.cat([x, y], -2).mean(-2, keepdim=True)
    x, y = x - centre, y - centre
    n, m = x.shape[-2], y.shape[-2]
    sx, sy = x.sum(-2), y.sum(-2)
    within_x = (sx.square().sum(-1) - x.square().sum((-2, -1))) / (n * (n - 1))
    within_y = (sy.square().sum(-1) - y.square().sum((-2, -1))) / (m * (m - 1))
    return within_x + within_y - 2 * (sx * sy).sum(-1) / (n * m)


def _penalty(p: Problem, *points: Tensor) -> tuple[Tensor, ...]:
    """By autograd: these cases are small enough for whole matrices in float64."""
    z, x, y = points = [t.clone().requires_grad_() for t in points]
    u = torch.cat([x, y], -2)
    w = torch.cat([_full(p.case.n, 1, x), _full(p.case.m, -1, y)]).detach()
    norms = z.square().sum(-1)[..., :, None] + u.square().sum(-1)[..., None, :]
    square = norms - 2 * z @ u.mT  # in float64 the expanded form is exact enough
    pull = p.formula.slope(square / (2 * p.sigma**2)) * w
    g = (pull.sum(-1, keepdim=True) * z - pull @ u) / p.sigma**2
    grads = torch.autograd.grad(penalty(g), points)
    return tuple(
        grad[..., _rows(size, p), :]
        for grad, size in zip(grads, (p.case.n, p.case.n, p.case.m), strict=True)
    )
