"""The order of batches and the random numbers of a step, all from its number."""

from enum import IntEnum

import numpy as np
import torch
from torch import Generator, Tensor


class Stream(IntEnum):
    """Streams of random numbers of one seed: the second number of a generator's key."""

    TRAINING = 0  # then the step, and what it is drawn for
    CLEAN = 1  # which samples a flow goes to
    START = 2  # where particles and latent points begin; then the cloud
    FRESH = 3  # data sets: 0 to train on, from 1 on to judge by
    NOISE = 8  # of the noised data of a level; then the level
    HELD_OUT = 9  # which half judges where a data set holds none out


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
