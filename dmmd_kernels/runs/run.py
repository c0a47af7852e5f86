"""What the settings name, built: the data set, the forward process, the deep kernel, the run.

A new data set is a function (settings) → Dataset here and a name in the settings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels import data
from dmmd_kernels.data import archives, generator_of, images
from dmmd_kernels.data.diffusion import DiscreteBeta, LinearBeta, Schedule
from dmmd_kernels.networks.features import (
    ConvFeatures,
    DeepKernel,
    IdentityFeatures,
    MLPFeatures,
    Width,
)
from dmmd_kernels.networks.unet import UNetFeatures
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.settings import Settings

# Streams of random numbers of one seed. Nothing in a run uses a generator that outlives its step.
TRAINING, CLEAN, START, FRESH = 0, 1, 2, 3
# Between two neighbouring values of a byte that is brought to [-1, 1].
BYTE = 2 / 255


class Dataset(NamedTuple):
    """Training samples (N, *shape) in the coordinates of the model, which are data / scale.

    The forward process ends in N(0, I), so the model's coordinates are of about unit size.

    Attributes:
        test: samples (M, *shape) that are not trained on, if the data set has any.
        train_labels, test_labels: classes (N,) and (M,), if it has any.
        spacing: between two values that a pixel can take; 0 for what isn't made of steps.
    """

    train: Tensor
    scale: float
    test: Tensor | None = None
    train_labels: Tensor | None = None
    test_labels: Tensor | None = None
    spacing: float = 0.0


@dataclass(frozen=True)
class Run:
    """A trained kernel with all that sampling needs.

    Attributes:
        settings: of the run.
        folder: where it writes.
        deep: the kernel with the averaged weights.
        dataset: see Dataset.
        step: steps of training behind the kernel.
    """

    settings: Settings
    folder: Path
    deep: DeepKernel
    dataset: Dataset
    step: int = 0

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
    found = data.digits()
    labels = found.train_labels, found.held_out_labels
    return Dataset(found.train, 1.0, found.held_out, *labels, spacing=1 / 8)


def _patches(settings: Settings) -> Dataset:
    found = images.patches(train=settings.data_size, shrink=2)
    return Dataset(found.train, 1.0, found.held_out, spacing=BYTE / 4)


def _published(read: Callable[[str], archives.Labelled]) -> Callable[[Settings], Dataset]:
    def dataset(settings: Settings) -> Dataset:
        found = read(settings.data_root)
        labels = found.train_labels, found.test_labels
        return Dataset(found.train, 1.0, found.test, *labels, spacing=BYTE)

    return dataset


def _folder(name: str, what: str) -> Callable[[Settings], Dataset]:
    """data_root/name, or data_root itself; with its parts train and test, or all to train on."""

    def dataset(settings: Settings) -> Dataset:
        root = Path(settings.data_root)
        root = root / name if (root / name).is_dir() else root
        parts = [root / part for part in ("train", "test")]
        if not all(part.is_dir() for part in parts):
            parts = [root]
        try:
            read = [images.read_folder(part, settings.image_size) for part in parts]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{name}: no images below {root.absolute()}; put {what} there, in folders train "
                "and test or all together, or give their folder as --data_root"
            ) from error
        return Dataset(read[0], 1.0, read[1] if len(read) > 1 else None, spacing=BYTE)

    return dataset


DATASETS: dict[str, Callable[[Settings], Dataset]] = {
    "checkerboard": _checkerboard,
    "digits": _digits,
    "patches": _patches,
    "mnist": _published(archives.mnist),
    "cifar10": _published(archives.cifar10),
    "celeba": _folder("celeba", "the aligned pictures of CelebA (img_align_celeba)"),
    "lsun_church": _folder("lsun_church", "the pictures of LSUN's church_outdoor as files"),
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
        features = make_features(settings, shape)
        sigma = None
        if settings.kernel != "linear":
            sigma = Width(settings.width_hidden, start=settings.width_start)
        autocast = settings.precision == "bfloat16"
        return DeepKernel(features, settings.kernel, sigma, autocast=autocast)


def make_features(settings: Settings, shape: torch.Size) -> torch.nn.Module:
    """The feature network, from torch's global random state.

    Raises:
        ValueError: it can't take samples of this shape.
        ImportError: backbone=diffusers, and that library is not here.
    """
    count, width = settings.feature_count, settings.feature_width
    if settings.features == "identity":
        return IdentityFeatures()
    if settings.features == "mlp":
        return MLPFeatures(shape.numel(), count, width)
    if len(shape) != 3:
        raise ValueError(f"features={settings.features} needs images (C, H, W), got {tuple(shape)}")
    image = (shape[0], shape[1], shape[2])
    if settings.features == "conv":
        return ConvFeatures(image, count, width)
    return UNetFeatures(
        image,
        count,
        width,
        multipliers=settings.unet_multipliers,
        blocks=settings.unet_blocks,
        attention=settings.unet_attention,
        dropout=settings.dropout,
        readout=settings.unet_readout,
        backbone=settings.backbone,
        channels_last=settings.channels_last,
    )


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
    deep = deep.to(on).eval().requires_grad_(False)
    return Run(settings, folder, deep, dataset, found.step)
