"""What the ops promise a backend, asked again of tensors that come from a recorded graph.

A graph of torch.jit.trace keeps the weights of the call it was recorded from, and a backend reads
the memory that sizes promise. Rows and columns are letters; equal letters are equal sizes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_PAIRS = dict(z="nd", x="md", v="np", w="mp", params="l3", a="nd", b="md", c="l3")
_FORM = dict(u="nd", held="hd", v="ap", w="ap", params="l3")  # a = n + h
_SUMS = dict(x="md", w="m1", o="1d", a="1d", b="11")


def check_recorded(op: str, names: Sequence[str], tensors: Sequence[Tensor | None]) -> None:
    """Raises ValueError where a tensor does not fit those before it."""
    letters = _SUMS if "o" in names else _FORM if "u" in names else _PAIRS
    given = {name: t for name, t in zip(names, tensors, strict=True) if t is not None}
    known: dict = {"1": 1, "3": 3}
    known["a"] = sum(given[name].shape[-2] for name in ("u", "held") if name in given)
    for name, t in given.items():
        shape = (*t.shape, 1) if t.ndim == 1 else t.shape
        found = dict(zip(letters[name], shape[-2:], strict=True))
        if len(shape) == 3:
            found["blocks"] = shape[0]
        found["dtype"] = torch.float64 if t.dtype == torch.float64 else torch.float32
        for what, size in found.items():
            if known.setdefault(what, size) != size:
                raise ValueError(_misfit(op, name, t, known))


def _misfit(op: str, name: str, t: Tensor, known: dict) -> str:
    return (
        f"dmmd::{op}: {name} {tuple(t.shape)} of {t.dtype} does not fit the tensors before it, got "
        f"{known}; a graph of torch.jit.trace holds for the sizes and the dtype it was recorded "
        "with: record it anew, or use torch.export with dynamic_shapes"
    )
