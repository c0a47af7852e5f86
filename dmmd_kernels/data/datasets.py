"""Data sets by name, as systems see them. A new one is a function Source → Dataset and a name."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dmmd_kernels.data import archives, digit_images, images, toys
from dmmd_kernels.data.batches import Stream, generator_of

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


class Source(NamedTuple):
    """Where a data set comes from: what a function of DATASETS may read.

    Attributes:
        root: folder of the files of mnist, cifar10, celeba …
        size: points drawn of a toy distribution, or patches.
        image_size: height and width that images of folders are brought to.
        seed: of what is drawn.
    """

    root: str = "data"
    size: int = 20_000
    image_size: int = 64
    seed: int = 0


def _checkerboard(source: Source) -> Dataset:
    """The board fills [-1, 1]²: then σ = 0.1 and 0.5 are 1/5 of a square and a whole one."""
    points = toys.checkerboard(source.size, generator_of(source.seed, Stream.FRESH, 0))
    return Dataset(points / 2, scale=2.0)


def _digits(source: Source) -> Dataset:
    found = digit_images.digits()
    labels = found.train_labels, found.held_out_labels
    return Dataset(found.train, 1.0, found.held_out, *labels, spacing=1 / 8)


def _patches(source: Source) -> Dataset:
    found = images.patches(train=source.size, shrink=2)
    return Dataset(found.train, 1.0, found.held_out, spacing=BYTE / 4)


def _published(read: Callable[[str], archives.Labelled]) -> Callable[[Source], Dataset]:
    def dataset(source: Source) -> Dataset:
        found = read(source.root)
        labels = found.train_labels, found.test_labels
        return Dataset(found.train, 1.0, found.test, *labels, spacing=BYTE)

    return dataset


def _folder(name: str, what: str) -> Callable[[Source], Dataset]:
    """root/name, or root itself; with its parts train and test, or all to train on."""

    def dataset(source: Source) -> Dataset:
        root = Path(source.root)
        root = root / name if (root / name).is_dir() else root
        parts = [root / part for part in ("train", "test")]
        if not all(part.is_dir() for part in parts):
            parts = [root]
        try:
            read = [images.read_folder(part, source.image_size) for part in parts]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{name}: no images below {root.absolute()}; put {what} there, in folders train "
                "and test or all together, or give their folder as --data_root"
            ) from error
        return Dataset(read[0], 1.0, read[1] if len(read) > 1 else None, spacing=BYTE)

    return dataset


DATASETS: dict[str, Callable[[Source], Dataset]] = {
    "checkerboard": _checkerboard,
    "digits": _digits,
    "patches": _patches,
    "mnist": _published(archives.mnist),
    "cifar10": _published(archives.cifar10),
    "celeba": _folder("celeba", "the aligned pictures of CelebA (img_align_celeba)"),
    "lsun_church": _folder("lsun_church", "the pictures of LSUN's church_outdoor as files"),
}
