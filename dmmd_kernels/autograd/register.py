"""Turns a backend function into a torch operator that every transform of torch understands.

The derivatives of an operator are written once, as rules, and reach torch on three routes:

    plain eager code                  an autograd.Function, or no wrapping at all without grad
    compile, export, torch.jit.trace,
    fake tensors                      torch.library, as dmmd::<name>
    torch.func and forward mode       an autograd.Function with jvp and vmap

torch.library knows neither torch.func nor forward mode: it would raise, or silently give tangent 0.
So dmmd::<name> sends both to the third route itself, and a graph that holds it has every transform.

A rule sees the tensors of the call and the static rest `how` = (profiles, skip_diagonal, precision,
backend), and returns one gradient, or tangent, per tensor.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor, unwrap_if_dead
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import forward_ad

from dmmd_kernels.autograd.batched import one_by_one
from dmmd_kernels.autograd.recorded import check_recorded, refuse_onnx
from dmmd_kernels.autograd.routes import functions, recordable
from dmmd_kernels.backends.choice import pick
from dmmd_kernels.kernels import Mixture
from dmmd_kernels.parameters import PLAIN

_HOW = "str profiles, bool skip_diagonal, str precision, str backend"
_STATIC = 4
_LIBRARY = torch.library.Library("dmmd", "DEF")

Rule = Callable[..., Any]


def _is_autocast_on() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")


is_autocast_on: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", _is_autocast_on)


class Operator:
    """dmmd::<name>, callable with its tensors, then `how`.

    Args:
        name: the op, as every backend module spells it.
        tensors: schema names of the tensor arguments; "v?" may be None. Each is (rows, columns),
            or (B, rows, columns). "params" is the kernel's; an op without pairs has none. Where
            nothing is batched, a call may also give its weights v and w as vectors, for one column;
            sums with them are then vectors too.
        shapes: the result's shapes without the batch dimension, from the tensors.
        backward: (tensors, how, needs, *upstream) -> one gradient (or None) per tensor. A gradient
            may keep a batch dimension its tensor lacks; it is summed here.
        jvp: (tensors, how, *tangents) -> tangent of the result(s). Tangents may be None.
        has_sums: whether the first result has a column per column of the weights.
        saves_results: whether `backward` sees the results too, after the tensors; a result that
            nothing came from then has None upstream.
    """

    def __init__(
        self,
        name: str,
        tensors: Sequence[str],
        *,
        shapes: Callable[..., list[tuple]],
        backward: Rule,
        jvp: Rule,
        params_dtype: Sequence[bool] = (False,),
        has_diagonal: bool = True,
        has_sums: bool = False,
        saves_results: bool = False,
    ):
        self.name, self.has_sums, self.saves_results = name, has_sums, saves_results
        self.tensors = [t.removesuffix("?") for t in tensors]
        self._count = len(tensors)
        self._params = tensors.index("params") if "params" in tensors else None
        self.rule, self._jvp = backward, jvp
        self._shapes, self._params_dtype = shapes, params_dtype
        self._has_diagonal = has_diagonal
        self._single = len(params_dtype) == 1

        arguments = ", ".join(
            f"Tensor? {t[:-1]}" if t.endswith("?") else f"Tensor {t}" for t in tensors
        )
        results = "Tensor" if self._single else f"({', '.join(['Tensor'] * len(params_dtype))})"
        _LIBRARY.define(
            f"{name}({arguments}, {_HOW}) -> {results}", tags=(torch.Tag.pt2_compliant_tag,)
        )
        self._op = getattr(torch.ops.dmmd, name).default
        self.eager, self._transformed, dispatched = functions(self)
        _LIBRARY.impl(name, self._run_recorded, "CompositeExplicitAutograd")
        _LIBRARY.impl(name, dispatched, "Autograd")
        _LIBRARY.impl(name, self._transformed, "FuncTorchDynamicLayerFrontMode")
        torch.library.register_fake(f"dmmd::{name}", self._fake, lib=_LIBRARY)

    def __call__(self, *arguments):
        if torch.compiler.is_compiling() or torch._C._is_tracing():
            return self._in_columns(self._op, arguments)
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return self._in_columns(self._transformed, arguments)
        needs_grad = False
        for t in arguments[: self._count]:
            if t is not None:
                if type(t) not in PLAIN:
                    return self._in_columns(self._op, arguments)
                if unwrap_if_dead(t) is not t:  # it has outlived the transform that wrapped it
                    return self(*unwrap_dead_wrappers(arguments))
                needs_grad = needs_grad or t.requires_grad
        if torch._C._len_torch_dispatch_stack() > 0:
            return self._in_columns(self._op, arguments)
        if needs_grad and torch.is_grad_enabled():
            return self.eager(*arguments)
        return self._run(*arguments)

    def _in_columns(self, call, arguments):
        """call(*arguments), with vectors as columns, and the column of sums as a vector again."""
        tensors, how = arguments[: self._count], arguments[self._count :]
        if not _has_vectors(tensors):
            return call(*arguments)
        columns = [t.unsqueeze(-1) if t is not None and t.ndim == 1 else t for t in tensors]
        result = call(*columns, *how)
        if not self.has_sums:
            return result
        return result.squeeze(-1) if self._single else (result[0].squeeze(-1), *result[1:])

    def _run_recorded(self, *arguments):
        """From a graph, perhaps on points of other sizes than it was recorded with."""
        refuse_onnx(self.name)
        check_recorded(self.name, self.tensors, arguments[: self._count])
        return self._run(*arguments)

    def _run(self, *arguments):
        tensors: list[Any] = _packed(arguments[: self._count])
        profiles, skip_diagonal, precision, backend = arguments[self._count :]
        z = tensors[0]
        at = self._params
        mixture = Mixture(profiles, z if at is None else tensors[at])
        if at is not None:
            tensors[at] = mixture
        met = None if at is None else tensors[1]  # an op without pairs has no second cloud
        module = pick(backend, z, mixture, precision, self.name, met)
        if not module.READS_VECTORS and _has_vectors(arguments[: self._count]):
            return self._in_columns(self._run, arguments)
        if not module.READS_VECTORS:  # C++ sees for itself
            tensors = [_stored(t) for t in tensors]
        if self._has_diagonal:
            tensors.append(skip_diagonal)
        function = getattr(module, self.name)
        if is_autocast_on():
            with torch.autocast(z.device.type, enabled=False), torch.cuda.device_of(z):
                return function(*tensors, precision)
        if not z.is_cuda:
            return function(*tensors, precision)
        with torch.cuda.device_of(z):  # launch where the data is, not on the current device
            return function(*tensors, precision)

    def _fake(self, *arguments):
        refuse_onnx(self.name)
        tensors = arguments[: self._count]
        batch = next((t.shape[:1] for t in tensors if t is not None and t.ndim == 3), ())
        results = tuple(
            tensors[self._params or 0 if of_params else 0].new_empty((*batch, *shape))
            for shape, of_params in zip(self._shapes(*tensors), self._params_dtype, strict=True)
        )
        return results[0] if self._single else results

    def tensors_of(self, inputs):
        return recordable(*inputs[: self._count])

    def save(self, ctx, inputs, output):
        ctx.how = inputs[-_STATIC:]
        tensors = self.tensors_of(inputs)
        if self.saves_results:
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*tensors, *output)
        else:
            ctx.save_for_backward(*tensors)

    def backward(self, ctx, *upstream):
        tensors = ctx.saved_tensors
        needs = ctx.needs_input_grad[: self._count]
        if all(t is None for t in upstream):
            return (None,) * (self._count + _STATIC)

        def pull(*upstream):
            grads = self.rule(tensors, ctx.how, needs, *upstream)
            return tuple(map(_like, grads, tensors[: self._count], needs))

        return (*one_by_one(pull, upstream), *[None] * _STATIC)

    def jvp(self, ctx, *tangents):
        """Torch turns forward mode off in here, and so would drop what an outer level follows."""
        tensors, tangents = ctx.saved_tensors[: self._count], tangents[: self._count]
        if any(t is not None and is_legacy_batchedtensor(t) for t in tangents):  # none is outside
            return one_by_one(lambda *tangents: self._jvp(tensors, ctx.how, *tangents), tangents)
        with forward_ad._set_fwd_grad_enabled(True):
            return self._jvp(tuple(map(_primal, tensors)), ctx.how, *map(_primal, tangents))

    def vmap(self, info, in_dims, *arguments):
        """Adds the mapped dimension in front of, and folds it into, the one batch dimension."""
        tensors, dims = arguments[: self._count], in_dims[: self._count]
        moved = [
            t if t is None or dim is None else t.movedim(dim, 0)
            for t, dim in zip(tensors, dims, strict=True)
        ]
        mapped = [dim is not None for dim in dims]
        inner = [
            t is not None and t.ndim - is_mapped == 3
            for t, is_mapped in zip(moved, mapped, strict=True)
        ]
        if not any(inner):
            result = self(*moved, *arguments[self._count :])
            return result, 0 if self._single else (0,) * len(self._params_dtype)
        size = info.batch_size
        blocks = next(t.shape[-3] for t, has in zip(moved, inner, strict=True) if has)
        folded = [
            t if t is None else _fold(t, is_mapped, has, size, blocks)
            for t, is_mapped, has in zip(moved, mapped, inner, strict=True)
        ]
        result = self(*folded, *arguments[self._count :])
        unfold = lambda r: r.unflatten(0, (size, blocks))
        if self._single:
            return unfold(result), 0
        return tuple(map(unfold, result)), (0,) * len(result)


def _primal(t: Tensor | None) -> Tensor | None:
    """t without its tangent of the innermost level; torch.func has no level of torch.autograd's."""
    return t if t is None else forward_ad.unpack_dual(t, level=0).primal


