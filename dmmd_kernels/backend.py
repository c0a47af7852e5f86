"""Which implementation runs a call.

A backend is a module that has every op under the same name and signature, plus

    why_not(z, kernel, precision) -> str | None     what stops it from running this call
    READS_VECTORS: bool                             whether unbatched weights may be vectors (m,),
                                                    not columns (m, 1), and sums with them (n,)

Named explicitly, a backend runs or raises; it never gives way to another. Under "auto" the first
able one of the device's preference runs. Passing over a preferred one warns once per reason;
with DMMD_STRICT=1 in the environment it is an error.
"""

import os
import warnings
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel, Mixture, energy

_MODULES = {
    "triton": "dmmd_kernels._triton",
    "native": "dmmd_kernels.native",
    "reference": "dmmd_kernels.reference",
}
_PREFERENCE = {"cuda": ("triton", "reference"), "cpu": ("native", "reference")}
_PRECISIONS = ("highest", "high")
_loaded: dict[str, ModuleType] = {}
_warned: set[str] = set()


class BackendError(RuntimeError):
    """The backend that was asked for cannot run this call."""


def pick(name: str, z: Tensor, kernel: Mixture, precision: str) -> ModuleType:
    """The module that runs this call.

    Raises:
        BackendError: the named backend cannot, or "auto" would fall back under DMMD_STRICT=1.
        ValueError: unknown backend or precision.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision must be 'highest' or 'high', got {precision!r}")
    if name == "auto":
        return _first_able(z, kernel, precision)
    if name not in _MODULES:
        raise ValueError(f"backend must be 'auto', {', '.join(map(repr, _MODULES))}, got {name!r}")
    module = load(name)
    if reason := module.why_not(z, kernel, precision):
        raise BackendError(f"backend={name!r} cannot run this call: {reason}")
    return module


def chosen(z: Tensor, kernel: Kernel, *, precision: str = "highest") -> str:
    """The name of the backend that "auto" takes for points z (…, d): what ran, or would run."""
    mixtures = kernel.lower(z).mixtures
    if not mixtures:
        return "reference"  # closed forms in torch: linear kernels have no pairs
    module = pick("auto", z, mixtures[0], precision)
    return next(name for name in _MODULES if load(name) is module)


def regime(
    z: Tensor, x: Tensor, kernel: Kernel, *, grad: bool = False, precision: str = "highest"
) -> str:
    """How "auto" sums over the pairs of z (…, n, d) and x (…, m, d), in words.

    On Triton the regime and its tiles: "direct" (differences), "fused" (tensor cores) or "panels"
    (library products), for a sweep with a gradient if `grad`. Elsewhere the backend alone.
    """
    name = chosen(z, kernel, precision=precision)
    if name != "triton":
        return name
    parts = (load(name).regime(z, x, m, grad=grad) for m in kernel.lower(z).mixtures)
    return "triton: " + "; ".join(parts)


def tune(
    z: Tensor,
    x: Tensor,
    kernel: Kernel,
    *,
    grad: bool = False,
    file: str | os.PathLike | None = None,
) -> str:
    """Times the tiles a GPU could take for such a sweep, and has this process use the fastest.

    Nothing is tuned without this call. What is found holds for all sizes, for kernels of the same
    profiles in the same range of d on the same kind of GPU; sums in other tiles round differently.

    Args:
        z: points (…, n, d) on a GPU, and x: points (…, m, d); sizes like those of the work to come.
        grad: tunes `potential_grad`, not `potential` and `mmd2`.
        file: JSON that keeps what was found; if it is there, nothing is timed again.

    Returns:
        The regimes with their new tiles, like `regime`.

    Raises:
        BackendError: the points are on the CPU, or Triton cannot run the call.
    """
    if not z.is_cuda:
        raise BackendError(
            f"tune: z must be on a CUDA GPU, where tiles can be timed; got {z.device}"
        )
    path = None if file is None else Path(file)
    parts = []
    for mixture in kernel.lower(z).mixtures:
        module = pick("triton", z, mixture, "highest")
        with torch.cuda.device_of(z):
            parts.append(module.tune(z, x, mixture, grad=grad, file=path))
    return "triton: " + "; ".join(parts)


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
