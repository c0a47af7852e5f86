"""Settings as frozen dataclasses: those of every run, and what a system adds to them.

A field is Annotated[type, "what --help says", Bound]: its name, help and limits stand where it is
declared, and hold in Python, on the command line and in files alike. A new setting is a field.
Outside Python settings are flat: in config.yaml, in checkpoints and as options the fields of the
run stand beside those of its system, whose name is the value of `system`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from dmmd_kernels.data.datasets import Source

# The system of a run that does not name its own.
FIRST = "dmmd"


class SettingsError(ValueError):
    """Settings that do not fit together, or do not fit the run they are to continue."""


class Bound(NamedTuple):
    """What a value must be, in words and as a test."""

    text: str
    holds: Callable[[Any], bool]


AT_LEAST_0 = Bound("at least 0", lambda value: value >= 0)
AT_LEAST_1 = Bound("at least 1", lambda value: value >= 1)
EACH_AT_LEAST_1 = Bound("at least 1 each", lambda value: len(value) > 0 and min(value) >= 1)
POSITIVE = Bound("positive", lambda value: value > 0)
BELOW_1 = Bound("in [0, 1)", lambda value: 0 <= value < 1)
UNIT = Bound("in [0, 1]", lambda value: 0 <= value <= 1)

T = TypeVar("T")
C = TypeVar("C", bound="Checked")


def free(default: T) -> T:
    """A field that may differ between a run and its continuation."""
    found: T = field(default=default, metadata={"free": True})
    return found


class Option(NamedTuple):
    """One setting: its name, type, help, default, limit, the class it stands in, and `free`."""

    name: str
    kind: Any
    text: str
    default: Any
    bound: Bound | None
    home: type
    is_free: bool


def options(of: type) -> tuple[Option, ...]:
    """The settings of a class, in the order of declaration; fields without a text are none."""
    hints = get_type_hints(of, include_extras=True)
    homes = {
        name: kind
        for kind in reversed(of.__mro__)
        for name in vars(kind).get("__annotations__", ())
    }
    found = []
    for f in fields(of):
        about = getattr(hints[f.name], "__metadata__", None)
        if about is not None:
            kind, bound = hints[f.name].__origin__, about[1] if len(about) > 1 else None
            default = None if f.default is MISSING else f.default
            is_free = f.metadata.get("free", False)
            found.append(Option(f.name, kind, about[0], default, bound, homes[f.name], is_free))
    return tuple(found)


def choices(kind: Any) -> tuple[str, ...]:
    """The values that a Literal, or Literal | None, has; () of another type."""
    literals = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
    return get_args(literals[0]) if literals else ()


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A dataclass of settings whose limits hold once an instance is there."""

    def __post_init__(self) -> None:
        """
        Raises:
            SettingsError: a value is beyond its limit, or none of those there are.
        """
        for option in options(type(self)):
            value, names = getattr(self, option.name), choices(option.kind)
            if value is not None and names and value not in names:
                listed = ", ".join(names)
                raise SettingsError(f"{option.name} must be one of {listed}, got {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{option.name} must be finite, got {value}")
            if value is not None and option.bound is not None and not option.bound.holds(value):
                raise SettingsError(f"{option.name} must be {option.bound.text}, got {value}")

    def changed(self: C, **values: Any) -> C:
        """The same but for some settings.

        Raises:
            SettingsError: a value is beyond its limit.
        """
        return replace(self, **values)


@dataclass(frozen=True, kw_only=True)
class SystemSettings(Checked):
    """What a system adds to the settings of a run; `name` is the system's."""

    name: ClassVar[str] = ""

    @property
    def fixes_steps(self) -> bool:
        """Whether a step depends on how many there will be, so that `steps` can't change."""
        return False


