"""Products of matrices in the dtype they come in, whatever torch.autocast says.

Under autocast torch multiplies float32 matrices in half precision. The backends are called with
autocast off (autograd/register.py); closed forms are torch's own products, and these are they.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dmmd_kernels.autograd.register import is_autocast_on


def product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; under autocast its derivatives are products of this kind too."""
    if torch.compiler.is_compiling():
        return _plain(a, b) if torch.is_autocast_enabled(a.device.type) else a @ b
    if not is_autocast_on():
        return a @ b
    if forward_ad._current_level >= 0:  # forward mode multiplies at once
        return _plain(a, b)
    return _Product.apply(a, b)


def without_autocast(device: torch.device) -> AbstractContextManager:
    """For what is not differentiated, or has its derivatives elsewhere."""
    return torch.autocast(device.type, enabled=False) if is_autocast_on() else nullcontext()


def _plain(a: Tensor, b: Tensor) -> Tensor:
    with torch.autocast(a.device.type, enabled=False):
        return a @ b


class _Product(torch.autograd.Function):
    """a @ b whose backward pass may run under autocast."""

    generate_vmap_rule = True

    @staticmethod
    def forward(a, b):
        return _plain(a, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, upstream):
        a, b = ctx.saved_tensors
        needs_a, needs_b = ctx.needs_input_grad
        return (
            product(upstream, b.mT).sum_to_size(a.shape) if needs_a else None,
            product(a.mT, upstream).sum_to_size(b.shape) if needs_b else None,
        )
