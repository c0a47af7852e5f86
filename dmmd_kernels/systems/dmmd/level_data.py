"""What flows need of the data at each noise level: features, or their mean for a linear kernel.

    φ̄(X_0, t) = mean_j φ(X_0^j, t)    φ̄(X_t, t) = mean_j φ(α_t X_0^j + β_t ε_j, t)    (eq. 12)

Means are over the whole data set, T × K numbers of each kind. They are computed once and kept in
the folder of the run, in files named after all that they follow from: other weights, data, levels,
or another forward process make another file. ε is one draw per datum and level.
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.data import generator_of
from dmmd_kernels.runs.run import CLEAN, Run
from dmmd_kernels.systems.dmmd.samplers import (
    ROWS,
    Level,
    data_features,
    energy_level,
    is_linear,
    level_of,
)

FOLDER = "mean_features"
_NOISE = 8  # a stream of random numbers beside those of experiment.py
_LEVEL_KEYS = 1 << 32


def clean_samples(run: Run) -> Tensor:
    """X_0, N_c clean samples drawn once; for a linear kernel all, of which it needs the mean."""
    train = run.dataset.train
    if run.settings.kernel == "linear" or run.settings.clean >= len(train):
        return train
    order = torch.randperm(len(train), generator=generator_of(run.settings.seed, CLEAN))
    return train[order[: run.settings.clean].to(train.device)]


def noised_samples(run: Run, t: float) -> Tensor:
    """X_t = α_t X_0 + β_t ε of the clean samples; ε follows from the run's seed and t alone."""
    x_0 = clean_samples(run)
    generator = generator_of(run.settings.seed, _NOISE, round(t * _LEVEL_KEYS))
    noise = torch.randn(x_0.shape, generator=generator).to(x_0)
    return run.schedule.noised(x_0, torch.tensor(t, dtype=x_0.dtype, device=x_0.device), noise)


def sides(run: Run, ts: list[float], *, noised: bool, rows: int = ROWS) -> Iterator[Level]:
    """The Level of each t, in order; with features of noised data if `noised`.

    A linear kernel reads its means from `mean_features`; another computes the features of N_c
    samples when its level comes, and keeps none.
    """
    if is_linear(run.deep.kernel(run.dataset.train.new_zeros(1))):
        tables = [mean_features(run, ts, noised=kind) for kind in (False, True)[: 1 + noised]]
        for t, *means in zip(ts, *tables, strict=True):
            yield level_of(run.deep, run.settings, t, *(mean[None] for mean in means))
        return
    x_0 = clean_samples(run)
    for t in ts:
        clouds = [x_0, noised_samples(run, t)] if noised else [x_0]
        features = [data_features(run.deep, x, t, rows) for x in clouds]
        yield level_of(run.deep, run.settings, t, *features)


def particle_sides(run: Run, ts: list[float], *, rows: int = ROWS) -> Iterator[Level]:
    """The Level of each t, falling, for flows of particles: `energy_level` below energy_below."""
    above = [t for t in ts if t >= run.settings.energy_below]
    if above:
        yield from sides(run, above, noised=False, rows=rows)
    for t in ts[len(above) :]:
        yield energy_level(run.deep, run.settings, t, clean_samples(run), rows)


def mean_features(run: Run, ts: list[float], *, noised: bool) -> Tensor:
    """φ̄(X_t, t) if noised, else φ̄(X_0, t), at each t of ts; (T, K). Read, or computed and kept."""
    train = run.dataset.train
    kind = "noised" if noised else "clean"
    name = fingerprint(run, ts, kind)
    # A checkpoint that was moved out of its run has no folder of its own to keep anything in.
    keeps = (run.folder / "checkpoints").is_dir()
    path = run.folder / FOLDER / f"{kind}-{name[:16]}.safetensors"
    table = _read(path, name) if keeps else None
    if table is None:
        clouds = (noised_samples(run, t) if noised else train for t in ts)
        rows = [data_features(run.deep, x, t) for x, t in zip(clouds, ts, strict=True)]
        table = torch.cat(rows)
        if keeps:
            _write(path, name, table)
    return table.to(train)


def fingerprint(run: Run, ts: list[float], kind: str) -> str:
    """SHA-256 of all that a table follows from: weights, data, levels, process, seed of ε."""
    train = run.dataset.train
    about = (kind, ts, repr(run.schedule), run.settings.seed, tuple(train.shape), str(train.dtype))
    digest = hashlib.sha256(repr(about).encode())
    for name, value in sorted(run.deep.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.cpu().numpy().tobytes())
    digest.update(train.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _read(path: Path, name: str) -> Tensor | None:
    """The table, or None where there is none that can be read and bears the name."""
    try:
        return tensor_files.load(path.read_bytes()).get(name)
    except (OSError, SafetensorError):
        return None


def _write(path: Path, name: str, table: Tensor) -> None:
    """Whole or not at all. A table that can't be kept costs its time again, not the samples."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        beside.write_bytes(tensor_files.save({name: table.cpu().contiguous()}))
        beside.replace(path)
    except OSError as error:
        tqdm.write(f"mean features can't be kept in {path.parent}: {error}")
