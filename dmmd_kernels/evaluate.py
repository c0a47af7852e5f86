"""How good the samples of a run are, and what real data would score.

python -m dmmd_kernels.evaluate --checkpoint runs/digits --method a_dmmd_e --seeds 3
python -m dmmd_kernels.evaluate --checkpoint runs/cifar10 --features inception --weights FILE
python -m dmmd_kernels.evaluate --checkpoint runs/digits --ablation particles

Each row of the table is judged on n samples against the held-out data (half of the training data
where none are held out), in the features of --features:

  fid                Fréchet distance of normal fits, in float64
  kid ± deviation    1000 × MMD² with a cubic kernel, over subsets
  cmmd               1000 × MMD² of unit features with a Gaussian kernel of width 10
  is                 inception score, where the extractor has classes
  precision, recall  shares of samples among data and of data among samples, 3 neighbours
  nearest, 5 %       distance to the nearest training datum, mean and quantile; that of held-out
                     data stands in the row `real`: samples much nearer are copies

The row `real` is as many training data against the same held-out ones: the floor. With several
--seeds a row is their mean, and FID is told of each seed. Where there are classes, so is the share
of each among all samples. Ablations, each a table (.json and .txt) and a figure: particles (N_p),
nfe (N_s), kernel (one --checkpoint for each, at several η), training (checkpoints of one run),
denoising (the last two steps); η and η_final are chosen on the first seed and judged on the others.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels import metrics
from dmmd_kernels.data import batch_indices, generator_of
from dmmd_kernels.evaluation import extractors
from dmmd_kernels.evaluation.extractors import EXTRACTORS, Extractor, ExtractorError
from dmmd_kernels.runs.run import FRESH, Run
from dmmd_kernels.sample import (
    OPEN_ERRORS,
    add_sampling,
    body,
    evaluations,
    finish,
    open_run,
    start,
)
from dmmd_kernels.systems.dmmd.samplers import METHODS

SUBSET, SUBSETS = 1000, 100
FLOOR_DRAWS = 4
MOST = 10_000


class Scores(NamedTuple):
    """One row of the table; see the top of this file. None where it has no meaning."""

    n: int
    nfe: int | None
    fid: float
    kid: float
    kid_deviation: float
    cmmd: float
    inception_score: float | None
    precision: float
    recall: float
    nearest: float
    nearest_quantile: float


class Judge:
    """Scores samples of a run, (N, *shape) in the coordinates of the data."""

    def __init__(self, run: Run, extractor: Extractor, n: int | None = None) -> None:
        """
        Args:
            run: whose data set is the measure.
            extractor: of the features.
            n: samples and data in a comparison; as many as are held out when None, at most MOST.

        Raises:
            ValueError: the data set has too few training or held-out data for n.
        """
        self.extractor = extractor
        self.train, self.real = _parts(run)
        self.n = min(len(self.real), len(self.train), MOST) if n is None else n
        if not 8 <= self.n <= min(len(self.train), len(self.real)):
            most = min(len(self.train), len(self.real))
            raise ValueError(f"evaluate: n must be from 8 to {most}, the data there are, got {n}")
        self.real = self.real[: self.n]
        self.of_real = extractor.features(self.real)

    def scores(self, samples: Tensor, nfe: int | None = None) -> Scores:
        """Of the first n samples; images are cut to [-1, 1]."""
        x = samples[: self.n].cpu()
        x = x.clamp(-1, 1) if x.ndim == 4 else x
        a, b, size = self.extractor.features(x), self.of_real, min(SUBSET, self.n // 2)
        kid, deviation = metrics.kid_of_subsets(a, b, subsets=SUBSETS, size=size)
        logits = self.extractor.logits
        near = metrics.nearest_distance(x, self.train)
        return Scores(
            len(x),
            nfe,
            metrics.fid(a, b),
            1000 * kid,
            1000 * deviation,
            metrics.cmmd(a, b),
            metrics.inception_score(logits(x)) if logits else None,
            *metrics.precision_recall(a, b),
            near.mean().item(),
            near.quantile(0.05).item(),
        )

    def logits(self, samples: Tensor) -> Tensor:
        """(N, C) of a classifier.

        Raises:
            ValueError: the extractor has no classes.
        """
        if self.extractor.logits is None:
            raise ValueError(f"logits: features of {self.extractor.name} have no classes")
        return self.extractor.logits(samples)

    def floor(self) -> Scores:
        """n training data against the held-out, mean of some draws; nearest: of the held-out."""
        rows = [
            batch_indices(len(self.train), self.n, seed=0, step=0, stream=draw)
            for draw in range(FLOOR_DRAWS)
        ]
        drawn = [self.scores(self.train[row]) for row in rows]
        own = self.scores(self.real)
        near = {name: getattr(own, name) for name in ("nearest", "nearest_quantile")}
        return mean(drawn)._replace(**near)


def mean(rows: list[Scores]) -> Scores:
    """Of each column; None where one is None."""
    columns = zip(*rows, strict=True)
    means = [None if None in column else sum(column) / len(column) for column in columns]
    return Scores(rows[0].n, rows[0].nfe, *means[2:])  # type: ignore[arg-type]


def _parts(run: Run) -> tuple[Tensor, Tensor]:
    """Training and held-out data, (N, *shape) and (M, *shape), in the coordinates of the data."""
    train, scale, held_out = run.dataset.train.cpu(), run.dataset.scale, run.dataset.test
    if held_out is None:
        order = torch.randperm(len(train), generator=generator_of(run.settings.seed, FRESH, 7))
        held_out, train = train[order].tensor_split(2)
    return train * scale, held_out.cpu() * scale


def draw(
    run: Run, methods: list[str], n: int, seed: int, chosen: argparse.Namespace
) -> dict[str, Tensor]:
    """`draw_samples` of each method, (n, *shape); a way that several methods go is gone once."""
    ends: dict[Callable[..., Tensor], Tensor] = {}
    found = {}
    for method in methods:
        way, last = METHODS[method]
        if way not in ends:
            steps = body(run, start(run, n, seed), method, chosen.step_size, rows=chosen.rows)
            *_, (_, ends[way]) = tqdm(steps, f"{method}, seed {seed}", run.settings.sample_levels)
        z = ends[way]
        if last is not None:
            z = finish(run, z, method, chosen.eta_final, rows=chosen.rows)
        found[method] = (z.flatten(0, 1)[:n] * run.dataset.scale).cpu()
    return found


class Report(NamedTuple):
    """Samples of each method, judged; and real data.

    Attributes:
        scores: one for each seed.
        shares: of the classes among the samples of all seeds, (C,); {} without classes.
        samples: of the first seed, (n, *shape).
    """

    scores: dict[str, list[Scores]]
    shares: dict[str, list[float]]
    samples: dict[str, Tensor]


def report(
    run: Run, judge: Judge, methods: list[str], seeds: list[int], chosen: argparse.Namespace
) -> Report:
    """Draws judge.n samples by each method on each seed and judges them."""
    drawn = [draw(run, methods, judge.n, seed, chosen) for seed in seeds]
    nfe = {method: evaluations(run.settings, method) for method in methods}
    scores = {
        method: [judge.scores(samples[method], nfe[method]) for samples in drawn]
        for method in methods
    }
    shares = {}
    if judge.extractor.logits is not None:
        seen = {method: torch.cat([samples[method] for samples in drawn]) for method in methods}
        seen["real"] = judge.real
        told = {name: judge.logits(x.clamp(-1, 1)) for name, x in seen.items()}
        shares = {name: metrics.class_shares(logits).tolist() for name, logits in told.items()}
    return Report(scores | {"real": [judge.floor()]}, shares, drawn[0] | {"real": judge.real})


def table(rows: dict[str, Scores]) -> str:
    """The table as text."""
    titles = ("n", "NFE", "fid", "kid", "±", "cmmd", "is", "prec", "recall", "nearest", "5 %")
    wide = max(12, *(len(name) + 2 for name in rows))
    lines = [" " * wide + "".join(f"{title:>11}" for title in titles)]
    for name, row in rows.items():
        lines.append(f"{name:<{wide}}" + "".join(f"{_cell(value):>11}" for value in row))
    return "\n".join(lines)


def fid_by_seed(scores: dict[str, list[Scores]]) -> str:
    """FID of each seed as text."""
    rows = {name: found for name, found in scores.items() if len(found) > 1}
    return "\n".join(
        f"fid of {name}: " + ", ".join(f"{row.fid:.2f}" for row in found)
        for name, found in rows.items()
    )


def class_table(shares: dict[str, list[float]]) -> str:
    """Percent of each class as text."""
    lines = ["% of each class"]
    for name, row in shares.items():
        lines.append(f"{name:<12}" + "".join(f"{100 * share:>6.1f}" for share in row))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    found = argparse.ArgumentParser(
        "python -m dmmd_kernels.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = found.add_argument
    add("--checkpoint", required=True, action="append", help="folder of a run or a checkpoint")
    add("--n", type=int, help="samples to judge; as many as are held out when left out")
    add(
        "--features",
        choices=EXTRACTORS,
        help="classifier for digits, random for patches, else pixels",
    )
    add("--weights", type=Path, help="of inception (a .safetensors file) or clip (a folder)")
    add("--out", type=Path, help="folder of the results; evaluation in the run's when left out")
    add("--seed", type=int, default=0, help="of the particles, the first of --seeds (0)")
    add("--seeds", type=int, help="how many seeds; 1, for ablations 3")
    add("--ablation", choices=("particles", "nfe", "kernel", "training", "denoising"))
    add_sampling(found, method=None)
    return found


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    options = parser()
    chosen = options.parse_args(arguments)
    if len(chosen.checkpoint) > 1 and chosen.ablation not in ("kernel", "training"):
        options.error("several --checkpoint are for --ablation kernel or training")
    try:
        runs = [open_run(path, chosen) for path in chosen.checkpoint]
        name = chosen.features or extractors.usual(runs[0])
        extractor = extractors.make(name, runs[0], chosen.weights)
        judge = Judge(runs[0], extractor, chosen.n)
    except (*OPEN_ERRORS, ExtractorError, ValueError) as error:
        options.error(str(error))
    folder = chosen.out or runs[0].folder / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if chosen.ablation:
            from dmmd_kernels.evaluation import ablations

            ablations.write(folder, runs, judge, chosen)
        else:
            _report(folder, runs[0], judge, chosen)
    except FloatingPointError as error:
        options.exit(1, f"{error}\n")


def _report(folder: Path, run: Run, judge: Judge, chosen: argparse.Namespace) -> None:
    methods = [chosen.method] if chosen.method else list(METHODS)
    seeds = list(range(chosen.seed, chosen.seed + (chosen.seeds or 1)))
    found = report(run, judge, methods, seeds, chosen)
    rows = {name: mean(by_seed) for name, by_seed in found.scores.items()}
    about = {
        "features": judge.extractor.name,
        "seeds": seeds,
        "rows": {name: row._asdict() for name, row in rows.items()},
        "fid_by_seed": {name: [row.fid for row in each] for name, each in found.scores.items()},
        "class_shares": found.shares,
    }
    (folder / "scores.json").write_text(json.dumps(about, indent=2) + "\n")
    if judge.real.ndim == 4:
        from dmmd_kernels.evaluation.figures import beside_nearest

        beside_nearest(folder / "samples.png", found.samples, judge.train)
    texts = table(rows), fid_by_seed(found.scores), found.shares and class_table(found.shares)
    tqdm.write("\n".join(text for text in texts if text))
    tqdm.write(f"scores in features of {judge.extractor.name} are in {folder}")


if __name__ == "__main__":
    main()
