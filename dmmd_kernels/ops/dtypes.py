"""Floating dtypes of one call: promoted as torch promotes them, here for all ops and losses.

Half precision is computed in float32 and rounded once. torch.autocast changes no arithmetic; under
it ops keep the dtype of their inputs, and losses give float32, as torch's own do.
"""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import torch
from torch import Tensor

from dmmd_kernels.kernels import Kernel
from dmmd_kernels.ops.products import without_autocast
from dmmd_kernels.parameters import FLOATS

HALVES = (torch.float16, torch.bfloat16)
F = TypeVar("F", bound=Callable[..., Any])


def common_dtype(*tensors: Tensor | None) -> torch.dtype:
    """What torch promotes the dtypes of the tensors to."""
    present = [t.dtype for t in tensors if t is not None]
    dtype = present[0]
    for other in present[1:]:
        if other != dtype:
            dtype = torch.promote_types(dtype, other)
    return dtype


def working(dtype: torch.dtype) -> torch.dtype:
    """What a dtype is computed in: neither 1/n nor a difference of means fits in half precision."""
    return torch.float32 if dtype in HALVES else dtype


def working_dtype(*tensors: Tensor) -> torch.dtype:
    """What a test of these returns."""
    return working(common_dtype(*tensors))


def loss_dtype(*tensors: Tensor) -> torch.dtype:
    """What a loss of these returns."""
    dtype = common_dtype(*tensors)
    if dtype in HALVES and torch.is_autocast_enabled(tensors[0].device.type):
        return torch.float32
    return dtype


def recast(op: Callable[..., Any], kernel: Kernel, *tensors: Tensor, **how: Any) -> Any | None:
    """op(*tensors, kernel, **how) by one dtype; None where all tensors have it already.

    Half precision stays what it is for a backend that reads it; where several parts are added up,
    the sum is rounded and not they.
    """
    dtype = common_dtype(*tensors)
    work = dtype if kernel.is_radial else working(dtype)
    if all(t.dtype == work for t in tensors):
        return None
    return in_dtype(op(*(t.to(work) for t in tensors), kernel, **how), dtype)


def in_one_dtype(
    *names: str, result: Callable[..., torch.dtype] = common_dtype
) -> Callable[[F], F]:
    """For functions whose arguments `names` are samples: tensors, or sequences of them.

    Args:
        result: the dtype of the results, from the samples.

    Autocast is off inside where nothing is differentiated, but for losses, in which networks of the
    user may run.
    """

    def decorate(function: F) -> F:
        parameters = list(signature(function).parameters)
        places = {name: parameters.index(name) for name in names}

        @wraps(function)
        def call(*args: Any, **named: Any) -> Any:
            given = {n: args[p] if p < len(args) else named.get(n) for n, p in places.items()}
            tensors = [t for value in given.values() for t in floating(value)]
            if not tensors:
                return function(*args, **named)
            dtype = result(*tensors)
            work = working(common_dtype(*tensors))
            rest, named = list(args), dict(named)
            if not all(t.dtype == work for t in tensors):
                for name, place in places.items():
                    if place < len(args):
                        rest[place] = in_dtype(given[name], work)
                    elif name in named:
                        named[name] = in_dtype(given[name], work)
            if result is loss_dtype or torch.is_grad_enabled():
                return _rounded(function(*rest, **named), dtype, work)
            with without_autocast(tensors[0].device):
                return _rounded(function(*rest, **named), dtype, work)

        return call  # type: ignore[return-value]

    return decorate


def _rounded(value: Any, dtype: torch.dtype, work: torch.dtype) -> Any:
    return value if dtype == work else in_dtype(value, dtype)


def floating(value: Any) -> list[Tensor]:
    """The tensors that ops work with, of a value that is one or a sequence of them."""
    if isinstance(value, list | tuple):
        return [t for v in value for t in floating(v)]
    return [value] if isinstance(value, Tensor) and value.dtype in FLOATS else []


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """The value with those tensors in the dtype."""
    if isinstance(value, list):
        return [in_dtype(v, dtype) for v in value]
    if isinstance(value, tuple):
        return tuple(in_dtype(v, dtype) for v in value)
    return value.to(dtype) if floating(value) else value
