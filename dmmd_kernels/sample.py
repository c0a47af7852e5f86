"""Samples from a trained run by the flows of its noise-adaptive witness (DMMD).

python -m dmmd_kernels.sample --checkpoint runs/checkerboard --n 1000 --out samples.npz
python -m dmmd_kernels.sample --checkpoint runs/digits --n 100 --method a_dmmd_e --out digits.png
python -m dmmd_kernels.sample --checkpoint runs/digits --n 100 --out x.png --trajectory x.gif

methods, all of them steps Z ← Z - η ∇f(Z, t) on noise levels t that fall:
  dmmd      N_p particles flow together, f their witness against clean data (Algorithm 2)
  a_dmmd    f̂ of noised against clean data instead, tables made once: each particle by itself
  dmmd_e    dmmd, then two steps at the last level at a higher rate
  a_dmmd_a  a_dmmd, then two such steps along f̂
  a_dmmd_e  a_dmmd, then two such steps along f of the particle alone, N_p = 1

Sample i follows from the run, the method and its settings, the seed, and i: not from how many
are drawn.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.data import generator_of, tile, write_grid
from dmmd_kernels.data.diffusion import levels
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.run import START, Run, load_run
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.systems.dmmd.level_data import clean_samples, particle_sides, sides
from dmmd_kernels.systems.dmmd.samplers import (
    FINAL_STEPS,
    METHODS,
    ROWS,
    adaptive_flow,
    approximate_slope,
    descend,
    exact_slope,
    flow_of_features,
)

# What `open_run` raises that a user can mend; the last two: a data set or a library is missing.
OPEN_ERRORS = (CheckpointError, SettingsError, FileNotFoundError, ImportError)
OnLevel = Callable[[float, Tensor], None]
# c of f̂'s steps in units of settings.step_size: f̂ never comes to rest and overshoots with the steps
# of the exact flow. Then c of the last two steps of a_dmmd_a and a_dmmd_e, in the same units; that
# of dmmd_e is settings.final_rate. All chosen on digits with one seed (docs/method.md).
APPROXIMATE_RATE = 0.25
FINAL_RATE = 1.0
# The most of dmmd_e with energy_below: 100 would blur what that flow has sharpened.
FINAL_RATE_AFTER_ENERGY = 10.0


def draw_samples(
    run: Run,
    n: int,
    *,
    method: str = "dmmd",
    step_size: float | None = None,
    eta_final: float | None = None,
    seed: int = 0,
    rows: int = ROWS,
    progress: bool = False,
    on_level: OnLevel | None = None,
) -> Tensor:
    """n samples, (n, *shape), in the coordinates of the data.

    ⌈n / N_p⌉ clouds of N_p particles flow to the same clean samples; clouds do not feel each
    other, and sample i does not depend on n.

    Args:
        run: see load_run. Its settings give levels, steps, N_p and η.
        n: how many.
        method: one of METHODS.
        step_size: c of the steps, see settings.step_rule; when None that of the settings, times
            APPROXIMATE_RATE where the method follows f̂.
        eta_final: c of the last two steps; `final_step` when None.
        seed: of the particles; the clean samples belong to the run.
        rows: images that go through the network at once; fewer than N_p cost one more pass.
        progress: show a progress bar.
        on_level: called with (t, samples) after the start, each level, and the last steps.

    Raises:
        ValueError: there is no such method, or n is not positive.
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    if method not in METHODS or n < 1:
        raise ValueError(
            f"draw_samples: n must be positive and method one of {', '.join(METHODS)}, "
            f"got {n} and {method!r}"
        )
    settings, z = run.settings, start(run, n, seed)
    tell = on_level or (lambda t, samples: None)
    show = lambda t, z: tell(t, z.flatten(0, 1)[:n] * run.dataset.scale)
    show(settings.t_max, z)
    steps = body(run, z, method, step_size, rows=rows)
    bar = tqdm(steps, f"sampling {method}", settings.sample_levels, disable=not progress)
    for t, z in bar:
        show(t, z)
    if METHODS[method].final is not None:
        z = finish(run, z, method, eta_final, rows=rows)
        show(settings.t_min, z)
    return z.flatten(0, 1)[:n] * run.dataset.scale


