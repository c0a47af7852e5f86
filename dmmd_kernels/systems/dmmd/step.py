"""One step of training: its batch, its loss and its gradient, the optimiser, the average.

All randomness of a step follows from (seed, step), so that a run can go on anywhere.
"""

import math
from copy import deepcopy
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.data import augmented, batch_indices, generator_of
from dmmd_kernels.data.diffusion import Schedule, random_levels
from dmmd_kernels.networks.features import DeepKernel
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.run import TRAINING, Dataset, copy_tensor, load_weights
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.systems.dmmd.losses import Loss, noise_conditional_loss


class State:
    """All that training changes: the kernel, its averaged copy, the optimiser, the step."""

    def __init__(self, deep: DeepKernel, settings: Settings) -> None:
        self.deep, self.step = deep, 0
        self.ema = deepcopy(deep).eval().requires_grad_(False)
        rate = settings.learning_rate
        if settings.optimizer == "adamw":
            self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
                deep.parameters(), lr=rate, weight_decay=settings.weight_decay
            )
        else:
            self.optimizer = torch.optim.Adam(deep.parameters(), lr=rate)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; with the CPU's global random state."""
        named = {f"deep.{name}": value for name, value in self.deep.state_dict().items()}
        named |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.deep.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                named[f"adam.{name}.{key}"] = value
        return named | {"random": torch.get_rng_state()}

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """
        Raises:
            CheckpointError: a tensor is missing or does not fit.
        """
        load_weights(self.deep, found.tensors, "deep.")
        load_weights(self.ema, found.tensors, "ema.")
        for name, parameter in self.deep.named_parameters():
            blank = {"step": torch.zeros(())}
            blank |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            for key, value in blank.items():
                copy_tensor(value, found.tensors, f"adam.{name}.{key}")
            self.optimizer.state[parameter] = blank
        random = torch.get_rng_state()
        copy_tensor(random, found.tensors, "random")
        torch.set_rng_state(random)
        self.step = found.step


class Batch(NamedTuple):
    """What one step sees: x_t and x_0 (T, B, *shape), t (T,), mix (T, P)."""

    x_t: Tensor
    x_0: Tensor
    t: Tensor
    mix: Tensor


def train_step(state: State, dataset: Dataset, schedule: Schedule, settings: Settings) -> Loss:
    """One step of training: the loss of DMMD (eqs 7, 8) at several levels, Adam, the average."""
    batch = batch_of(state.step, dataset, schedule, settings)
    if settings.dropout > 0:
        # The global generators, which dropout draws from, belong to the step as well.
        torch.manual_seed(generator_of(settings.seed, TRAINING, state.step, 3).initial_seed())
    state.optimizer.zero_grad()
    loss = accumulate(state.deep, batch, settings)
    if settings.clip > 0:
        torch.nn.utils.clip_grad_norm_(state.deep.parameters(), settings.clip)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    state.optimizer.step()
    update_average(state.ema, state.deep, settings.ema)
    state.step += 1
    return loss


def batch_of(step: int, dataset: Dataset, schedule: Schedule, settings: Settings) -> Batch:
    """The batch of a step.

    The noised and the clean samples come from two independent batches; all levels share them.
    """
    train = dataset.train
    generator = generator_of(settings.seed, TRAINING, step)
    t = random_levels(settings.t_max, settings.t_min, settings.levels, generator)
    noise = torch.randn(settings.levels, settings.batch, *train.shape[1:], generator=generator)
    pairs = settings.penalty_batch or settings.batch
    mix = torch.rand(settings.levels, pairs, generator=generator)
    t, noise, mix = t.to(train), noise.to(train), mix.to(train)
    clean, other = (_samples(dataset, settings, step, stream) for stream in (0, 1))
    x_t = schedule.noised(other, t, noise)
    return Batch(x_t, clean.expand(settings.levels, *clean.shape), t, mix)


def _samples(dataset: Dataset, settings: Settings, step: int, stream: int) -> Tensor:
    """(B, *shape): the batch of a step from one of the independent streams."""
    train, seed = dataset.train, settings.seed
    rows = batch_indices(len(train), settings.batch, seed=seed, step=step, stream=stream)
    spacing = dataset.spacing if settings.dequantise else 0.0
    generator = generator_of(seed, TRAINING, step, 1 + stream)
    return augmented(train[rows.to(train.device)], generator, flip=settings.flip, spacing=spacing)


def accumulate(deep: DeepKernel, batch: Batch, settings: Settings) -> Loss:
    """The loss of a batch, its gradient added to the parameters', micro_levels at a time.

    The loss is a mean over levels, so that parts of them add up to the same.
    """
    count = len(batch.t)
    parts = []
    for begin in range(0, count, settings.micro_levels or count):
        x_t, x_0, t, mix = (
            part[begin : begin + (settings.micro_levels or count)] for part in batch
        )
        loss = noise_conditional_loss(
            deep,
            x_t,
            x_0,
            t,
            feature_weight=settings.feature_weight,
            gradient_weight=settings.gradient_weight,
            mix=mix,
            backend=settings.backend,
        )
        share = loss.total * (len(t) / count)
        share.backward()
        parts.append(loss._replace(total=share.detach()[None]))
    total, *rest = (torch.cat(column) for column in zip(*parts, strict=True))
    return Loss(total.sum(), *rest)


def learning_rate(settings: Settings, step: int) -> float:
    """Growing over the warm-up, then constant, or ½(1 + cos(π step/steps)) of it."""
    rate = settings.learning_rate * min(1.0, (step + 1) / (settings.warmup + 1))
    if settings.decay == "constant":
        return rate
    return rate * (1 + math.cos(math.pi * step / settings.steps)) / 2


@torch.no_grad()
def update_average(ema: torch.nn.Module, module: torch.nn.Module, mu: float) -> None:
    """θ_ema ← μ θ_ema + (1 - μ) θ"""
    for average, value in zip(ema.parameters(), module.parameters(), strict=True):
        average.lerp_(value, 1 - mu)
    for kept, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        kept.copy_(buffer)
