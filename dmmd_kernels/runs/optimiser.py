"""What follows a gradient: the optimiser, its learning rate, the average of the weights."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import nn

from dmmd_kernels.runs.settings import AT_LEAST_0, BELOW_1, POSITIVE, SystemSettings


@dataclass(frozen=True, kw_only=True)
class OptimiserSettings(SystemSettings):
    """The optimiser"""

    optimizer: Annotated[Literal["adam", "adamw"], "what follows the gradient"] = "adam"
    weight_decay: Annotated[float, "of adamw", AT_LEAST_0] = 0.0
    learning_rate: Annotated[float, "of the optimiser", POSITIVE] = 1e-2
    warmup: Annotated[
        int, "steps in which the learning rate grows from 0, in proportion", AT_LEAST_0
    ] = 0
    decay: Annotated[
        Literal["constant", "cosine"], "of the learning rate; cosine ends at 0 after `steps`"
    ] = "cosine"
    clip: Annotated[float, "greatest norm of the gradient; 0: as it comes", AT_LEAST_0] = 0.0
    ema: Annotated[float, "μ of the averaged weights θ_ema ← μ θ_ema + (1 - μ) θ", BELOW_1] = 0.98

    @property
    def fixes_steps(self) -> bool:
        return self.decay != "constant"


def make_optimizer(
    settings: OptimiserSettings, parameters: Iterable[nn.Parameter]
) -> torch.optim.Optimizer:
    rate = settings.learning_rate
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=settings.weight_decay)
    return torch.optim.Adam(parameters, lr=rate)


def learning_rate(settings: OptimiserSettings, step: int, steps: int) -> float:
    """Growing over the warm-up, then constant, or ½(1 + cos(π step/steps)) of it."""
    rate = settings.learning_rate * min(1.0, (step + 1) / (settings.warmup + 1))
    return rate if settings.decay == "constant" else rate * cosine(step, steps)


def cosine(step: int, steps: int) -> float:
    """½(1 + cos(π step/steps)): from 1 down to 0."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def update_average(ema: nn.Module, module: nn.Module, mu: float) -> None:
    """θ_ema ← μ θ_ema + (1 - μ) θ"""
    for average, value in zip(ema.parameters(), module.parameters(), strict=True):
        average.lerp_(value, 1 - mu)
    for kept, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        kept.copy_(buffer)
