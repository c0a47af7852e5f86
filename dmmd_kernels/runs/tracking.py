"""What a run says of itself: log.jsonl always, TensorBoard and Weights & Biases if asked."""

import json
import math
import time
import uuid
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.systems.dmmd.losses import Loss

BANDS = 4
Sink = Callable[[int, dict[str, float]], None]


class Log:
    """One line of log.jsonl every `log_every` steps; a continued run drops what it writes again.

    A line holds the step, the loss and its parts as means over the levels of that step; MMD² of
    each quarter of [t_min, t_max] that had a level; the learning rate; images a second that went
    through the network, noised and clean, 2 T B a step; seconds since the run began or went on.
    """

    def __init__(self, settings: Settings, step: int) -> None:
        self.settings, self.step = settings, step
        self.sinks = [make(settings, step) for make in _sinks(settings)]
        path = settings.folder / "log.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= step]
        path.write_text("".join(kept))
        self.file = path.open("a")
        self.begin = self.last = time.perf_counter()

    def write(self, step: int, loss: Loss, learning_rate: float) -> dict[str, float]:
        """Writes the line of a step everywhere and returns it.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        now = time.perf_counter()
        images = 2 * self.settings.levels * self.settings.batch * (step - self.step)
        values = summary(loss, step) | bands(loss, self.settings)
        values["learning_rate"] = learning_rate
        values["images_per_second"] = round(images / max(now - self.last, 1e-9), 1)
        self.step, self.last = step, now
        seconds = round(now - self.begin, 3)
        self.file.write(json.dumps({"step": step, **values, "seconds": seconds}) + "\n")
        self.file.flush()
        for sink in self.sinks:
            sink(step, values)
        return values


def summary(loss: Loss, step: int) -> dict[str, float]:
    """The loss and its parts, as means over levels.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    total = loss.total.item()
    if not math.isfinite(total):
        raise FloatingPointError(
            f"train: the loss is {total} at step {step}; take a smaller learning_rate"
        )
    names = ("mmd2", "feature_norm", "gradient_penalty")
    return {"loss": total} | {name: getattr(loss, name).mean().item() for name in names}


def bands(loss: Loss, settings: Settings) -> dict[str, float]:
    """The mean MMD² over the levels in each quarter of [t_min, t_max] that has any."""
    edges = torch.linspace(settings.t_min, settings.t_max, BANDS + 1).tolist()
    place = torch.bucketize(loss.t.cpu(), torch.tensor(edges[1:-1]))
    found = {}
    for band, (low, high) in enumerate(pairwise(edges)):
        inside = loss.mmd2.cpu()[place == band]
        if len(inside):
            found[f"mmd2/{low:.2f}-{high:.2f}"] = inside.mean().item()
    return found


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
        config=settings.plain(),
    )
    return lambda step, values: run.log(values, step=step)


def _whole_lines(path: Path) -> list[str]:
    """The lines before a crash cut one short."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [line for line in lines if line.startswith("{") and line.endswith("}\n")]
