"""The MMD flow of Arbel et al. (2019): particles under a fixed kernel. Nothing is trained.

    x ← x - η ∇f(x + β ξ),   f(z) = mean_i k(x_i, z) - mean_j k(y_j, z)

x are N_p particles from N(0, I), y are N_c clean samples, and the noise β at which the gradient is
read falls in proportion to the steps that are left. A step of the run is `flow_steps` of these for
one cloud, the pool of the state, so that a long flow is watched, saved and continued like any
training. Drawn samples flow the same way in clouds of their own: the first cloud of the run's seed
is the pool.

Source: Arbel, Korba, Salim and Gretton, "Maximum mean discrepancy gradient flow", NeurIPS 2019,
equations 12 and 17.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

import dmmd_kernels as dk
from dmmd_kernels.data.batches import Stream, generator_of
from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    Checked,
    Settings,
    SystemSettings,
)
from dmmd_kernels.runs.state import State
from dmmd_kernels.runs.system import Numbers, OnState, System, one_by_one
from dmmd_kernels.systems.step_rule import stable_step

SHOWN = 20  # states on the way of samples that are drawn


@dataclass(frozen=True, kw_only=True)
class MmdFlowSettings(SystemSettings):
    """MMD flow"""

    name = "mmd_flow"

    kernel: Annotated[
        Literal["gaussian", "rational_quadratic", "imq", "laplace", "energy"], "between points"
    ] = "gaussian"
    sigma: Annotated[float, "its width σ (c of imq; energy has none)", POSITIVE] = 0.5
    alpha: Annotated[float, "α of rational_quadratic", POSITIVE] = 1.0
    flow_steps: Annotated[int, "steps of the flow in one step of the run", AT_LEAST_1] = 10
    step_size: Annotated[
        float,
        "c of the step: η = c σ²/mean k(x, x') with gaussian, which diverges near c = e; else η",
        POSITIVE,
    ] = 1.5
    noise: Annotated[
        float, "β before the first step; it falls to 0 in proportion to the steps left", AT_LEAST_0
    ] = 0.0
    particles: Annotated[int, "N_p, particles that flow together", AT_LEAST_1] = 200
    clean: Annotated[int, "N_c, clean samples they flow to, drawn once", AT_LEAST_1] = 2000

    @property
    def fixes_steps(self) -> bool:
        return self.noise > 0


@dataclass(frozen=True, kw_only=True)
class MmdFlowDrawing(Checked):
    """How samples are drawn; what is left out is as the run says"""

    particles: Annotated[int | None, "N_p, particles of a cloud", AT_LEAST_1] = None
    steps: Annotated[int | None, "steps of the flow", AT_LEAST_1] = None


def own(settings: Settings) -> MmdFlowSettings:
    """Those of the MMD flow among the settings of a run."""
    assert isinstance(settings.system, MmdFlowSettings)
    return settings.system


def kernel_of(settings: MmdFlowSettings) -> dk.Kernel:
    makers: dict[str, Callable[[], dk.Kernel]] = {
        "gaussian": lambda: dk.gaussian(settings.sigma),
        "rational_quadratic": lambda: dk.rational_quadratic(settings.alpha, settings.sigma),
        "imq": lambda: dk.imq(settings.sigma),
        "laplace": lambda: dk.laplace(settings.sigma),
        "energy": lambda: dk.energy(),
    }
    return makers[settings.kernel]()


def build(settings: Settings, dataset: Dataset, phase: int = 0) -> State:
    """No network: the particles x (N_p, d), the clean samples y (N_c, d)."""
    train, chosen = dataset.train, own(settings)
    order = torch.randperm(len(train), generator=generator_of(settings.seed, Stream.CLEAN))
    y = train[order[: chosen.clean].to(train.device)].flatten(1)
    return State({}, pools={"x": start(y, 1, chosen.particles, settings.seed)[0], "y": y})


def start(y: Tensor, clouds: int, particles: int, seed: int) -> Tensor:
    """Z ~ N(0, I), (clouds, N_p, d), each cloud from a generator of its own."""
    shape = particles, y.shape[1]
    keys = [(seed, Stream.START, cloud) for cloud in range(clouds)]
    return torch.stack([torch.randn(shape, generator=generator_of(*key)) for key in keys]).to(y)


def step(state: State, settings: Settings, dataset: Dataset) -> Numbers:
    """`flow_steps` steps of the pool. Where the log reads it: MMD² of the pool to the data."""
    chosen, y = own(settings), state.pools["y"]
    first = state.step * chosen.flow_steps
    state.pools["x"] = flowed(
        state.pools["x"][None], y, settings, first, chosen.flow_steps, settings.seed
    )[0]
    state.step += 1
    if state.step % settings.log_every and state.step != settings.steps:
        return {}
    gap = dk.mmd2(state.pools["x"], y, kernel_of(chosen), backend=settings.backend)
    return {"mmd2": gap, "noise": noise_at(settings, first + chosen.flow_steps - 1)}


def noise_at(settings: Settings, at: int) -> float:
    """β of the step `at` of the flow, counted from 0."""
    total = settings.steps * own(settings).flow_steps
    return own(settings).noise * max(0.0, 1 - at / total)


def flowed(
    x: Tensor,
    y: Tensor,
    settings: Settings,
    first: int,
    steps: int,
    seed: int,
    callback: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """x (clouds, N_p, d) after `steps` steps of the flow, the first of which has number `first`.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the step.
    """
    chosen, kernel = own(settings), kernel_of(own(settings))
    eta = chosen.step_size
    if chosen.kernel == "gaussian":
        eta *= stable_step(y, kernel, backend=settings.backend)
    noise = [noise_at(settings, first + at) for at in range(steps)] if chosen.noise else 0.0
    how: dict[str, Any] = {"callback": callback, "callback_every": max(1, steps // SHOWN)}
    try:
        return dk.flow(
            x,
            y,
            kernel,
            step_size=eta,
            steps=steps,
            noise=noise if isinstance(noise, float) else torch.tensor(noise),
            seed=seed,
            first_step=first,
            backend=settings.backend,
            **(how if callback else {}),
        ).particles
    except dk.FlowError as error:
        raise FloatingPointError(
            f"mmd_flow: particles are not finite after step {error.step}; take a smaller step_size"
        ) from error


def draw(
    run: Run, n: int, drawing: MmdFlowDrawing, *, seed: int, progress: bool, on_state: OnState
) -> Tensor:
    """See runs.run.draw_samples; on_state is called at the start and some twenty times after."""
    chosen, y = own(run.settings), run.state.pools["y"]
    particles = drawing.particles or chosen.particles
    steps = drawing.steps or run.settings.steps * chosen.flow_steps
    shape = run.dataset.train.shape[1:]
    flat = lambda z: z.flatten(0, 1)[:n].unflatten(1, shape) * run.dataset.scale
    z = start(y, math.ceil(n / particles), particles, seed)
    on_state("step 0", flat(z))
    with tqdm(total=steps, desc="sampling mmd_flow", disable=not progress) as bar:

        def reached(step: int, z: Tensor) -> None:
            bar.update(step - bar.n)
            on_state(f"step {step}", flat(z))

        z = flowed(z, y, run.settings, 0, steps, seed, reached)
        bar.update(steps - bar.n)
    return flat(z)


MMD_FLOW = System(
    name="mmd_flow",
    title="MMD flow",
    settings=MmdFlowSettings,
    drawing=MmdFlowDrawing,
    build=build,
    step=step,
    draw=draw,
    draw_each=one_by_one(draw),
    evaluations=lambda settings, drawing: 0,
    defaults={"checkerboard": {"steps": 100, "log_every": 1, "save_every": 20}},
    variants={"mmd_flow": MmdFlowDrawing()},
    preview=MmdFlowDrawing(),
    remedy="take a smaller step_size",
)
