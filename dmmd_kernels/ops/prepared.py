"""Small calls like an earlier one, without asking again what that one found out.

Checks, constant weights and the backend follow from shapes, dtypes and devices, not from points.
They are kept with the kernel, and the next such call goes to the backend at once: with a few points
the way there takes longer than the sums.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._C._functorch import unwrap_if_dead
from torch.autograd import forward_ad

from dmmd_kernels.backend import pick
from dmmd_kernels.kernels import PLAIN, Kernel, Lowered, Mixture, is_tracing
from dmmd_kernels.ops import operators
from dmmd_kernels.ops.register import Operator

_MOST_POINTS = 1024  # of all clouds; more take so long that the way there does not count
_SMALL = 2**20  # numbers met in all pairs; a linear kernel's pairs then cost less than its sums
_DTYPES = (torch.float32, torch.float64)


def likeness(*inputs: Any) -> tuple | None:
    """What a later call must share, in words and tensors; None where torch looks on."""
    shared: list[Any] = []
    for value in inputs:
        if type(value) is str:
            shared.append(value)
        elif type(value) in PLAIN and unwrap_if_dead(value) is value and value.is_contiguous():
            shared += value.shape, value.dtype, value.device
        else:
            return None
    return None if is_tracing() or forward_ad._current_level >= 0 else tuple(shared)


def is_small(kernel: Kernel, *clouds: Tensor) -> bool:
    """Whether a call is worth being prepared for, and can be: on the CPU, with constant kernels."""
    points = sum(cloud.shape[-2] for cloud in clouds)
    fits = not kernel.parameters and points <= _MOST_POINTS
    return fits and all(cloud.is_cpu and cloud.dtype in _DTYPES for cloud in clouds)


class PreparedSweep(NamedTuple):
    """An operator on z (n, d), a cloud u (m, d) and its weights (m,).

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
        tensors += self.constants
        if torch.is_grad_enabled():
            for t in tensors:
                if t is not None and t.requires_grad:
                    profiles, params = self.mixture
                    return self.operator.eager(*tensors, params, profiles, *self.how)
        return self.function(*tensors, self.mixture, precision=self.how[1])


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


class PreparedForm(NamedTuple):
    """Σ c_ij K(u_i, u_j) on the joint sample u = [x; y], (…, n + m, d).

    Attributes:
        value, value_and_grad: quadratic_form and quadratic_form_and_grad, of the backend.
        v, w: the coefficients c_ij = ⟨v_i, w_j⟩.
        mixture: the kernel.
        how: skip_diagonal, precision, backend.
        is_centred: whether u is first moved to its mean, which the form does not feel.
    """

    value: Callable
    value_and_grad: Callable
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
        value, both = (getattr(pick(how[2], u, mixture, how[1], op, v), op) for op in names)
        return cls(value, both, v, w, mixture, how, kernel.linear is not None)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        u = torch.cat((x, y), -2)
        if self.is_centred:
            u = u - u.detach().mean(-2, keepdim=True)
        if u.requires_grad:
            return _evaluate(u, self)
        return self.value(u, self.v, self.w, self.mixture, *self.how[:2])


class _Form(torch.autograd.Function):
    """The form in u alone, whose gradient comes from the sweep of its value.

    Where the gradient is to be differentiated too, an operator that can be sums it again.
    """

    @staticmethod
    def forward(ctx, u, form):
        s, g = form.value_and_grad(u, form.v, form.w, form.mixture, *form.how[:2])
        ctx.form = form
        ctx.save_for_backward(u, g)
        return s

    @staticmethod
    def backward(ctx, s):
        u, g = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (s if s.ndim == 0 else s[..., None, None]) * g, None
        v, w, (profiles, params), how = ctx.form[2:6]
        needs = (True, False, False, False)
        rule = operators.quadratic_form.rule
        return rule((u, v, w, params), (profiles, *how), needs, s)[0], None


_evaluate = super(torch.autograd.Function, _Form).apply
