"""Trains a noise-conditional kernel, then draws samples by its flow and judges them (DMMD).

    python -m dmmd_kernels.train                    the paper's 2-D experiment: runs/checkerboard
    python -m dmmd_kernels.train --preset digits    8 × 8 handwritten digits
    python -m dmmd_kernels.train --preset cifar10 --data_root FOLDER
    python -m dmmd_kernels.train --resume           goes on exactly where a run stopped
    python -m dmmd_kernels.train --help             every setting

A run continues bit for bit, on the same machine with the same number of threads: all randomness of
a step follows from (seed, step), and a checkpoint holds everything else.
"""

import platform
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
from tqdm import tqdm

from dmmd_kernels.data import write_grid
from dmmd_kernels.evaluation.curves import training_figure
from dmmd_kernels.presets import PRESETS
from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.run import DATASETS, Dataset, Run, choose_device, make_kernel, make_schedule
from dmmd_kernels.runs.settings import (
    Settings,
    SettingsError,
    check_same_run,
    from_command_line,
    write_config,
)
from dmmd_kernels.runs.tracking import Log
from dmmd_kernels.sample import draw_samples
from dmmd_kernels.systems.dmmd.step import State, learning_rate, train_step

# What a user can mend: one sentence, not a traceback.
KNOWN_ERRORS = (
    CheckpointError,
    SettingsError,
    FloatingPointError,
    FileNotFoundError,  # of a data set
    ImportError,  # of a library that a setting asks for
)


class Interrupts:
    """While active, Ctrl-C and SIGTERM only set `wanted`; a second one stops at once."""

    def __init__(self) -> None:
        self.wanted = False

    def __enter__(self) -> "Interrupts":
        kinds = (signal.SIGINT, signal.SIGTERM)
        self.before = {kind: signal.signal(kind, self._note) for kind in kinds}
        return self

    def _note(self, kind: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True

    def __exit__(self, *_: object) -> None:
        for kind, handler in self.before.items():
            signal.signal(kind, handler)


def fit(settings: Settings, *, resume: bool = False, progress: bool = True) -> Run | None:
    """Trains up to settings.steps; None if it was interrupted, after saving.

    Raises:
        CheckpointError: no checkpoint can be read, or one can't be written.
        SettingsError: the run to be continued has other settings.
        FloatingPointError: the loss is not finite.
    """
    folder = settings.folder
    found = checkpoint.latest(folder / "checkpoints") if resume else None
    if found is not None:
        check_same_run(settings, found.record["settings"])
    elif not resume:
        _set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "config.yaml", settings)
    device = choose_device(settings.device)
    dataset = DATASETS[settings.data](settings)
    dataset = dataset._replace(train=dataset.train.to(device))
    torch.manual_seed(settings.seed)
    state = State(make_kernel(settings, dataset.train.shape[1:]).to(device), settings)
    if settings.compile:
        state.deep.features.compile()
    if found is not None:
        state.restore(found)
        checkpoint.discard_after(folder / "checkpoints", state.step)
        tqdm.write(f"continuing {folder} at step {state.step}")
    if not _steps(state, dataset, settings, progress):
        tqdm.write(f"stopped at step {state.step}, saved; go on with\n  {_resume(settings)}")
        return None
    return Run(settings, folder, state.ema, dataset)


def _steps(state: State, dataset: Dataset, settings: Settings, progress: bool) -> bool:
    """The loop; False if it was interrupted."""
    log = Log(settings, state.step)
    schedule = make_schedule(settings)
    saved = state.step
    bar = tqdm(total=settings.steps, initial=state.step, desc="training", disable=not progress)
    with Interrupts() as interrupts, bar, log.file:
        while state.step < settings.steps and not interrupts.wanted:
            rate = learning_rate(settings, state.step)
            loss = train_step(state, dataset, schedule, settings)
            bar.update()
            if state.step % settings.log_every == 0 or state.step == settings.steps:
                values = log.write(state.step, loss, rate)
                shown = {name: f"{values[name]:.4g}" for name in ("loss", "mmd2")}
                bar.set_postfix(shown, images_s=f"{values['images_per_second']:.0f}")
            if state.step % settings.save_every == 0 or state.step == settings.steps:
                _save(state, settings)
                saved = state.step
            if settings.grid_every and state.step % settings.grid_every == 0:
                _draw_grid(state, dataset, settings)
        if saved < state.step:
            _save(state, settings)
    return state.step >= settings.steps


def _draw_grid(state: State, dataset: Dataset, settings: Settings) -> None:
    """64 samples of the averaged kernel as it is now, from the same noise each time."""
    if dataset.train.ndim != 4:
        return
    few = replace(settings, particles=64)
    folder = settings.folder / "grids"
    folder.mkdir(exist_ok=True)
    try:
        samples = draw_samples(Run(few, settings.folder, state.ema, dataset), 64)
    except FloatingPointError as error:
        tqdm.write(f"no picture at step {state.step}: {error}")
        return
    write_grid(folder / f"step-{state.step:08d}.png", samples, columns=8)


def _save(state: State, settings: Settings) -> None:
    record = {
        "settings": settings.plain(),
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
    number = 1
    while (aside := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    folder.rename(aside)
    tqdm.write(f"the run that was in {folder} is now in {aside}")


def _resume(settings: Settings) -> str:
    return f"python -m dmmd_kernels.train --out {settings.folder} --resume"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    presets = {name: preset.settings for name, preset in PRESETS.items()}
    settings, resume = from_command_line(sys.argv[1:] if arguments is None else arguments, presets)
    try:
        run = fit(settings, resume=resume)
        if run is None:
            return 130
        training_figure(run.folder)
        PRESETS[settings.preset].evaluate(run)
    except KNOWN_ERRORS as error:
        tqdm.write(str(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        tqdm.write(f"\nstopped; go on with\n  {_resume(settings)}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
