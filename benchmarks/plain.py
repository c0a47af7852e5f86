"""Plain torch as a peer, written as well as it can be: the same ops from a matrix of distances.

    differences   (z_i - x_j)² summed: accurate, O(n·m·d) memory; what a careful user writes
    expanded      |z|² + |x|² - 2⟨z, x⟩ by addmm; what a fast user writes
    cdist         torch.cdist, squared
    chunked       expanded, by blocks of rows that stay in the cache: linear memory, as in FALKON
    compiled      expanded under torch.compile

Points are scaled by 1/√2σ first, so that their squared distance is t and no pass over the pairs
is spent on the bandwidth. Gradients are one matrix product with [w·x | w], not a broadcast.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.model import FLOW_STEPS
from benchmarks.problems import FLOW_STEP_SIZE, ROWS, STEP_SIZE, Problem, penalty

Call = Callable[[], Tensor | tuple[Tensor, ...]]


def differences(z: Tensor, x: Tensor) -> Tensor:
    return (z[..., :, None, :] - x[..., None, :, :]).square().sum(-1)


def expanded(z: Tensor, x: Tensor) -> Tensor:
    z_square, x_square = (t.square().sum(-1) for t in (z, x))
    product = torch.addmm if z.ndim == 2 else torch.baddbmm
    part = product(x_square[..., None, :], z, x.mT, alpha=-2)
    return (part + z_square[..., :, None]).clamp_min(0)


def cdist(z: Tensor, x: Tensor) -> Tensor:
    return torch.cdist(z, x).square()


class Plain:
    """Every op from one function `squares(z, x)`; `name`, `why_not` and `prepare` as providers."""

    ops = frozenset(ROWS)

    def __init__(self, name: str, squares: Callable[[Tensor, Tensor], Tensor], copies: int = 3):
        self.name = f"torch-{name}"
        self.squares = squares
        self.copies = copies  # n × m buffers alive at once

    def why_not(self, op: str, p: Problem) -> str | None:
        if op == "mmd2_linear" and self.squares is not expanded:
            return "a linear kernel has no distances; torch-expanded is the matrix, once"
        case = p.case
        columns = case.m if op in ("kernel_matrix",) or op.startswith("potential") else 2 * case.m
        per_pair = 2 * case.d + 2 if self.squares is differences else self.copies
        need = 4 * per_pair * case.n * columns * max(case.batch, 1)
        limit = _memory_limit(case.device)
        if need > limit:
            return f"its matrices would take {need / 2**30:.0f} GiB, more than {limit / 2**30:.0f}"
        return None

    def prepare(self, op: str, p: Problem) -> Call:
        run = self.runner(op, p)
        if op.startswith("mmd2_grad") or op == "penalty":
            return run
        return torch.no_grad()(run)

    def runner(self, op: str, p: Problem) -> Call:
        own = getattr(self, op)
        if op.startswith("potential"):
            return partial(own, p, p.z, p.y, p.w)
        if op.startswith("witness"):
            return partial(own, p, p.z, p.x, p.y)
        if op == "kernel_matrix":
            return partial(own, p, p.z, p.y)
        if op == "penalty":
            return partial(own, p)
        points = p.leaves if op.startswith("mmd2_grad") else (p.x, p.y)
        return partial(own, p, *points)

    # -- one cloud --

    def t(self, p: Problem, z: Tensor, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        scale = (p.sigma if sigma is None else sigma) * 2**0.5
        return self.squares(z / scale, x / scale)

    def kernel_matrix(self, p, z, x):
        return p.formula.psi(self.t(p, z, x))

    def potential(self, p, z, x, w):
        return (p.formula.psi(self.t(p, z, x)) @ w[..., None])[..., 0]

    def potential_grad(self, p, z, x, w):
        return self.along(p, self.t(p, z, x), z, x, w)

    def potential_and_grad(self, p, z, x, w):
        t = self.t(p, z, x)
        return (p.formula.psi(t) @ w[..., None])[..., 0], self.along(p, t, z, x, w)

    def along(self, p, t, z, x, w):
        w = w.expand(x.shape[:-1])[..., None]
        pulls = p.formula.slope(t) @ torch.cat([w * x, w], -1)
        return (z * pulls[..., -1:] - pulls[..., :-1]) / p.sigma**2

    # -- two samples --

    def witness(self, p, z, x, y):
        return self.potential(p, z, *signed(x, y))

    def witness_grad(self, p, z, x, y):
        return self.potential_grad(p, z, *signed(x, y))

    def flow_step(self, p, x, y):
        return x - STEP_SIZE * self.witness_grad(p, x, x, y)

    def flow(self, p, x, y):
        for _ in range(FLOW_STEPS):
            x = x - FLOW_STEP_SIZE * self.witness_grad(p, x, x, y)
        return x

    def total(self, p, z, x, sigma, skip_diagonal=False):
        k = p.formula.psi(self.t(p, z, x, sigma))
        total = k.sum((-2, -1))
        return total - k.diagonal(dim1=-2, dim2=-1).sum(-1) if skip_diagonal else total

    def mmd2(self, p, x, y, sigma=None):
        n, m = x.shape[-2], y.shape[-2]
        within_x = self.total(p, x, x, sigma, skip_diagonal=True) / (n * (n - 1))
        within_y = self.total(p, y, y, sigma, skip_diagonal=True) / (m * (m - 1))
        return within_x + within_y - 2 * self.total(p, x, y, sigma) / (n * m)

    def mmd2_biased(self, p, x, y):
        n, m = x.shape[-2], y.shape[-2]
        within = self.total(p, x, x, None) / n**2 + self.total(p, y, y, None) / m**2
        return within - 2 * self.total(p, x, y, None) / (n * m)

    def mmd2_linear(self, p, x, y):
        n, m = x.shape[-2], y.shape[-2]
        xx, yy, xy = x @ x.mT, y @ y.mT, x @ y.mT
        off = lambda k: k.sum((-2, -1)) - k.diagonal(dim1=-2, dim2=-1).sum(-1)
        return off(xx) / (n * (n - 1)) + off(yy) / (m * (m - 1)) - 2 * xy.sum((-2, -1)) / (n * m)

    def mmd2_grad(self, p, x, y):
        return torch.autograd.grad(self.mmd2(p, x, y).sum(), (x, y))

    def mmd2_grad_x(self, p, x, y):
        return torch.autograd.grad(self.mmd2(p, x, y.detach()).sum(), x)

    def mmd2_grad_sigma(self, p, x, y):
        value = self.mmd2(p, x, y, p.sigma_leaf).sum()
        return torch.autograd.grad(value, (x, y, p.sigma_leaf))

    def penalty(self, p):
        points = [t.detach().requires_grad_() for t in (p.z, p.x, p.y)]
        return torch.autograd.grad(penalty(self.witness_grad(p, *points)), points)


class Differences(Plain):
    """The accurate line: gradients from the differences too, since rounding hides none of them."""

    def __init__(self):
        super().__init__("differences", differences)

    def along(self, p, t, z, x, w):
        pull = p.formula.slope(t) * w[..., None, :]
        diff = z[..., :, None, :] - x[..., None, :, :]
        return torch.einsum("...nm,...nmd->...nd", pull, diff) / p.sigma**2


class Chunked(Plain):
    """Blocks of rows; gradients of MMD² from `potential_grad`, since autograd would keep blocks."""

    ops = Plain.ops - {"kernel_matrix", "mmd2_linear", "mmd2_grad_sigma", "penalty"}

    def __init__(self):
        super().__init__("chunked", expanded)

    def why_not(self, op, p):
        if p.case.batch:
            return "the blocks of a batch are small already"
        return None

    def blocks(self, z, x):
        pairs = 2**26 if z.is_cuda else 2**19
        return z.split(max(1, pairs // x.shape[-2]), -2)

    def potential(self, p, z, x, w):
        return torch.cat([super(Chunked, self).potential(p, b, x, w) for b in self.blocks(z, x)])

    def potential_grad(self, p, z, x, w):
        blocks = [super(Chunked, self).potential_grad(p, b, x, w) for b in self.blocks(z, x)]
        return torch.cat(blocks)

    def potential_and_grad(self, p, z, x, w):
        own = super().potential_and_grad
        f, g = zip(*(own(p, b, x, w) for b in self.blocks(z, x)), strict=True)
        return torch.cat(f), torch.cat(g)

    def total(self, p, z, x, sigma, skip_diagonal=False):
        total = sum(super(Chunked, self).total(p, b, x, sigma) for b in self.blocks(z, x))
        return total - z.shape[-2] * p.formula.at_zero if skip_diagonal else total

    def mmd2_grad(self, p, x, y):
        n, m = len(x), len(y)
        with torch.no_grad():
            u = torch.cat([x, y])
            cross = x.new_full((1,), -2 / (n * m))
            for_x = torch.cat([x.new_full((n,), 2 / (n * (n - 1))), cross.expand(m)])
            for_y = torch.cat([cross.expand(n), x.new_full((m,), 2 / (m * (m - 1)))])
            return self.potential_grad(p, x, u, for_x), self.potential_grad(p, y, u, for_y)

    def mmd2_grad_x(self, p, x, y):
        n, m = x.shape[-2], y.shape[-2]
        with torch.no_grad():
            w = torch.cat([x.new_full((n,), 2 / (n * (n - 1))), x.new_full((m,), -2 / (n * m))])
            return self.potential_grad(p, x, torch.cat([x, y], -2), w)


class Compiled(Plain):
    """`expanded` under torch.compile, one compilation per problem, outside the clock."""

    ops = frozenset({"potential", "witness_grad", "mmd2", "mmd2_grad", "mmd2_grad_x", "flow"})

    def __init__(self, is_allowed: Callable[[str, Problem], bool]):
        super().__init__("compiled", expanded)
        self.is_allowed = is_allowed

    def why_not(self, op, p):
        if not self.is_allowed(op, p):
            return "compiling takes long, so it is done for a few problems and a larger suite"
        return super().why_not(op, p)

    def runner(self, op, p):
        torch.compiler.reset()
        compiled = Plain("compiled", expanded)
        name = "mmd2" if op.startswith("mmd2") else {"flow": "witness_grad"}.get(op, op)
        mode = "max-autotune-no-cudagraphs" if p.case.device == "cuda" else "default"
        setattr(compiled, name, torch.compile(getattr(compiled, name), dynamic=False, mode=mode))
        return compiled.runner(op, p)


class InPlace(Plain):
    """The loop of a flow as fast as eager torch has it: `expanded` in buffers that all steps share,
    in coordinates scaled once, with what belongs to the data computed once."""

    ops = frozenset({"flow"})

    def __init__(self):
        super().__init__("in-place", expanded)

    def why_not(self, op, p):
        if p.case.kernel != "gaussian":
            return "the loop is written for a gaussian"
        return super().why_not(op, p)

    def flow(self, p, x, y):
        n, scale = x.shape[-2], p.sigma * 2**0.5
        u, w = signed(x, y)
        u, w = u / scale, w.expand(u.shape[:-1])[..., None]
        pull, squares = torch.cat([w * u, w], -1), u.square().sum(-1)
        t = u.new_empty(*u.shape[:-2], n, u.shape[-2])
        product = torch.addmm if u.ndim == 2 else torch.baddbmm
        z, size = u[..., :n, :], 2 * FLOW_STEP_SIZE / scale**2
        for _ in range(FLOW_STEPS):
            product(squares[..., None, :], z, u.mT, alpha=-2, out=t)
            t.add_(squares[..., :n, None]).clamp_min_(0).neg_().exp_()
            pulls = t @ pull
            z.add_(z * pulls[..., -1:] - pulls[..., :-1], alpha=size)
            torch.mul(z, 1 / n, out=pull[..., :n, :-1])
            squares[..., :n] = z.square().sum(-1)
        return z * scale


class ClosedForm:
    """The linear kernel needs no pairs, in torch either."""

    name = "torch-closed-form"
    ops = frozenset({"mmd2_linear"})

    def why_not(self, op, p):
        return None

    def prepare(self, op: str, p: Problem) -> Call:
        return torch.no_grad()(partial(self.mmd2, p.x, p.y))

    def mmd2(self, x: Tensor, y: Tensor) -> Tensor:
        n, m = x.shape[-2], y.shape[-2]
        sx, sy = x.sum(-2), y.sum(-2)
        within_x = (sx.square().sum(-1) - x.square().sum((-2, -1))) / (n * (n - 1))
        within_y = (sy.square().sum(-1) - y.square().sum((-2, -1))) / (m * (m - 1))
        return within_x + within_y - 2 * (sx * sy).sum(-1) / (n * m)


def signed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The witness of x against y as one weighted cloud."""
    n, m = x.shape[-2], y.shape[-2]
    w = torch.cat([x.new_full((n,), 1 / n), x.new_full((m,), -1 / m)])
    return torch.cat([x, y], -2), w


def _memory_limit(device: str) -> int:
    """Half of what is free on a GPU; 1 GiB on the CPU, which other work shares."""
    return torch.cuda.mem_get_info()[0] // 2 if device == "cuda" else 2**30
