"""Many upstream gradients, or tangents, in one pass: torch.autograd's own way to map.

    torch.autograd.grad(..., is_grads_batched=True)
    torch.autograd.functional.jacobian and hessian(vectorize=True)

hand a rule tensors that know they are batched but have no memory for a backend to read. The rule is
mapped over what they hold by torch.func.vmap instead, which every operator understands.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor


def one_by_one(rule: Callable, tensors: Sequence[Tensor | None]) -> Any:
    """rule(*tensors), for each member where some of the tensors are such batches."""
    for t in tensors:
        if t is not None and is_legacy_batchedtensor(t):
            return _mapped(rule, tensors)
    return rule(*tensors)


def _mapped(rule: Callable, tensors: Sequence[Tensor | None]) -> Any:
    level = _level()
    held = [t if t is None else _members(t, level) for t in tensors]
    dims = tuple(0 if t is not None and is_legacy_batchedtensor(t) else None for t in tensors)
    is_single, places = False, []

    def dense(*members):
        """The results that are there: vmap takes no None."""
        nonlocal is_single, places
        results = rule(*members)
        is_single = not isinstance(results, tuple)
        results = (results,) if is_single else results
        places = [r is not None for r in results]
        return tuple(r for r in results if r is not None)

    mapped = iter(torch.func.vmap(dense, dims)(*held))
    results = tuple(torch._add_batch_dim(next(mapped), 0, level) if has else None for has in places)
    return results[0] if is_single else results


def _level() -> int:
    """The innermost such map; on the threads of a GPU's backward pass torch does not count them."""
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    return max(level, 1)


def _members(t: Tensor, level: int) -> Tensor:
    return torch._remove_batch_dim(t, level, 1, 0) if is_legacy_batchedtensor(t) else t
