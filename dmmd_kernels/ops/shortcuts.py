"""Small calls like an earlier one, without asking again what that one found out.

Checks, constant weights and the backend follow from shapes, dtypes and devices, not from points.
They are kept with the kernel, and the next such call goes to the backend at once: with a few points
the way there takes longer than the sums.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad

from dmmd_kernels.autograd import forms
from dmmd_kernels.autograd.batched import one_by_one
from dmmd_kernels.autograd.register import Operator
from dmmd_kernels.autograd.routes import recordable
from dmmd_kernels.backends.choice import pick
from dmmd_kernels.kernels import Kernel, Lowered, Mixture
from dmmd_kernels.parameters import PLAIN, is_tracing

_MOST_POINTS = 1024  # of all clouds; more take so long that the way there does not count
_SMALL = 2**20  # numbers met in all pairs; a linear kernel's pairs then cost less than its sums
_DTYPES = (torch.float32, torch.float64)


def likeness(words: tuple, *tensors: Tensor) -> tuple | None:
    """What a later call must share, in words and tensors; None where torch looks on.

    Only calls on the CPU are prepared (is_small), so the device, slow to ask for, is no part of it.
    """
    if is_tracing() or forward_ad._current_level >= 0:
        return None
    for word in words:
        if type(word) is not str:
            return None
    try:
        for t in tensors:
            if type(t) not in PLAIN or unwrap_if_dead(t) is not t or not t.is_cpu:
                return None
            if not t.is_contiguous() or t.is_neg():
                return None
            words += t.dtype, t.shape
    except RuntimeError:  # of sparse and nested tensors, which the checks will name
        return None
    return words


def is_small(kernel: Kernel, *clouds: Tensor, most: int = _MOST_POINTS) -> bool:
    """Whether a call is worth being prepared for, and can be: on the CPU, with constant kernels."""
    points = sum(cloud.shape[-2] for cloud in clouds)
    fits = not kernel.parameters and points <= most
    return fits and all(cloud.is_cpu and cloud.dtype in _DTYPES for cloud in clouds)


class PreparedSweep(NamedTuple):
    """An operator on z (n, d), a cloud u (m, d) and, but for the matrix, its weights (m,).

    Attributes:
        operator, function: the operator, and the backend's own for calls without gradients.
        constants: the last of the tensors, where every call has the same.
        mixture: the kernel.
        how: skip_diagonal, precision, backend.
    """

    operator: Operator
    function: Callable
    constants: tuple
    mixture: Mixture
    how: tuple[bool, str, str]

    def __call__(self, *tensors: Tensor | None):
        if torch.is_grad_enabled():
            for t in tensors:
                if t is not None and t.requires_grad:
                    try:
                        return _record_sweep(self, *tensors)
                    except RuntimeError:
                        return _record_sweep(self, *_copied(tensors))
        return self.function(*tensors, *self.constants, self.mixture, precision=self.how[1])


class _Sweep(torch.autograd.Function):
    """A prepared sweep in eager code, with its constants left out of what is recorded."""

    @staticmethod
    def forward(ctx, sweep, *tensors):
        ctx.sweep = sweep
        ctx.save_for_backward(*tensors)
        if sweep.operator.saves_results:  # its rule tells results that nothing came from
            ctx.set_materialize_grads(False)
        return sweep.function(*tensors, *sweep.constants, sweep.mixture, precision=sweep.how[1])

    @staticmethod
    def backward(ctx, *upstream):
        operator, _, constants, (profiles, params), how = ctx.sweep
        constants = (*constants, params)
        needs = (*ctx.needs_input_grad[1:], *[False] * len(constants))
        tensors = (*ctx.saved_tensors, *constants)
        pull = lambda *upstream: tuple(operator.rule(tensors, (profiles, *how), needs, *upstream))
        return None, *one_by_one(pull, upstream)[: -len(constants)]


_record_sweep = super(torch.autograd.Function, _Sweep).apply


def _copied(tensors: tuple) -> tuple:
    """The tensors as autograd can keep them, after it could not; else what it raised goes on.

    Asking for tensors of inference mode beforehand would cost every call.
    """
    if not any(t is not None and t.is_inference() for t in tensors):
        raise
    return recordable(*tensors)


def prepare_sweep(
    like: tuple | None, operator: Operator, kernel: Kernel, z, u, constants: tuple, how: tuple
) -> None:
    """Keeps with the kernel how calls that are `like` this one go, if they go one way."""
    if like is None or not is_small(kernel, z, u) or z.ndim > 2 or u.ndim > 2:
        return
    lowered = kernel.lower(z)
    if lowered.linear is not None or len(lowered.mixtures) != 1:
        return
    mixture = lowered.mixtures[0]
    module = pick(how[2], z, mixture, how[1], operator.name, u)
    if module.READS_VECTORS:
        function = getattr(module, operator.name)
        kernel.keep(like, PreparedSweep(operator, function, constants, mixture, how))


@dataclass(slots=True)
class PreparedForm:
    """Σ c_ij K(u_i, u_j) on the joint sample u = [x; y], (…, n + m, d).

    Attributes:
        form: value and value_and_grad of it in u, or in x alone, of the backend.
        v, w: the coefficients c_ij = ⟨v_i, w_j⟩.
        mixture: the kernel.
        how: skip_diagonal, precision, backend.
        is_centred: whether u is first moved to its mean, which the form does not feel.
    """

    form: Any
    v: Tensor
    w: Tensor
    mixture: Mixture
    how: tuple[bool, str, str]
    is_centred: bool

    @classmethod
    def of(cls, u: Tensor, v: Tensor, w: Tensor, kernel: Lowered, how: tuple):
        """For clouds like u; None if the kernel takes more than one sweep, or better none."""
        numbers = u.numel() * len(v)
        if kernel.linear is None and len(kernel.mixtures) == 1:
            mixture = kernel.mixtures[0]
        elif kernel.linear is not None and not kernel.mixtures and numbers <= _SMALL:
            mixture = Mixture("polynomial1", kernel.linear.new_tensor([[kernel.linear, 1, 0]]))
        else:
            return None
        names = ("quadratic_form", "quadratic_form_and_grad")
        modules = {pick(how[2], u, mixture, how[1], name, v) for name in names}
        if len(modules) != 1 or not hasattr(module := modules.pop(), "Form"):
            return None
        form = module.Form(u, v, w, mixture, *how[:2])
        return cls(form, v, w, mixture, how, kernel.linear is not None)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        if (x.requires_grad or y.requires_grad) and torch.is_grad_enabled():
            try:
                return _record_form(self, x, y)
            except RuntimeError:
                return _record_form(self, *_copied((x, y)))
        u = torch.cat((x, y), -2)
        return self.form.value(_centred(u) if self.is_centred else u)


def _centred(u: Tensor) -> Tensor:
    return u - u.detach().mean(-2, keepdim=True)


class _Form(torch.autograd.Function):
    """The form of two samples, whose gradient comes from the sweep of its value.

    Where the gradient is to be differentiated too, an operator that can be sums it again.
    """

    @staticmethod
    def forward(ctx, prepared, x, y):
        u = torch.cat((x, y), -2)
        moving = u if ctx.needs_input_grad[2] else x
        s, g = prepared.form.value_and_grad(_centred(u) if prepared.is_centred else u, moving)
        ctx.kept = prepared, g
        ctx.save_for_backward(x, y)
        return s

    @staticmethod
    def backward(ctx, s):
        (prepared, g), (x, y) = ctx.kept, ctx.saved_tensors
        if torch.is_grad_enabled():
            g = one_by_one(lambda s: _gradient_anew(prepared, x, y, s), (s,))
        else:
            g = (s if s.ndim == 0 else s[..., None, None]) * g
        if g.shape[-2] == x.shape[-2]:
            return None, g, None
        return None, *g.split((x.shape[-2], y.shape[-2]), -2)


_record_form = super(torch.autograd.Function, _Form).apply


def _gradient_anew(prepared: PreparedForm, x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    u = torch.cat((x, y), -2)
    profiles, params = prepared.mixture
    tensors = (_centred(u) if prepared.is_centred else u, prepared.v, prepared.w, params)
    needs = (True, False, False, False)
    return forms.quadratic_form.rule(tensors, (profiles, *prepared.how), needs, s)[0]
