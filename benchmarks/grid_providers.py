"""Who is on the grid of a GPU: ours in both precisions, and torch at its best."""

from collections.abc import Callable, Iterator
from functools import cache

import torch

from benchmarks.peers import KeOps
from benchmarks.plain import Chunked, Compiled, InPlace, Plain, cdist, expanded, signed
from benchmarks.providers import Ours

USUAL = 32768  # points, where peers that compile for each problem are asked


class OursIn(Ours):
    """Our backend in one precision."""

    def __init__(self, device: str, precision: str):
        super().__init__("triton" if device == "cuda" else "native", device)
        self.name, self.precision = f"dmmd {precision}", precision

    def bind(self, op, *arguments, **options) -> Callable:
        return super().bind(op, *arguments, precision=self.precision, **options)


class OurFlow(Ours):
    """Whatever dk.flow takes by itself: in few dimensions all steps are one launch of CUDA C++."""

    def __init__(self, device: str):
        super().__init__("auto", device)
        self.name = "dmmd highest"


class Graphed(InPlace):
    """The eager loop of a flow, captured once as a CUDA graph; only its replay is timed."""

    def __init__(self):
        super().__init__()
        self.name = "torch-graphed"

    def why_not(self, op, p):
        return super().why_not(op, p) if p.case.device == "cuda" else "CUDA graphs need a GPU"

    def prepare(self, op, p):
        run = super().prepare(op, p)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # what is allocated at first use must not be captured
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = run()

        def replay():
            graph.replay()
            return result

        return replay


class FlexAttention(Plain):
    """A gaussian as attention: scores ⟨z, x⟩/σ² - |x|²/2σ², values [w x, w], the sum undone."""

    ops = frozenset({"witness_grad"})

    def __init__(self):
        super().__init__("flex", expanded, copies=0)

    def why_not(self, op, p):
        is_taken = p.case.kernel == "gaussian" and 16 <= p.case.d <= 128 and not p.case.batch
        return None if is_taken else "written for one gaussian of 16 to 128 dimensions"

    def witness_grad(self, p, z, x, y):
        u, w = signed(x, y)
        scale, d = p.sigma**-2, u.shape[-1]
        bias = u.square().sum(-1) * (scale / 2)
        values = torch.nn.functional.pad(torch.cat([w[:, None] * u, w[:, None]], -1), (0, d - 1))
        from torch.nn.attention.flex_attention import AuxRequest

        out, aux = attention(z.is_cuda)(
            z[None, None], u[None, None], values[None, None],
            score_mod=lambda score, _b, _h, _i, j: score - bias[j], scale=scale,
            return_aux=AuxRequest(lse=True),
        )  # fmt: skip
        sums = out[0, 0] * torch.exp(aux.lse[0, 0] - z.square().sum(-1) * (scale / 2))[:, None]
        return (sums[:, :d] - z * sums[:, d : d + 1]) * scale


@cache
def attention(is_compiled: bool) -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if is_compiled else flex_attention


def ours(device: str, op: str) -> Iterator:
    if op == "flow":
        yield OurFlow(device)
    else:
        yield OursIn(device, "highest")
        yield OursIn(device, "high")


def peers(op: str) -> Iterator:
    return (p for p in PEERS if op in p.ops)


def _is_usual(op: str, p) -> bool:
    """Where a peer that compiles for each problem is asked."""
    return p.case.d in (2, 64) and p.case.n == USUAL and not p.case.batch


PEERS = (
    Plain("expanded", expanded),
    Plain("cdist", cdist),
    Chunked(),
    Compiled(_is_usual),
    KeOps(_is_usual),
    FlexAttention(),
    InPlace(),
    Graphed(),
)
