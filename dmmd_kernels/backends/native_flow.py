"""Whole flows in the C++ and CUDA extension."""

from typing import Any

import torch
from torch import Tensor

from dmmd_kernels.backends.native import library, of_kernel, parsed, why_not_loaded
from dmmd_kernels.kernels import Lowered, Mixture


def why_no_flow(x: Tensor, kernel: Lowered | None) -> str | None:
    """As why_not, for `flow`; for `flow_update` without a kernel."""
    if reason := why_not_loaded():
        return reason
    if x.is_cpu:
        fits = x.dtype in (torch.float32, torch.float64)
        return None if fits else f"its flow takes float32 and float64, got {x.dtype}"
    with_cuda = library().built_with_cuda
    if kernel is None or not x.is_cuda or not with_cuda:
        built = "" if with_cuda else ", in a build without nvcc"
        return f"this runs on CPU tensors, got {x.device.type}{built}"
    return _why_not_on_gpu(x, kernel)


def _why_not_on_gpu(x: Tensor, kernel: Lowered) -> str | None:
    most, components = library().max_gpu_flow_d, library().max_gpu_flow_components
    if x.dtype != torch.float32:
        return f"on a GPU its flow takes float32, got {x.dtype}"
    if x.shape[-1] > most:
        return f"on a GPU its flow takes d ≤ {most}, got {x.shape[-1]}"
    if sum(len(m.names) for m in kernel.mixtures) >= components:
        return f"on a GPU its flow takes kernels of fewer than {components} components"
    return None


def flow(
    x: Tensor,
    velocity: Tensor | None,
    y: Tensor,
    w: Tensor,
    kernel: Lowered,
    step_size: Tensor,
    noise: Tensor | None,
    failed: Tensor,
    *,
    momentum: float = 0.0,
    max_norm: float | None = None,
    seed: int = 0,
    first_step: int = 0,
    first_flow: int = 0,
) -> None:
    """As reference_flow.flow, also of one flow without B; on a GPU queued on the current stream."""
    radial, polynomial = _radial_and_polynomial(kernel)
    motion = library().Motion(momentum, max_norm or 0.0, seed, first_flow, first_step)
    task = (x, velocity, y, w, *radial, *polynomial, step_size, noise, motion, failed)
    if x.is_cpu:
        return library().flow(*task, torch.get_num_threads())
    bytes_ = library().flow_workspace(*x.shape[:2], y.shape[1], x.shape[2])
    workspace = torch.empty(1, bytes_, dtype=torch.uint8, device=x.device)
    library().flow_on_gpu(*task, workspace, torch.cuda.current_stream(x.device).cuda_stream)


def flow_update(
    z: Tensor,
    velocity: Tensor | None,
    g: Tensor,
    step_size: Tensor,
    noise: Tensor | None,
    *,
    momentum: float = 0.0,
    max_norm: float | None = None,
    seed: int = 0,
    step: int = 0,
    first_flow: int = 0,
) -> None:
    motion = library().Motion(momentum, max_norm or 0.0, seed, first_flow, step)
    schedules = step_size[None], None if noise is None else noise[None]
    library().flow_update(z, velocity, g, *schedules, motion, torch.get_num_threads())


def _radial_and_polynomial(kernel: Lowered) -> list[tuple[Tensor | None, Any]]:
    """(parameters (S, B, L, 3), components) of both; a linear kernel is a polynomial here."""
    parts = {m.is_radial: m for m in kernel.mixtures}
    if kernel.linear is not None:
        line = torch.stack([kernel.linear, *[torch.ones_like(kernel.linear)] * 2], -1)[..., None, :]
        parts[False] = _joined(parts.get(False), Mixture("polynomial1", line))
    missing = None, parsed("gaussian")
    return [of_kernel(parts[kind]) if kind in parts else missing for kind in (True, False)]


def _joined(first: Mixture | None, second: Mixture) -> Mixture:
    if first is None:
        return second
    lead = torch.broadcast_shapes(first.params.shape[:2], second.params.shape[:2])
    params = torch.cat([m.params.expand(*lead, -1, -1) for m in (first, second)], -2)
    return Mixture(f"{first.profiles}+{second.profiles}", params)
