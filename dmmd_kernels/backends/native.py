"""The C++ backend. The only module that imports dmmd_kernels._C.

torch allocates, C++ fills. Half precision is computed in float32 and rounded once.
"""

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dmmd_kernels.backends.clouds import joined
from dmmd_kernels.kernels import Mixture, component_names

_HALVES = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, torch.float64, *_HALVES)
READS_VECTORS = True
_FLOW_SIZES = ((200, 1000), (2000, 2000), (20_000, 20_000))


@cache
def _loaded() -> tuple[Any, str | None]:
    """The extension and None, or None and why there is none."""
    try:
        import dmmd_kernels._C as _C  # so that its absence is a ModuleNotFoundError
    except ModuleNotFoundError:
        return None, "the C++ extension was not built; run `pip install -e .` with a C++ compiler"
    except ImportError as error:
        return None, f"the C++ extension does not load ({error}); run `pip install -e .` again"
    _C.use_exchange(getattr(torch.Tensor, "__dlpack_c_exchange_api__", None))
    wanted = os.environ.get("DMMD_ISA")
    if wanted and not _C.limit_instruction_set(wanted):
        raise ValueError(f"DMMD_ISA must be one of {_C.instruction_sets()}, got {wanted!r}")
    return _C, None


def library() -> Any:
    return _loaded()[0]


def why_not_loaded() -> str | None:
    return _loaded()[1]


def why_not(z: Tensor, kernel: Mixture, precision: str = "highest") -> str | None:
    if reason := why_not_loaded():
        return reason
    if not z.is_cpu:
        return f"it runs on CPU tensors, got {z.device.type}; backend='triton' runs on CUDA ones"
    if z.dtype not in _DTYPES:
        return f"inputs must be float16, bfloat16, float32 or float64, got {z.dtype}"
    return _why_not_profiles(kernel.profiles)


@cache
def _why_not_profiles(profiles: str) -> str | None:
    """An extension of before a profile was written has no code for it."""
    known = getattr(library(), "profiles", None)
    if known is None:
        return "it was built from an older version; run `pip install -e .` again"
    degree = lambda name: name.startswith("polynomial")
    names = {"polynomial" if degree(name) else name for name in component_names(profiles)}
    if missing := sorted(names.difference(known)):
        return f"it was built before {', '.join(missing)} was written; run `pip install -e .` again"
    return None


def describe() -> dict[str, str]:
    """What was built and what of it is in use, for `python -m dmmd_kernels`."""
    built = library()
    if built is None:
        return {}
    high = built.tile_unit() or "as 'highest', without AMX"
    facts = {
        "instruction set": built.instruction_set(),
        "built for": built.instruction_sets(),
        "precision='high'": high,
        "threads": f"{built.thread_model()}, {torch.get_num_threads()}",
        "CUDA": "compiled in" if built.built_with_cuda else "not compiled in",
    }
    if built.built_with_cuda and torch.cuda.is_available():
        plans = [f"{n} to {m} points by {built.flow_plan(1, n, m, 2)}" for n, m in _FLOW_SIZES]
        facts["flows on the GPU"] = "; ".join(plans)
    return facts


