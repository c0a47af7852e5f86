"""Samples by the flows of the noise-adaptive witness, all of them steps Z ← Z - η ∇f(Z, t).

    dmmd      N_p particles flow together, f their witness against clean data (Algorithm 2)
    a_dmmd    f̂ of noised against clean data instead, tables made once: each particle by itself
    dmmd_e    dmmd, then two steps at the last level at a higher rate
    a_dmmd_a  a_dmmd, then two such steps along f̂
    a_dmmd_e  a_dmmd, then two such steps along f of the particle alone, N_p = 1

Particles begin at N(0, I); t falls from t_max to t_min. ⌈n / N_p⌉ clouds flow to the same clean
samples and do not feel each other, so sample i does not depend on n.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.data.batches import Stream, generator_of
from dmmd_kernels.data.diffusion import levels
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.runs.system import OnState
from dmmd_kernels.systems.dmmd.level_data import LevelData
from dmmd_kernels.systems.dmmd.samplers import (
    ROWS,
    Level,
    Slope,
    Step,
    adaptive_flow,
    alone_slope,
    approximate_slope,
    descend,
    energy_level,
    exact_slope,
    flow_of_features,
)
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing
from dmmd_kernels.systems.dmmd.training import own

FINAL_STEPS = 2
# c of f̂'s steps in units of the run's step_size: f̂ never comes to rest and overshoots with the
# steps of the exact flow. Then c of the last two steps of a_dmmd_a and a_dmmd_e, in the same units;
# that of dmmd_e is the setting final_rate. All chosen on digits with one seed (docs/method.md).
APPROXIMATE_RATE = 0.25
FINAL_RATE = 1.0
# The most of dmmd_e with energy_below: 100 would blur what that flow has sharpened.
FINAL_RATE_AFTER_ENERGY = 10.0


class Method(NamedTuple):
    """A sampler: the slope followed along the levels, and in two steps after them, if any.

    Attributes:
        body: from t_max down to t_min.
        final: in FINAL_STEPS steps at t_min, with a rate η_final of their own.
    """

    body: Slope
    final: Slope | None = None


METHODS = {
    "dmmd": Method(exact_slope),
    "dmmd_e": Method(exact_slope, exact_slope),
    "a_dmmd": Method(approximate_slope),
    "a_dmmd_a": Method(approximate_slope, approximate_slope),
    "a_dmmd_e": Method(approximate_slope, alone_slope),
}


class Plan(NamedTuple):
    """A drawing in numbers.

    Attributes:
        body, final: the slopes of the method.
        ts: noise levels, falling.
        t_min: that of the last two steps.
        steps: N_s.
        particles: N_p.
        step: η along the levels.
        final_step: η of the last two steps.
        energy_below: the level below which `body` is that of an energy kernel, if it is exact.
        energy_step: c of the steps there.
        rows: images in the network at once.
    """

    body: Slope
    final: Slope | None
    ts: tuple[float, ...]
    t_min: float
    steps: int
    particles: int
    step: Step
    final_step: Step
    energy_below: float
    energy_step: float
    rows: int

    @property
    def way(self) -> "Plan":
        """What the flow along the levels follows from: the same for methods that share it."""
        return self._replace(final=None, final_step=Step(0.0))


def planned(settings: Settings, drawing: DmmdDrawing) -> Plan:
    """
    Raises:
        SettingsError: nfe is no multiple of the levels, or t_max lies below t_min.
    """
    run, method = own(settings), METHODS[drawing.method or "dmmd"]
    count, t_max = drawing.levels or run.sample_levels, drawing.t_max or run.t_max
    below = run.energy_below if drawing.energy_below is None else drawing.energy_below
    if t_max < run.t_min:
        raise SettingsError(f"t_max must be at least t_min = {run.t_min}, got {t_max}")
    if below != 0 and run.features == "identity":
        raise SettingsError(f"energy_below must be 0 without a feature network, got {below}")
    usual = run.step_size * (1.0 if method.body is exact_slope else APPROXIMATE_RATE)
    is_stable = run.step_rule == "stable"
    rate = FINAL_RATE if method.body is approximate_slope else run.final_rate
    if method.body is exact_slope and below > run.t_min:
        rate = min(rate, FINAL_RATE_AFTER_ENERGY)
    return Plan(
        *method,
        tuple(levels(t_max, run.t_min, count).tolist()),
        run.t_min,
        _steps_of_level(settings, drawing, count),
        drawing.particles or run.particles,
        Step(drawing.step_size or usual, is_stable),
        Step(drawing.eta_final or run.step_size * rate, is_stable),
        below,
        run.energy_step,
        drawing.rows or ROWS,
    )


def _steps_of_level(settings: Settings, drawing: DmmdDrawing, levels: int) -> int:
    if drawing.nfe is None:
        return drawing.steps or own(settings).sample_steps
    count, rest = divmod(drawing.nfe, levels)
    if drawing.steps is not None or rest or count < 1:
        raise SettingsError(
            f"nfe must be a multiple of the {levels} levels, without --steps; "
            f"got {drawing.nfe} and {drawing.steps}; give --levels, too"
        )
    return count


def evaluations(settings: Settings, drawing: DmmdDrawing) -> int:
    """NFE, how often a particle goes through the network: T N_s, and 2 of the last steps."""
    plan = planned(settings, drawing)
    return len(plan.ts) * plan.steps + (FINAL_STEPS if plan.final is not None else 0)


def draw(
    run: Run, n: int, drawing: DmmdDrawing, *, seed: int, progress: bool, on_state: OnState
) -> Tensor:
    """See runs.run.draw_samples; on_state is called at the start, after each level, and last."""
    plan, data = planned(run.settings, drawing), LevelData.of(run)
    z = start(run, n, seed, plan.particles)
    show = lambda t, z: on_state(f"t = {t:.2f}", _flat(run, z, n))
    show(plan.ts[0], z)
    name = f"sampling {drawing.method or 'dmmd'}"
    way = along(data, z, plan)
    for t, z in tqdm(way, name, len(plan.ts), disable=not progress):
        show(t, z)
    if plan.final is not None:
        z = finish(data, z, plan)
        show(plan.t_min, z)
    return _flat(run, z, n)


def draw_each(
    run: Run, n: int, drawings: Mapping[str, DmmdDrawing], *, seed: int, progress: bool
) -> dict[str, Tensor]:
    """`draw` of each; a way along the levels that several go is gone once."""
    data = LevelData.of(run)
    ends: dict[Plan, Tensor] = {}
    found = {}
    for name, drawing in drawings.items():
        plan = planned(run.settings, drawing)
        if plan.way not in ends:
            z = start(run, n, seed, plan.particles)
            bar = tqdm(
                along(data, z, plan),
                f"{name}, seed {seed}",
                len(plan.ts),
                leave=False,
                disable=not progress,
            )
            *_, (_, ends[plan.way]) = bar
        z = ends[plan.way]
        found[name] = _flat(run, z if plan.final is None else finish(data, z, plan), n)
    return found


def _flat(run: Run, z: Tensor, n: int) -> Tensor:
    """The first n particles of clouds, in the coordinates of the data."""
    return z.flatten(0, 1)[:n] * run.dataset.scale


def start(run: Run, n: int, seed: int, particles: int) -> Tensor:
    """Z ~ N(0, I) in whole clouds, (⌈n / N_p⌉, N_p, *shape), each from a generator of its own."""
    train = run.dataset.train
    shape = particles, *train.shape[1:]
    keys = [(seed, Stream.START, cloud) for cloud in range(math.ceil(n / particles))]
    return torch.stack([torch.randn(shape, generator=generator_of(*key)) for key in keys]).to(train)


def along(data: LevelData, z: Tensor, plan: Plan) -> Iterator[tuple[float, Tensor]]:
    """The flow along the levels: yields (t, z (clouds, N_p, *shape)) after each.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    if plan.body is exact_slope and data.deep.on_points:
        x_0, ts = data.clean_samples(), plan.ts
        return adaptive_flow(data.deep, z, x_0, ts, plan.step, plan.steps, backend=data.backend)
    if plan.body is exact_slope:
        found = _particle_levels(data, plan)
    else:
        found = data.levels(plan.ts, plan.step, noised=True, rows=plan.rows)
    return flow_of_features(
        data.deep, z, found, plan.body, plan.steps, backend=data.backend, rows=plan.rows
    )


def _particle_levels(data: LevelData, plan: Plan) -> Iterator[Level]:
    """The Level of each t for flows of particles: `energy_level` below energy_below."""
    above: Sequence[float] = [t for t in plan.ts if t >= plan.energy_below]
    if above:
        yield from data.levels(above, plan.step, noised=False, rows=plan.rows)
    for t in plan.ts[len(above) :]:
        x_0 = data.clean_samples()
        yield energy_level(data.deep, plan.energy_step, t, x_0, rows=plan.rows)


@torch.no_grad()
def finish(data: LevelData, z: Tensor, plan: Plan) -> Tensor:
    """z after the method's last two steps at t_min.

    Raises:
        FloatingPointError: particles became infinite or NaN.
    """
    assert plan.final is not None, "a plan without last steps"
    noised = plan.final is approximate_slope
    (level,) = data.levels([plan.t_min], plan.final_step, noised=noised, rows=plan.rows)
    z = z.clone()
    descend(data.deep, z, level, plan.final, FINAL_STEPS, backend=data.backend, rows=plan.rows)
    return z
