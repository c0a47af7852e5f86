"""Trains a noise-conditional kernel, then draws samples by its flow and judges them (DMMD).

    python -m dmmd_kernels.train                    the paper's 2-D experiment: runs/checkerboard
    python -m dmmd_kernels.train --preset digits    8 × 8 handwritten digits
    python -m dmmd_kernels.train --resume           goes on exactly where a run stopped
    python -m dmmd_kernels.train --help             every setting

A run continues bit for bit, on the same machine with the same number of threads: all randomness of
a step follows from (seed, step), and a checkpoint holds everything else.
"""

import json
import math
import platform
import signal
import sys
import time
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor
from tqdm import tqdm

from dmmd_kernels import checkpoint
from dmmd_kernels.checkpoint import CheckpointError
from dmmd_kernels.data import batch_indices, generator_of
from dmmd_kernels.diffusion import Schedule, random_levels
from dmmd_kernels.experiment import (
    DATASETS,
    TRAINING,
    Dataset,
    Run,
    choose_device,
    copy_tensor,
    load_weights,
    make_kernel,
    make_schedule,
)
from dmmd_kernels.losses import Loss, noise_conditional_loss
from dmmd_kernels.models import DeepKernel
from dmmd_kernels.presets import PRESETS
from dmmd_kernels.settings import (
    Settings,
    SettingsError,
    check_same_run,
    from_command_line,
    write_config,
)


class State:
    """All that training changes: the kernel, its averaged copy, the optimiser, the step."""

    def __init__(self, deep: DeepKernel, settings: Settings) -> None:
        self.deep, self.step = deep, 0
        self.ema = deepcopy(deep).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(deep.parameters(), lr=settings.learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; with the CPU's global random state."""
        named = {f"deep.{name}": value for name, value in self.deep.state_dict().items()}
        named |= {f"ema.{name}": value for name, value in self.ema.state_dict().items()}
        for name, parameter in self.deep.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                named[f"adam.{name}.{key}"] = value
        return named | {"random": torch.get_rng_state()}

    def restore(self, found: checkpoint.Checkpoint) -> None:
        """
        Raises:
            CheckpointError: a tensor is missing or does not fit.
        """
        load_weights(self.deep, found.tensors, "deep.")
        load_weights(self.ema, found.tensors, "ema.")
        for name, parameter in self.deep.named_parameters():
            blank = {"step": torch.zeros(())}
            blank |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
            for key, value in blank.items():
                copy_tensor(value, found.tensors, f"adam.{name}.{key}")
            self.optimizer.state[parameter] = blank
        random = torch.get_rng_state()
        copy_tensor(random, found.tensors, "random")
        torch.set_rng_state(random)
        self.step = found.step


def train_step(state: State, dataset: Dataset, schedule: Schedule, settings: Settings) -> Loss:
    """One step of training: the loss of DMMD (eqs 7, 8) at several levels, Adam, the average.

    The noised and the clean samples come from two independent batches; all levels share them.
    """
    train = dataset.train
    generator = generator_of(settings.seed, TRAINING, state.step)
    clean, other = (
        train[_rows(len(train), settings, state.step, stream).to(train.device)] for stream in (0, 1)
    )
    t = random_levels(settings.t_max, settings.t_min, settings.levels, generator)
    noise = torch.randn(settings.levels, *other.shape, generator=generator)
    mix = torch.rand(settings.levels, settings.batch, generator=generator)
    t, noise, mix = t.to(train), noise.to(train), mix.to(train)
    loss = noise_conditional_loss(
        state.deep,
        schedule.noised(other, t, noise),
        clean.expand(settings.levels, *clean.shape),
        t,
        feature_weight=settings.feature_weight,
        gradient_weight=settings.gradient_weight,
        mix=mix,
        backend=settings.backend,
    )
    state.optimizer.zero_grad()
    loss.total.backward()
    if settings.clip > 0:
        torch.nn.utils.clip_grad_norm_(state.deep.parameters(), settings.clip)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate(settings, state.step)
    state.optimizer.step()
    update_average(state.ema, state.deep, settings.ema)
    state.step += 1
    return loss


def _rows(count: int, settings: Settings, step: int, stream: int) -> Tensor:
    return batch_indices(count, settings.batch, seed=settings.seed, step=step, stream=stream)


def learning_rate(settings: Settings, step: int) -> float:
    """Constant, or ½(1 + cos(π step/steps)) of it."""
    if settings.decay == "constant":
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2


@torch.no_grad()
def update_average(ema: torch.nn.Module, module: torch.nn.Module, mu: float) -> None:
    """θ_ema ← μ θ_ema + (1 - μ) θ"""
    for average, value in zip(ema.parameters(), module.parameters(), strict=True):
        average.lerp_(value, 1 - mu)
    for kept, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        kept.copy_(buffer)


class Log:
    """log.jsonl, one JSON object a line; a continued run drops what it will write again."""

    def __init__(self, path: Path, step: int) -> None:
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept))
        self.file = path.open("a")

    def write(self, **values: float) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()


def _whole_lines(path: Path) -> list[str]:
    """The lines before a crash cut one short."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.startswith("{") and line.endswith("}\n")]


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
    log = Log(settings.folder / "log.jsonl", state.step)
    schedule = make_schedule(settings)
    begin = time.perf_counter()
    bar = tqdm(total=settings.steps, initial=state.step, desc="training", disable=not progress)
    with Interrupts() as interrupts, bar, log.file:
        while state.step < settings.steps and not interrupts.wanted:
            loss = train_step(state, dataset, schedule, settings)
            bar.update()
            if state.step % settings.log_every == 0 or state.step == settings.steps:
                values = _summary(loss, state.step)
                log.write(step=state.step, **values, seconds=round(time.perf_counter() - begin, 3))
                bar.set_postfix(mmd2=f"{values['mmd2']:.4f}")
            if state.step % settings.save_every == 0 and state.step < settings.steps:
                _save(state, settings)
        _save(state, settings)
    return state.step >= settings.steps


def _summary(loss: Loss, step: int) -> dict[str, float]:
    total = loss.total.item()
    if not math.isfinite(total):
        raise FloatingPointError(
            f"train: the loss is {total} at step {step}; take a smaller learning_rate"
        )
    parts = {name: getattr(loss, name).mean().item() for name in loss._fields[1:]}
    return {"loss": total, **parts}


def _save(state: State, settings: Settings) -> None:
    record = {
        "settings": asdict(settings),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "threads": torch.get_num_threads(),
    }
    folder = settings.folder / "checkpoints"
    checkpoint.save(folder, state.step, state.tensors(), record, settings.keep)


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
        PRESETS[settings.preset].evaluate(run)
    except (CheckpointError, SettingsError, FloatingPointError) as error:
        tqdm.write(str(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        tqdm.write(f"\nstopped; go on with\n  {_resume(settings)}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
