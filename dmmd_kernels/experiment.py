"""What the settings name, built: the data set, the forward process, the deep kernel, the run.

A new data set is a function (settings) → Dataset here and a name in the settings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels import checkpoint, data
from dmmd_kernels.data import generator_of
from dmmd_kernels.diffusion import DiscreteBeta, LinearBeta, Schedule
from dmmd_kernels.models import ConvFeatures, DeepKernel, IdentityFeatures, MLPFeatures, Width
from dmmd_kernels.settings import Settings

# Streams of random numbers of one seed. Nothing in a run uses a generator that outlives its step.
TRAINING, CLEAN, START, FRESH = 0, 1, 2, 3


class Dataset(NamedTuple):
    """Training samples (N, *shape) in the coordinates of the model, which are data / scale.

    The forward process ends in N(0, I), so the model's coordinates are of about unit size.
    """

    train: Tensor
    scale: float


@dataclass(frozen=True)
class Run:
    """A trained kernel with all that sampling needs.

    Attributes:
        settings: of the run.
        folder: where it writes.
        deep: the kernel with the averaged weights.
        dataset: see Dataset.
    """

    settings: Settings
    folder: Path
    deep: DeepKernel
    dataset: Dataset

    @property
    def schedule(self) -> Schedule:
        return make_schedule(self.settings)


def choose_device(name: str) -> torch.device:
    """ "auto" is cuda where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _checkerboard(settings: Settings) -> Dataset:
    """The board fills [-1, 1]²: then σ = 0.1 and 0.5 are 1/5 of a square and a whole one."""
    points = data.checkerboard(settings.data_size, generator_of(settings.seed, FRESH, 0))
    return Dataset(points / 2, scale=2.0)


def _digits(settings: Settings) -> Dataset:
    return Dataset(data.digits().train, scale=1.0)


DATASETS: dict[str, Callable[[Settings], Dataset]] = {
    "checkerboard": _checkerboard,
    "digits": _digits,
}


def make_schedule(settings: Settings) -> Schedule:
    """The forward process."""
    return LinearBeta() if settings.schedule == "linear_beta" else DiscreteBeta()


def make_kernel(settings: Settings, shape: torch.Size) -> DeepKernel:
    """The deep kernel for samples of `shape`, with initial weights that follow from the seed.

    Raises:
        ValueError: the feature network can't take samples of this shape.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        count, width = settings.feature_count, settings.feature_width
        features: torch.nn.Module
        if settings.features == "identity":
            features = IdentityFeatures()
        elif settings.features == "mlp":
            features = MLPFeatures(shape.numel(), count, width)
        else:
            if len(shape) != 3:
                raise ValueError(f"features=conv needs images (C, H, W), got {tuple(shape)}")
            features = ConvFeatures((shape[0], shape[1], shape[2]), count, width)
        sigma = None
        if settings.kernel != "linear":
            sigma = Width(settings.width_hidden, start=settings.width_start)
        return DeepKernel(features, settings.kernel, sigma)


def load_weights(module: torch.nn.Module, tensors: dict[str, Tensor], prefix: str) -> None:
    """Copies the tensors named prefix + name into the module.

    Raises:
        CheckpointError: one is missing or has another shape or dtype.
    """
    with torch.no_grad():
        for name, target in module.state_dict().items():
            copy_tensor(target, tensors, prefix + name)


def copy_tensor(target: Tensor, tensors: dict[str, Tensor], name: str) -> None:
    """target ← tensors[name].

    Raises:
        CheckpointError: it is missing or has another shape or dtype.
    """
    source = tensors.get(name)
    wanted = (tuple(target.shape), target.dtype)
    if source is None or (tuple(source.shape), source.dtype) != wanted:
        got = "nothing" if source is None else f"{tuple(source.shape)}, {source.dtype}"
        raise checkpoint.CheckpointError(
            f"checkpoint: {name} must be {wanted[0]}, {wanted[1]}, got {got}"
        )
    target.copy_(source)


def load_run(path: str | Path, device: str = "auto") -> Run:
    """The run whose checkpoint is at `path`: a run's folder or one checkpoint of it.

    Raises:
        CheckpointError: there is none that can be read.
        SettingsError: its settings do not fit this version.
    """
    found = checkpoint.find(path)
    settings = Settings.from_dict(found.record["settings"])
    dataset = DATASETS[settings.data](settings)
    deep = make_kernel(settings, dataset.train.shape[1:])
    load_weights(deep, found.tensors, "ema.")
    on = choose_device(device)
    dataset = dataset._replace(train=dataset.train.to(on))
    folder = found.path.parent.parent
    return Run(settings, folder, deep.to(on).eval().requires_grad_(False), dataset)
