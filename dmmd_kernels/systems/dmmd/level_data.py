"""What flows need of the data at each noise level: features, or their mean for a linear kernel.

    φ̄(X_0, t) = mean_j φ(X_0^j, t)    φ̄(X_t, t) = mean_j φ(α_t X_0^j + β_t ε_j, t)    (eq. 12)

Means are over the whole data set, T × K numbers of each kind. They are computed once and kept in
the folder of the run, in files named after all that they follow from: other weights, data, levels,
or another forward process make another file. ε is one draw per datum and level.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors import torch as tensor_files
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.data.batches import Stream, generator_of
from dmmd_kernels.data.diffusion import Schedule
from dmmd_kernels.runs.files import write_whole
from dmmd_kernels.runs.run import Run
from dmmd_kernels.systems.dmmd.deep_kernel import DeepKernel
from dmmd_kernels.systems.dmmd.samplers import (
    ROWS,
    Level,
    Step,
    data_features,
    is_linear,
    level_of,
)
from dmmd_kernels.systems.dmmd.training import make_schedule, own

FOLDER = "mean_features"
_LEVEL_KEYS = 1 << 32


@dataclass(frozen=True)
class LevelData:
    """The data as a trained kernel sees it, at any noise level.

    Attributes:
        deep: the kernel, with parameters that need no gradient.
        train: the training samples (N, *shape).
        schedule: the forward process.
        clean: N_c.
        seed: of which samples are the clean ones, and of ε.
        folder: where means are kept, if any.
        backend: of the ops.
    """

    deep: DeepKernel
    train: Tensor
    schedule: Schedule
    clean: int
    seed: int
    folder: Path | None = None
    backend: str = "auto"

    @classmethod
    def of(cls, run: Run) -> "LevelData":
        """That of a run, by its averaged kernel."""
        deep, chosen = run.state.networks["ema"], own(run.settings)
        assert isinstance(deep, DeepKernel)
        # A checkpoint that was moved out of its run has no folder of its own to keep anything in.
        folder = run.folder / FOLDER if (run.folder / "checkpoints").is_dir() else None
        schedule, seed, backend = make_schedule(chosen), run.settings.seed, run.settings.backend
        return cls(deep, run.dataset.train, schedule, chosen.clean, seed, folder, backend)

    @property
    def is_linear(self) -> bool:
        return is_linear(self.deep.kernel(self.train.new_zeros(1)))

    def clean_samples(self) -> Tensor:
        """X_0, N_c samples drawn once; for a linear kernel all, of which it needs the mean."""
        if self.is_linear or self.clean >= len(self.train):
            return self.train
        order = torch.randperm(len(self.train), generator=generator_of(self.seed, Stream.CLEAN))
        return self.train[order[: self.clean].to(self.train.device)]

    def noised_samples(self, t: float) -> Tensor:
        """X_t = α_t X_0 + β_t ε of the clean samples; ε follows from the seed and t alone."""
        x_0 = self.clean_samples()
        generator = generator_of(self.seed, Stream.NOISE, round(t * _LEVEL_KEYS))
        noise = torch.randn(x_0.shape, generator=generator).to(x_0)
        at = torch.tensor(t, dtype=x_0.dtype, device=x_0.device)
        return self.schedule.noised(x_0, at, noise)

    def levels(
        self, ts: Sequence[float], step: Step, *, noised: bool, rows: int = ROWS
    ) -> Iterator[Level]:
        """The Level of each t, in order; with features of noised data if `noised`.

        A linear kernel reads its means from `mean_features`; another computes the features of N_c
        samples when its level comes, and keeps none.
        """
        if self.is_linear:
            tables = [self.mean_features(ts, noised=kind) for kind in (False, True)[: 1 + noised]]
            for t, *means in zip(ts, *tables, strict=True):
                found = (mean[None] for mean in means)
                yield level_of(self.deep, step, t, *found, backend=self.backend)
            return
        x_0 = self.clean_samples()
        for t in ts:
            clouds = [x_0, self.noised_samples(t)] if noised else [x_0]
            features = [data_features(self.deep, x, t, rows) for x in clouds]
            yield level_of(self.deep, step, t, *features, backend=self.backend)

    def mean_features(self, ts: Sequence[float], *, noised: bool) -> Tensor:
        """φ̄(X_t, t) if noised, else φ̄(X_0, t), at each t; (T, K). Read, or computed and kept."""
        kind = "noised" if noised else "clean"
        name = self.fingerprint(ts, kind)
        path = self.folder and self.folder / f"{kind}-{name[:16]}.safetensors"
        table = _read(path, name) if path else None
        if table is None:
            clouds = (self.noised_samples(t) if noised else self.train for t in ts)
            pairs = zip(clouds, ts, strict=True)
            table = torch.cat([data_features(self.deep, x, t) for x, t in pairs])
            if path:
                _write(path, name, table)
        return table.to(self.train)

    def fingerprint(self, ts: Sequence[float], kind: str) -> str:
        """SHA-256 of all that a table follows from: weights, data, levels, process, seed of ε."""
        train = self.train
        shape, dtype = tuple(train.shape), str(train.dtype)
        about = (kind, list(ts), repr(self.schedule), self.seed, shape, dtype)
        digest = hashlib.sha256(repr(about).encode())
        for name, value in sorted(self.deep.state_dict().items()):
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
    """A table that can't be kept costs its time again, not the samples."""
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, tensor_files.save({name: table.cpu().contiguous()}))
    except OSError as error:
        tqdm.write(f"mean features can't be kept in {path.parent}: {error}")
