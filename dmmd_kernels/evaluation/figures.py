"""Figures of the programs. matplotlib without a display; nothing here computes a result."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from dmmd_kernels import data, metrics
from dmmd_kernels.evaluation.comparison import Comparison, Flows

COLOURS = {
    "data": "#4d4d4d",
    "dmmd": "#0b6fa4",
    "fixed_0.1": "#c8553d",
    "fixed_0.5": "#e09f3e",
    "linear": "#6a994e",
}
TITLES = {
    "data": "data",
    "dmmd": "DMMD, learned σ(t)",
    "fixed_0.1": "MMD flow, σ = 0.1",
    "fixed_0.5": "MMD flow, σ = 0.5",
    "linear": "σ(t) = 0.1(1 - t) + 0.5t",
    "dmmd_e": "DMMD-e",
    "a_dmmd": "a-DMMD",
    "a_dmmd_a": "a-DMMD-a",
    "a_dmmd_e": "a-DMMD-e",
}
LIMIT = 3.6


def scatter(path: Path, points: np.ndarray) -> None:
    """One picture of points (n, 2)."""
    figure = _figure(5, 5)
    _points(figure.add_subplot(), points, COLOURS["dmmd"], float(np.abs(points).max()) * 1.05)
    figure.savefig(path)


def scatter_pixels(points: np.ndarray, title: str, limit: float) -> np.ndarray:
    """The same as pixels (H, W, 3), on axes from -limit to limit."""
    figure = _figure(4, 4.2)
    axes = figure.add_subplot(title=title)
    _points(axes, points, COLOURS["dmmd"], limit)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def comparison_figure(path: Path, found: Comparison) -> None:
    """Data and every method's samples; below those of DMMD σ(t) and MMD²(P_t, P; t)."""
    names = ["data", *(name for name in found.samples if name != "data")]
    rows = [1.0] if found.flows is None else [1.0, 1.15]
    figure = _figure(3 * len(names), 3.4 * sum(rows))
    grid = figure.add_gridspec(len(rows), 2 * len(names), height_ratios=rows)
    for column, name in enumerate(names):
        axes = figure.add_subplot(grid[0, 2 * column : 2 * column + 2])
        points, row = found.samples[name].numpy(), found.scores[name]
        _points(axes, points, COLOURS.get(name, COLOURS["dmmd"]), LIMIT)
        axes.set_title(TITLES.get(name, name))
        axes.set_xlabel(f"energy distance {row.energy:.4f}\n{row.inside:.0%} inside")
    if found.flows is not None:
        half = len(names)
        _curves(figure.add_subplot(grid[1, :half]), figure.add_subplot(grid[1, half:]), found.flows)
    figure.savefig(path)


def _curves(width: Axes, gap: Axes, flows: Flows) -> None:
    for name, values in flows.sigma.items():
        width.plot(flows.t, values, color=COLOURS[name], label=TITLES[name], **_weight(name))
    for name, values in flows.mmd2.items():
        gap.plot(flows.t, values, color=COLOURS[name], **_weight(name))
    width.set(title="width of the kernel, σ(t), in units of half the board", yscale="log")
    gap.set(title="MMD²(P_t, P; t) of each flow, measured with the learned kernel", yscale="log")
    for axes in (width, gap):
        axes.set_xlabel("noise level t; the flow goes from right to left")
        axes.grid(alpha=0.3)
    width.legend(fontsize=9)


def side_by_side(path: Path, pictures: dict[str, Tensor], shown: int = 100) -> None:
    """The first images of each set, (N, C, H, W)."""
    figure = _figure(5 * len(pictures), 5.3)
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for side, (title, images) in zip(axes, pictures.items(), strict=True):
        side.imshow(np.squeeze(data.tile(images[:shown])), cmap="gray", vmin=0, vmax=255)
        side.set(title=TITLES.get(title, title), xticks=[], yticks=[])
    figure.savefig(path)


def beside_nearest(path: Path, samples: dict[str, Tensor], train: Tensor, shown: int = 12) -> None:
    """For each set a row of its first images (N, C, H, W), and below them the nearest in train."""
    figure = _figure(0.55 * shown, 1.5 * len(samples))
    rows = figure.subplots(len(samples), 1, squeeze=False)[:, 0]
    for axes, (name, images) in zip(rows, samples.items(), strict=True):
        first = images[:shown]
        pair = torch.cat([first, train[metrics.nearest(first, train)[1]]])
        axes.imshow(np.squeeze(data.tile(pair, shown)), cmap="gray", vmin=0, vmax=255)
        axes.set(title=f"{name}; below, the nearest training image", xticks=[], yticks=[])
        axes.title.set_fontsize(8)
    figure.savefig(path)


def ablation_figure(
    path: Path, curves: dict[str, list[tuple[float, list[float]]]], floor: float, axis: str
) -> None:
    """FID against the ablated choice: means over seeds, each seed a dot, real data a line."""
    figure = _figure(6, 4)
    axes = figure.add_subplot(xlabel=axis, ylabel="FID", yscale="log")
    for number, (name, points) in enumerate(curves.items()):
        kept = [(place, values) for place, values in points if values]
        means = [np.mean(values) for _, values in kept]
        axes.plot([place for place, _ in kept], means, "o-", color=f"C{number}", label=name)
        places = [place for place, values in kept for _ in values]
        each = [value for _, values in kept for value in values]
        axes.scatter(places, each, s=8, color=f"C{number}", alpha=0.5)
    axes.axhline(floor, color=COLOURS["data"], linestyle="--", label="real data")
    axes.set_xscale("symlog" if axis == "η_final" else "log")
    if axis == "η_final":
        axes.set_xlim(left=-0.1)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path)


def _figure(width: float, height: float) -> Figure:
    """A figure of its own canvas: no display is looked for and no global state is left behind."""
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _weight(name: str) -> dict[str, Any]:
    return {"linewidth": 2.6, "zorder": 3} if name == "dmmd" else {"linewidth": 1.6}


def _points(axes: Axes, points: np.ndarray, colour: str, limit: float) -> None:
    axes.scatter(points[:, 0], points[:, 1], s=2, color=colour, linewidths=0)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