def _has_vectors(tensors: Sequence[Tensor | None]) -> bool:
    return any(t is not None and t.ndim == 1 for t in tensors)


def _like(grad: Tensor | None, tensor: Tensor | None, needed: bool) -> Tensor | None:
    """The gradient of a tensor that several blocks share is the sum over the blocks."""
    if grad is None or tensor is None or not needed:
        return None
    return grad.sum(0) if grad.ndim > tensor.ndim else grad


def _fold(t: Tensor, is_mapped: bool, has_blocks: bool, size: int, blocks: int) -> Tensor:
    """([size], [blocks], rows, columns) → (size · blocks, rows, columns)"""
    t = t if is_mapped else t.unsqueeze(0)
    t = t if has_blocks else t.unsqueeze(1)
    return t.expand(size, blocks, *t.shape[2:]).flatten(0, 1)


def _packed(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Contiguous tensors; blocks that were expanded from one are handed on as that one.

    Backends read memory, so a negation that torch has put off is done.
    """
    for t in tensors:
        if t is not None and (not t.is_contiguous() or t.is_neg()):
            return _repacked([t if t is None else resolved(t) for t in tensors])
    return list(tensors)


def _stored(t: Any) -> Any:
    return t.clone() if isinstance(t, Tensor) and t._is_zerotensor() else t


def resolved(t: Tensor) -> Tensor:
    """With what it stands for in memory."""
    return t.clone() if t._is_zerotensor() else t.resolve_neg()


def _repacked(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    packed = list(tensors)
    batched = []
    for place, t in enumerate(tensors):
        if t is not None and not t.is_contiguous():
            expanded = t.ndim == 3 and len(t) > 0 and t.stride(0) == 0
            packed[place] = (t[0] if expanded else t).contiguous()
            batched += [place] * expanded
    if batched and all(t is None or t.ndim == 2 for t in packed):  # one must carry the batch
        packed[batched[0]] = tensors[batched[0]].contiguous()  # type: ignore[union-attr]
    return packed