def start(run: Run, n: int, seed: int) -> Tensor:
    """Z ~ N(0, I) in whole clouds, (⌈n / N_p⌉, N_p, *shape), each from a generator of its own."""
    settings, train = run.settings, run.dataset.train
    shape = settings.particles, *train.shape[1:]
    keys = [(seed, START, cloud) for cloud in range(math.ceil(n / settings.particles))]
    return torch.stack([torch.randn(shape, generator=generator_of(*key)) for key in keys]).to(train)


def noise_levels(settings: Settings) -> list[float]:
    return levels(settings.t_max, settings.t_min, settings.sample_levels).tolist()


def body(
    run: Run, z: Tensor, method: str, step_size: float | None = None, *, rows: int = ROWS
) -> Iterator[tuple[float, Tensor]]:
    """The flow of the method along the levels: yields (t, z (clouds, N_p, *shape)) after each."""
    settings, slope = run.settings, METHODS[method].body
    exact = slope is exact_slope
    usual = settings.step_size * (1.0 if exact else APPROXIMATE_RATE)
    settings = replace(settings, step_size=usual if step_size is None else step_size)
    run, ts = replace(run, settings=settings), noise_levels(settings)
    if exact and run.deep.on_points:
        return adaptive_flow(run.deep, z, clean_samples(run), settings, ts)
    found = particle_sides(run, ts, rows=rows) if exact else sides(run, ts, noised=True, rows=rows)
    return flow_of_features(run.deep, z, found, slope, settings, rows)


@torch.no_grad()
def finish(
    run: Run, z: Tensor, method: str, eta_final: float | None = None, *, rows: int = ROWS
) -> Tensor:
    """z after the method's last two steps at t_min, with η of c = eta_final; see draw_samples."""
    chosen = METHODS[method]
    assert chosen.final is not None, f"{method} has no last steps"
    c = final_step(run.settings, method) if eta_final is None else eta_final
    run = replace(run, settings=replace(run.settings, step_size=c))
    noised = chosen.final is approximate_slope
    (level,) = sides(run, [run.settings.t_min], noised=noised, rows=rows)
    z = z.clone()
    how = {"backend": run.settings.backend, "rows": rows}
    descend(run.deep, z, level, chosen.final, FINAL_STEPS, **how)
    return z


def final_step(settings: Settings, method: str) -> float:
    """c of the last two steps of the method where none is given."""
    rate = settings.final_rate if method == "dmmd_e" else FINAL_RATE
    if method == "dmmd_e" and settings.energy_below > settings.t_min:
        rate = min(rate, FINAL_RATE_AFTER_ENERGY)
    return settings.step_size * rate


def evaluations(settings: Settings, method: str) -> int:
    """NFE, how often a particle goes through the network: T N_s, and 2 of the last steps."""
    last = FINAL_STEPS if METHODS[method].final is not None else 0
    return settings.sample_levels * settings.sample_steps + last


