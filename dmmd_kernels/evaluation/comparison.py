"""Samples in the plane against fresh data; of DMMD beside flows with a width chosen by hand.

Those flows start from the same particles, flow to the same clean samples for the same number of
steps, and use the same rule for the step size (samplers.step_length), so each takes steps equally
bold for its own kernel. The table gives, against fresh data:

    energy      2 E|x - y| - E|x - x'| - E|y - y'|, pairs i = i included, so that two fresh samples
                of the data are at a positive distance: the floor to compare with
    mmd2        unbiased MMD², Gaussian kernel of half a square's side; 0 for the data itself
    inside      share of the samples on the dark squares
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import dmmd_kernels as dk
from dmmd_kernels import data, metrics
from dmmd_kernels.data.batches import Stream, generator_of
from dmmd_kernels.runs.run import Run, draw_samples
from dmmd_kernels.systems.dmmd.deep_kernel import NoiseConditional
from dmmd_kernels.systems.dmmd.draws import planned
from dmmd_kernels.systems.dmmd.level_data import LevelData
from dmmd_kernels.systems.dmmd.samplers import adaptive_flow
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing, DmmdSettings

# σ in the coordinates of the model, t → σ(t): the comparisons of the paper's 2-D experiment.
BY_HAND: dict[str, Callable[[Tensor], Tensor]] = {
    "fixed_0.1": lambda t: torch.full_like(t, 0.1),
    "fixed_0.5": lambda t: torch.full_like(t, 0.5),
    "linear": lambda t: 0.1 * (1 - t) + 0.5 * t,
}
FRESH_SETS = 10


class FixedWidth:
    """k(x, y; t): a Gaussian of width σ(t) given by hand, on the points themselves."""

    on_points = True

    def __init__(self, sigma: Callable[[Tensor], Tensor]) -> None:
        self.sigma = sigma

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """x (T, B, d) → (T, B, d)"""
        return x.flatten(2)

    def kernel(self, t: Tensor) -> dk.Kernel:
        return dk.gaussian(self.sigma(t))


class Scores(NamedTuple):
    """One row of the table."""

    energy: float
    mmd2: float
    inside: float


class Flows(NamedTuple):
    """The flows of DMMD and of widths by hand.

    Attributes:
        samples: (n, 2) of each, in the coordinates of the data.
        t: noise levels (T,), from high to low.
        sigma: σ(t) of each, (T,), in the coordinates of the model.
        mmd2: of each, biased MMD²(P_t, P; t) of all particles after each level against the clean
            samples, with the learned kernel of that level, (T,).
    """

    samples: dict[str, Tensor]
    t: np.ndarray
    sigma: dict[str, np.ndarray]
    mmd2: dict[str, np.ndarray]


class Comparison(NamedTuple):
    """What was found.

    Attributes:
        samples: (n, 2) of each method, and of the data, in the coordinates of the data.
        scores: of each method, and of fresh data against other fresh data ("data").
        flows: of DMMD.
    """

    samples: dict[str, Tensor]
    scores: dict[str, Scores]
    flows: Flows | None


def score(samples: Tensor, fresh: list[Tensor]) -> Scores:
    """Means over several fresh data sets, all in the coordinates of the data."""
    kernel = dk.gaussian(0.5)
    distances = [metrics.energy_distance(samples, y, estimator="biased") for y in fresh]
    gaps = [dk.mmd2(samples, y, kernel).item() for y in fresh]
    inside = data.inside_checkerboard(samples)
    return Scores(math.fsum(distances) / len(fresh), math.fsum(gaps) / len(fresh), inside)


def compare(run: Run, *, progress: bool = False) -> Comparison:
    """Draws samples of the run, of DMMD with its flows by hand, and scores them."""
    settings, chosen = run.settings, run.settings.system
    keys = [(settings.seed, Stream.FRESH, 1 + i) for i in range(FRESH_SETS)]
    fresh = [data.checkerboard(settings.samples, generator_of(*key)) for key in keys]
    flows = None
    if isinstance(chosen, DmmdSettings) and chosen.kernel != "linear":
        flows = flows_of(run, progress=progress)
        samples = dict(flows.samples)
    else:
        samples = {run.system.name: draw_samples(run, settings.samples, progress=progress)}
    samples = {name: points.cpu() for name, points in samples.items()}
    scores = {name: score(points, fresh) for name, points in samples.items()}
    floors = [score(x, [y]) for x, y in itertools.pairwise([*fresh, fresh[0]])]
    scores["data"] = Scores(
        *(math.fsum(column) / len(floors) for column in zip(*floors, strict=True))
    )
    return Comparison(samples | {"data": fresh[0]}, scores, flows)


@torch.no_grad()
def flows_of(run: Run, *, progress: bool = False) -> Flows:
    """The flow of a trained kernel on points, and those of widths by hand from the same start."""
    settings, data_of_run = run.settings, LevelData.of(run)
    plan, deep, x_0 = (
        planned(settings, DmmdDrawing()),
        data_of_run.deep,
        data_of_run.clean_samples(),
    )
    clouds = math.ceil(settings.samples / plan.particles)
    generator = generator_of(0, Stream.START)
    start = torch.randn(clouds, plan.particles, 2, generator=generator).to(x_0)
    methods: dict[str, NoiseConditional] = {"dmmd": deep}
    methods |= {name: FixedWidth(sigma) for name, sigma in BY_HAND.items()}
    found: dict[str, Tensor] = {}
    curves: dict[str, np.ndarray] = {}
    for name, method in methods.items():
        steps = adaptive_flow(
            method, start, x_0, plan.ts, plan.step, plan.steps, backend=settings.backend
        )
        bar = tqdm(steps, f"sampling {name}", len(plan.ts), disable=not progress, leave=False)
        gaps = []
        for t, z in bar:
            kernel = deep.kernel(torch.tensor(t, device=z.device))
            gaps.append(dk.mmd2(z.flatten(0, 1), x_0, kernel, estimator="biased").item())
        found[name] = z.flatten(0, 1)[: settings.samples] * run.dataset.scale
        curves[name] = np.array(gaps)
    assert deep.width is not None, "a linear kernel has no place among these"
    widths: dict[str, Callable[[Tensor], Tensor]] = {"dmmd": deep.width, **BY_HAND}
    ts = torch.tensor(plan.ts)
    sigma = {name: width(ts.to(x_0)).cpu().numpy() for name, width in widths.items()}
    return Flows(found, ts.numpy(), sigma, curves)


def table(scores: dict[str, Scores]) -> str:
    """The table as text, the floor last."""
    floor = scores["data"].energy
    lines = [f"{'':<12}{'energy':>10}{'/ floor':>9}{'mmd2':>12}{'inside':>9}"]
    for name, row in scores.items():
        label = "data (floor)" if name == "data" else name
        lines.append(
            f"{label:<12}{row.energy:>10.5f}{row.energy / floor:>9.2f}{row.mmd2:>12.6f}"
            f"{row.inside:>9.3f}"
        )
    return "\n".join(lines)
