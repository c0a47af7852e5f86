"""MMD-GAN on points: a generator against the width of a Gaussian kernel.

    critic      σ ← ascent of MMD²_u(G(ζ), y; σ),      σ = 0.01 + softplus(a)
    generator   G ← descent of MMD²_u(G(ζ), y; σ),     ζ ~ N(0, I)

The critic's kernel has one learned number, the σ whose course over training the DMMD paper sets
beside its own σ(t). It has a second maximum at tiny σ while samples are far: it begins wide.

Sources: Li, Chang, Cheng, Yang and Póczos, "MMD GAN", NeurIPS 2017; Bińkowski, Sutherland, Arbel
and Gretton, "Demystifying MMD GANs", ICLR 2018; with σ alone as the critic: Galashov, De Bortoli
and Gretton, ICLR 2025, section 4. Sizes and rates are ours.
"""

import math
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

import dmmd_kernels as dk
from dmmd_kernels.data.batches import Stream, batch_indices, generator_of
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.networks.features import dense
from dmmd_kernels.runs.optimiser import cosine, set_rate, update_average
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import (
    AT_LEAST_1,
    BELOW_1,
    POSITIVE,
    Bound,
    Checked,
    Settings,
    SettingsError,
    SystemSettings,
)
from dmmd_kernels.runs.state import Follower, State
from dmmd_kernels.runs.system import Numbers, OnState, System, one_by_one

FLOOR = 0.01
BETAS = (0.5, 0.9)
BLOCK = 1000  # samples that go through the generator at once, so that none depends on how many


@dataclass(frozen=True, kw_only=True)
class MmdGanSettings(SystemSettings):
    """MMD-GAN"""

    name = "mmd_gan"

    latent: Annotated[int, "numbers in ζ, which the generator is given", AT_LEAST_1] = 2
    generator_width: Annotated[int, "hidden units in each layer of the generator", AT_LEAST_1] = 128
    generator_depth: Annotated[int, "hidden layers of the generator", AT_LEAST_1] = 3
    width_start: Annotated[
        float, "σ before training", Bound(f"above {FLOOR}", lambda value: value > FLOOR)
    ] = 1.0
    generator_rate: Annotated[float, "learning rate of the generator, cosine to 0", POSITIVE] = 1e-3
    width_rate: Annotated[float, "learning rate of σ", POSITIVE] = 5e-3
    critic_steps: Annotated[int, "steps of σ before each of the generator", AT_LEAST_1] = 1
    ema: Annotated[float, "μ of the averaged generator, which draws samples", BELOW_1] = 0.99

    @property
    def fixes_steps(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class MmdGanDrawing(Checked):
    """A generator leaves nothing to choose"""


class Width(nn.Module):
    """σ = 0.01 + softplus(a), one number."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(math.log(math.expm1(start - FLOOR))))

    def forward(self) -> Tensor:
        """σ, ()"""
        return FLOOR + nn.functional.softplus(self.a)


def own(settings: Settings) -> MmdGanSettings:
    """Those of MMD-GAN among the settings of a run."""
    assert isinstance(settings.system, MmdGanSettings)
    return settings.system


def build(settings: Settings, dataset: Dataset, phase: int = 0) -> State:
    """The generator, its average "ema", the width, and an Adam for each of the two.

    Raises:
        SettingsError: the data are not points.
    """
    chosen, train = own(settings), dataset.train
    if train.ndim != 2:
        raise SettingsError(f"system=mmd_gan needs points (N, d), got data={settings.data}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        sizes = [chosen.latent, *[chosen.generator_width] * chosen.generator_depth, train.shape[1]]
        generator = dense(sizes).to(train.device)
    ema = deepcopy(generator).eval().requires_grad_(False)
    width = Width(chosen.width_start).to(train.device)
    adam = {
        "adam": Follower("generator", torch.optim.Adam(generator.parameters(), betas=BETAS)),
        "width_adam": Follower(
            "width", torch.optim.Adam(width.parameters(), lr=chosen.width_rate, betas=BETAS)
        ),
    }
    return State({"generator": generator, "ema": ema, "width": width}, adam)


def step(state: State, settings: Settings, dataset: Dataset) -> Numbers:
    """`critic_steps` of σ, one of the generator. Tells MMD²_u as the generator met it, and σ."""
    chosen, networks = own(settings), state.networks
    adam, width_adam = (state.followers[name].optimizer for name in ("adam", "width_adam"))
    set_rate(adam, chosen.generator_rate * cosine(state.step, settings.steps))
    for turn in range(chosen.critic_steps):
        with torch.no_grad():
            x = networks["generator"](latent(state.step, turn, settings, dataset))
        y, sigma = batch_of(state.step, turn, settings, dataset), networks["width"]()
        width_adam.zero_grad()
        (-dk.mmd2(x, y, dk.gaussian(sigma), backend=settings.backend)).backward()
        width_adam.step()
    sigma = networks["width"]().detach()
    x = networks["generator"](latent(state.step, chosen.critic_steps, settings, dataset))
    y = batch_of(state.step, chosen.critic_steps, settings, dataset)
    loss = dk.mmd2(x, y, dk.gaussian(sigma), backend=settings.backend)
    adam.zero_grad()
    loss.backward()
    adam.step()
    update_average(networks["ema"], networks["generator"], chosen.ema)
    state.step += 1
    state.seen += (1 + chosen.critic_steps) * settings.batch
    return {"mmd2": loss.detach(), "sigma": sigma}


def latent(step: int, turn: int, settings: Settings, dataset: Dataset) -> Tensor:
    """ζ of a turn of a step, (B, latent)."""
    generator = generator_of(settings.seed, Stream.TRAINING, step, turn)
    return torch.randn(settings.batch, own(settings).latent, generator=generator).to(dataset.train)


def batch_of(step: int, turn: int, settings: Settings, dataset: Dataset) -> Tensor:
    """y of a turn of a step, (B, d), from a stream of its own."""
    train = dataset.train
    rows = batch_indices(len(train), settings.batch, seed=settings.seed, step=step, stream=turn)
    return train[rows.to(train.device)]


@torch.no_grad()
def draw(
    run: Run, n: int, drawing: MmdGanDrawing, *, seed: int, progress: bool, on_state: OnState
) -> Tensor:
    """See runs.run.draw_samples; on_state is called with ζ, if it is of their shape, and them."""
    train, size = run.dataset.train, (BLOCK, own(run.settings).latent)
    keys = [(seed, Stream.START, block) for block in range(math.ceil(n / BLOCK))]
    blocks = [torch.randn(size, generator=generator_of(*key)).to(train) for key in keys]
    flat = lambda parts: torch.cat(parts)[:n] * run.dataset.scale
    if size[1] == train.shape[1]:
        on_state("latent", flat(blocks))
    samples = flat([run.state.networks["ema"](block) for block in blocks])
    on_state("generated", samples)
    return samples


MMD_GAN = System(
    name="mmd_gan",
    title="MMD-GAN",
    settings=MmdGanSettings,
    drawing=MmdGanDrawing,
    build=build,
    step=step,
    draw=draw,
    draw_each=one_by_one(draw),
    evaluations=lambda settings, drawing: 1,
    defaults={"checkerboard": {"steps": 4000, "log_every": 40, "save_every": 400}},
    variants={"mmd_gan": MmdGanDrawing()},
    preview=MmdGanDrawing(),
    remedy="take a smaller generator_rate or width_rate",
)
