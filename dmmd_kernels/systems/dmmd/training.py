"""One step of training: its batch, its loss and its gradient, the optimiser, the average.

All randomness of a step follows from (seed, step), so that a run can go on anywhere.
"""

from copy import deepcopy
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.data.batches import Stream, augmented, batch_indices, generator_of
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.data.diffusion import DiscreteBeta, LinearBeta, Schedule, random_levels
from dmmd_kernels.runs.optimiser import (
    learning_rate,
    make_optimizer,
    set_rate,
    update_average,
)
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.runs.state import Follower, State
from dmmd_kernels.runs.system import Numbers
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel, make_kernel
from dmmd_kernels.systems.dmmd.losses import Loss, noise_conditional_loss
from dmmd_kernels.systems.dmmd.settings import DmmdSettings

BANDS = 4


class Batch(NamedTuple):
    """What one step sees: x_t and x_0 (T, B, *shape), t (T,), rising, mix (T, P)."""

    x_t: Tensor
    x_0: Tensor
    t: Tensor
    mix: Tensor


def own(settings: Settings) -> DmmdSettings:
    """Those of DMMD among the settings of a run."""
    assert isinstance(settings.system, DmmdSettings)
    return settings.system


def make_schedule(settings: DmmdSettings) -> Schedule:
    """The forward process."""
    return LinearBeta() if settings.schedule == "linear_beta" else DiscreteBeta()


def build(settings: Settings, dataset: Dataset, phase: int = 0) -> State:
    """The deep kernel, its averaged copy "ema", and Adam."""
    chosen, train = own(settings), dataset.train
    if chosen.penalty_batch > settings.batch:
        raise SettingsError(
            f"penalty_batch must be at most batch, got {chosen.penalty_batch} and {settings.batch}"
        )
    deep = make_kernel(chosen, train.shape[1:], settings.seed).to(train.device)
    ema = deepcopy(deep).eval().requires_grad_(False)
    if chosen.compile:
        deep.features.compile()
    adam = Follower("deep", make_optimizer(chosen, deep.parameters()))
    return State({"deep": deep, "ema": ema}, {"adam": adam})


def step(state: State, settings: Settings, dataset: Dataset) -> Numbers:
    """The loss of DMMD (eqs 7, 8) at several levels, Adam, the average.

    Tells the loss and its parts, as means over levels; MMD² of each quarter of [t_min, t_max] that
    had a level; the learning rate.
    """
    chosen, deep = own(settings), state.networks["deep"]
    assert isinstance(deep, DeepKernel)
    optimizer = state.followers["adam"].optimizer
    batch = batch_of(state.step, dataset, settings)
    if chosen.dropout > 0:
        # The global generators, which dropout draws from, belong to the step as well.
        seed = generator_of(settings.seed, Stream.TRAINING, state.step, 3).initial_seed()
        torch.manual_seed(seed)
    optimizer.zero_grad()
    loss = accumulate(deep, batch, settings)
    if chosen.clip > 0:
        torch.nn.utils.clip_grad_norm_(deep.parameters(), chosen.clip)
    rate = learning_rate(chosen, state.step, settings.steps)
    set_rate(optimizer, rate)
    optimizer.step()
    update_average(state.networks["ema"], deep, chosen.ema)
    state.step += 1
    state.seen += 2 * chosen.levels * settings.batch
    t = levels_of(generator_of(settings.seed, Stream.TRAINING, state.step - 1), chosen)
    return summary(loss) | bands(loss.mmd2, t, chosen) | {"learning_rate": rate}


def summary(loss: Loss) -> Numbers:
    """The loss and its parts, as means over levels."""
    parts = ("mmd2", "feature_norm", "gradient_penalty")
    return {"loss": loss.total} | {name: getattr(loss, name).mean() for name in parts}


def bands(mmd2: Tensor, t: Tensor, settings: DmmdSettings) -> Numbers:
    """The mean MMD² over the levels in each quarter of [t_min, t_max] that has any.

    Args:
        mmd2: (T,), on any device.
        t: (T,), rising, on the host: nothing here waits for a GPU.
    """
    edges = torch.linspace(settings.t_min, settings.t_max, BANDS + 1)
    ends = [0, *torch.searchsorted(t, edges[1:-1], right=True).tolist(), len(t)]
    return {
        f"mmd2/{low:.2f}-{high:.2f}": mmd2[begin:end].mean()
        for (low, high), (begin, end) in zip(pairwise(edges.tolist()), pairwise(ends), strict=True)
        if begin < end
    }


def levels_of(generator: torch.Generator, settings: DmmdSettings) -> Tensor:
    """(T,): the noise levels of a step, rising; the first that its generator is asked for."""
    return random_levels(settings.t_max, settings.t_min, settings.levels, generator)


def batch_of(step: int, dataset: Dataset, settings: Settings) -> Batch:
    """The batch of a step.

    The noised and the clean samples come from two independent batches; all levels share them.
    """
    train, chosen = dataset.train, own(settings)
    generator = generator_of(settings.seed, Stream.TRAINING, step)
    t = levels_of(generator, chosen)
    noise = torch.randn(chosen.levels, settings.batch, *train.shape[1:], generator=generator)
    pairs = chosen.penalty_batch or settings.batch
    mix = torch.rand(chosen.levels, pairs, generator=generator)
    t, noise, mix = t.to(train), noise.to(train), mix.to(train)
    clean, other = (_samples(dataset, settings, step, stream) for stream in (0, 1))
    x_t = make_schedule(chosen).noised(other, t, noise)
    return Batch(x_t, clean.expand(chosen.levels, *clean.shape), t, mix)


def _samples(dataset: Dataset, settings: Settings, step: int, stream: int) -> Tensor:
    """(B, *shape): the batch of a step from one of the independent streams."""
    train, seed = dataset.train, settings.seed
    rows = batch_indices(len(train), settings.batch, seed=seed, step=step, stream=stream)
    spacing = dataset.spacing if settings.dequantise else 0.0
    generator = generator_of(seed, Stream.TRAINING, step, 1 + stream)
    return augmented(train[rows.to(train.device)], generator, flip=settings.flip, spacing=spacing)


def accumulate(deep: DeepKernel, batch: Batch, settings: Settings) -> Loss:
    """The loss of a batch, its gradient added to the parameters', micro_levels at a time.

    The loss is a mean over levels, so that parts of them add up to the same.
    """
    chosen, count = own(settings), len(batch.t)
    parts = []
    for begin in range(0, count, chosen.micro_levels or count):
        x_t, x_0, t, mix = (part[begin : begin + (chosen.micro_levels or count)] for part in batch)
        loss = noise_conditional_loss(
            deep,
            x_t,
            x_0,
            t,
            feature_weight=chosen.feature_weight,
            gradient_weight=chosen.gradient_weight,
            mix=mix,
            backend=settings.backend,
        )
        share = loss.total * (len(t) / count)
        share.backward()
        parts.append(loss._replace(total=share.detach()[None]))
    total, *rest = (torch.cat(column) for column in zip(*parts, strict=True))
    return Loss(total.sum(), *rest)
