"""The order of batches, the random numbers of a step, the handwritten digits.

Beside it are toys.py (2-D distributions), images.py (files of images) and archives.py (MNIST,
CIFAR-10 as they are published); what those define is to be had here, too.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from dmmd_kernels.images import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from dmmd_kernels.images import read_array as read_array
from dmmd_kernels.images import read_images as read_images
from dmmd_kernels.images import tile as tile
from dmmd_kernels.images import write_grid as write_grid
from dmmd_kernels.toys import TOYS as TOYS
from dmmd_kernels.toys import checkerboard as checkerboard
from dmmd_kernels.toys import eight_gaussians as eight_gaussians
from dmmd_kernels.toys import inside_checkerboard as inside_checkerboard
from dmmd_kernels.toys import swiss_roll as swiss_roll
from dmmd_kernels.toys import three_rings as three_rings
from dmmd_kernels.toys import two_moons as two_moons


class Digits(NamedTuple):
    """Images (N, 1, 8, 8) in [-1, 1] and labels (N,) in 0..9, in two disjoint parts."""

    train: Tensor
    train_labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


def digits(seed: int = 0, held_out: float = 0.2) -> Digits:
    """scikit-learn's handwritten digits (UCI), 1797 images of 8 × 8 pixels with 17 grey levels.

    Of each class the share `held_out`, drawn by `seed`, is held out; both parts are shuffled.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits: needs scikit-learn; run `pip install scikit-learn`") from error
    raw = load_digits()
    images = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 8 - 1
    labels = torch.tensor(raw.target, dtype=torch.int64)

    generator = generator_of(seed)
    order = torch.randperm(len(labels), generator=generator)
    is_held_out = torch.zeros(len(labels), dtype=torch.bool)
    for digit in range(10):
        of_class = order[labels[order] == digit]
        is_held_out[of_class[: round(held_out * len(of_class))]] = True
    train, rest = order[~is_held_out[order]], order[is_held_out[order]]
    return Digits(images[train], labels[train], images[rest], labels[rest])


def batch_indices(count: int, size: int, *, seed: int, step: int, stream: int = 0) -> Tensor:
    """(size,): which of `count` rows make up batch `step`; a pure function of its arguments.

    Every epoch of count // size batches is a fresh permutation, so the rows of a batch are
    distinct. Streams are independent: take the noised and the clean batch from two of them.
    """
    if not 0 < size <= count:
        raise ValueError(f"batch_indices: size must be in 1..count = {count}, got {size}")
    epoch, place = divmod(step, count // size)
    order = torch.randperm(count, generator=generator_of(seed, stream, epoch))
    return order[place * size : (place + 1) * size]


def augmented(images: Tensor, generator: Generator, *, flip: bool, spacing: float) -> Tensor:
    """Images (B, C, H, W), each mirrored with chance 1/2 if `flip`, spread over its bins.

    With spacing > 0, that of the values pixels can take, a pixel becomes uniform over the bin
    of that width around it (dequantisation).
    """
    if flip:
        mirrored = torch.rand(len(images), generator=generator).to(images.device) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    if spacing > 0:
        images = images + spacing * (torch.rand(images.shape, generator=generator) - 0.5).to(images)
    return images


def generator_of(*key: int) -> Generator:
    """A generator for a tuple of non-negative integers; different tuples, independent numbers."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0] >> np.uint64(1)))
