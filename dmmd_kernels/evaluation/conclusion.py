"""What a run of training ends with: samples, judged as far as no other file is needed, pictured."""

import json

import torch
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.data.batches import Stream, generator_of
from dmmd_kernels.evaluation import comparison, extractors, judge, outputs
from dmmd_kernels.runs.run import Run, draw_samples


def conclude(run: Run) -> None:
    """Points are compared, digits judged by a classifier, other images drawn."""
    if run.dataset.train.ndim == 2:
        _points(run)
    elif run.settings.data == "digits":
        _digits(run)
    else:
        _images(run)


def _points(run: Run) -> None:
    """Prints the table, writes samples.npz, scores.json and figure.png."""
    from dmmd_kernels.evaluation.figures import comparison_figure

    found = comparison.compare(run, progress=True)
    outputs.write_arrays(run.folder / "samples.npz", found.samples)
    _write_json(run, {name: row._asdict() for name, row in found.scores.items()})
    comparison_figure(run.folder / "figure.png", found)
    tqdm.write(comparison.table(found.scores))
    tqdm.write(f"samples, scores and figure are in {run.folder}")


def _digits(run: Run) -> None:
    """Prints the tables, writes samples.npz, scores.json and figure.png."""
    from dmmd_kernels.evaluation.figures import side_by_side

    tqdm.write("training the classifier that judges the samples")
    of_digits = judge.Judge(run, extractors.make("classifier", run))
    generator = generator_of(run.settings.seed, Stream.FRESH)
    fit = {"normal fit": normal_fit(of_digits.train, of_digits.n, generator)}
    drawings, count = run.system.variants, run.settings.samples
    found = judge.report(run, of_digits, drawings, [0], others=fit, count=count)
    accuracy = of_digits.accuracy()
    _write_json(run, judge.as_json(found, of_digits, [0]) | {"accuracy": accuracy})
    drawn = {name: found.samples[name].clamp(-1, 1) for name in drawings}
    outputs.write_arrays(run.folder / "samples.npz", drawn)
    side_by_side(run.folder / "figure.png", drawn | {"held-out digits": of_digits.real})
    tqdm.write(judge.as_text(found))
    tqdm.write(f"accuracy of the classifier on held-out digits: {accuracy:.3f}")
    tqdm.write(f"samples, scores and figure are in {run.folder}")


def _images(run: Run) -> None:
    """Writes samples.npz and grid.png."""
    samples = draw_samples(run, run.settings.samples, progress=True)
    outputs.write_samples(run.folder / "samples.npz", samples)
    outputs.write_samples(run.folder / "grid.png", samples[:100])
    tqdm.write(
        f"{len(samples)} samples are in {run.folder}; judge them with\n"
        f"  python -m dmmd_kernels.evaluate --checkpoint {run.folder} --features inception "
        "--weights FILE"
    )


def normal_fit(train: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(n, C, H, W): draws of the normal distribution of the training pixels, cut to [-1, 1]."""
    pixels = train.flatten(1).double()
    values, vectors = torch.linalg.eigh(pixels.T.cov())
    noise = torch.randn(n, pixels.shape[1], generator=generator, dtype=torch.float64)
    drawn = pixels.mean(0) + (noise * values.clamp(min=0).sqrt()) @ vectors.T
    return drawn.clamp(-1, 1).to(train.dtype).unflatten(1, train.shape[1:])


def _write_json(run: Run, content: object) -> None:
    (run.folder / "scores.json").write_text(json.dumps(content, indent=2) + "\n")
