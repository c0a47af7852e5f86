"""What a run says of itself: log.jsonl always, TensorBoard and Weights & Biases if asked."""

import json
import math
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dmmd_kernels.runs.files import write_whole
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.runs.system import Numbers

Sink = Callable[[int, dict[str, float]], None]


class Log:
    """One line of log.jsonl every `log_every` steps; a continued run drops what it writes again.

    A line holds the step, the numbers that the system tells of it, samples a second that went
    through a network ("images_per_second"), and seconds since the run began or went on.
    """

    def __init__(self, settings: Settings, step: int, remedy: str = "") -> None:
        """
        Args:
            step: the last one done.
            remedy: what helps when numbers are not finite.
        """
        self.remedy = remedy
        self.sinks = [make(settings, step) for make in _sinks(settings)]
        path = settings.folder / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = path.open("a")
        self.begin = self.last = time.perf_counter()
        self.seen = 0

    def write(self, step: int, numbers: Numbers, seen: int) -> dict[str, float]:
        """Writes the line of a step everywhere and returns it.

        Args:
            seen: samples that went through a network since the run began or went on.

        Raises:
            FloatingPointError: a number is not finite.
        """
        now = time.perf_counter()
        values = {name: float(value) for name, value in numbers.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                what = "the loss" if name == "loss" else name
                raise FloatingPointError(f"train: {what} is {value} at step {step}; {self.remedy}")
        if seen > self.seen:
            rate = (seen - self.seen) / max(now - self.last, 1e-9)
            values["images_per_second"] = round(rate, 1)
        self.seen, self.last = seen, now
        seconds = round(now - self.begin, 3)
        self.file.write(json.dumps({"step": step, **values, "seconds": seconds}) + "\n")
        self.file.flush()
        for sink in self.sinks:
            sink(step, values)
        return values


def _sinks(settings: Settings) -> list[Callable[[Settings, int], Sink]]:
    wanted = {_tensorboard: settings.tensorboard, _wandb: settings.wandb}
    return [make for make, is_wanted in wanted.items() if is_wanted]


def _tensorboard(settings: Settings, step: int) -> Sink:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard=true needs the library; run `pip install tensorboard`"
        ) from error
    writer = SummaryWriter(str(settings.folder / "tensorboard"), purge_step=step + 1)

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def _wandb(settings: Settings, step: int) -> Sink:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("wandb=true needs the library; run `pip install wandb`") from error
    named = settings.folder / "wandb.id"
    if not named.exists():
        named.write_text(uuid.uuid4().hex)
    run = wandb.init(
        project="dmmd_kernels",
        id=named.read_text(),
        resume="allow",
        name=settings.folder.name,
        dir=str(settings.folder),
        config=settings.flat(),
    )
    return lambda step, values: run.log(values, step=step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; those that a crash or damage left unreadable are counted and left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found = [line for line in map(_line, lines) if line is not None]
    lost = len([line for line in lines if line.strip()]) - len(found)
    if lost:
        tqdm.write(f"{path}: {lost} damaged line{'s' * (lost > 1)} left out")
    return found


def _line(content: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and type(found.get("step")) is int else None