def write_samples(path: Path, samples: Tensor) -> None:
    """An array `samples` in a .npz file; a picture, grid or scatter, where `path` ends in .png.

    Raises:
        ValueError: another ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[], None]] = {
        ".npz": lambda: np.savez(path, samples=samples.cpu().numpy()),
        ".png": lambda: _picture(path, samples),
    }
    if path.suffix not in writers:
        raise ValueError(f"sample: --out must end in .npz or .png, got {path}")
    writers[path.suffix]()


def _picture(path: Path, samples: Tensor) -> None:
    if samples.ndim == 4:
        write_grid(path, samples)
    else:
        from dmmd_kernels.evaluation.figures import scatter

        scatter(path, samples.cpu().numpy())


def write_trajectory(path: Path, states: list[tuple[float, Tensor]], shown: int = 100) -> None:
    """A .gif of the first samples at each level, the last one shown longest."""
    from PIL import Image

    frames = [Image.fromarray(frame) for frame in map(_frame(states, shown), states)]
    pause = [200] * (len(frames) - 1) + [1500]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pause, loop=0)


def _frame(states: list[tuple[float, Tensor]], shown: int):
    """(t, samples) → pixels."""
    last = states[-1][1]
    if last.ndim == 4:
        zoom = max(1, 400 // (10 * last.shape[-1]))
        enlarge = lambda sheet: sheet.repeat(zoom, 0).repeat(zoom, 1)
        return lambda state: enlarge(np.squeeze(tile(state[1][:shown])))
    from dmmd_kernels.evaluation.figures import scatter_pixels

    limit = 1.5 * last.abs().max().item()
    return lambda state: scatter_pixels(state[1].cpu().numpy(), f"t = {state[0]:.2f}", limit)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m dmmd_kernels.sample",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="folder of a run or of a checkpoint")
    add("--n", type=int, default=1000, help="how many samples (1000)")
    add("--out", required=True, type=Path, help="a .npz file, or a .png picture")
    add("--trajectory", type=Path, help="a .gif of the first samples on their way")
    add_sampling(parser)
    add("--seed", type=int, default=0, help="of the particles (0)")
    return parser


def add_sampling(parser: argparse.ArgumentParser, method: str | None = "dmmd") -> None:
    """The options that say how samples are drawn; what is left out is as the run says."""
    add = parser.add_argument
    add("--method", choices=METHODS, default=method, help="see above")
    add("--levels", type=int, help="T, noise levels from t_max to t_min")
    add("--steps", type=int, help="N_s, steps at each level")
    add("--t_max", type=float, help="the level to begin at")
    add("--energy_below", type=float, help="level below which particles flow by an energy kernel")
    add("--nfe", type=int, help="T N_s instead: N_s is nfe / T; the last two steps come on top")
    add("--particles", type=int, help="N_p, particles of a cloud")
    add("--step_size", type=float, help="c of the step η; as the run says, a quarter for a_...")
    add(
        "--eta_final", type=float, help="c of the last two steps; a multiple of the run's step_size"
    )
    add("--rows", type=int, default=ROWS, help=f"images in the network at once ({ROWS})")
    add("--device", default="auto", help="cpu, cuda, or auto")
    add("--backend", default="auto", help="of the ops")


def open_run(checkpoint: str, chosen: argparse.Namespace) -> Run:
    """The run at the checkpoint, its settings changed by the options of `add_sampling`.

    Raises:
        CheckpointError, SettingsError: see load_run; the options do not fit.
    """
    run = load_run(checkpoint, chosen.device)
    wanted = {
        "sample_levels": chosen.levels,
        "sample_steps": chosen.steps,
        "particles": chosen.particles,
        "t_max": chosen.t_max,
        "energy_below": chosen.energy_below,
        "backend": chosen.backend,
    }
    settings = replace(run.settings, **{k: v for k, v in wanted.items() if v is not None})
    if chosen.nfe is not None:
        count, rest = divmod(chosen.nfe, settings.sample_levels)
        if chosen.steps is not None or rest or count < 1:
            raise SettingsError(
                f"nfe must be a multiple of the {settings.sample_levels} levels, without --steps; "
                f"got {chosen.nfe} and {chosen.steps}; give --levels, too"
            )
        settings = replace(settings, sample_steps=count)
    return replace(run, settings=settings)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    if chosen.n < 1 or chosen.rows < 1 or chosen.out.suffix not in (".npz", ".png"):
        parser.error("--n and --rows must be at least 1 and --out must end in .npz or .png")
    if chosen.trajectory is not None and chosen.trajectory.suffix != ".gif":
        parser.error(f"--trajectory must end in .gif, got {chosen.trajectory}")
    try:
        run = open_run(chosen.checkpoint, chosen)
    except OPEN_ERRORS as error:
        parser.error(str(error))
    states: list[tuple[float, Tensor]] = []
    try:
        samples = draw_samples(
            run,
            chosen.n,
            method=chosen.method,
            step_size=chosen.step_size,
            eta_final=chosen.eta_final,
            seed=chosen.seed,
            rows=chosen.rows,
            progress=True,
            on_level=lambda *state: states.append(state) if chosen.trajectory else None,
        )
    except FloatingPointError as error:
        parser.exit(1, f"{error}\n")
    write_samples(chosen.out, samples)
    if chosen.trajectory:
        write_trajectory(chosen.trajectory, states)
    nfe = evaluations(run.settings, chosen.method)
    tqdm.write(f"{chosen.n} samples of {chosen.method}, {nfe} evaluations each, in {chosen.out}")


if __name__ == "__main__":
    main()
