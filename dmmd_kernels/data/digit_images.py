"""The handwritten digits of scikit-learn, split once and for all."""

from typing import NamedTuple

import torch
from torch import Tensor

from dmmd_kernels.data.batches import generator_of


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
