"""The curves of a run's log.jsonl: python -m dmmd_kernels.evaluation.curves runs/digits_unet

Writes training.png beside it; the training program does so at its end.
"""

import sys
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dmmd_kernels.runs.tracking import read_log

LABELS = {"feature_norm": "L_ℓ2", "gradient_penalty": "L_∇", "sigma": "σ"}
# Numbers of a line that are no result of training.
OTHERS = {"step", "seconds", "loss", "learning_rate", "images_per_second"}


def training_figure(folder: Path) -> Path:
    """MMD², of DMMD by noise level, and what else a step tells, against the steps of training.

    Raises:
        ValueError: there is no log.jsonl, or none of its lines can be read.
    """
    lines = read_log(folder / "log.jsonl")
    if not lines:
        raise ValueError(f"curves: {folder / 'log.jsonl'} must have a line, got none")
    figure = Figure(figsize=(10, 3.6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = sorted({name for line in lines for name in line} - OTHERS)
    by_level = [name for name in names if name.startswith("mmd2/")]
    for name in by_level or [name for name in names if name == "mmd2"]:
        level = name.removeprefix("mmd2").removeprefix("/").replace("-", " … ")
        _curve(left, lines, name, f"t in {level}" if level else "MMD²")
    for name in names:
        if not name.startswith("mmd2"):
            _curve(right, lines, name, LABELS.get(name, name))
    left.set(title="MMD² of a step", xlabel="step", yscale="symlog")
    right.set(title="what else it tells", xlabel="step", yscale="symlog")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
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
