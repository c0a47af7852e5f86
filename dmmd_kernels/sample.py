"""Samples from a trained run by its noise-adaptive MMD flow (DMMD, Algorithm 2).

python -m dmmd_kernels.sample --checkpoint runs/checkerboard --n 1000 --out samples.npz
python -m dmmd_kernels.sample --checkpoint runs/digits --n 100 --out digits.png
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

import dmmd_kernels as dk
from dmmd_kernels.checkpoint import CheckpointError
from dmmd_kernels.data import generator_of, write_grid
from dmmd_kernels.diffusion import levels
from dmmd_kernels.experiment import CLEAN, START, Run, load_run
from dmmd_kernels.losses import NoiseConditional, witness_slope
from dmmd_kernels.settings import Settings, SettingsError


def draw_samples(run: Run, n: int, *, seed: int = 0, progress: bool = False) -> Tensor:
    """n samples by Algorithm 2, (n, *shape), in the coordinates of the data.

    ⌈n / N_p⌉ clouds of N_p particles flow at once to the same N_c clean samples; clouds do not
    feel each other.

    Args:
        run: see load_run.
        n: how many.
        seed: of the particles; the clean samples belong to the run.
        progress: show a progress bar.
    """
    settings, train = run.settings, run.dataset.train
    clouds = math.ceil(n / settings.particles)
    start = torch.randn(
        clouds, settings.particles, *train.shape[1:], generator=generator_of(seed, START)
    ).to(train)
    ts = levels(settings.t_max, settings.t_min, settings.sample_levels).tolist()
    steps = adaptive_flow(run.deep, start, clean_samples(run), settings, ts)
    bar = tqdm(steps, "sampling", settings.sample_levels, disable=not progress, leave=False)
    *_, (_, z) = bar
    return z.flatten(0, 1)[:n] * run.dataset.scale


def clean_samples(run: Run) -> Tensor:
    """X_0, N_c clean samples drawn once; the whole set for a linear kernel, which needs its mean.

    The mean features φ̄(X_0, t) over the whole set cost one pass per level (DMMD, eq. 12).
    """
    train = run.dataset.train
    if run.settings.kernel == "linear" or run.settings.clean >= len(train):
        return train
    order = torch.randperm(len(train), generator=generator_of(run.settings.seed, CLEAN))
    return train[order[: run.settings.clean].to(train.device)]


def adaptive_flow(
    deep: NoiseConditional, z: Tensor, x_0: Tensor, settings: Settings, ts: list[float]
) -> Iterator[tuple[float, Tensor]]:
    """Algorithm 2: at each level t, N_s times Z_i ← Z_i - η_t ∇f(Z_i, t), all i at once.

    f is the witness of the particles' features against those of the clean data at the current t,
    both held (DMMD, eqs 9, 10).

    Args:
        deep: the noise-conditional kernel.
        z: particles, (clouds, N_p, *shape).
        x_0: clean samples, (N_c, *shape).
        settings: step_size, step_rule, sample_steps, backend.
        ts: noise levels, in the order of the flow.

    Yields:
        (t, z) after the steps of each level.

    Raises:
        FloatingPointError: particles became infinite or NaN; the message names the level.
    """
    with torch.no_grad():
        moves = _flow_of_points if getattr(deep, "on_points", False) else _flow_of_features
        yield from moves(deep, z, x_0, settings, ts)


def _flow_of_points(
    deep: NoiseConditional, z: Tensor, x_0: Tensor, settings: Settings, ts: list[float]
) -> Iterator[tuple[float, Tensor]]:
    """All levels are one flow, with tables of σ(t) and η_t."""
    count = settings.sample_steps
    t = torch.tensor(ts, device=z.device).to(z)
    etas = torch.tensor([step_length(settings, deep, x_0.flatten(1), level[None]) for level in t])
    reached: list[Tensor] = []
    try:
        dk.flow(
            z.flatten(2),
            x_0.flatten(1),
            deep.kernel(t.repeat_interleave(count)[:, None]),
            step_size=etas.repeat_interleave(count),
            steps=count * len(ts),
            callback=lambda _, particles: reached.append(particles.view_as(z)),
            callback_every=count,
            backend=settings.backend,
        )
    except dk.FlowError as error:
        raise _not_finite(ts[(error.step - 1) // count]) from error
    yield from zip(ts, reached, strict=True)


def _flow_of_features(
    deep: NoiseConditional, z: Tensor, x_0: Tensor, settings: Settings, ts: list[float]
) -> Iterator[tuple[float, Tensor]]:
    z = z.clone()
    for level in ts:
        t = torch.full(z.shape[:1], level, device=z.device)
        a_0, kernel = data_features(deep, x_0, t[:1]), deep.kernel(t)
        eta = step_length(settings, deep, a_0, t[:1])
        for _ in range(settings.sample_steps):
            a = deep(z, t)
            slope = witness_slope(deep, z, a, a_0, t, kernel, backend=settings.backend)
            dk.flow_update(z.flatten(2), slope.flatten(2), step_size=eta)
        if not torch.isfinite(z).all():
            raise _not_finite(level)
        yield level, z.clone()


def _not_finite(level: float) -> FloatingPointError:
    return FloatingPointError(
        f"sample: particles are not finite after level t = {level:.3f}; take a smaller step_size"
    )


def data_features(deep: NoiseConditional, x_0: Tensor, t: Tensor, rows: int = 4096) -> Tensor:
    """b_j = φ(X_0^j, t), (N_c, K); only their mean, (1, K), for a linear kernel (DMMD, eq. 12).

    t is (1,). The witness of a linear kernel depends on the mean alone.
    """
    parts = [deep(block[None], t)[0] for block in x_0.split(rows)]
    if is_linear(deep.kernel(t)):
        total = torch.stack([part.double().sum(0) for part in parts]).sum(0)
        return (total / len(x_0)).to(parts[0].dtype)[None]
    return torch.cat(parts)


def is_linear(kernel: dk.Kernel) -> bool:
    return all(term.profile == "linear" for term in kernel.terms)


def step_length(settings: Settings, deep: NoiseConditional, a_0: Tensor, t: Tensor) -> float:
    """η = c, or for step_rule = "stable" η = c σ(t)² / k̄, k̄ = mean k(x, x') over clean features.

    Why: a ripple of wave number κ on a cloud of even density decays at the rate k̄ κ² e^(-κ²σ²/2)
    times η per step. It is fastest at κ² = 2/σ², so steps overshoot from η = e σ²/k̄ on: c < e for
    every σ, and equal c means equally bold. This rule is ours; the paper gives none for 2-D.
    """
    if settings.step_rule == "constant":
        return settings.step_size
    kernel = deep.kernel(t[0])
    some = a_0[:1000]
    share = some.new_full((len(some),), 1 / len(some))
    mean = dk.potential(some, some, share, kernel, backend=settings.backend).mean().item()
    scale = kernel.terms[0].scale
    sigma2 = 0.5 / float(scale) if scale is not None else 1.0
    return settings.step_size * sigma2 / mean


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
        from dmmd_kernels.figures import scatter

        scatter(path, samples.cpu().numpy())


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser("python -m dmmd_kernels.sample", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="folder of a run or of a checkpoint")
    parser.add_argument("--n", type=int, default=1000, help="how many samples")
    parser.add_argument("--out", required=True, type=Path, help="a .npz file, or a .png picture")
    parser.add_argument("--seed", type=int, default=0, help="of the particles")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto")
    parser.add_argument("--backend", default="auto", help="of the ops")
    chosen = parser.parse_args(arguments)
    if chosen.n < 1 or chosen.out.suffix not in (".npz", ".png"):
        parser.error("--n must be at least 1 and --out must end in .npz or .png")
    try:
        run = load_run(chosen.checkpoint, chosen.device)
    except (CheckpointError, SettingsError) as error:
        parser.error(str(error))
    run = replace(run, settings=replace(run.settings, backend=chosen.backend))
    samples = draw_samples(run, chosen.n, seed=chosen.seed, progress=True)
    write_samples(chosen.out, samples)
    tqdm.write(f"{chosen.n} samples in {chosen.out}")


if __name__ == "__main__":
    main()
