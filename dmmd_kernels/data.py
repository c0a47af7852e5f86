"""Data: 2-D toy distributions, the handwritten digits, readers of image files, the batch order.

A toy distribution is a function (n, generator) → (n, 2) in float32, spread about unit scale. A new
one is a function here and an entry of TOYS. Images are (N, C, H, W) in float32, in [-1, 1].
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


def checkerboard(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): uniform on the dark cells of a 4 × 4 board that fills [-2, 2]².

    Cells are squares of side 1 between integer coordinates. (x, y) lies on a dark one when
    ⌊x⌋ + ⌊y⌋ is even; there are 8. Each coordinate has mean 0 and variance 4/3.
    """
    row = torch.randint(4, (n,), generator=generator)
    column = 2 * torch.randint(2, (n,), generator=generator) + row % 2
    corner = torch.stack([column, row], 1) - 2
    return corner + torch.rand(n, 2, generator=generator)


def inside_checkerboard(points: Tensor) -> float:
    """The share of points (n, 2) on the dark cells of `checkerboard`; 1/2 for uniform ones."""
    on_board = (points >= -2).all(1) & (points < 2).all(1)
    return (on_board & (points.floor().sum(1) % 2 == 0)).double().mean().item()


def eight_gaussians(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): normal clouds of deviation 0.1 at 8 even angles of the circle of radius √2."""
    angle = math.pi / 4 * torch.randint(8, (n,), generator=generator)
    return math.sqrt(2) * _on_circle(angle) + 0.1 * torch.randn(n, 2, generator=generator)


def two_moons(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): two interleaved half circles of radius 1, blurred by 0.1.

    The upper is centred at (-1/2, -1/4), the lower at (1/2, 1/4).
    """
    side = 1 - 2.0 * torch.randint(2, (n,), generator=generator)
    arc = _on_circle(math.pi * torch.rand(n, generator=generator))
    moons = side[:, None] * (arc + torch.tensor([-0.5, -0.25]))
    return moons + 0.1 * torch.randn(n, 2, generator=generator)


def swiss_roll(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): the spiral r = θ/2π, θ uniform in [3π/2, 9π/2], blurred by 0.05."""
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    spiral = angle[:, None] / (2 * math.pi) * _on_circle(angle)
    return spiral + 0.05 * torch.randn(n, 2, generator=generator)


def three_rings(n: int, generator: Generator | None = None) -> Tensor:
    """(n, 2): three circles of radius 0.3 centred at (0, -3/4), (0, 0) and (0, 3/4).

    The target of Glaser, Arbel and Gretton (KALE flow, NeurIPS 2021), moved to mean 0.
    """
    ring = torch.randint(3, (n,), generator=generator) - 1
    points = 0.3 * _on_circle(2 * math.pi * torch.rand(n, generator=generator))
    points[:, 1] += 0.75 * ring
    return points


def _on_circle(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos(), angle.sin()], 1)


TOYS: dict[str, Callable[..., Tensor]] = {
    toy.__name__: toy for toy in (checkerboard, eight_gaussians, two_moons, swiss_roll, three_rings)
}


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


def generator_of(*key: int) -> Generator:
    """A generator for a tuple of non-negative integers; different tuples, independent numbers."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return Generator().manual_seed(int(state[0] >> np.uint64(1)))


def read_array(path: str | Path, key: str | None = None) -> Tensor:
    """The array of a .npy file, or the array `key` of a .npz file (its only one when None).

    Integer images (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels are taken to
    use 0..255 and become (N, C, H, W) in [-1, 1]; floating-point arrays are returned as they are,
    in float32. Pickled objects are refused.
    """
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        with loaded:
            names = loaded.files
            if key is None and len(names) != 1:
                raise ValueError(f"read_array: key must name one of {names}, got None")
            if key is not None and key not in names:
                raise ValueError(f"read_array: key must name one of {names}, got {key!r}")
            loaded = loaded[key or names[0]]
    if np.issubdtype(loaded.dtype, np.floating):
        return torch.from_numpy(loaded.astype(np.float32))
    return _to_images(loaded)


def _to_images(pixels: np.ndarray) -> Tensor:
    channels = (1, 3)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[1] not in channels and pixels.shape[3] in channels:
        pixels = pixels.transpose(0, 3, 1, 2)
    elif pixels.ndim != 4 or pixels.shape[1] not in channels:
        raise ValueError(
            "read_array: integer arrays must be images (N, H, W), (N, H, W, C) or (N, C, H, W), "
            f"got {pixels.shape}"
        )
    return torch.from_numpy(pixels.astype(np.float32)) / 127.5 - 1


def read_images(folder: str | Path, size: int | None = None, channels: int = 3) -> Tensor:
    """(N, channels, H, W) in [-1, 1]: every image below `folder`, in the order of their paths.

    With `size` each is cut to its central square and resized to size × size; without, all must
    have one size already. `channels` is 1 for grey, 3 for colour.
    """
    from PIL import Image, ImageOps

    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise ValueError(f"read_images: channels must be 1 or 3, got {channels}")
    paths = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"read_images: no image files below {folder}")
    images: list[np.ndarray] = []
    for path in paths:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert(mode)
        if size is not None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"read_images: {path} is {pixels.shape[:2]}, the first is {images[0].shape[:2]}; "
                "give `size` to resize"
            )
        images.append(pixels)
    return _to_images(np.stack(images).transpose(0, 3, 1, 2))


def tile(images: Tensor, columns: int = 10) -> np.ndarray:
    """Images (N, C, H, W) in [-1, 1] row by row in one (H', W', C) of 0..255, black lines between.

    Values outside [-1, 1] are cut off.
    """
    n, channels, height, width = images.shape
    rows = math.ceil(n / columns)
    cells = torch.zeros(rows * columns, channels, height + 1, width + 1)
    cells[:n, :, :height, :width] = ((images.detach().cpu().float() + 1) * 127.5).round()
    sheet = cells.clamp(0, 255).unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    sheet = sheet.reshape(rows * (height + 1), columns * (width + 1), channels)
    return sheet.to(torch.uint8).numpy()


def write_grid(path: str | Path, images: Tensor, columns: int = 10, zoom: int = 4) -> None:
    """Writes `tile` of images (N, C, H, W), C = 1 or 3, as a picture, each pixel zoom × zoom."""
    from PIL import Image

    sheet = tile(images, columns)
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    size = (picture.width * zoom, picture.height * zoom)
    picture.resize(size, Image.Resampling.NEAREST).save(path)
