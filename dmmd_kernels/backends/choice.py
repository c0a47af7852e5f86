"""Which implementation runs a call.

A backend is a module that has every op under the same name and signature, plus

    why_not(z, kernel, precision) -> str | None     what stops it from running this call
    READS_VECTORS: bool                             whether unbatched weights may be vectors (m,),
                                                    not columns (m, 1), and sums with them (n,)

Named explicitly, a backend runs or raises; it never gives way to another. Under "auto" the first
able one of the device's preference runs. Passing over a preferred one warns once per reason;
with DMMD_STRICT=1 in the environment it is an error. Where plain torch was measured to be faster
than C++ (crossover.json, written by benchmarks/crossover.py), "auto" takes it, and says nothing.
"""

import json
import math
import os
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel, Mixture, energy, polynomial

_MODULES = {
    "triton": "dmmd_kernels.backends._triton",
    "native": "dmmd_kernels.backends.native",
    "reference": "dmmd_kernels.backends.reference",
}
_PREFERENCE = {"cuda": ("triton", "reference"), "cpu": ("native", "reference")}
_PRECISIONS = ("highest", "high")
# The sweeps that `regime` and `tune` know, and which of the backends' functions runs them.
_SWEEPS = {
    "value": "potential",
    "gradient": "potential_grad",
    "sides": "potential",
    "second_order": "tangents",
    "parameters": "params_grad",
}
_loaded: dict[str, ModuleType] = {}
_warned: set[str] = set()


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call."""


class Crossover(NamedTuple):
    """Where plain torch is faster than C++.

    Attributes:
        least_d: nowhere below it.
        rows: (d, least, most) pairs by operator and kind of kernel, the largest d first; what
            counts is the first row whose d is not above that of the points.
    """

    least_d: float
    rows: dict[tuple[str, bool], list[Any]]

    @classmethod
    def read(cls, table: dict) -> "Crossover":
        """From what crossover.json holds."""
        rows = {
            (op, kind == "radial"): sorted(own, reverse=True)
            for kind in ("radial", "polynomial")
            for op, own in table[kind].items()
        }
        return cls(min((own[-1][0] for own in rows.values()), default=math.inf), rows)

    def has(self, op: str, z: Tensor, x: Tensor, kernel: Mixture) -> bool:
        """Whether the operator's pairs of z (n, d) and x (m, d) are such; blocks never are."""
        d, pairs = z.shape[-1], z.shape[-2] * x.shape[-2]
        if z.ndim > 2 or x.ndim > 2 or kernel.params.ndim > 2:
            return False
        for at_least, least, most in self.rows.get((op, kernel.is_radial), ()):
            if d >= at_least:
                return least <= pairs <= most
        return False


_crossover = Crossover.read(json.loads(Path(__file__).with_name("crossover.json").read_text()))


