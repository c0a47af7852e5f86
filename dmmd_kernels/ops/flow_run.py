"""Flows on their way: what they were given, in the form that backends take, and steps in pieces.

A plain flow of few steps on few points takes less time than that. What its shapes decide is kept
with the kernel, and the next one like it goes to the backend at once.
"""

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.backends import native_flow, reference, reference_flow
from dmmd_kernels.backends.choice import BackendError, pick
from dmmd_kernels.kernels import Kernel, Lowered
from dmmd_kernels.ops.checks import common_batch
from dmmd_kernels.ops.dtypes import HALVES, working
from dmmd_kernels.ops.flow_inputs import blocks, is_zero
from dmmd_kernels.ops.products import without_autocast
from dmmd_kernels.ops.schedules import Schedule, kernel_rows, rows, schedule, tables
from dmmd_kernels.ops.shortcuts import is_small

_PIECE_S = 0.2  # how long one call into a backend may take: what Ctrl-C waits for
_MOST_POINTS = 8192  # of clouds whose flows are prepared; more take so long that it does not count


class Run:
    """Particles x (…, N, d), data y and its weights, and the steps that move the particles.

    Attributes:
        batch: the batch shape, of B flows.
        cloud: where the particles are, (B, N, d), in the dtype of the steps.
        failed: the step after which a flow was not finite, or -1, (B,).
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        weights: Tensor | None,
        kernel: Kernel,
        step_size: Schedule,
        noise: Schedule,
        steps: int,
        *,
        backend: str,
        precision: str,
    ) -> None:
        dtype = working(x.dtype)
        self.uniform = y.new_full(y.shape[-2:-1], 1 / y.shape[-2], dtype=dtype)
        w = self.uniform if weights is None else weights
        is_batch = x.ndim > 2 or y.ndim > 2 or w.ndim > 1
        self.batch = torch.Size()
        if is_batch:
            self.batch = common_batch("flow", x=x, y=y, weights=w[..., None])
        self.x, self.y, self.kernel, self.steps = x, y, kernel, steps
        wide = x.expand(*self.batch, *x.shape[-2:])
        self.cloud = blocks(wide, self.batch, 2).to(dtype, copy=True)
        self.data = blocks(y, self.batch, 2).to(dtype), blocks(w, self.batch, 1).to(dtype)
        self.table = tables(kernel.lower(self.cloud), steps, self.batch)
        like = (steps, self.batch, self.cloud)
        self.sizes = schedule("step_size", step_size, *like)
        self.spreads = None if is_zero(noise) else schedule("noise", noise, *like)
        self.failed = torch.full(self.cloud.shape[:1], -1, dtype=torch.int64, device=x.device)
        self.function = _function(backend, self.cloud, self.table, precision)
        flows, n, d = self.cloud.shape
        self.step_s = 1e-9 * (1 + flows * n * (n + y.shape[-2]) * (1 + d / 8))  # more or less

    def pieces(self, stops: list[int], first_step: int, momentum: float, **how) -> Iterator[int]:
        """Advances to multiples of the stops and to the end, and yields where it is.

        A piece is as many steps as are thought to take _PIECE_S, by the time the last ones took:
        between two pieces Python sees a Ctrl-C. Results do not depend on the cut.
        """
        trail = torch.zeros_like(self.cloud) if momentum else None
        move = partial(self.function, self.cloud, trail, *self.data, momentum=momentum, **how)
        done, per_piece = 0, max(1, int(_PIECE_S / self.step_s))
        while done < self.steps:
            end = min(done + per_piece, self.steps, *(done - done % s + s for s in stops))
            begin = time.perf_counter()
            self._advance(move, done, end, first_step)
            took = (time.perf_counter() - begin) / (end - done)
            per_piece = max(1, min(int(_PIECE_S / max(took, 1e-9)), 8 * per_piece))
            done = end
            if done == self.steps or any(done % stop == 0 for stop in stops):
                yield done

    def _advance(self, move: Callable, start: int, end: int, first_step: int) -> None:
        with without_autocast(self.cloud.device):
            move(
                kernel=kernel_rows(self.table, start, end),
                step_size=rows(self.sizes, start, end).expand(end - start, -1),
                noise=None if self.spreads is None else rows(self.spreads, start, end),
                failed=self.failed,
                first_step=first_step + start,
            )
        is_last = end == self.steps
        if self.x.is_cuda and not is_last and not torch.cuda.is_current_stream_capturing():
            torch.cuda.current_stream(self.x.device).synchronize()

    def particles(self) -> Tensor:
        """A copy of where they are, (…, N, d), in the dtype they came in."""
        now = self.cloud.to(self.x.dtype, copy=True)
        return now.reshape(*self.batch, *self.x.shape[-2:])

    def failures(self, particles: Tensor, first_step: int) -> Tensor:
        """`failed`, and the last step for flows whose particles rounding made infinite."""
        if self.x.dtype in HALVES:
            rounded = particles.reshape(self.cloud.shape).isfinite().all(-1).all(-1)
            self.failed.masked_fill_(~rounded & (self.failed < 0), first_step + self.steps)
        return self.failed

    def prepare(self, like: tuple | None, weights: Tensor | None) -> None:
        """Keeps with the kernel how flows that are `like` this one go, where C++ takes them."""
        if like is None or not is_small(self.kernel, self.x, self.y, most=_MOST_POINTS):
            return
        is_whole = weights is None or weights.numel() == self.data[1].numel()
        is_whole &= self.x.shape[:-2] == self.batch and self.y.numel() == self.data[0].numel()
        if is_whole and self.function is native_flow.flow:
            self.kernel.keep(like, PreparedFlow(self.table, self.uniform, self.step_s))


class PreparedFlow(NamedTuple):
    """Flows in C++ whose schedules are numbers.

    Attributes:
        kernel: its tables, of one step.
        uniform: weights of the data where calls bring none, (M,).
        step_s: how long a step may take.
    """

    kernel: Lowered
    uniform: Tensor
    step_s: float

    def takes(self, steps: int, *clouds: Tensor) -> bool:
        """Whether it is right for these: a call must be short, and nothing may require grad."""
        return steps * self.step_s <= _PIECE_S and not any(t.requires_grad for t in clouds)

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        w: Tensor | None,
        step_size: float,
        noise: float,
        steps: int,
        **how,
    ) -> tuple[Tensor, Tensor]:
        """Where the particles x end, and the steps at which flows failed, (B,)."""
        flat = lambda t: t if t.ndim <= 3 else t.flatten(0, -3)
        share = self.uniform if w is None else w
        moved = x.clone()
        cloud = flat(moved)
        failed = torch.full(cloud.shape[:-2] or (1,), -1, device=x.device)
        native_flow.flow(
            cloud,
            torch.zeros_like(cloud) if how["momentum"] else None,
            flat(y),
            share if share.ndim <= 2 else share.flatten(0, -2),
            self.kernel,
            _constant(step_size, steps, x.dtype),
            _constant(noise, 1, x.dtype) if noise else None,
            failed,
            **how,
        )
        return moved, failed


@lru_cache(maxsize=64)
def _constant(value: float, steps: int, dtype: torch.dtype) -> Tensor:
    """A schedule (steps, 1) of one number."""
    with torch.inference_mode(False):  # calls outside of it may meet it again
        return torch.tensor([[value]], dtype=dtype, device="cpu").expand(steps, 1)


def _function(backend: str, x: Tensor, kernel: Lowered, precision: str) -> Callable[..., None]:
    """The flow of the first able backend, or reference_flow.py's loop on its gradient."""
    if not kernel.mixtures:
        # Closed forms: linear kernels have no pairs.
        return partial(reference_flow.flow, potential_grad=reference.potential_grad)
    if backend in ("auto", "native"):
        reason = native_flow.why_no_flow(x, kernel)
        if reason is None:
            return native_flow.flow
        if backend == "native":
            raise BackendError(f"backend='native' cannot run this call: {reason}")
    module = pick(backend, x, kernel.mixtures[0], precision)
    gradient = partial(module.potential_grad, precision=precision)
    return partial(reference_flow.flow, potential_grad=gradient)
