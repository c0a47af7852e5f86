"""What one choice of DMMD's sampler does: the same run, judged again and again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.evaluation.figures import ablation_figure
from dmmd_kernels.evaluation.judge import Judge, Scores, mean, table
from dmmd_kernels.runs.run import Run, draw_samples
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems.dmmd.draws import along, evaluations, finish, planned, start
from dmmd_kernels.systems.dmmd.level_data import LevelData
from dmmd_kernels.systems.dmmd.settings import DmmdDrawing, DmmdSettings
from dmmd_kernels.systems.dmmd.training import own

PARTICLES = (4, 10, 25, 50, 100, 200)
STEPS = (1, 2, 5, 10, 20)
FINAL_RATES = (1.0, 10.0, 50.0, 100.0, 200.0)
KERNEL_RATES = (0.5, 1.0, 2.0, 5.0, 20.0)
CHOOSES = ("kernel", "denoising")  # the best place on the first seed
# name of the curve → (place on the axis, scores by seed); None where particles flew off
Points = dict[str, list[tuple[float, list[Scores | None]]]]


class Task(NamedTuple):
    """What every ablation is given.

    Attributes:
        runs: of DMMD; several for `kernel` and `training`.
        judge: of the samples.
        drawing: what all drawings share.
        seeds: of the particles.
    """

    runs: Sequence[Run]
    judge: Judge
    drawing: DmmdDrawing
    seeds: Sequence[int]


def particles(task: Task) -> Points:
    """DMMD with clouds of N_p particles, a-DMMD beside it, which has no clouds."""
    run = task.runs[0]
    curve = [
        (float(count), _judged(task, run, method="dmmd", particles=count)) for count in PARTICLES
    ]
    alone = _judged(task, run, method="a_dmmd")
    return {"dmmd": curve, "a_dmmd": [(float(c), alone) for c in (PARTICLES[0], PARTICLES[-1])]}


def nfe(task: Task) -> Points:
    """N_s steps at each level, at equal η, and at η N_s held: shorter steps along the same way."""
    run = task.runs[0]
    found: Points = {"dmmd": [], "dmmd, η ∝ 1/N_s": [], "a_dmmd": [], "a_dmmd, η ∝ 1/N_s": []}
    for name, curve in found.items():
        method, _, scaled = name.partition(",")
        usual = planned(run.settings, task.drawing.changed(method=method))
        for count in STEPS:
            c = usual.step.c * (usual.steps / count if scaled else 1.0)
            drawing: dict[str, Any] = {"method": method, "steps": count, "step_size": c}
            place = float(evaluations(run.settings, task.drawing.changed(**drawing)))
            curve.append((place, _judged(task, run, **drawing)))
    return found


def kernel(task: Task) -> Points:
    """One run for each base kernel, by DMMD at several η: slopes differ in size between kernels."""
    found = Points()
    for run in task.runs:
        rates = [rate * own(run.settings).step_size for rate in KERNEL_RATES]
        found[own(run.settings).kernel] = [
            (c, _judged(task, run, method="dmmd", step_size=c)) for c in rates
        ]
    return found


def training(task: Task) -> Points:
    """Checkpoints of one run, by DMMD."""
    return {"dmmd": [(float(run.step), _judged(task, run, method="dmmd")) for run in task.runs]}


def denoising(task: Task) -> Points:
    """The last two steps at several η_final, after flows that are drawn once for each seed."""
    run, found = task.runs[0], Points()
    for method, finals in {"dmmd": ["dmmd_e"], "a_dmmd": ["a_dmmd_a", "a_dmmd_e"]}.items():
        ends = [_end(task, run, method, seed) for seed in task.seeds]
        count = evaluations(run.settings, task.drawing.changed(method=method))
        found[method] = [(0.0, [task.judge.scores(_flat(run, z), count) for z in ends])]
        for final in finals:
            found[final] = []
            for rate in FINAL_RATES:
                c = rate * own(run.settings).step_size
                found[final].append((c, [_finished(task, run, z, final, c) for z in ends]))
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


def write(folder: Path, name: str, task: Task) -> None:
    """Runs the ablation, prints the table, writes NAME.json, NAME.txt and NAME.png.

    Raises:
        SettingsError: a run is not one of DMMD.
    """
    for run in task.runs:
        if not isinstance(run.settings.system, DmmdSettings):
            raise SettingsError(f"--ablation is for runs of dmmd, got one of {run.system.name}")
    seeds = list(task.seeds)
    found = ABLATIONS[name](task)
    floor = task.judge.floor()
    text = table(summary(found, choose=name in CHOOSES) | {"real": floor})
    features = task.judge.extractor.name
    about = f"features: {features}; seeds: {seeds}; {AXES[name]} follows each name\n"
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


def _judged(task: Task, run: Run, **changes: Any) -> list[Scores | None]:
    """Scores by seed; None where particles flew off, which is a result, too."""
    drawing = task.drawing.changed(**changes)
    nfe = evaluations(run.settings, drawing)
    found: list[Scores | None] = []
    for seed in task.seeds:
        try:
            z = draw_samples(run, task.judge.n, drawing, seed=seed)
            found.append(task.judge.scores(z, nfe))
        except FloatingPointError:
            found.append(None)
    return found


def _end(task: Task, run: Run, method: str, seed: int) -> Tensor:
    """The particles after the flow along the levels."""
    plan = planned(run.settings, task.drawing.changed(method=method))
    z = start(run, task.judge.n, seed, plan.particles)
    *_, (_, z) = along(LevelData.of(run), z, plan)
    return z


def _finished(task: Task, run: Run, z: Tensor, method: str, c: float) -> Scores | None:
    """Scores of z after the last two steps of the method; None where particles flew off."""
    drawing = task.drawing.changed(method=method, eta_final=c)
    try:
        ended = finish(LevelData.of(run), z, planned(run.settings, drawing))
    except FloatingPointError:
        return None
    return task.judge.scores(_flat(run, ended), evaluations(run.settings, drawing))


def _flat(run: Run, z: Tensor) -> Tensor:
    return z.flatten(0, 1) * run.dataset.scale