def pick(
    name: str, z: Tensor, kernel: Mixture, precision: str, op: str = "", x: Tensor | None = None
) -> ModuleType:
    """The module that runs this call, of an operator that meets all pairs of z and x.

    Raises:
        BackendError: the named backend cannot, or "auto" would fall back under DMMD_STRICT=1.
        ValueError: unknown backend or precision.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be 'highest' or 'high', got {precision!r}")
    if name == "auto":
        module = _first_able(z, kernel, precision)
        if x is None or z.shape[-1] < _crossover.least_d or module is not load("native"):
            return module
        return load("reference") if _crossover.has(op, z, x, kernel) else module
    if not isinstance(name, str) or name not in _MODULES:
        raise ValueError(f"backend must be 'auto', {', '.join(map(repr, _MODULES))}, got {name!r}")
    module = load(name)
    if reason := module.why_not(z, kernel, precision):
        raise BackendError(f"backend={name!r} cannot run this call: {reason}")
    return module


def chosen(
    z: Tensor,
    kernel: Kernel,
    x: Tensor | None = None,
    *,
    op: str = "quadratic_form",
    precision: str = "highest",
) -> str:
    """The name of the backend that "auto" takes: what ran, or would run.

    Args:
        z, x: points (…, n, d) and (…, m, d) that meet in pairs; x is z when None.
        op: a function of the backends; that of `mmd2` by default, for which z is the joint sample.
            A linear kernel has no pairs: `mmd2` sums its rows, all other ops are torch's products.
    """
    mixtures = kernel.lower(z).mixtures
    if mixtures:
        module = pick("auto", z, mixtures[0], precision, op, z if x is None else x)
    elif op.startswith("quadratic_form") and z.is_cpu:
        module = pick("auto", z, polynomial(1).lower(z).mixtures[0], precision)
    else:
        return "reference"
    return next(name for name in _MODULES if load(name) is module)


def regime(
    z: Tensor,
    x: Tensor,
    kernel: Kernel,
    *,
    grad: bool = False,
    op: str | None = None,
    precision: str = "highest",
) -> str:
    """How "auto" sums over the pairs of z (…, n, d) and x (…, m, d), in words.

    On Triton the regime and its tiles: "direct" (differences), "fused" (tensor cores) or "panels"
    (library products); "sides" and "tiles" are tensor cores too. Elsewhere the backend alone.

    Args:
        grad: of `potential_grad`, not of `potential` and `mmd2`.
        op: of neither, but of "sides", "second_order" or "parameters", as in `tune`.

    Raises:
        ValueError: op is none of these, or grad is set beside it.
    """
    what = _sweep("regime", op, grad)
    name = chosen(z, kernel, x, op=_SWEEPS[what], precision=precision)
    if name != "triton":
        return name
    parts = (load(name).regime(z, x, m, op=what) for m in kernel.lower(z).mixtures)
    return "triton: " + "; ".join(parts)


def tune(
    z: Tensor,
    x: Tensor,
    kernel: Kernel,
    *,
    grad: bool = False,
    op: str | None = None,
    file: str | os.PathLike | None = None,
) -> str:
    """Times the tiles a GPU could take for such a sweep, and has this process use the fastest.

    Nothing is tuned without this call. What is found holds for all sizes, for kernels of the same
    profiles in the same range of d on the same kind of GPU; sums in other tiles round differently.

    Args:
        z: points (…, n, d) on a GPU, and x: points (…, m, d); sizes like those of the work to come.
        grad: tunes `potential_grad`, not `potential` and `mmd2`.
        op: tunes neither, but "sides" (many right-hand sides, so permutation tests), "second_order"
            (backward passes of `potential_grad`, so gradient penalties) or "parameters" (gradients
            of the kernel's). In up to 8 dimensions, and where pairs are few, the last two have
            fixed tiles, "sides" where pairs are few; then nothing is timed.
        file: JSON that keeps what was found; if it is there, nothing is timed again.

    Returns:
        The regimes with their new tiles, like `regime`.

    Raises:
        BackendError: the points are on the CPU, or Triton cannot run the call.
        ValueError: op is none of these, grad is set beside it, or the file is not one of tune's.
    """
    what = _sweep("tune", op, grad)
    if not z.is_cuda:
        raise BackendError(
            f"tune: z must be on a CUDA GPU, where tiles can be timed; got {z.device}"
        )
    path = None if file is None else Path(file)
    parts = []
    for mixture in kernel.lower(z).mixtures:
        module = pick("triton", z, mixture, "highest")
        with torch.cuda.device_of(z):
            parts.append(module.tune(z, x, mixture, op=what, file=path))
    return "triton: " + "; ".join(parts)


def _sweep(asked: str, op: str | None, grad: bool) -> str:
    """The one of _SWEEPS that is meant."""
    if op not in (None, "sides", "second_order", "parameters") or (op and grad):
        raise ValueError(
            f"{asked}: op must be None, 'sides', 'second_order' or 'parameters', and None with "
            f"grad; got op={op!r}, grad={grad}"
        )
    return op or ("gradient" if grad else "value")


def report(device: torch.device) -> dict[str, str | None]:
    """For each backend, what stops it from running a plain float32 call on the device."""
    probe = torch.zeros(1, 1, device=device)
    mixture = energy().lower(probe).mixtures[0]
    return {name: load(name).why_not(probe, mixture) for name in _MODULES}


def load(name: str) -> ModuleType:
    if name not in _loaded:
        _loaded[name] = import_module(_MODULES[name])
    return _loaded[name]


def _first_able(z: Tensor, kernel: Mixture, precision: str) -> ModuleType:
    device = "cpu" if z.is_cpu else z.device.type  # the name takes torch 0.4 µs
    for name in _PREFERENCE.get(device, ("reference",)):
        module = load(name)
        reason = module.why_not(z, kernel, precision)
        if reason is None:
            return module
        _pass_over(name, reason)
    raise AssertionError("the reference runs everything")


def _pass_over(name: str, reason: str) -> None:
    message = f"dmmd_kernels: backend {name!r} is not used: {reason}"
    if os.environ.get("DMMD_STRICT") == "1":
        raise BackendError(message)
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(message, RuntimeWarning, stacklevel=2)
