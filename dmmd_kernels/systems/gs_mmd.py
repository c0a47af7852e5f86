"""GS-MMD-RK: flows of the energy distance, each phase of them learned by a network of its own.

    v ← 0.7 v + ∇f(x),  x ← x - τ v      n_k times, f(z) = mean_j |z - y_j| - mean_i |z - x_i|
    net_k: x_before ↦ x_before - x_after  by squared error, then x ← x_before - net_k(x_before)

x are N particles, at latent draws N(0, I) before phase 0, y are M data. n_k doubles from phase to
phase up to a cap. A network begins as a copy of the one before, its optimiser anew. Particles go on
from where the network brings them, not from where the flow did, so that sampling, x ← x - net_k(x)
for all k in order, meets what training met: NFE is the number of phases.

∇f is exact, all pairs in one call of `dk.flow`; with `slices` it is, as published, the mean over P
random directions θ of the derivative in one dimension, by sorting:

    c_d mean_θ θ [(2 #{y < x} - M)/M - (2 rank(x) - N + 1)/N],   c_d = √π Γ((d+1)/2) / Γ(d/2)

Source: Hertrich, Wald, Altekrüger and Hagemann, "Generative sliced MMD flows with Riesz kernels",
ICLR 2024. Sizes for points and digits are ours.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import dmmd_kernels as dk
from dmmd_kernels.data.batches import Stream, batch_indices, generator_of
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs.backbone import BackboneSettings, make_features
from dmmd_kernels.runs.optimiser import set_rate
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import (
    AT_LEAST_0,
    AT_LEAST_1,
    BELOW_1,
    POSITIVE,
    Checked,
    Settings,
    SettingsError,
)
from dmmd_kernels.runs.state import Follower, State
from dmmd_kernels.runs.system import Numbers, OnState, System, one_by_one

LAST_SHARE = 0.05  # of the learning rate, at the end of a phase
ROWS = 1000  # particles in a network at once


@dataclass(frozen=True, kw_only=True)
class GsMmdSettings(BackboneSettings):
    """GS-MMD-RK"""

    name = "gs_mmd"

    particles: Annotated[int, "N, particles that flow together", AT_LEAST_1] = 4000
    clean: Annotated[int, "M, data they flow to, drawn once", AT_LEAST_1] = 4000
    phase_steps: Annotated[
        int, "steps of training in a phase; steps / these are phases", AT_LEAST_1
    ] = 1000
    flow_steps: Annotated[
        int, "n_0, steps of the flow in phase 0; doubled each phase", AT_LEAST_1
    ] = 8
    flow_cap: Annotated[int, "the most of them", AT_LEAST_1] = 256
    step_size: Annotated[float, "τ of the flow", POSITIVE] = 0.1
    momentum: Annotated[float, "of the flow", BELOW_1] = 0.7
    slices: Annotated[int, "P directions of the sliced gradient; 0: the exact one", AT_LEAST_0] = 0
    learning_rate: Annotated[float, "of Adam, falling to a twentieth in each phase", POSITIVE] = (
        1e-3
    )


@dataclass(frozen=True, kw_only=True)
class GsMmdDrawing(Checked):
    """How samples are drawn; what is left out is as the run says"""

    phases: Annotated[
        int | None, "networks that samples go through, the first ones", AT_LEAST_1
    ] = None


def own(settings: Settings) -> GsMmdSettings:
    """Those of GS-MMD among the settings of a run."""
    assert isinstance(settings.system, GsMmdSettings)
    return settings.system


class Push(nn.Module):
    """x ↦ x - φ(x, 0): where a phase brings a sample."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> Tensor:
        """(B, *shape) → (B, *shape)"""
        return x - self.features(x[None], x.new_zeros(1))[0].view_as(x)


def build(settings: Settings, dataset: Dataset, phase: int = 0) -> State:
    """Networks "push_0" to "push_<phase>", Adam of the last; particles, their targets and data.

    Raises:
        SettingsError: the network has nothing to learn.
    """
    chosen, train = own(settings), dataset.train
    if chosen.features == "identity":
        raise SettingsError("system=gs_mmd needs features=mlp, conv or unet, got identity")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        shape = train.shape[1:]
        first = Push(make_features(chosen, shape, shape.numel())).to(train.device)
    pushes = {f"push_{k}": deepcopy(first) for k in range(phase + 1)}
    order = torch.randperm(len(train), generator=generator_of(settings.seed, Stream.CLEAN))
    y = train[order[: chosen.clean].to(train.device)]
    keys = [(settings.seed, Stream.TRAINING, k, 2) for k in range(blocks(chosen.particles))]
    x = torch.cat(latent(train, keys))[: chosen.particles]
    pools = {"x": x, "target": torch.zeros_like(x), "y": y}
    return State(pushes, {"adam": follower(pushes, phase, chosen)}, pools, phase)


def follower(networks: dict[str, Any], phase: int, settings: GsMmdSettings) -> Follower:
    name = f"push_{phase}"
    return Follower(name, torch.optim.Adam(networks[name].parameters(), settings.learning_rate))


def blocks(n: int) -> int:
    return math.ceil(n / ROWS)


