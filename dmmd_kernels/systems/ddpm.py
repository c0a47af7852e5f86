"""Denoising diffusion (DDPM): a network that tells noise from data, and the chain it walks back.

    ā_i = Π_{k ≤ i} (1 - b_k), b from 1e-4 to 0.02 in 1000 equal steps; ā_0 = 1
    x_i = √ā_i x_0 + √(1 - ā_i) ε;    loss = mean |ε - net(x_i, i/1000)|², i uniform in 1..1000

From a level i to an earlier one j, with ε̂ = net(x_i, i/1000) and x̂_0 = (x_i - √(1-ā_i) ε̂)/√ā_i:

    ddim, ancestral  x_j = √ā_j x̂_0 + √(1 - ā_j - s²) ε̂ + s ξ,
                     s² = η² (1 - ā_i/ā_j)(1 - ā_j)/(1 - ā_i); η = 0 for ddim, 1 for ancestral
    large            the mean of q(x_j | x_i, x̂_0), and variance 1 - ā_i/ā_j

On images x̂_0 is cut to [-1, 1] and ε̂ taken anew from it. The last step adds no noise. Levels of N
steps are the whole numbers nearest to N + 1 equally spaced ones from 1000 to 0, so NFE = N.

Sources: Ho, Jain and Abbeel, "Denoising diffusion probabilistic models", NeurIPS 2020, equations
4, 7, 12, 14; Song, Meng and Ermon, "Denoising diffusion implicit models", ICLR 2021, equations 12
and 16. Sizes and rates for points and digits are ours.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dmmd_kernels.data.batches import Stream, augmented, batch_indices, generator_of
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs.backbone import BackboneSettings, make_features
from dmmd_kernels.runs.optimiser import (
    OptimiserSettings,
    learning_rate,
    make_optimizer,
    set_rate,
    update_average,
)
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import Bound, Checked, Settings, SettingsError, free
from dmmd_kernels.runs.state import Follower, State
from dmmd_kernels.runs.system import Numbers, OnState, System, one_by_one

CHAIN = 1000
FIRST_RATE, LAST_RATE = 1e-4, 0.02
SHOWN = 20  # states on the way
# ā_i, i = 0..1000.
_RATES = torch.linspace(FIRST_RATE, LAST_RATE, CHAIN, dtype=torch.float64)
SIGNAL = torch.cat([torch.ones(1, dtype=torch.float64), (1 - _RATES).cumprod(0)])
UP_TO_CHAIN = Bound(f"from 1 to {CHAIN}", lambda value: 1 <= value <= CHAIN)


@dataclass(frozen=True, kw_only=True)
class DdpmSettings(BackboneSettings, OptimiserSettings):
    """DDPM"""

    name = "ddpm"

    sampler: Annotated[
        Literal["large", "ancestral", "ddim"],
        "large and ancestral: noise of the larger and the smaller variance; ddim: none",
    ] = free("ancestral")
    levels: Annotated[int, "N, steps back along the chain of 1000", UP_TO_CHAIN] = free(CHAIN)


@dataclass(frozen=True, kw_only=True)
class DdpmDrawing(Checked):
    """How samples are drawn; what is left out is as the run says"""

    sampler: Annotated[
        Literal["large", "ancestral", "ddim"] | None, "the noise of a step; ddim: none"
    ] = None
    levels: Annotated[int | None, "N, steps back; NFE", UP_TO_CHAIN] = None


def own(settings: Settings) -> DdpmSettings:
    """Those of DDPM among the settings of a run."""
    assert isinstance(settings.system, DdpmSettings)
    return settings.system


class Field(nn.Module):
    """ε̂(x, i): the feature network with as many features as a sample has numbers."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x (B, *shape), level (B,), whole numbers → of the shape of x"""
        return self.features(x[:, None], level.to(x) / CHAIN)[:, 0].view_as(x)


