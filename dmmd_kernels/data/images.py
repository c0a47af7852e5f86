"""Images in files: arrays, folders, patches of photographs, pictures of many images at once.

Images are (N, C, H, W) in float32, in [-1, 1].
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"}


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
    return to_images(loaded)


def to_images(pixels: np.ndarray) -> Tensor:
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
            image = _squared(image, size)
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
        if images and pixels.shape != images[0].shape:
            raise ValueError(
                f"read_images: {path} is {pixels.shape[:2]}, the first is {images[0].shape[:2]}; "
                "give `size` to resize"
            )
        images.append(pixels)
    return to_images(np.stack(images).transpose(0, 3, 1, 2))


def read_folder(path: str | Path, size: int) -> Tensor:
    """(N, 3, size, size) in [-1, 1]: the images of a folder, each cut to its central square.

    A folder that the library `datasets` has saved (save_to_disk) is read through it: its column
    "image" is taken.

    Raises:
        FileNotFoundError: there are none.
        ImportError: the folder is one of `datasets`, and that library is not here.
    """
    if not (Path(path) / "state.json").is_file():
        try:
            return read_images(path, size)
        except ValueError as error:
            raise FileNotFoundError(str(error)) from error
    try:
        from datasets import load_from_disk
    except ImportError as error:
        raise ImportError(
            f"{path} was saved by the library datasets; run `pip install datasets`"
        ) from error
    pictures = (_squared(row["image"].convert("RGB"), size) for row in load_from_disk(str(path)))
    return to_images(np.stack([np.asarray(p) for p in pictures]).transpose(0, 3, 1, 2))


def _squared(picture: Any, size: int) -> Any:
    """The central square of a PIL image, size × size."""
    from PIL import Image, ImageOps

    return ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)


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


class Patches(NamedTuple):
    """Patches (N, 3, size, size) of photographs in [-1, 1], in two parts without a common pixel."""

    train: Tensor
    held_out: Tensor


def patches(
    size: int = 32, train: int = 4000, held_out: int = 1000, *, seed: int = 0, shrink: int = 2
) -> Patches:
    """Random patches of the two photographs that scikit-learn brings, a temple and a flower.

    Of each photograph the right fifth is held out, so that no pixel is in both parts. Places are
    drawn evenly by `seed`, half from either photograph.

    Args:
        size: height and width of a patch.
        train, held_out: how many patches.
        seed: of the places.
        shrink: photographs are made this many times smaller first (427 × 640 as they come), by the
            mean over squares: a patch then shows something.
    """
    try:
        from sklearn.datasets import load_sample_images
    except ImportError as error:
        raise ImportError("patches: needs scikit-learn; run `pip install scikit-learn`") from error
    photographs = to_images(np.stack(load_sample_images().images))
    photographs = torch.nn.functional.avg_pool2d(photographs, shrink)
    edge = photographs.shape[3] * 4 // 5
    generator = torch.Generator().manual_seed(seed)
    kept, out = photographs[..., :edge], photographs[..., edge:]
    return Patches(_cut(kept, size, train, generator), _cut(out, size, held_out, generator))


def _cut(photographs: Tensor, size: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` squares at even random places."""
    n, _, height, width = photographs.shape
    rows = torch.randint(height - size + 1, (count,), generator=generator).tolist()
    columns = torch.randint(width - size + 1, (count,), generator=generator).tolist()
    places = zip(rows, columns, strict=True)
    squares = [
        photographs[i % n, :, row : row + size, column : column + size]
        for i, (row, column) in enumerate(places)
    ]
    return torch.stack(squares)
