"""What one choice of the sampler does: the same run, judged again and again. See evaluate.py."""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.evaluate import Judge, Scores, mean, table
from dmmd_kernels.runs.run import Run
from dmmd_kernels.sample import body, draw_samples, evaluations, finish, start

PARTICLES = (4, 10, 25, 50, 100, 200)
STEPS = (1, 2, 5, 10, 20)
FINAL_RATES = (1.0, 10.0, 50.0, 100.0, 200.0)
KERNEL_RATES = (0.5, 1.0, 2.0, 5.0, 20.0)
CHOOSES = ("kernel", "denoising")  # the best place on the first seed
# name of the curve → (place on the axis, scores by seed); None where particles flew off
Points = dict[str, list[tuple[float, list[Scores | None]]]]


def particles(runs: list[Run], judge: Judge, seeds: list[int], rows: int) -> Points:
    """DMMD with clouds of N_p particles, a-DMMD beside it, which has no clouds."""
    curve = [
        (float(count), _judged(_with(runs[0], particles=count), judge, "dmmd", seeds, rows))
        for count in PARTICLES
    ]
    alone = _judged(runs[0], judge, "a_dmmd", seeds, rows)
    return {"dmmd": curve, "a_dmmd": [(float(c), alone) for c in (PARTICLES[0], PARTICLES[-1])]}


def nfe(runs: list[Run], judge: Judge, seeds: list[int], rows: int) -> Points:
    """N_s steps at each level, at equal η, and at η N_s held: shorter steps along the same way."""
    usual, run = runs[0].settings, runs[0]
    found: Points = {"dmmd": [], "dmmd, η ∝ 1/N_s": [], "a_dmmd": [], "a_dmmd, η ∝ 1/N_s": []}
    for name, curve in found.items():
        method, _, scaled = name.partition(",")
        for count in STEPS:
            c = usual.step_size * (usual.sample_steps / count if scaled else 1.0)
            changed = _with(run, sample_steps=count, step_size=c)
            place = float(evaluations(changed.settings, method))
            curve.append((place, _judged(changed, judge, method, seeds, rows)))
    return found


def kernel(runs: list[Run], judge: Judge, seeds: list[int], rows: int) -> Points:
    """One run for each base kernel, by DMMD at several η: slopes differ in size between kernels."""
    found = Points()
    for run in runs:
        rates = [rate * run.settings.step_size for rate in KERNEL_RATES]
        found[run.settings.kernel] = [
            (c, _judged(_with(run, step_size=c), judge, "dmmd", seeds, rows)) for c in rates
        ]
    return found


def training(runs: list[Run], judge: Judge, seeds: list[int], rows: int) -> Points:
    """Checkpoints of one run, by DMMD."""
    return {
        "dmmd": [(float(run.step), _judged(run, judge, "dmmd", seeds, rows)) for run in runs],
    }


def denoising(runs: list[Run], judge: Judge, seeds: list[int], rows: int) -> Points:
    """The last two steps at several η_final, after flows that are drawn once for each seed."""
    run, found = runs[0], Points()
    for method, finals in {"dmmd": ["dmmd_e"], "a_dmmd": ["a_dmmd_a", "a_dmmd_e"]}.items():
        ends = [_end(run, judge, method, seed, rows) for seed in seeds]
        plain = [judge.scores(_flat(run, z), evaluations(run.settings, method)) for z in ends]
        found[method] = [(0.0, list(plain))]
        for final in finals:
            found[final] = []
            for rate in FINAL_RATES:
                c = rate * run.settings.step_size
                done = [_finished(run, judge, z, final, c, rows) for z in ends]
                found[final].append((c, done))
    return found


ABLATIONS = {
    "particles": particles,
    "nfe": nfe,
    "kernel": kernel,
    "training": training,
    "denoising": denoising,
}
AXES = {
    "particles": "N_p",
    "nfe": "NFE",
    "kernel": "η",
    "training": "step of training",
    "denoising": "η_final",
}


def summary(found: Points, *, choose: bool) -> dict[str, Scores]:
    """Means over the seeds; with choose, only the point best on the first seed, over the others."""
    rows = {}
    for name, curve in found.items():
        kept = [(place, by_seed) for place, by_seed in curve if None not in by_seed]
        if choose and kept and len(kept[0][1]) > 1:
            place, by_seed = min(kept, key=lambda point: point[1][0].fid)  # type: ignore[union-attr]
            kept = [(place, by_seed[1:])]
        for place, by_seed in kept:
            rows[f"{name} {place:g}"] = mean(by_seed)  # type: ignore[arg-type]
    return rows


def write(folder: Path, runs: list[Run], judge: Judge, chosen: argparse.Namespace) -> None:
    """Runs the ablation, prints the table, writes NAME.json, NAME.txt and NAME.png."""
    from dmmd_kernels.evaluation.figures import ablation_figure

    name = chosen.ablation
    seeds = list(range(chosen.seed, chosen.seed + (chosen.seeds or 3)))
    found = ABLATIONS[name](runs, judge, seeds, chosen.rows)
    floor = judge.floor()
    text = table(summary(found, choose=name in CHOOSES) | {"real": floor})
    about = f"features: {judge.extractor.name}; seeds: {seeds}; {AXES[name]} follows each name\n"
    if name in CHOOSES and len(seeds) > 1:
        about += f"{AXES[name]} is the best on seed {seeds[0]}; scores are means over the others\n"
    points = {
        curve: [[place, [row and row._asdict() for row in by_seed]] for place, by_seed in along]
        for curve, along in found.items()
    }
    record = {"axis": AXES[name], "seeds": seeds, "points": points, "real": floor._asdict()}
    (folder / f"{name}.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")
    (folder / f"{name}.txt").write_text(f"{about}{text}\n")
    curves = {
        curve: [(place, [row.fid for row in by_seed if row]) for place, by_seed in along]
        for curve, along in found.items()
    }
    ablation_figure(folder / f"{name}.png", curves, floor.fid, AXES[name])
    tqdm.write(f"{about}{text}\n{name}.json, .txt and .png are in {folder}")


def _with(run: Run, **changes) -> Run:
    return replace(run, settings=replace(run.settings, **changes))


def _judged(
    run: Run, judge: Judge, method: str, seeds: list[int], rows: int
) -> list[Scores | None]:
    """Scores by seed; None where particles flew off, which is a result, too."""
    nfe = evaluations(run.settings, method)
    found: list[Scores | None] = []
    for seed in seeds:
        try:
            z = draw_samples(run, judge.n, method=method, seed=seed, rows=rows)
            found.append(judge.scores(z, nfe))
        except FloatingPointError:
            found.append(None)
    return found


def _finished(run: Run, judge: Judge, z: Tensor, method: str, c: float, rows: int) -> Scores | None:
    """Scores of z after the last two steps of the method; None where particles flew off."""
    try:
        ended = finish(run, z, method, c, rows=rows)
    except FloatingPointError:
        return None
    return judge.scores(_flat(run, ended), evaluations(run.settings, method))


def _end(run: Run, judge: Judge, method: str, seed: int, rows: int) -> Tensor:
    *_, (_, z) = body(run, start(run, judge.n, seed), method, rows=rows)
    return z


def _flat(run: Run, z: Tensor) -> Tensor:
    return z.flatten(0, 1) * run.dataset.scale
