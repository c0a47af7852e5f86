"""Sums over one cloud. Memory binds them, and torch's reductions read it at its full rate."""

from torch import Tensor


def row_sums(
    x: Tensor, w: Tensor | None, o: Tensor, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    difference = x.float() - o.float()
    weighted = difference if w is None else w.float() * difference
    s, q = weighted.sum(-2, keepdim=True), (weighted * difference).sum((-2, -1), keepdim=True)
    return s.to(x.dtype), q.to(x.dtype)


def row_sums_grad(
    x: Tensor, w: Tensor | None, o: Tensor, a: Tensor, b: Tensor, precision: str = "highest"
) -> Tensor:
    pull = a.float() + 2 * b.float() * (x.float() - o.float())
    return (pull if w is None else w.float() * pull).to(x.dtype)
