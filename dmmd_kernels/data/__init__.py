"""Data: toy distributions, digits, images of files and archives, batches, the forward process."""

from dmmd_kernels.data.batches import augmented, batch_indices, generator_of
from dmmd_kernels.data.digit_images import Digits, digits
from dmmd_kernels.data.images import IMAGE_SUFFIXES, read_array, read_images, tile, write_grid
from dmmd_kernels.data.toys import (
    TOYS,
    checkerboard,
    eight_gaussians,
    inside_checkerboard,
    swiss_roll,
    three_rings,
    two_moons,
)

__all__ = [
    "IMAGE_SUFFIXES",
    "TOYS",
    "Digits",
    "augmented",
    "batch_indices",
    "checkerboard",
    "digits",
    "eight_gaussians",
    "generator_of",
    "inside_checkerboard",
    "read_array",
    "read_images",
    "swiss_roll",
    "three_rings",
    "tile",
    "two_moons",
    "write_grid",
]
