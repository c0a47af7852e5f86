"""An operator as the autograd Functions that its three routes take (register.py)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def functions(operator: Any) -> tuple[Callable, Callable, Callable]:
    """The operator for eager code, for torch.func and forward mode, and for torch's dispatcher.

    They differ in cost: torch takes four times as long over a separate setup_context. Eager code
    also goes around Function.apply, which only looks for functorch, to the apply beneath.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *arguments):
            results = operator._run(*arguments)
            operator.save(ctx, arguments, results)
            return results

        @staticmethod
        def backward(ctx, *upstream):
            return operator.backward(ctx, *upstream)

    class Transformed(torch.autograd.Function):
        @staticmethod
        def forward(*arguments):
            return operator._op(*arguments)

        @staticmethod
        def setup_context(ctx, inputs, output):
            operator.save(ctx, inputs, output)
            ctx.save_for_forward(*operator.tensors_of(inputs))
            ctx.set_materialize_grads(False)  # a rule takes less for a tangent that is not there

        @staticmethod
        def backward(ctx, *upstream):
            return operator.backward(ctx, *upstream)

        @staticmethod
        def jvp(ctx, *tangents):
            return operator.jvp(ctx, *tangents)

        @staticmethod
        def vmap(info, in_dims, *arguments):
            return operator.vmap(info, in_dims, *arguments)

    class Dispatched(torch.autograd.Function):
        """Below torch.func and above the backends, inside torch's dispatcher."""

        @staticmethod
        def forward(ctx, *arguments):
            with torch._C._AutoDispatchBelowAutograd():
                results = operator._op(*arguments)
            operator.save(ctx, arguments, results)
            ctx.save_for_forward(*operator.tensors_of(arguments))
            ctx.set_materialize_grads(False)
            return results

        @staticmethod
        def backward(ctx, *upstream):
            return operator.backward(ctx, *upstream)

        @staticmethod
        def jvp(ctx, *tangents):
            return operator.jvp(ctx, *tangents)

    record = super(torch.autograd.Function, Dispatched).apply
    return super(torch.autograd.Function, Eager).apply, Transformed.apply, record


def recordable(*tensors: Tensor | None) -> tuple:
    """The tensors as autograd can keep them: those made in inference mode are copied."""
    if torch.compiler.is_compiling():
        return tensors
    for t in tensors:
        if t is not None and t.is_inference():
            return tuple(t.clone() if t is not None and t.is_inference() else t for t in tensors)
    return tensors