@dataclass(frozen=True, kw_only=True)
class Settings(Checked):
    """The run"""

    preset: Annotated[str, "experiment whose settings are the defaults"] = "checkerboard"
    out: Annotated[
        str,
        "folder of the run; runs/<preset> or, of another system than dmmd, "
        "runs/<preset>-<system> when empty",
    ] = free("")
    seed: Annotated[int, "every random number of the run follows from it", AT_LEAST_0] = 0
    device: Annotated[str, "cpu, cuda, or auto: cuda where there is one"] = free("auto")
    backend: Annotated[
        Literal["auto", "triton", "native", "reference"], "what computes the ops"
    ] = free("auto")

    data: Annotated[
        Literal["checkerboard", "digits", "patches", "mnist", "cifar10", "celeba", "lsun_church"],
        "the data set",
    ] = "checkerboard"
    data_root: Annotated[str, "where the files of mnist, cifar10, celeba … are"] = free("data")
    data_size: Annotated[
        int, "points drawn of a toy distribution, or patches: the training set", AT_LEAST_1
    ] = 20_000
    image_size: Annotated[
        int, "height and width that images of folders are brought to", AT_LEAST_1
    ] = 64
    flip: Annotated[bool, "mirror each training image, left to right, with chance 1/2"] = False
    dequantise: Annotated[bool, "spread pixels evenly over the bins their values stand for"] = False

    steps: Annotated[int, "steps of training, or of the flow of a system without", AT_LEAST_1] = (
        free(800)
    )
    batch: Annotated[int, "B, samples that a step takes from the data", AT_LEAST_1] = 256
    samples: Annotated[int, "samples drawn and judged at the end", AT_LEAST_1] = free(2000)

    log_every: Annotated[int, "steps between two lines of log.jsonl", AT_LEAST_1] = free(10)
    save_every: Annotated[int, "steps between two checkpoints", AT_LEAST_1] = free(100)
    keep: Annotated[int, "checkpoints kept, the newest ones", AT_LEAST_1] = free(2)
    keep_every: Annotated[
        int, "checkpoints of multiples of this step are kept for good; 0: none", AT_LEAST_0
    ] = free(0)
    grid_every: Annotated[
        int, "steps between two pictures of samples, of images; 0: none", AT_LEAST_0
    ] = free(0)
    tensorboard: Annotated[bool, "log to TensorBoard, too, in the run's folder"] = free(False)
    wandb: Annotated[bool, "log to Weights & Biases, too"] = free(False)

    system: SystemSettings

    @property
    def folder(self) -> Path:
        own = "" if self.system.name == FIRST else f"-{self.system.name}"
        return Path(self.out or f"runs/{self.preset}{own}")

    @property
    def source(self) -> Source:
        """What the data set is made from."""
        return Source(self.data_root, self.data_size, self.image_size, self.seed)

    def flat(self) -> dict[str, Any]:
        """Every setting by its name, as JSON and YAML give it back: tuples are lists."""
        found: dict[str, Any] = {"system": self.system.name}
        for part in (self, self.system):
            found |= {option.name: getattr(part, option.name) for option in options(type(part))}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}

    def changed(self, **values: Any) -> "Settings":
        """The same but for some settings, of the run or of its system.

        Raises:
            SettingsError: there is no such setting, or a value is beyond its limit.
        """
        own, run = ({option.name for option in options(type(part))} for part in (self.system, self))
        if unknown := sorted(set(values) - own - run):
            raise SettingsError(f"{self.system.name} has no setting {', '.join(unknown)}")
        system = replace(self.system, **{k: v for k, v in values.items() if k in own})
        return replace(self, system=system, **{k: v for k, v in values.items() if k in run})


def check_same_run(settings: Settings, stored: Mapping[str, Any]) -> None:
    """
    Args:
        stored: the flat settings of the run to be continued.

    Raises:
        SettingsError: a setting that shapes the training differs from the stored one; one that
            was not known then had its default.
    """
    parts = type(settings), type(settings.system)
    defaults = {option.name: option.default for part in parts for option in options(part)}
    free = {option.name for part in parts for option in options(part) if option.is_free}
    if settings.system.fixes_steps:
        free -= {"steps"}
    known = {"system": FIRST} | defaults | dict(stored)
    for name, value in settings.flat().items():
        before = list(known[name]) if isinstance(known[name], tuple) else known[name]
        if name not in free and before != value:
            raise SettingsError(
                f"{name} is {value!r}, the run to be continued has {before!r}; "
                "leave it out, or start a new run in another --out"
            )
