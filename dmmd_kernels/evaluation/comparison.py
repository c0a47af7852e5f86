"""The paper's 2-D comparison: the noise-adaptive flow against flows with a width chosen by hand.

Every method starts from the same particles, flows to the same clean samples for the same number of
steps, and uses the same rule for its step size (sample.step_length), so each takes steps equally
bold for its own kernel. The table gives, against fresh data:

    energy      2 E|x - y| - E|x - x'| - E|y - y'|, pairs i = i included, so that two fresh samples
                of the data are at a positive distance: the floor to compare with
    mmd2        unbiased MMD², Gaussian kernel of half a square's side; 0 for the data itself
    inside      share of the samples on the dark squares
"""

import itertools
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import dmmd_kernels as dk
from dmmd_kernels import data, metrics
from dmmd_kernels.data import generator_of
from dmmd_kernels.data.diffusion import levels
from dmmd_kernels.runs.run import FRESH, START, Run
from dmmd_kernels.systems.dmmd.level_data import clean_samples
from dmmd_kernels.systems.dmmd.losses import NoiseConditional
from dmmd_kernels.systems.dmmd.samplers import adaptive_flow

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


class Comparison(NamedTuple):
    """What the evaluation found, in the coordinates of the data.

    Attributes:
        samples: (n, 2) of each method, and of the data.
        scores: of each method, and of fresh data against other fresh data ("data").
        t: noise levels (T,), from high to low.
        sigma: σ(t) of each method, (T,).
        mmd2: of each method, biased MMD²(P_t, P; t) of all particles after each level against the
            clean samples, with the learned kernel of that level, (T,).
    """

    samples: dict[str, np.ndarray]
    scores: dict[str, Scores]
    t: np.ndarray
    sigma: dict[str, np.ndarray]
    mmd2: dict[str, np.ndarray]


def score(samples: Tensor, fresh: list[Tensor]) -> Scores:
    """Means over several fresh data sets, all in the coordinates of the data."""
    kernel = dk.gaussian(0.5)
    distances = [metrics.energy_distance(samples, y, estimator="biased") for y in fresh]
    gaps = [dk.mmd2(samples, y, kernel).item() for y in fresh]
    inside = data.inside_checkerboard(samples)
    return Scores(math.fsum(distances) / len(fresh), math.fsum(gaps) / len(fresh), inside)


@torch.no_grad()
def compare(run: Run, *, progress: bool = False) -> Comparison:
    """Runs every method and scores it."""
    settings, scale = run.settings, run.dataset.scale
    x_0 = clean_samples(run)
    clouds = math.ceil(settings.samples / settings.particles)
    start = torch.randn(clouds, settings.particles, 2, generator=generator_of(0, START)).to(x_0)
    ts = levels(settings.t_max, settings.t_min, settings.sample_levels)
    methods: dict[str, NoiseConditional] = {"dmmd": run.deep}
    methods |= {name: FixedWidth(sigma) for name, sigma in BY_HAND.items()}
    keys = [(settings.seed, FRESH, 1 + i) for i in range(FRESH_SETS)]
    fresh = [data.checkerboard(settings.samples, generator_of(*key)).to(x_0) for key in keys]
    samples: dict[str, Tensor] = {}
    scores: dict[str, Scores] = {}
    curves: dict[str, list[float]] = {}
    for name, deep in methods.items():
        curves[name] = []
        steps = adaptive_flow(deep, start, x_0, settings, ts.tolist())
        for t, z in tqdm(steps, f"sampling {name}", len(ts), disable=not progress, leave=False):
            kernel = run.deep.kernel(torch.tensor(t, device=z.device))
            gap = dk.mmd2(z.flatten(0, 1), x_0, kernel, estimator="biased")
            curves[name].append(gap.item())
        samples[name] = z.flatten(0, 1)[: settings.samples] * scale
        scores[name] = score(samples[name], fresh)
    samples["data"] = fresh[0]
    floors = [score(x, [y]) for x, y in itertools.pairwise([*fresh, fresh[0]])]
    scores["data"] = Scores(
        *(math.fsum(column) / len(floors) for column in zip(*floors, strict=True))
    )
    assert run.deep.width is not None, "a linear kernel has no place in this comparison"
    widths: dict[str, Callable[[Tensor], Tensor]] = {"dmmd": run.deep.width, **BY_HAND}
    sigma = {name: width(ts.to(x_0)).cpu().numpy() for name, width in widths.items()}
    return Comparison(
        {name: points.cpu().numpy() for name, points in samples.items()},
        scores,
        ts.numpy(),
        sigma,
        {name: np.array(curve) for name, curve in curves.items()},
    )


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


def evaluate(run: Run) -> None:
    """Compares, prints the table, writes samples.npz, scores.json and figure.png."""
    from dmmd_kernels.evaluation.figures import comparison_figure

    found = compare(run, progress=True)
    arrays: dict[str, Any] = dict(found.samples)
    np.savez(run.folder / "samples.npz", **arrays)
    rows = {name: row._asdict() for name, row in found.scores.items()}
    (run.folder / "scores.json").write_text(json.dumps(rows, indent=2) + "\n")
    comparison_figure(run.folder / "figure.png", found)
    tqdm.write(table(found.scores))
    tqdm.write(f"samples, scores and figure are in {run.folder}")