def build(settings: Settings, dataset: Dataset, phase: int = 0) -> State:
    """The network, its average "ema", and Adam.

    Raises:
        SettingsError: the network has no noise level to see.
    """
    chosen, shape = own(settings), dataset.train.shape[1:]
    if chosen.features == "identity":
        raise SettingsError("system=ddpm needs features=mlp, conv or unet, got identity")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        net = Field(make_features(chosen, shape, shape.numel())).to(dataset.train.device)
    ema = deepcopy(net).eval().requires_grad_(False)
    if chosen.compile:
        net.features.compile()
    adam = Follower("net", make_optimizer(chosen, net.parameters()))
    return State({"net": net, "ema": ema}, {"adam": adam})


def step(state: State, settings: Settings, dataset: Dataset) -> Numbers:
    """One step on the loss above. Tells it and the learning rate."""
    chosen, net = own(settings), state.networks["net"]
    optimizer = state.followers["adam"].optimizer
    x, level, noise = batch_of(state.step, settings, dataset)
    if chosen.dropout > 0:
        # The global generators, which dropout draws from, belong to the step as well.
        seed = generator_of(settings.seed, Stream.TRAINING, state.step, 3).initial_seed()
        torch.manual_seed(seed)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=chosen.precision == "bfloat16"):
        told = net(noised(x, level, noise), level)
    loss = (told.to(noise.dtype) - noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    if chosen.clip > 0:
        torch.nn.utils.clip_grad_norm_(net.parameters(), chosen.clip)
    rate = learning_rate(chosen, state.step, settings.steps)
    set_rate(optimizer, rate)
    optimizer.step()
    update_average(state.networks["ema"], net, chosen.ema)
    state.step += 1
    state.seen += settings.batch
    return {"loss": loss.detach(), "learning_rate": rate}


def batch_of(step: int, settings: Settings, dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    """x_0 (B, *shape), levels i (B,) and ε of a step."""
    train, seed = dataset.train, settings.seed
    rows = batch_indices(len(train), settings.batch, seed=seed, step=step)
    spacing = dataset.spacing if settings.dequantise else 0.0
    drawn = generator_of(seed, Stream.TRAINING, step, 1)
    x = augmented(train[rows.to(train.device)], drawn, flip=settings.flip, spacing=spacing)
    generator = generator_of(seed, Stream.TRAINING, step)
    level = torch.randint(1, CHAIN + 1, (settings.batch,), generator=generator)
    noise = torch.randn(x.shape, generator=generator)
    return x, level.to(x.device), noise.to(x)


def noised(x: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    """√ā_i x_0 + √(1 - ā_i) ε"""
    left = SIGNAL[level.cpu()].view(-1, *[1] * (x.ndim - 1))
    return left.sqrt().to(x) * x + (1 - left).sqrt().to(x) * noise


def levels_of(count: int) -> list[int]:
    """The N + 1 levels of N steps, from 1000 down to 0."""
    return torch.linspace(CHAIN, 0, count + 1, dtype=torch.float64).round().long().tolist()


def back(
    z: Tensor, told: Tensor, i: int, j: int, sampler: str, noise: Tensor, *, cut: bool = False
) -> Tensor:
    """x_j from x_i = z and ε̂ = told; see the top of this file.

    Args:
        noise: ξ.
        cut: x̂_0 to [-1, 1].
    """
    a, b = SIGNAL[i].item(), SIGNAL[j].item()
    clean = (z - math.sqrt(1 - a) * told) / math.sqrt(a)
    if cut:
        clean = clean.clamp(-1, 1)
        told = (z - math.sqrt(a) * clean) / math.sqrt(1 - a)
    kept = 1 - a / b
    if sampler == "large":
        mean = (math.sqrt(b) * kept * clean + math.sqrt(1 - kept) * (1 - b) * z) / (1 - a)
        return mean + (math.sqrt(kept) if j else 0.0) * noise
    s2 = kept * (1 - b) / (1 - a) if sampler == "ancestral" else 0.0
    return math.sqrt(b) * clean + math.sqrt(max(1 - b - s2, 0)) * told + math.sqrt(s2) * noise


def evaluations(settings: Settings, drawing: DdpmDrawing) -> int:
    return drawing.levels or own(settings).levels


@torch.no_grad()
def draw(
    run: Run, n: int, drawing: DdpmDrawing, *, seed: int, progress: bool, on_state: OnState
) -> Tensor:
    """See runs.run.draw_samples; on_state is called at the start and some twenty times after.

    Raises:
        FloatingPointError: samples became infinite or NaN; the message names the level.
    """
    train, scale = run.dataset.train, run.dataset.scale
    blocks = list(_blocks(run, n, seed))
    z = [torch.randn(size, generator=generator).to(train) for size, generator in blocks]
    flat = lambda: torch.cat(z)[:n] * scale
    sampler = drawing.sampler or own(run.settings).sampler
    levels = levels_of(evaluations(run.settings, drawing))
    on_state(f"level {levels[0]}", flat())
    pairs = list(pairwise(levels))
    for place, (i, j) in enumerate(tqdm(pairs, "sampling ddpm", disable=not progress), 1):
        for index, (size, generator) in enumerate(blocks):
            noise = (
                torch.zeros(size) if sampler == "ddim" else torch.randn(size, generator=generator)
            )
            at = torch.full((size[0],), i, device=train.device)
            told = run.state.networks["ema"](z[index], at)
            z[index] = back(z[index], told, i, j, sampler, noise.to(train), cut=train.ndim == 4)
        if place % max(1, len(pairs) // SHOWN) == 0 or j == 0:
            if not all(torch.isfinite(block).all() for block in z):
                raise FloatingPointError(f"ddpm: samples are not finite after level {j}")
            on_state(f"level {j}", flat())
    return flat()


def _blocks(run: Run, n: int, seed: int) -> Iterator[tuple[torch.Size, torch.Generator]]:
    """Whole blocks with generators of their own: no sample depends on how many there are."""
    shape = run.dataset.train.shape[1:]
    count = 1000 if len(shape) == 1 else 64
    for block in range(math.ceil(n / count)):
        yield torch.Size((count, *shape)), generator_of(seed, Stream.START, block)


FEW: dict[str, Any] = {"decay": "cosine", "clip": 1.0, "log_every": 50, "save_every": 1000}
DDPM = System(
    name="ddpm",
    title="DDPM",
    settings=DdpmSettings,
    drawing=DdpmDrawing,
    build=build,
    step=step,
    draw=draw,
    draw_each=one_by_one(draw),
    evaluations=evaluations,
    defaults={
        "checkerboard": {
            **FEW,
            "features": "mlp",
            "feature_width": 128,
            "mlp_layers": 3,
            "mlp_waves": 3,
            "steps": 10_000,
            "batch": 256,
            "learning_rate": 2e-3,
            "ema": 0.995,
        },
        "digits": {
            **FEW,
            "features": "conv",
            "feature_width": 16,
            "steps": 6000,
            "batch": 192,
            "learning_rate": 2e-3,
            "ema": 0.998,
            "samples": 400,
            "sampler": "large",
        },
        "cifar10": {
            "features": "unet",
            "unet_readout": "image",
            "feature_width": 128,
            "dropout": 0.1,
            "steps": 800_000,
            "batch": 128,
            "learning_rate": 2e-4,
            "decay": "constant",
            "warmup": 5000,
            "clip": 1.0,
            "ema": 0.9999,
            "samples": 10_000,
            "sampler": "large",
            "log_every": 100,
            "save_every": 5000,
            "keep_every": 50_000,
            "grid_every": 5000,
        },
    },
    variants={
        "ddpm, large": DdpmDrawing(sampler="large"),
        "ddpm, ancestral": DdpmDrawing(sampler="ancestral"),
        "ddim, 100": DdpmDrawing(sampler="ddim", levels=100),
        "ddim, 20": DdpmDrawing(sampler="ddim", levels=20),
    },
    preview=DdpmDrawing(sampler="ddim", levels=50),
)
