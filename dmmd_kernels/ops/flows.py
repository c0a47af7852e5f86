"""Gradient flow of MMD² over particles (Arbel, Korba, Salim and Gretton, NeurIPS 2019).

    g_i = ∇f(x_i + noise · ξ_i),    f the witness of the particles x against the data y
    v_i ← momentum · v_i + g_i · min(1, max_norm / |g_i|)
    x_i ← x_i - step_size · v_i

All particles see the old positions. With noise the gradient is read at shifted points while the
cloud itself stays where it is; that lets particles leave flat regions of f where the plain flow
stalls. All steps of all flows run inside the backend; where it has no flow of its own, the loop of
reference_flow.py runs on its gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from math import prod
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch._compile import _disable_dynamo

from dmmd_kernels.autograd.register import resolved
from dmmd_kernels.backends import native_flow, reference_flow
from dmmd_kernels.backends.choice import BackendError
from dmmd_kernels.kernels import Kernel, check_kernel
from dmmd_kernels.ops.dtypes import common_dtype, working
from dmmd_kernels.ops.flow_inputs import (
    check_backend,
    check_counts,
    check_flow,
    check_integers,
    check_no_grad,
    check_update,
    is_zero,
    paired,
    per_flow,
    seed_of,
)
from dmmd_kernels.ops.flow_run import Run
from dmmd_kernels.ops.mmd import mmd2, witness_grad
from dmmd_kernels.ops.schedules import Schedule, kernel_at
from dmmd_kernels.ops.shortcuts import likeness

P = ParamSpec("P")
R = TypeVar("R")


def _never_compiled(function: Callable[P, R]) -> Callable[P, R]:
    """torch.compiler.disable, but for loading the compiler (seconds) where none is at work."""
    apart = _disable_dynamo(function)

    @wraps(function)
    def call(*args: P.args, **named: P.kwargs) -> R:
        return (apart if torch.compiler.is_compiling() else function)(*args, **named)

    return call


@dataclass(frozen=True)
class FlowResult:
    """Where the particles went.

    Attributes:
        particles: (…, N, d), after the last step.
        trajectory: (records, …, N, d), or None when nothing was recorded.
        mmd2: unbiased MMD² to the data at each record, (records, …), or None.
    """

    particles: Tensor
    trajectory: Tensor | None = None
    mmd2: Tensor | None = None


class FlowError(FloatingPointError):
    """Particles became infinite or NaN.

    In half precision that includes particles that rounding the last step made infinite.

    Attributes:
        flow: the index of the flow in the batch, () without one.
        step: the number of the step after which it happened, from 1.
        result: FlowResult; flows that failed stay where they were before that step, all others have
            done all their steps; particles that rounding made infinite are infinite.
    """

    def __init__(
        self, flow: tuple[int, ...], step: int, result: FlowResult, number: int | None = None
    ) -> None:
        who = f"particles of flow {flow}" if flow else "particles"
        who += "" if number is None else f" (number {number})"
        super().__init__(f"flow: {who} are not finite after step {step}; take a smaller step_size")
        self.flow, self.step, self.result = flow, step, result


def velocity(
    z: Tensor,
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    backend: str = "auto",
    precision: str = "highest",
) -> Tensor:
    """v(z) = -∇f(z), (…, n, d): the velocity at z of the flow of particles x towards data y.

    Differentiable once, as `witness_grad`.
    """
    return -witness_grad(z, x, y, kernel, backend=backend, precision=precision)


@_never_compiled
def flow(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    *,
    step_size: Schedule,
    steps: int,
    noise: Schedule = 0.0,
    weights: Tensor | None = None,
    momentum: float = 0.0,
    max_norm: float | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    first_step: int = 0,
    first_flow: int = 0,
    record_every: int | None = None,
    callback: Callable[[int, Tensor], None] | None = None,
    callback_every: int | None = None,
    backend: str = "auto",
    precision: str = "highest",
) -> FlowResult:
    """Runs MMD flows of the particles x to the data y, all steps in one call.

    The batch dimensions of x are flows that do not feel each other; each moves bit for bit as it
    would alone. A schedule is a number, one number per step, or a tensor that broadcasts to
    (steps, …), … the batch shape. A parameter of the kernel has the batch shape, or one dimension
    more and is a schedule: dk.gaussian(sigma) with sigma (steps,) for one flow.

    Args:
        x: particles, (…, N, d); left as they are.
        y: data, (…, M, d) or (M, d); a batch of y or weights alone is one flow of x for each.
        kernel: see dmmd_kernels.kernels.
        step_size: a schedule.
        steps: how many steps.
        noise: a schedule; the standard deviation of the shift at which the gradient is read. Let it
            shrink.
        weights: of the data, (…, M) or (M,), used as they are; 1/M each when None.
        momentum: 0 ≤ momentum < 1.
        max_norm: gradients g_i longer than this are shortened to it.
        seed: of the noise, a function of (seed, flow, particle, step); drawn from `generator`, or
            from torch's own, when None.
        generator: see seed.
        first_step, first_flow: numbers of the first step and the first flow, in the noise and in
            messages: for a run that goes on from another, or a batch cut over devices. A run that
            goes on is bit for bit the uncut one without momentum, in float32 and float64; with
            momentum it starts again at velocity 0, and in half precision from rounded particles.
        record_every: keep particles and unbiased MMD² after every so many steps.
        callback: called as callback(step, particles) after every callback_every steps.
        callback_every: a hundredth of the steps when None.
        backend: "auto", "native", "triton" or "reference".
        precision: as in `potential`.

    Returns:
        FlowResult. Nothing here is differentiable.

    Raises:
        TypeError, ValueError: the inputs do not fit together, a schedule has another length than
            steps, or an input requires grad.
        FlowError: particles became infinite or NaN. It is a FloatingPointError, names flow and
            step, and holds the last finite state.
        BackendError: the named backend cannot run the call.
    """
    check_kernel("flow", kernel)
    check_counts(steps, momentum, max_norm, record_every, callback_every)
    check_integers("flow", seed=seed, first_step=first_step, first_flow=first_flow)
    how: dict[str, Any] = {"momentum": momentum, "max_norm": max_norm, "first_flow": first_flow}
    clouds = (x, y) if weights is None else (x, y, weights)
    is_plain = record_every is None and callback is None
    are_numbers = type(step_size) in (int, float) and type(noise) in (int, float)
    like = likeness(("flow", backend, precision), *clouds) if is_plain and are_numbers else None
    known = kernel.prepared.get(like)
    if known is not None and known.takes(steps, *clouds):
        how |= {"seed": seed_of(seed, generator) if noise else 0, "first_step": first_step}
        moved, failed = known(x, y, weights, step_size, noise, steps, **how)
        return _finite(FlowResult(moved), failed, x.shape[:-2], first_flow)
    check_flow(x, y, weights, kernel, step_size, noise)
    check_backend(backend, precision)
    dtype = common_dtype(*clouds)
    if any(cloud.dtype != dtype for cloud in clouds):
        x, y, like = x.to(dtype), y.to(dtype), None
        weights = None if weights is None else weights.to(dtype)
    if kernel.parameters:  # a callback may change them in place
        kernel = kernel.changed(lambda p: p.clone() if isinstance(p, Tensor) else p)
    with torch.no_grad(), torch.cuda.device_of(x):  # launch where the particles are
        backends: dict[str, Any] = {"backend": backend, "precision": precision}
        run = Run(x, y, weights, kernel, step_size, noise, steps, **backends)
        run.prepare(like, weights)
        how |= {"seed": 0 if run.spreads is None else seed_of(seed, generator)}
        every = callback_every or max(1, steps // 100)
        stops = [s for s in (record_every, every if callback else None) if s]
        records: list[tuple[Tensor, Tensor]] = []
        for end in run.pieces(stops, first_step, **how):
            if record_every and end % record_every == 0:
                now = kernel_at(kernel, end - 1, run.batch)
                at, share = paired(y, weights)
                gap = mmd2(run.particles(), at, now, weights_y=share, **backends)
                records.append((run.particles(), gap))
            if callback and end % every == 0:
                callback(end, run.particles())
        trajectory, curve = (
            map(torch.stack, zip(*records, strict=True)) if records else (None, None)
        )
        result = FlowResult(run.particles(), trajectory, curve)
        return _finite(result, run.failures(result.particles, first_step), run.batch, first_flow)


@_never_compiled
@torch.no_grad()
def flow_update(
    z: Tensor,
    g: Tensor,
    *,
    step_size: float | Tensor,
    velocity: Tensor | None = None,
    momentum: float = 0.0,
    max_norm: float | None = None,
    noise: float | Tensor = 0.0,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    step: int = 0,
    first_flow: int = 0,
    backend: str = "auto",
) -> Tensor:
    """One update of a batch of clouds along gradients from elsewhere, as from a network; in place.

        v ← momentum · v + g · min(1, max_norm / |g|)
        z ← z - step_size · v + noise · ξ

    Args:
        z: particles, (…, N, d), contiguous; overwritten.
        g: gradients of the same shape.
        step_size: a number, or one per flow, (…,). Half precision is computed in float32.
        velocity: v, of the shape of z, contiguous; overwritten. Needed with momentum.
        momentum, max_norm, seed, generator, first_flow, backend: as in `flow`.
        noise: standard deviation of what is added; a number, or one per flow, (…,).
        step: the number of the step, in the noise.

    Returns:
        z.

    Raises:
        TypeError, ValueError: the inputs do not fit together, or one requires grad.
        BackendError: the named backend cannot run the call.
    """
    named = {"z": z, "g": g} | ({} if velocity is None else {"velocity": velocity})
    check_update(named, momentum, max_norm)
    check_no_grad("flow_update", *named.values(), step_size, noise)
    check_integers("flow_update", seed=seed, step=step, first_flow=first_flow)
    check_backend(backend)
    batch, dtype = z.shape[:-2], working(common_dtype(*named.values()))
    flat = lambda t: resolved(t.reshape(prod(batch), *z.shape[-2:]).to(dtype).contiguous())
    cloud, trail = flat(z), None if velocity is None else flat(velocity)
    has_noise = not is_zero(noise)
    in_cpp = backend in ("auto", "native") and _can_update(cloud, backend)
    run = native_flow if in_cpp else reference_flow
    with torch.cuda.device_of(z):
        run.flow_update(
            cloud,
            trail,
            flat(g),
            per_flow("step_size", step_size, batch, cloud),
            per_flow("noise", noise, batch, cloud) if has_noise else None,
            momentum=momentum,
            max_norm=max_norm,
            seed=seed_of(seed, generator) if has_noise else 0,
            step=step,
            first_flow=first_flow,
        )
    for own, moved in ((z, cloud), (velocity, trail)):
        if own is not None and moved is not None and (own.dtype != dtype or own.is_neg()):
            own.copy_(moved.view_as(own))
    return z


def _can_update(z: Tensor, backend: str) -> bool:
    reason = native_flow.why_no_flow(z, None)
    if reason and backend == "native":
        raise BackendError(f"backend='native' cannot run this call: {reason}")
    return reason is None


def _finite(result: FlowResult, failed: Tensor, batch: torch.Size, first_flow: int) -> FlowResult:
    """The result.

    Raises:
        FlowError: naming the flow that failed first.
    """
    if failed.is_cuda and torch.cuda.is_current_stream_capturing():
        return result  # a graph cannot ask
    broken = [(step, block) for block, step in enumerate(failed.tolist()) if step >= 0]
    if not broken:
        return result
    step, block = min(broken)
    index = torch.unravel_index(torch.tensor(block), batch) if batch else ()
    number = first_flow + block if first_flow else None
    raise FlowError(tuple(map(int, index)), step, result, number)
