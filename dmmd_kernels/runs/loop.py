"""The loop that trains any system: steps, the log, checkpoints, pictures, and how it is stopped.

A run continues bit for bit, on the same machine with the same number of threads: all randomness of
a step follows from (seed, step), and a checkpoint holds everything else.
"""

import platform
import signal
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.data.images import write_grid
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.command_line import as_yaml
from dmmd_kernels.runs.files import held, write_whole
from dmmd_kernels.runs.run import Run, choose_device, draw_samples, make_dataset
from dmmd_kernels.runs.settings import Settings, SettingsError, check_same_run
from dmmd_kernels.runs.state import State
from dmmd_kernels.runs.system import System
from dmmd_kernels.runs.tracking import Log

SHOWN = 2  # of a step's numbers, in the progress bar
PICTURED = 64


class Interrupts:
    """While active, Ctrl-C, SIGTERM and a terminal that closes only set `wanted`; a second one
    stops at once."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> "Interrupts":
        kinds = [
            signal.SIGINT,
            signal.SIGTERM,
            *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []),
        ]
        self.before = {kind: signal.signal(kind, self._note) for kind in kinds}
        return self

    def _note(self, kind: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *_: object) -> None:
        for kind, handler in self.before.items():
            signal.signal(kind, handler)


def fit(
    system: System, settings: Settings, *, resume: bool = False, progress: bool = True
) -> Run | None:
    """Trains up to settings.steps; None if it was interrupted, after saving.

    Raises:
        CheckpointError: no checkpoint can be read, or one can't be written.
        SettingsError: the run to be continued has other settings.
        FloatingPointError: a number that a step tells of is not finite.
    """
    folder = settings.folder
    dataset = make_dataset(settings, choose_device(settings.device))
    if settings.batch > len(dataset.train):
        raise SettingsError(
            f"batch must be at most the {len(dataset.train)} training samples of "
            f"{settings.data}, got {settings.batch}"
        )
    if not resume:
        _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder):
        return _fit(system, settings, dataset, resume, progress)


def _fit(
    system: System, settings: Settings, dataset: Dataset, resume: bool, progress: bool
) -> Run | None:
    folder = settings.folder
    found = checkpoint.latest(folder / "checkpoints") if resume else None
    if found is not None:
        check_same_run(settings, found.record["settings"])
    elif resume:
        tqdm.write(f"nothing to continue in {folder}: a new run begins")
    write_whole(folder / "config.yaml", as_yaml(settings))
    torch.manual_seed(settings.seed)
    state = system.build(settings, dataset, 0 if found is None else found.phase)
    if found is not None:
        state.restore(found)
        checkpoint.discard_after(folder / "checkpoints", state.step)
        tqdm.write(f"continuing {folder} at step {state.step}")
    run = Run(system, settings, folder, state, dataset)
    if not _steps(run, progress):
        tqdm.write(f"stopped at step {state.step}, saved; go on with\n  {how_to_resume(settings)}")
        return None
    return run


def how_to_resume(settings: Settings) -> str:
    return f"python -m dmmd_kernels.train --out {settings.folder} --resume"


def _steps(run: Run, progress: bool) -> bool:
    """The loop; False if it was interrupted."""
    settings, state = run.settings, run.state
    log = Log(settings, state.step, run.system.remedy)
    saved = state.step
    bar = tqdm(total=settings.steps, initial=state.step, desc="training", disable=not progress)
    with Interrupts() as interrupts, bar, log.file:
        while state.step < settings.steps and not interrupts.wanted:
            numbers = run.system.step(state, settings, run.dataset)
            bar.update()
            if state.step % settings.log_every == 0 or state.step == settings.steps:
                values = log.write(state.step, numbers, state.seen)
                shown = list(values.items())[:SHOWN]
                bar.set_postfix({name: f"{value:.4g}" for name, value in shown})
            if state.step % settings.save_every == 0 or state.step == settings.steps:
                _save(state, settings)
                saved = state.step
            if settings.grid_every and state.step % settings.grid_every == 0:
                _draw_grid(run)
        if saved < state.step:
            _save(state, settings)
    return state.step >= settings.steps


def _draw_grid(run: Run) -> None:
    """Samples of the state as it is now, from the same noise each time."""
    if run.dataset.train.ndim != 4:
        return
    folder = run.folder / "grids"
    folder.mkdir(exist_ok=True)
    try:
        samples = draw_samples(run, PICTURED, run.system.preview)
    except FloatingPointError as error:
        tqdm.write(f"no picture at step {run.step}: {error}")
        return
    write_grid(folder / f"step-{run.step:08d}.png", samples, columns=8)


def _save(state: State, settings: Settings) -> None:
    record = {
        "settings": settings.flat(),
        "phase": state.phase,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }
    folder = settings.folder / "checkpoints"
    tensors, keep_every = state.tensors(), settings.keep_every
    checkpoint.save(folder, state.step, tensors, record, settings.keep, keep_every=keep_every)


def _set_aside(folder: Path) -> None:
    """A new run never overwrites an old one: its folder gets another name."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    with held(folder):  # that of a running training stays where it is
        pass
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    folder.rename(aside)
    tqdm.write(f"the run that was in {folder} is now in {aside}")
