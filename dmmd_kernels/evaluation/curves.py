"""The curves of a run's log.jsonl: python -m dmmd_kernels.evaluation.curves runs/digits_unet

Writes training.png beside it; the training program does so at its end.
"""

import json
import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PARTS = {"feature_norm": "L_ℓ2", "gradient_penalty": "L_∇"}


def training_figure(folder: Path) -> Path:
    """MMD² by noise level, and the penalties, against the steps of training.

    Raises:
        FileNotFoundError: the folder has no log.jsonl.
        ValueError: the log has no lines.
    """
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    if not lines:
        raise ValueError(f"curves: {folder / 'log.jsonl'} must have a line, got none")
    figure = Figure(figsize=(10, 3.6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = {name for line in lines for name in line}
    for name in sorted(name for name in names if name.startswith("mmd2/")):
        _curve(left, lines, name, f"t in {name.removeprefix('mmd2/').replace('-', ' … ')}")
    for name, label in PARTS.items():
        _curve(right, lines, name, label)
    left.set(title="MMD² between noised and clean samples", xlabel="step", yscale="symlog")
    right.set(title="penalties", xlabel="step", yscale="symlog")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    path = folder / "training.png"
    figure.savefig(path)
    return path


def _curve(axes: Axes, lines: list[dict[str, float]], name: str, label: str) -> None:
    """One number of the lines that have it."""
    points = [(line["step"], line[name]) for line in lines if name in line]
    axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        sys.stdout.write(f"{training_figure(Path(argument))}\n")