def potential(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    if z.dtype in _HALVES:
        return potential(z.float(), x.float(), w.float(), kernel, skip_diagonal, precision).to(
            z.dtype
        )
    f = _empty_sums(z, w, x, kernel.params)
    library().potential(
        z, x, w, *of_kernel(kernel, precision), skip_diagonal, torch.get_num_threads(), f
    )
    return f


def potential_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    if z.dtype in _HALVES:
        dtype = z.dtype
        z, x, v, w = _floats(z, x, v, w)
        return potential_grad(z, x, v, w, kernel, skip_diagonal, precision).to(dtype)
    g = _empty_points(z, w, x, v, kernel.params)
    library().potential_grad(
        z, x, v, w, *of_kernel(kernel, precision), skip_diagonal, torch.get_num_threads(), g
    )
    return g


def potential_and_grad(
    z: Tensor, x: Tensor, w: Tensor, kernel: Mixture, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    if z.dtype in _HALVES:
        f, g = potential_and_grad(z.float(), x.float(), w.float(), kernel, precision)
        return f.to(z.dtype), g.to(z.dtype)
    f, g = _empty_sums(z, w, x, kernel.params), _empty_points(z, w, x, kernel.params)
    library().potential_and_grad(
        z, x, w, *of_kernel(kernel, precision), torch.get_num_threads(), f, g
    )
    return f, g


def params_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    if z.dtype in _HALVES:
        z, x, v, w = _floats(z, x, v, w)
    params = kernel.params
    q = params.new_empty(*_blocks(z, x, v, w, params), *params.shape[-2:])
    library().params_grad(
        z, x, v, w, *of_kernel(kernel, precision), skip_diagonal, torch.get_num_threads(), q
    )
    return q


def tangents(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    if z.dtype in _HALVES:
        (z_, x_, v_, w_), (a_, b_) = _floats(z, x, v, w), _floats(a, b)
        f, g, q = tangents(z_, x_, v_, w_, kernel, a_, b_, c, skip_diagonal, precision)
        return f.to(z.dtype), g.to(z.dtype), q
    params = kernel.params
    rest = (x, v, params, a, b, c)
    f, g = _empty_sums(z, w, *rest), _empty_points(z, w, *rest)
    q = params.new_empty(*_blocks(z, w, *rest), *params.shape[-2:])
    how = (*of_kernel(kernel, precision), a, b, c, skip_diagonal, torch.get_num_threads())
    library().tangents(z, x, v, w, *how, f, g, q)
    return f, g, q


def tangent(
    z: Tensor,
    x: Tensor,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    v = w.new_zeros(z.shape[-2]) if w.ndim == 1 else w.new_zeros(z.shape[-2], w.shape[-1])
    return tangents(z, x, v, w, kernel, a, b, c, skip_diagonal, precision)[0]


def tangent_grad(
    z: Tensor,
    x: Tensor,
    v: Tensor | None,
    w: Tensor,
    kernel: Mixture,
    a: Tensor | None,
    b: Tensor | None,
    c: Tensor | None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    if z.dtype in _HALVES:
        (z_, x_, v_, w_), (a_, b_) = _floats(z, x, v, w), _floats(a, b)
        return tangent_grad(z_, x_, v_, w_, kernel, a_, b_, c, skip_diagonal, precision).to(z.dtype)
    g = _empty_points(z, w, x, v, kernel.params, a, b, c)
    how = (*of_kernel(kernel, precision), a, b, c, skip_diagonal, torch.get_num_threads())
    library().tangents(z, x, v, w, *how, None, g, None)
    return g


def kernel_matrix(z: Tensor, x: Tensor, kernel: Mixture, precision: str = "highest") -> Tensor:
    if z.dtype in _HALVES:
        return kernel_matrix(z.float(), x.float(), kernel, precision).to(z.dtype)
    k = z.new_empty(*_blocks(z, x, kernel.params), z.shape[-2], x.shape[-2])
    library().kernel_matrix(z, x, *of_kernel(kernel, precision), torch.get_num_threads(), k)
    return k


def quadratic_form(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> Tensor:
    if u.dtype in _HALVES:
        u, v, w = u.float(), v.float(), w.float()
    how = (*of_kernel(kernel, precision), skip_diagonal, torch.get_num_threads())
    s = kernel.params.new_empty(_blocks(u, v, w, kernel.params))
    library().quadratic_form(u, v, w, *how, s, None, None)
    return s


def quadratic_form_and_grad(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None = None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor]:
    return _form_and_grad(u, v, w, kernel, held, skip_diagonal, precision, None)


def quadratic_form_and_grads(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None = None,
    skip_diagonal: bool = False,
    precision: str = "highest",
) -> tuple[Tensor, Tensor, Tensor]:
    params = kernel.params
    q = params.new_empty(*_blocks(u, v, w, params, held), *params.shape[-2:])
    return *_form_and_grad(u, v, w, kernel, held, skip_diagonal, precision, q), q


def _form_and_grad(
    u: Tensor,
    v: Tensor,
    w: Tensor,
    kernel: Mixture,
    held: Tensor | None,
    skip_diagonal: bool,
    precision: str,
    q: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The quadratic form and its gradient in u; fills q, if there is one, with that in θ."""
    if u.dtype in _HALVES:
        dtype = u.dtype
        u, v, w, held = _floats(u, v, w, held)
        s, g = _form_and_grad(u, v, w, kernel, held, skip_diagonal, precision, q)
        return s, g.to(dtype)
    blocks = _blocks(u, v, w, kernel.params, held)
    s, g = kernel.params.new_empty(blocks), _like_points(u, blocks)
    how = (*of_kernel(kernel, precision), skip_diagonal, torch.get_num_threads())
    library().quadratic_form(joined(u, held), v, w, *how, s, g, q)
    return s, g


def row_sums(
    x: Tensor, w: Tensor | None, o: Tensor, precision: str = "highest"
) -> tuple[Tensor, Tensor]:
    if x.dtype in _HALVES:
        s, q = row_sums(*_floats(x, w, o))
        return s.to(x.dtype), q.to(x.dtype)
    blocks = _blocks(x, w, o)
    s, q = x.new_empty(*blocks, 1, x.shape[-1]), x.new_empty(*blocks, 1, 1)
    library().row_sums(x, w, o, torch.get_num_threads(), s, q)
    return s, q


def row_sums_grad(
    x: Tensor, w: Tensor | None, o: Tensor, a: Tensor, b: Tensor, precision: str = "highest"
) -> Tensor:
    if x.dtype in _HALVES:
        return row_sums_grad(*_floats(x, w, o, a, b)).to(x.dtype)
    g = x.new_empty(*_blocks(x, w, o, a, b), *x.shape[-2:])
    library().row_sums_grad(x, w, o, a, b, torch.get_num_threads(), g)
    return g


class Form:
    """quadratic_form for clouds like u in float32 or float64; all but the points is looked up once.

    Args: as of quadratic_form.
    """

    __slots__ = ("_call", "_rest", "_value")

    def __init__(
        self,
        u: Tensor,
        v: Tensor,
        w: Tensor,
        kernel: Mixture,
        skip_diagonal: bool,
        precision: str,
    ):
        self._call = library().quadratic_form
        self._rest = (v, w, *of_kernel(kernel, precision), skip_diagonal)
        self._value = kernel.params.new_empty(_blocks(u, v, w, kernel.params))

    def value(self, u: Tensor) -> Tensor:
        s = torch.empty_like(self._value)
        self._call(u, *self._rest, torch.get_num_threads(), s, None, None)
        return s

    def value_and_grad(self, u: Tensor, moving: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient is that in the first points, as many as there are in `moving`."""
        s, g = torch.empty_like(self._value), torch.empty_like(moving)
        self._call(u, *self._rest, torch.get_num_threads(), s, g, None)
        return s, g


@cache
def parsed(profiles: str, precision: str = "highest") -> Any:
    return library().Kernel("+".join(component_names(profiles)), precision == "high")


def of_kernel(kernel: Mixture, precision: str = "highest") -> tuple[Tensor, Any]:
    return kernel.params, parsed(kernel.profiles, precision)


def _blocks(*tensors: Tensor | None) -> tuple[int, ...]:
    """(B,) when any tensor has a batch dimension, else ()."""
    for t in tensors:
        if t is not None and t.dim() == 3:
            return (t.shape[0],)
    return ()


def _empty_sums(z: Tensor, w: Tensor, *others: Tensor | None) -> Tensor:
    """Room for a sum per point and column of the weights; nothing is batched if w is a vector."""
    if w.ndim == 1:
        return z.new_empty(z.shape[0])
    return z.new_empty(*_blocks(z, w, *others), z.shape[-2], w.shape[-1])


def _empty_points(z: Tensor, w: Tensor, *others: Tensor | None) -> Tensor:
    """Room for a gradient per point."""
    return torch.empty_like(z) if w.ndim == 1 else _like_points(z, _blocks(z, w, *others))


def _like_points(z: Tensor, blocks: tuple[int, ...]) -> Tensor:
    is_whole = z.ndim == 2 + len(blocks)  # else its blocks share it
    return torch.empty_like(z) if is_whole else z.new_empty(*blocks, *z.shape[-2:])


def _floats(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.float() for t in tensors]
