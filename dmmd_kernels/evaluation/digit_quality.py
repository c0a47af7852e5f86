"""Are the digits good? What a run of digits ends with: samples by four samplers, and their judge.

Scores are those of evaluate.py in features of a small classifier fitted to the training images
(metrics.DigitClassifier), each on as many images as are held out. Beside the samplers' rows:

    normal fit  draws of the normal distribution with the mean and covariance of the training pixels
    real        training images, several draws: the floor. Held-out images have the class shares of
                the data exactly, so they are closer to real digits than a free draw would be, and
                the floor of kid is below 0

Of each set the classifier tells, too, the shares of the ten classes and how sure it is: the mean of
its largest probability.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels import data, metrics
from dmmd_kernels.data import generator_of
from dmmd_kernels.evaluate import Judge, table
from dmmd_kernels.evaluation import extractors
from dmmd_kernels.runs.run import FRESH, Run
from dmmd_kernels.sample import draw_samples, evaluations

SHOWN = 100
TITLES = {"dmmd": "DMMD", "dmmd_e": "DMMD-e", "a_dmmd": "a-DMMD", "a_dmmd_e": "a-DMMD-e"}


class Classes(NamedTuple):
    """What the classifier says of a set of images."""

    sure: float
    shares: list[float]


def classes(logits: Tensor) -> Classes:
    """Of logits (N, 10)."""
    sure = logits.softmax(1).amax(1).mean().item()
    return Classes(sure, metrics.class_shares(logits).tolist())


def normal_fit(train: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 8, 8): draws of the normal distribution of the training pixels, cut to [-1, 1]."""
    pixels = train.flatten(1).double()
    values, vectors = torch.linalg.eigh(pixels.T.cov())
    noise = torch.randn(n, pixels.shape[1], generator=generator, dtype=torch.float64)
    drawn = pixels.mean(0) + (noise * values.clamp(min=0).sqrt()) @ vectors.T
    return drawn.clamp(-1, 1).to(train.dtype).unflatten(1, train.shape[1:])


def class_table(rows: dict[str, Classes], accuracy: float) -> str:
    """The shares as text."""
    titles = "".join(f"{digit:>6}" for digit in range(10))
    lines = [f"{'share of':<12}{titles}{'sure':>7}"]
    for name, row in rows.items():
        shares = "".join(f"{share:>6.2f}" for share in row.shares)
        lines.append(f"{name:<12}{shares}{row.sure:>7.2f}")
    lines.append(f"accuracy of the classifier on held-out digits: {accuracy:.3f}")
    return "\n".join(lines)


def figure(path: Path, pictures: dict[str, Tensor]) -> None:
    """The first images of each set, side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(5 * len(pictures), 5.3), dpi=110, layout="constrained")
    FigureCanvasAgg(drawing)
    axes = drawing.subplots(1, len(pictures), squeeze=False)[0]
    for side, (title, images) in zip(axes, pictures.items(), strict=True):
        side.imshow(data.tile(images[:SHOWN]), cmap="gray", vmin=0, vmax=255)
        side.set(title=TITLES.get(title, title), xticks=[], yticks=[])
    drawing.savefig(path)


def evaluate(run: Run) -> None:
    """Samples, prints the tables, writes samples.npz, scores.json and figure.png."""
    tqdm.write("training the classifier that judges the samples")
    digits, judge = data.digits(), Judge(run, extractors.make("classifier", run))
    count = max(judge.n, run.settings.samples)
    samples = {
        name: draw_samples(run, count, method=name, progress=True).clamp(-1, 1).cpu()
        for name in TITLES
    }
    fit = normal_fit(digits.train, judge.n, generator_of(run.settings.seed, FRESH))
    nfe = {name: evaluations(run.settings, name) for name in TITLES}
    judged = samples | {"normal fit": fit}
    rows = {name: judge.scores(images, nfe.get(name)) for name, images in judged.items()}
    rows["real"] = judge.floor()
    seen = judged | {"real": digits.held_out}
    told = {name: classes(judge.logits(images[: judge.n])) for name, images in seen.items()}
    right = judge.logits(digits.held_out).argmax(1) == digits.held_out_labels
    accuracy = right.double().mean().item()
    found = {name: row._asdict() | told[name]._asdict() for name, row in rows.items()}
    scores = json.dumps(found | {"accuracy": accuracy}, indent=2)
    (run.folder / "scores.json").write_text(scores + "\n")
    arrays = {name: z.numpy() for name, z in samples.items()}
    savez: Callable[..., None] = np.savez
    savez(run.folder / "samples.npz", **arrays)
    figure(run.folder / "figure.png", samples | {"held-out digits": digits.held_out})
    tqdm.write(f"{table(rows)}\n{class_table(told, accuracy)}")
    tqdm.write(f"samples, scores and figure are in {run.folder}")