def latent(train: Tensor, keys: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Draws of N(0, I) in blocks (ROWS, *shape), one for the generator of each key."""
    shape = ROWS, *train.shape[1:]
    return [torch.randn(shape, generator=generator_of(*key)).to(train) for key in keys]


def step(state: State, settings: Settings, dataset: Dataset) -> Numbers:
    """A step of Adam; before the first of a phase the particles flow, by the rules above.

    Tells the squared error and the phase; where the log reads it, too, the energy distance of the
    particles, as the network brings them now, to the data.
    """
    chosen = own(settings)
    phase, inner = divmod(state.step, chosen.phase_steps)
    if inner == 0:
        _begin(state, settings, phase)
    x, target = state.pools["x"], state.pools["target"]
    push, adam = state.networks[f"push_{phase}"], state.followers["adam"].optimizer
    set_rate(adam, chosen.learning_rate * (1 - (1 - LAST_SHARE) * inner / chosen.phase_steps))
    size = min(settings.batch, len(x))
    rows = batch_indices(len(x), size, seed=settings.seed, step=state.step).to(x.device)
    loss = (push(x[rows]) - target[rows]).square().flatten(1).sum(1).mean()
    adam.zero_grad()
    loss.backward()
    adam.step()
    state.step += 1
    state.seen += size
    if state.step % settings.log_every and state.step != settings.steps:
        return {"loss": loss.detach()}
    moved, y = pushed(push, x).flatten(1), state.pools["y"].flatten(1)
    gap = dk.mmd2(moved, y, dk.energy(), backend=settings.backend)
    return {"loss": loss.detach(), "mmd2": gap, "phase": phase}


def _begin(state: State, settings: Settings, phase: int) -> None:
    """Phase k: particles to where the last network brings them, its copy, Adam, and the flow."""
    chosen = own(settings)
    if phase > 0:
        last = state.networks[f"push_{phase - 1}"]
        state.pools["x"] = pushed(last, state.pools["x"])
        state.networks[f"push_{phase}"] = deepcopy(last)
        last.requires_grad_(False)
        state.phase = phase
        state.followers["adam"] = follower(state.networks, phase, chosen)
    count = min(chosen.flow_steps * 2 ** min(phase, 30), chosen.flow_cap)
    x, y = state.pools["x"], state.pools["y"].flatten(1)
    generator = generator_of(settings.seed, Stream.TRAINING, phase, 1)
    ended = flowed(x.flatten(1), y, chosen, count, generator, settings.backend)
    state.pools["target"] = ended.view_as(x)


@torch.no_grad()
def pushed(push: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([push(part) for part in x.split(ROWS)])


@torch.no_grad()
def flowed(
    x: Tensor,
    y: Tensor,
    settings: GsMmdSettings,
    steps: int,
    generator: torch.Generator,
    backend: str,
) -> Tensor:
    """x (N, d) after `steps` steps towards y (M, d).

    Raises:
        FloatingPointError: particles became infinite or NaN.
    """
    if not settings.slices:
        found = dk.flow(
            x,
            y,
            dk.energy(),
            step_size=settings.step_size,
            momentum=settings.momentum,
            steps=steps,
            backend=backend,
        )
        return found.particles
    x, velocity = x.clone(), torch.zeros_like(x)
    for _ in range(steps):
        theta = torch.randn(settings.slices, x.shape[1], generator=generator).to(x)
        slope = sliced_slope(x, y, theta)
        velocity = settings.momentum * velocity + slope
        x -= settings.step_size * velocity
    if not torch.isfinite(x).all():
        raise FloatingPointError("gs_mmd: particles are not finite; take a smaller step_size")
    return x


def sliced_slope(x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """∇f at x (N, d) against y (M, d), by its mean over directions theta (P, d) of any length."""
    (n, d), m = x.shape, len(y)
    theta = theta / theta.norm(dim=1, keepdim=True)
    along, data = theta @ x.T, (theta @ y.T).sort(1).values
    below = torch.searchsorted(data, along).to(x)
    rank = along.argsort(1).argsort(1).to(x)
    derivative = (2 * below - m) / m - (2 * rank - n + 1) / n
    c = math.sqrt(math.pi) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    return c * derivative.T @ theta / len(theta)


def evaluations(settings: Settings, drawing: GsMmdDrawing) -> int:
    """
    Raises:
        SettingsError: the run has fewer phases.
    """
    phases = math.ceil(settings.steps / own(settings).phase_steps)
    if drawing.phases is not None and drawing.phases > phases:
        raise SettingsError(f"phases must be at most the run's {phases}, got {drawing.phases}")
    return drawing.phases or phases


@torch.no_grad()
def draw(
    run: Run, n: int, drawing: GsMmdDrawing, *, seed: int, progress: bool, on_state: OnState
) -> Tensor:
    """See runs.run.draw_samples; on_state is called at the start and after each network."""
    keys = [(seed, Stream.START, k) for k in range(blocks(n))]
    x, scale = latent(run.dataset.train, keys), run.dataset.scale
    flat = lambda: torch.cat(x)[:n] * scale
    on_state("latent", flat())
    count = min(evaluations(run.settings, drawing), run.state.phase + 1)
    for phase in tqdm(range(count), "sampling gs_mmd", disable=not progress):
        x = [run.state.networks[f"push_{phase}"](block) for block in x]
        on_state(f"phase {phase}", flat())
    return flat()


GS_MMD = System(
    name="gs_mmd",
    title="GS-MMD-RK",
    settings=GsMmdSettings,
    drawing=GsMmdDrawing,
    build=build,
    step=step,
    draw=draw,
    draw_each=one_by_one(draw),
    evaluations=evaluations,
    defaults={
        "checkerboard": {
            "features": "mlp",
            "feature_width": 128,
            "mlp_layers": 3,
            "mlp_waves": 3,
            "steps": 8000,
            "batch": 256,
            "log_every": 100,
            "save_every": 1000,
        },
        "digits": {
            "features": "conv",
            "feature_width": 16,
            "clean": 1438,
            "steps": 5000,
            "phase_steps": 500,
            "flow_cap": 200,
            "step_size": 0.5,
            "batch": 100,
            "samples": 400,
            "log_every": 100,
            "save_every": 500,
        },
    },
    variants={"gs_mmd": GsMmdDrawing()},
    preview=GsMmdDrawing(),
    remedy="take a smaller learning_rate or step_size",
)
