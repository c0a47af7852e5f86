"""What is asked of calls from a recorded graph, which have not passed the checks of the ops.

A graph of torch.jit.trace keeps the weights of the call it was recorded from, and a backend reads
the memory that sizes promise. Rows and columns are letters; equal letters are equal sizes.
"""

import sys
from collections.abc import Sequence
from functools import partial
from inspect import isfunction
from typing import Any

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


def refuse_onnx(op: str) -> None:
    """Raises NotImplementedError in torch.onnx.export, whose own error names no way out."""
    if "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export():
        raise NotImplementedError(
            f"dmmd_kernels: ONNX has no operator for dmmd::{op}; keep the model with "
            "torch.export.save or torch.jit.save and import dmmd_kernels where it is loaded, or "
            "write the kernel in plain torch"
        )


def refuse_scripting(names: dict[str, Any]) -> None:
    """Has torch.jit.script say why it stops, for functions and classes of modules among these."""
    for name, value in names.items():
        is_module = isinstance(value, type) and issubclass(value, torch.nn.Module)
        if isfunction(value) or is_module:
            value.__prepare_scriptable__ = partial(_refuse_script, name)


def _refuse_script(name: str, *_) -> None:
    raise NotImplementedError(
        f"dmmd_kernels: TorchScript has no kernels as values, so torch.jit.script cannot take "
        f"{name}; use torch.jit.trace or torch.export, or call it outside what is scripted"
    )
