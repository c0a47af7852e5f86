"""The judge: samples of a run against held-out data, in the features of an extractor.

    fid                Fréchet distance of normal fits, in float64
    kid ± deviation    1000 × MMD² with a cubic kernel, over subsets
    cmmd               1000 × MMD² of unit features with a Gaussian kernel of width 10
    is                 inception score, where the extractor has classes
    precision, recall  shares of samples among data and of data among samples, 3 neighbours
    nearest, 5 %       distance to the nearest training datum, mean and quantile; that of held-out
                       data stands in the row `real`: samples much nearer are copies

The row `real` is as many training data against the same held-out ones: the floor. Held-out data
have the class shares of the data exactly, so they are closer to it than a free draw would be, and
the floor of kid can be below 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dmmd_kernels import metrics
from dmmd_kernels.data.batches import Stream, batch_indices, generator_of
from dmmd_kernels.evaluation.extractors import Extractor
from dmmd_kernels.runs.run import Run

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
        self.labels = run.dataset.test_labels

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

    def accuracy(self) -> float:
        """Share of the held-out data that the extractor puts into its class.

        Raises:
            ValueError: there are no classes.
        """
        if self.labels is None:
            raise ValueError("accuracy: the held-out data must have labels, got none")
        right = self.logits(self.real).argmax(1) == self.labels[: self.n].to(self.real.device)
        return right.double().mean().item()

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
        generator = generator_of(run.settings.seed, Stream.HELD_OUT)
        order = torch.randperm(len(train), generator=generator)
        held_out, train = train[order].tensor_split(2)
    return train * scale, held_out.cpu() * scale


class Classes(NamedTuple):
    """What a classifier says of samples: the share of each class, and its mean certainty."""

    shares: list[float]
    sure: float


class Report(NamedTuple):
    """Samples of each drawing, judged; and real data.

    Attributes:
        scores: one for each seed.
        classes: of the samples of all seeds; {} without classes.
        samples: of the first seed, (n, *shape).
    """

    scores: dict[str, list[Scores]]
    classes: dict[str, Classes]
    samples: dict[str, Tensor]

    @property
    def rows(self) -> dict[str, Scores]:
        """Means over the seeds."""
        return {name: mean(by_seed) for name, by_seed in self.scores.items()}


def report(
    run: Run,
    judge: Judge,
    drawings: Mapping[str, Any],
    seeds: Sequence[int],
    *,
    others: Mapping[str, Tensor] | None = None,
    count: int | None = None,
    progress: bool = True,
) -> Report:
    """Draws samples on each seed and judges them.

    Args:
        drawings: of the run's system, by the names of their rows.
        others: samples from elsewhere with a row of their own.
        count: samples drawn, at least the judge's n, which is taken when None.
        progress: show progress bars.
    """
    n = max(judge.n, count or 0)
    each = run.system.draw_each
    drawn = [each(run, n, drawings, seed=seed, progress=progress) for seed in seeds]
    drawn = [{name: x.cpu() for name, x in samples.items()} for samples in drawn]
    nfe = {name: run.system.evaluations(run.settings, d) for name, d in drawings.items()}
    scores = {name: [judge.scores(samples[name], nfe[name]) for samples in drawn] for name in nfe}
    seen = {name: torch.cat([samples[name][: judge.n] for samples in drawn]) for name in nfe}
    for name, samples in (others or {}).items():
        scores[name], seen[name] = [judge.scores(samples)], samples[: judge.n]
    scores["real"], seen["real"] = [judge.floor()], judge.real
    classes = {}
    if judge.extractor.logits is not None:
        classes = {name: classes_of(judge.logits(x.clamp(-1, 1))) for name, x in seen.items()}
    return Report(scores, classes, drawn[0] | {"real": judge.real})


def classes_of(logits: Tensor) -> Classes:
    """Of logits (N, C)."""
    sure = logits.softmax(1).amax(1).mean().item()
    return Classes(metrics.class_shares(logits).tolist(), sure)


def as_json(found: Report, judge: Judge, seeds: Sequence[int]) -> dict[str, Any]:
    """What scores.json holds."""
    return {
        "features": judge.extractor.name,
        "seeds": list(seeds),
        "rows": {name: row._asdict() for name, row in found.rows.items()},
        "fid_by_seed": {name: [row.fid for row in each] for name, each in found.scores.items()},
        "class_shares": {name: classes.shares for name, classes in found.classes.items()},
        "sure": {name: classes.sure for name, classes in found.classes.items()},
    }


def as_text(found: Report) -> str:
    """The tables of a report."""
    texts = table(found.rows), fid_by_seed(found.scores), class_table(found.classes)
    return "\n".join(text for text in texts if text)


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


def class_table(classes: Mapping[str, Classes]) -> str:
    """Percent of each class, and how sure the classifier is, as text; empty without classes."""
    if not classes:
        return ""
    wide = max(12, *(len(name) + 2 for name in classes))
    lines = ["% of each class, and how sure the classifier is"]
    for name, row in classes.items():
        shares = "".join(f"{100 * share:>6.1f}" for share in row.shares)
        lines.append(f"{name:<{wide}}{shares}{row.sure:>8.2f}")
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:.4g}"
