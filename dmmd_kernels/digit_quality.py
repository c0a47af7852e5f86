"""Are the digits good? Samples of a run against held-out digits, with what real data would score.

Features are those of a small classifier fitted to the training images (metrics.DigitClassifier).
Every row is judged on as many images as are held out, since FID depends on their number:

    dmmd, dmmd_e, a_dmmd, a_dmmd_e    samples of the run by these methods, see sample.py
    normal fit  draws of the normal distribution with the mean and covariance of the training pixels
    real        training images, several draws: the floor of fid and kid. `nearest` is here that of
                the held-out images: samples much nearer to the training set than these are copies

    fid, kid    to the held-out images. Those have the class shares of the data exactly, so they
                are closer to real digits than a free draw would be, and the floor of kid is below 0
    nearest     mean distance to the nearest training image, in pixels' units, and its 5 % quantile
    sure        mean of the classifier's largest probability
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
from dmmd_kernels.experiment import FRESH, Run
from dmmd_kernels.sample import draw_samples

FLOOR_DRAWS = 8
SHOWN = 100
TITLES = {"dmmd": "DMMD", "dmmd_e": "DMMD-e", "a_dmmd": "a-DMMD", "a_dmmd_e": "a-DMMD-e"}


class Quality(NamedTuple):
    """One row of the table."""

    fid: float
    kid: float
    nearest: float
    nearest_quantile: float
    sure: float
    shares: list[float]


def judge(images: Tensor, digits: data.Digits, classifier: metrics.DigitClassifier) -> Quality:
    """images (N, 1, 8, 8) in [-1, 1] against the held-out digits."""
    logits = classifier(images)
    a, b = classifier.features(images), classifier.features(digits.held_out)
    nearest = metrics.nearest_distance(images, digits.train)
    return Quality(
        metrics.fid(a, b),
        metrics.kid(a, b),
        nearest.mean().item(),
        nearest.quantile(0.05).item(),
        logits.softmax(1).amax(1).mean().item(),
        metrics.class_shares(logits).tolist(),
    )


def floor(digits: data.Digits, classifier: metrics.DigitClassifier) -> Quality:
    """Real digits: fid and kid of draws from the training images, the rest of the held-out ones."""
    n = len(digits.held_out)
    rows = [
        data.batch_indices(len(digits.train), n, seed=0, step=0, stream=draw)
        for draw in range(FLOOR_DRAWS)
    ]
    drawn = [judge(digits.train[row], digits, classifier) for row in rows]
    return judge(digits.held_out, digits, classifier)._replace(
        fid=sum(row.fid for row in drawn) / FLOOR_DRAWS,
        kid=sum(row.kid for row in drawn) / FLOOR_DRAWS,
    )


def normal_fit(train: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 8, 8): draws of the normal distribution of the training pixels, cut to [-1, 1]."""
    pixels = train.flatten(1).double()
    values, vectors = torch.linalg.eigh(pixels.T.cov())
    noise = torch.randn(n, pixels.shape[1], generator=generator, dtype=torch.float64)
    drawn = pixels.mean(0) + (noise * values.clamp(min=0).sqrt()) @ vectors.T
    return drawn.clamp(-1, 1).to(train.dtype).unflatten(1, train.shape[1:])


def table(rows: dict[str, Quality], accuracy: float) -> str:
    """The table as text."""
    lines = [f"{'':<12}{'fid':>9}{'kid':>10}{'nearest':>9}{'5 %':>7}{'sure':>7}"]
    for name, row in rows.items():
        lines.append(
            f"{name:<12}{row.fid:>9.3f}{row.kid:>10.4f}{row.nearest:>9.2f}"
            f"{row.nearest_quantile:>7.2f}{row.sure:>7.2f}"
        )
    lines.append(f"{'share of':<12}" + "".join(f"{digit:>6}" for digit in range(10)))
    for name, row in rows.items():
        lines.append(f"{name:<12}" + "".join(f"{share:>6.2f}" for share in row.shares))
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
    """Samples, prints the table, writes samples.npz, scores.json and figure.png."""
    digits = data.digits()
    n = len(digits.held_out)
    count = max(n, run.settings.samples)
    samples = {
        name: draw_samples(run, count, method=name, progress=True).clamp(-1, 1).cpu()
        for name in TITLES
    }
    tqdm.write("training the classifier that judges the samples")
    classifier = metrics.train_digit_classifier(digits)
    accuracy = classifier.accuracy(digits.held_out, digits.held_out_labels)
    fit = normal_fit(digits.train, n, generator_of(run.settings.seed, FRESH))
    judged = samples | {"normal fit": fit}
    rows = {name: judge(images[:n], digits, classifier) for name, images in judged.items()}
    rows["real"] = floor(digits, classifier)
    found = {name: row._asdict() for name, row in rows.items()} | {"accuracy": accuracy}
    (run.folder / "scores.json").write_text(json.dumps(found, indent=2) + "\n")
    arrays = {name: z.numpy() for name, z in samples.items()}
    savez: Callable[..., None] = np.savez
    savez(run.folder / "samples.npz", **arrays)
    figure(run.folder / "figure.png", samples | {"held-out digits": digits.held_out})
    tqdm.write(table(rows, accuracy))
    tqdm.write(f"samples, scores and figure are in {run.folder}")
