"""What smoke.py runs: groups of cases, their tensors, and the answer by plain torch on some rows.

A result of an op belongs to a row, like a gradient, or is a sum over the rows, like MMD². Plain
torch is asked for a few rows of the first kind, and adds the second kind up part by part, so that
no case needs memory for all pairs. A new case is a line in GROUPS, a new op one in OPS.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import dmmd_kernels as dk

_ROWS = 128  # that are checked
_PART = 2**26  # numbers in a part of the pairs
_FEW = 64  # results; below, plain torch's error may be small by luck
_REFERENCE = {"backend": "reference"}

# Odd sizes, so that no tile is whole, and as many pairs as tensor cores are used for.
SIZES = {2: 4099, 3: 4099, 16: 6007, 64: 3001, 128: 2203, 512: 1201}
SMALL = 37  # on a CPU, in Triton's interpreter


@dataclass(frozen=True)
class Case:
    """One call: an op on n points z and n - 3 points x in d dimensions, perhaps B times."""

    op: str
    d: int
    kernel: str = "gaussian"
    data: str = "normal"
    sides: int = 1
    blocks: int = 0
    n: int = 0  # that of SIZES if 0

    @property
    def name(self) -> str:
        parts = [self.op, f"d={self.d}", f"{self.blocks} blocks" if self.blocks else ""]
        parts += [word for word in (self.kernel, self.data) if word not in ("gaussian", "normal")]
        return " ".join(filter(None, parts))

    def on(self, device: str, n: int | None = None) -> "Case":
        """The same in the size that suits the device, or in another."""
        size = SMALL if device == "cpu" else self.n or SIZES[self.d]
        blocks = min(self.blocks, 3) if device == "cpu" else self.blocks
        return replace(self, n=n or size, blocks=blocks, sides=self.sides)


GROUPS = {
    "direct": (Case("value", 2), Case("gradient", 2), Case("mmd2_grad", 3)),
    "fused_16": (Case("value", 16), Case("gradient", 16), Case("mmd2", 16)),
    "fused_64": (
        Case("gradient", 64),
        Case("mmd2_grad", 64),
        Case("value", 64, "octaves"),
        Case("gradient", 64, data="clusters"),
    ),
    "fused_128": (Case("value", 128), Case("gradient", 128)),
    "panels": (Case("value", 512), Case("gradient", 512)),
    "matrix": (Case("matrix", 2), Case("matrix", 64)),
    "sides": (
        Case("value", 64, sides=64),
        Case("value", 512, sides=64),
        Case("value", 2, sides=64),
    ),
    "second_order": (Case("penalty", 64), Case("penalty", 2)),
    "parameters": (Case("sigma_grad", 64), Case("sigma_grad", 2)),
    "batch": (
        Case("block_mmd2", 2, blocks=256, n=67),
        Case("block_gradient", 16, blocks=64, n=1001),
    ),
}
TRITON = tuple(GROUPS)
# The four ways of csrc/cuda/flow_plan.h, on a GPU with clusters and 227 KB of shared memory.
GROUPS |= {
    "flow_block": (Case("flow", 2, blocks=132, n=203),),
    "flow_cluster": (Case("flow", 2, blocks=1, n=1003),),
    "flow_grid": (Case("flow", 2, blocks=1, n=9001), Case("flow", 32, blocks=1, n=701)),
    "flow_steps": (Case("flow", 32, blocks=140, n=701),),
}
FLOWS = tuple(name for name in GROUPS if name not in TRITON)

KERNELS: dict[str, Callable[..., dk.Kernel]] = {
    "gaussian": dk.gaussian,
    "octaves": lambda sigma: dk.mixture([dk.gaussian(sigma * 2.0**l) for l in range(-2, 3)]),
}


class Problem:
    """Points z (n, d), x (m, d), weights w (m, sides), or with B blocks in front.

    Attributes:
        s: weights of both clouds as one, in MMD² as a quadratic form.
    """

    def __init__(self, case: Case, device: str):
        draw = torch.Generator().manual_seed(0)
        blocks = (case.blocks,) if case.blocks else ()
        n, m = case.n, case.n - 3
        normal = lambda *shape: torch.randn(*blocks, *shape, generator=draw)
        self.case = case
        z, x = normal(n, case.d), normal(m, case.d)
        if case.data == "clusters":
            centres = 2 * torch.randn(10, case.d, generator=draw)
            z += centres[torch.randint(10, (n,), generator=draw)]
            x += centres[torch.randint(10, (m,), generator=draw)]
        z[..., : m // 2, :] = x[..., : m // 2, :]  # shared points are the rule in an MMD
        spread = min(1, 2 / case.d**0.5)  # else a gaussian would vanish in many dimensions
        self.z, self.x = (spread * z).to(device), (spread * x).to(device)
        self.w = normal(m, case.sides).to(device)
        self.s = torch.cat([torch.full((n,), 1 / n), torch.full((m,), -1 / m)]).to(device)
        self.sigma = torch.tensor(1.0, device=device)

    def changed(self, change: Callable[[Tensor], Tensor], names: tuple[str, ...]) -> "Problem":
        other = object.__new__(Problem)
        vars(other).update(vars(self) | {name: change(getattr(self, name)) for name in names})
        return other

    def double(self) -> "Problem":
        return self.changed(torch.Tensor.double, ("z", "x", "w", "s", "sigma"))

    def resigned(self, seed: int) -> "Problem":
        """With other signs of the weights."""
        draw = torch.Generator().manual_seed(seed)
        flip = lambda t: t * (2 * torch.randint(2, t.shape, generator=draw) - 1).to(t)
        return self.changed(flip, ("w", "s"))

    @property
    def kernel(self) -> dk.Kernel:
        # A number unless its gradient is wanted: constants take other ways than tensors.
        is_wanted = self.case.op == "sigma_grad"
        return KERNELS[self.case.kernel](self.sigma if is_wanted else 1.0)

    @property
    def joint(self) -> Tensor:
        return torch.cat([self.z, self.x])


Results = tuple[Tensor, ...]


@dataclass(frozen=True)
class Op:
    """call(problem, how): ours; part(problem, rows): plain torch's, of some of the rows.

    Attributes:
        sums: which of the results are sums over the rows.
        is_joint: rows are those of both clouds.
    """

    call: Callable[[Problem, dict], Results]
    part: Callable[[Problem, Tensor], Results]
    sums: tuple[bool, ...] = (False,)
    is_joint: bool = False


def _by_rows(name: str) -> Op:
    op = getattr(dk, name)
    what = lambda p: () if name == "kernel_matrix" else (p.w if p.case.sides > 1 else p.w[..., 0],)
    return Op(
        lambda p, how: (op(p.z, p.x, *what(p), p.kernel, **how),),
        lambda p, rows: (op(p.z[rows], p.x, *what(p), p.kernel, **_REFERENCE),),
    )


def _of_blocks(run: Callable[..., Tensor]) -> Op:
    return Op(
        lambda p, how: (run(p.z, p.x, p.w[..., 0], p.kernel, **how),),
        lambda p, rows: (run(p.z[rows], p.x[rows], p.w[rows, :, 0], p.kernel, **_REFERENCE),),
    )


def _penalty(p: Problem, z: Tensor, how: dict) -> Results:
    """The gradients at z and x of a gradient penalty, Σ_i (|g_i| - 1)²."""
    points = [t.detach().requires_grad_() for t in (z, p.x)]
    g = dk.potential_grad(*points, p.w[:, 0], p.kernel, **how)
    return torch.autograd.grad((g.norm(dim=-1) - 1).square().sum(), points)


def _mmd2(z: Tensor, x: Tensor, p: Problem, how: dict) -> Tensor:
    weights = {"weights_x": p.s[: len(z)], "weights_y": -p.s[len(z) :]}
    return dk.mmd2(z, x, p.kernel, estimator="biased", **weights, **how)


def _mmd2_grad(p: Problem, how: dict) -> Results:
    points = [t.detach().requires_grad_() for t in (p.z, p.x)]
    value = _mmd2(*points, p, how)
    return value.detach(), torch.cat(torch.autograd.grad(value, points))


def _mmd2_part(p: Problem, rows: Tensor) -> Results:
    f = dk.potential(p.joint[rows], p.joint, p.s, p.kernel, **_REFERENCE)
    return ((p.s[rows] * f).sum(),)


def _mmd2_grad_part(p: Problem, rows: Tensor) -> Results:
    g = dk.potential_grad(p.joint[rows], p.joint, p.s, p.kernel, **_REFERENCE)
    return *_mmd2_part(p, rows), 2 * p.s[rows, None] * g


def _sigma_grad(p: Problem, value: Callable[[Problem], Tensor]) -> Results:
    leaf = p.changed(lambda t: t.detach().requires_grad_(), ("sigma",))
    return torch.autograd.grad(value(leaf), leaf.sigma)


def _flow(p: Problem, x: Tensor, y: Tensor, **how) -> Results:
    steps = {
        "step_size": 0.5,
        "steps": 5,
        "noise": 0.1,
        "momentum": 0.5,
        "max_norm": 0.5,
        "seed": 3,
    }
    return (dk.flow(x, y, p.kernel, **steps, **how).particles,)


def _flow_part(p: Problem, rows: Tensor) -> Results:
    alone = lambda r: _flow(p, p.z[r : r + 1], p.x[r : r + 1], first_flow=r, **_REFERENCE)[0]
    return (torch.cat([alone(r) for r in rows.tolist()]),)


OPS = {
    "value": _by_rows("potential"),
    "gradient": _by_rows("potential_grad"),
    "matrix": _by_rows("kernel_matrix"),
    "penalty": Op(
        lambda p, how: _penalty(p, p.z, how),
        lambda p, rows: _penalty(p, p.z[rows], _REFERENCE),
        sums=(False, True),
    ),
    "mmd2": Op(lambda p, how: (_mmd2(p.z, p.x, p, how),), _mmd2_part, (True,), is_joint=True),
    "mmd2_grad": Op(_mmd2_grad, _mmd2_grad_part, (True, False), is_joint=True),
    "sigma_grad": Op(
        lambda p, how: _sigma_grad(p, lambda q: _mmd2(q.z, q.x, q, how)),
        lambda p, rows: _sigma_grad(p, lambda q: _mmd2_part(q, rows)[0]),
        (True,),
        is_joint=True,
    ),
    "block_mmd2": _of_blocks(lambda z, x, w, kernel, **how: dk.mmd2(z, x, kernel, **how)),
    "block_gradient": _of_blocks(dk.potential_grad),
    "flow": Op(lambda p, how: _flow(p, p.z, p.x, **how), _flow_part),
}


def ratio(p: Problem, results: Results) -> float:
    """The largest error in units of what the accuracy rule allows; infinite where one is NaN.

    In the same dtype 4 times that of plain torch, both against float64, and 16 ulps of the largest
    entry. Of few results plain torch counts with its worst of eight draws of the weights' signs.
    """
    plain, exact = _plain(p), _plain(p.double())
    rows = _rows(p)
    shown = [
        t.detach() if is_sum else t.detach()[rows]
        for t, is_sum in zip(results, OPS[p.case.op].sums, strict=True)
    ]
    gap = lambda some: [float((a - b).abs().max()) for a, b in zip(some, exact, strict=True)]
    usual = gap(plain)
    if any(t.numel() < _FEW for t in shown):
        draws = [_gap_of_draw(p.resigned(seed)) for seed in range(8)]
        usual = [max(gaps) for gaps in zip(usual, *draws, strict=True)]
    ulp = torch.finfo(plain[0].dtype).eps
    floors = [16 * ulp * float(truth.abs().max()) for truth in exact]
    ratios = [error / (4 * u + f) for error, u, f in zip(gap(shown), usual, floors, strict=True)]
    return max(r if r == r else float("inf") for r in ratios)


def _gap_of_draw(p: Problem) -> list[float]:
    pairs = zip(_plain(p), _plain(p.double()), strict=True)
    return [float((a - b).abs().max()) for a, b in pairs]


def _count(p: Problem) -> int:
    return len(p.z) + len(p.x) if OPS[p.case.op].is_joint else len(p.z)


def _rows(p: Problem) -> Tensor:
    count = _count(p)
    most = 2 if p.case.op == "flow" else _ROWS
    return torch.linspace(0, count - 1, min(count, most)).long().to(p.z.device)


def _parts(p: Problem) -> Iterator[Tensor]:
    size = max(1, _PART // (_count(p) * p.z.shape[-1]))
    return iter(torch.arange(_count(p), device=p.z.device).split(size))


def _plain(p: Problem) -> list[Tensor]:
    """Plain torch's results in the dtype of the problem: those of _rows, and whole sums."""
    op = OPS[p.case.op]
    found = list(op.part(p, _rows(p)))
    if any(op.sums):
        parts = [op.part(p, rows) for rows in _parts(p)]
        for index, is_sum in enumerate(op.sums):
            if is_sum:
                found[index] = torch.stack([part[index] for part in parts]).sum(0)
    return [t.detach() for t in found]
