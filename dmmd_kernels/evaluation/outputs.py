"""Samples as files: arrays, pictures, films."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dmmd_kernels.data.images import tile, write_grid


def write_arrays(path: Path, arrays: Mapping[str, Tensor]) -> None:
    """A .npz file of them."""
    savez: Callable[..., Any] = np.savez
    savez(path, **{name: array.cpu().numpy() for name, array in arrays.items()})


def write_samples(path: Path, samples: Tensor) -> None:
    """An array `samples` in a .npz file; a picture, grid or scatter, where `path` ends in .png.

    Raises:
        ValueError: another ending.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[], None]] = {
        ".npz": lambda: write_arrays(path, {"samples": samples}),
        ".png": lambda: _picture(path, samples),
    }
    if path.suffix not in writers:
        raise ValueError(f"write_samples: path must end in .npz or .png, got {path}")
    writers[path.suffix]()


def _picture(path: Path, samples: Tensor) -> None:
    if samples.ndim == 4:
        write_grid(path, samples)
    else:
        from dmmd_kernels.evaluation.figures import scatter

        scatter(path, samples.cpu().numpy())


def write_trajectory(path: Path, states: list[tuple[str, Tensor]], shown: int = 100) -> None:
    """A .gif of the first samples in each state, the last one shown longest.

    Args:
        states: (where, samples) as draw_samples tells of them.
    """
    from PIL import Image

    frames = [Image.fromarray(frame) for frame in map(_frame(states, shown), states)]
    pause = [200] * (len(frames) - 1) + [1500]
    path.parent.mkdir(parents=True, exist_ok=True)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pause, loop=0)


def _frame(
    states: list[tuple[str, Tensor]], shown: int
) -> Callable[[tuple[str, Tensor]], np.ndarray]:
    """(where, samples) → pixels."""
    last = states[-1][1]
    if last.ndim == 4:
        zoom = max(1, 400 // (10 * last.shape[-1]))
        enlarge = lambda sheet: sheet.repeat(zoom, 0).repeat(zoom, 1)
        return lambda state: enlarge(np.squeeze(tile(state[1][:shown])))
    from dmmd_kernels.evaluation.figures import scatter_pixels

    limit = 1.5 * last.abs().max().item()
    return lambda state: scatter_pixels(state[1].cpu().numpy(), state[0], limit)
