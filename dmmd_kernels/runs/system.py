"""What a system is: the door through which a method comes into the programs.

A system is a value of `System`, listed in systems/__init__.py. Training, checkpoints, logs, command
lines and the judge know this and nothing else of it, so a new one is a file with its settings,
these functions, and its equations in the docstring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dmmd_kernels.data.datasets import Dataset
from dmmd_kernels.runs.settings import Checked, Settings, SystemSettings
from dmmd_kernels.runs.state import State

# What a step tells of itself, by name, for the log: numbers, or tensors () that nobody waited for.
Numbers = dict[str, float | Tensor]
# Called with where the samples are on their way ("t = 0.50") and the samples so far, (n, *shape).
OnState = Callable[[str, Tensor], None]


class Build(Protocol):
    """The state before the first step, on the device of the data; all of it from the seed.

    Args:
        phase: of a training in phases: a state with what that phase has, to be filled by `load`.
    """

    def __call__(self, settings: Settings, dataset: Dataset, phase: int = 0) -> State: ...


class Step(Protocol):
    """One step of training: changes the state, and counts it in state.step.

    Its randomness follows from (settings.seed, state.step) alone, so a run goes on bit for bit.
    """

    def __call__(self, state: State, settings: Settings, dataset: Dataset) -> Numbers: ...


class Draw(Protocol):
    """n samples, (n, *shape), in the coordinates of the data; see runs.run.draw_samples.

    The first of them do not depend on n. `run` is a runs.run.Run, `drawing` a System.drawing.
    """

    def __call__(
        self, run: Any, n: int, drawing: Any, *, seed: int, progress: bool, on_state: OnState
    ) -> Tensor: ...


class DrawEach(Protocol):
    """`draw` for several drawings by name; a way that several go is gone once."""

    def __call__(
        self, run: Any, n: int, drawings: Mapping[str, Any], *, seed: int, progress: bool
    ) -> dict[str, Tensor]: ...


def one_by_one(draw: Draw) -> DrawEach:
    """draw_each where drawings share nothing."""

    def draw_each(
        run: Any, n: int, drawings: Mapping[str, Any], *, seed: int, progress: bool
    ) -> dict[str, Tensor]:
        quiet: OnState = lambda where, samples: None
        return {
            name: draw(run, n, drawing, seed=seed, progress=progress, on_state=quiet)
            for name, drawing in drawings.items()
        }

    return draw_each


@dataclass(frozen=True, kw_only=True)
class System:
    """A method that draws samples, trained or not.

    Attributes:
        name: as in --system and in files.
        title: as in tables and figures.
        settings: what it adds to the settings of a run; its `name` is that of the system.
        drawing: how samples are drawn: settings whose defaults are None, for "as the run says".
        build, step, draw, draw_each: see there.
        evaluations: (settings, drawing) → NFE, how often a sample goes through a network; raises
            SettingsError for a drawing that does not fit.
        defaults: for each preset it has settings for, those that differ from the class's.
        variants: the drawings to be judged, by name.
        preview: the drawing of pictures during training.
        remedy: what helps when a step's numbers are not finite.
    """

    name: str
    title: str
    settings: type[SystemSettings]
    drawing: type[Checked]
    build: Build
    step: Step
    draw: Draw
    draw_each: DrawEach
    evaluations: Callable[[Settings, Any], int]
    defaults: Mapping[str, Mapping[str, Any]]
    variants: Mapping[str, Any]
    preview: Any = None
    remedy: str = "take a smaller learning_rate"
