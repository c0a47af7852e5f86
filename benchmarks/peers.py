"""Other libraries as providers, each behind a reason why it is not here.

KeOps compiles each formula and dimension once, which takes a compiler and up to half a minute;
that is its first call, outside the clock. GeomLoss has the biased estimate only, and half of it.
"""

import warnings
from functools import cache, partial
from importlib import import_module

import torch
from torch import Tensor

from benchmarks.plain import Call, Chunked, Plain
from benchmarks.problems import Problem


@cache
def absent(name: str) -> str | None:
    """Why a module cannot be used here, None when it can."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import_module(name)
    except Exception as error:  # whatever a broken installation raises
        return f"{name} cannot be imported: {type(error).__name__}: {str(error).strip() or error!r}"
    return None


class KeOps(Plain):
    """Genred with hand-written gradients; one reduction each for the value and for the gradient."""

    ops = Chunked.ops

    def __init__(self, is_allowed):
        super().__init__("keops", None)
        self.name = "keops"
        self.is_allowed = is_allowed

    def why_not(self, op: str, p: Problem) -> str | None:
        if reason := absent("pykeops.torch"):
            return reason
        if not p.formula.psi_text:
            return f"its formula of the kernel {p.case.kernel} is not written"
        if not self.is_allowed(op, p):
            return "compiling takes long, so it is done for a few problems and a larger suite"
        return None

    def potential(self, p, z, x, w):
        return self.sum(p.formula.psi_text, p, z, x, w, "w")[..., 0]

    def potential_grad(self, p, z, x, w):
        scale = 2**0.5 / p.sigma
        return scale * self.sum(p.formula.slope_text, p, z, x, w, "w*(z-x)")

    def potential_and_grad(self, p, z, x, w):
        return self.potential(p, z, x, w), self.potential_grad(p, z, x, w)

    def total(self, p, z, x, sigma, skip_diagonal=False):
        w = x.new_ones(x.shape[:-1])
        total = self.potential(p, z, x, w).sum(-1)
        return total - z.shape[-2] * p.formula.at_zero if skip_diagonal else total

    def mmd2_grad(self, p, x, y):
        n, m = x.shape[-2], y.shape[-2]
        with torch.no_grad():
            cross = x.new_full((1,), -2 / (n * m))
            for_x = torch.cat([x.new_full((n,), 2 / (n * (n - 1))), cross.expand(m)])
            for_y = torch.cat([cross.expand(n), x.new_full((m,), 2 / (m * (m - 1)))])
            u = torch.cat([x, y], -2)
            return self.potential_grad(p, x, u, for_x), self.potential_grad(p, y, u, for_y)

    mmd2_grad_x = Chunked.mmd2_grad_x

    def sum(self, profile: str, p: Problem, z: Tensor, x: Tensor, w: Tensor, factor: str) -> Tensor:
        scale = p.sigma * 2**0.5
        formula = f"{profile.replace('T', 'SqDist(z,x)')}*{factor}"
        w = w.expand(x.shape[:-1])[..., None].contiguous()
        backend = "GPU" if z.is_cuda else "CPU"
        return _genred(formula, z.shape[-1])(z / scale, x / scale, w, backend=backend)


@cache
def _genred(formula: str, d: int):
    from pykeops.torch import Genred

    return Genred(formula, [f"z=Vi({d})", f"x=Vj({d})", "w=Vj(1)"], "Sum", axis=1)


class GeomLoss:
    """SamplesLoss: ½ MMD², biased. Only its matrix route; the online one is KeOps."""

    name = "geomloss"
    ops = frozenset({"mmd2_biased"})

    def why_not(self, op: str, p: Problem) -> str | None:
        if reason := absent("geomloss"):
            return reason
        if p.case.kernel != "gaussian":
            return f"it has no {p.case.kernel} kernel"
        return Plain.why_not(_matrices, op, p)

    def prepare(self, op: str, p: Problem) -> Call:
        from geomloss import SamplesLoss

        loss = SamplesLoss("gaussian", blur=p.sigma, backend="tensorized")
        return torch.no_grad()(partial(_twice, loss, p.x, p.y))


def _twice(loss, x, y):
    return 2 * loss(x, y)


_matrices = Plain("matrices", lambda z, x: None)
