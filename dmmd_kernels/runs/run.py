"""A run: what a system was trained to, with all that drawing samples from it needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmmd_kernels.data.datasets import DATASETS, Dataset
from dmmd_kernels.runs import checkpoint, command_line
from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.runs.state import State
from dmmd_kernels.runs.system import OnState, System


@dataclass(frozen=True)
class Run:
    """
    Attributes:
        system: what was trained.
        settings: of the run.
        folder: where it writes.
        state: the networks and pools.
        dataset: see Dataset.
    """

    system: System
    settings: Settings
    folder: Path
    state: State
    dataset: Dataset

    @property
    def step(self) -> int:
        """Steps of training behind the state."""
        return self.state.step


def choose_device(name: str) -> torch.device:
    """ "auto" is cuda where there is one.

    Raises:
        SettingsError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise SettingsError(
            f"device must be cpu, cuda or auto, and be there; got {name!r}"
        ) from error
    return device


def make_dataset(settings: Settings, device: torch.device) -> Dataset:
    """The data set of the settings, its training part on the device.

    Raises:
        FileNotFoundError: its files are not there; the message says which are wanted.
    """
    dataset = DATASETS[settings.data](settings.source)
    return dataset._replace(train=dataset.train.to(device))


def load(path: str | Path, systems: Mapping[str, System], device: str = "auto") -> Run:
    """The run whose checkpoint is at `path`: a run's folder or one checkpoint of it.

    Raises:
        CheckpointError: there is none that can be read.
        SettingsError: its settings do not fit this version.
    """
    found = checkpoint.find(path)
    kinds = {name: system.settings for name, system in systems.items()}
    settings = command_line.read(found.record["settings"], kinds)
    system = systems[settings.system.name]
    dataset = make_dataset(settings, choose_device(device))
    state = system.build(settings, dataset, found.phase)
    state.load(found)
    for network in state.networks.values():
        network.eval().requires_grad_(False)
    return Run(system, settings, found.path.parent.parent, state, dataset)


def draw_samples(
    run: Run,
    n: int,
    drawing: Any = None,
    *,
    seed: int = 0,
    progress: bool = False,
    on_state: OnState | None = None,
) -> Tensor:
    """n samples, (n, *shape), in the coordinates of the data. Sample i does not depend on n.

    Args:
        run: see `load`.
        n: how many.
        drawing: of the type run.system.drawing; as the run says when None.
        seed: of what the samples are made from.
        progress: show a progress bar.
        on_state: called with where samples are on their way and the samples, from the start on.

    Raises:
        ValueError: n is not positive.
        SettingsError: the drawing does not fit the run.
        FloatingPointError: samples became infinite or NaN; the message says where.
    """
    if n < 1:
        raise ValueError(f"draw_samples: n must be at least 1, got {n}")
    drawing = run.system.drawing() if drawing is None else drawing
    quiet: OnState = lambda where, samples: None
    return run.system.draw(
        run, n, drawing, seed=seed, progress=progress, on_state=on_state or quiet
    )
