"""Every setting of the training program, documented where it is declared, and its command line.

    defaults of the preset  <  --config FILE  <  the command line

The text beside a field is its --help. A new setting is a field here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import yaml
from jsonargparse import ArgumentParser


class SettingsError(ValueError):
    """Settings that do not fit together, or do not fit the run they are to continue."""


_AT_LEAST_ONE = (
    *("data_size", "image_size", "feature_count", "feature_width", "unet_blocks", "width_hidden"),
    *("steps", "batch", "levels", "sample_levels", "sample_steps", "particles", "clean", "samples"),
    *("log_every", "save_every", "keep"),
)
_AT_LEAST_ZERO = ("penalty_batch", "warmup", "micro_levels", "keep_every", "grid_every")


@dataclass(frozen=True)
class Settings:
    """One run: what is trained, how, and how samples are drawn from it.

    The defaults are the 2-D experiment of the paper, whose layer sizes, learning rate, step size
    and iterations are unpublished: the values are ours, chosen on the checkerboard.
    """

    preset: Annotated[str, "whose defaults and evaluation, see presets.py"] = "checkerboard"
    out: Annotated[str, "folder of the run; runs/<preset> when empty"] = ""
    seed: Annotated[int, "every random number of the run follows from it"] = 0
    device: Annotated[str, "cpu, cuda, or auto: cuda where there is one"] = "auto"
    backend: Annotated[str, "of the ops: auto, triton, native or reference"] = "auto"

    # What is learned from
    data: Annotated[
        Literal["checkerboard", "digits", "patches", "mnist", "cifar10", "celeba", "lsun_church"],
        "the data set",
    ] = "checkerboard"
    data_root: Annotated[str, "where the files of mnist, cifar10, celeba … are"] = "data"
    data_size: Annotated[
        int, "points drawn of a toy distribution, or patches: the training set"
    ] = 20_000
    image_size: Annotated[int, "height and width that images of folders are brought to"] = 64
    flip: Annotated[bool, "mirror each training image, left to right, with chance 1/2"] = False
    dequantise: Annotated[bool, "spread pixels evenly over the bins their values stand for"] = False
    schedule: Annotated[
        Literal["linear_beta", "discrete_beta"], "the forward process x_t = α_t x_0 + β_t ε"
    ] = "linear_beta"
    t_min: Annotated[float, "the least noise level, in training and in sampling"] = 0.02
    t_max: Annotated[float, "the greatest noise level, in training and in sampling"] = 0.98

    # The deep kernel
    kernel: Annotated[
        Literal["gaussian", "rational_quadratic", "linear"], "the base kernel on features"
    ] = "gaussian"
    features: Annotated[
        Literal["identity", "mlp", "conv", "unet"], "the feature network φ(x, t)"
    ] = "identity"
    feature_count: Annotated[int, "K, the number of features (all but identity)"] = 64
    feature_width: Annotated[int, "hidden units (mlp) or first channels (conv, unet)"] = 64
    unet_multipliers: Annotated[
        tuple[int, ...], "channels at each resolution, finest first, in units of feature_width"
    ] = (1, 2, 2, 2)
    unet_blocks: Annotated[int, "residual blocks at each resolution"] = 2
    unet_attention: Annotated[tuple[int, ...], "heights at which there is attention"] = (16,)
    unet_readout: Annotated[
        Literal["image", "dense", "pooled"], "how the last map becomes K features, see unet.Readout"
    ] = "dense"
    dropout: Annotated[float, "chance that an activation of the unet is dropped in training"] = 0.0
    backbone: Annotated[
        Literal["own", "diffusers"], "of the unet: ours, or UNet2DModel of that library"
    ] = "own"
    width_hidden: Annotated[int, "hidden units of the network σ(t)"] = 64
    width_start: Annotated[float, "σ(t) before training, at every t"] = 0.5

    # Training
    steps: Annotated[int, "optimiser steps"] = 800
    batch: Annotated[int, "B, samples at each noise level, clean and noised"] = 256
    levels: Annotated[int, "noise levels in one step, all in one batched op"] = 32
    micro_levels: Annotated[
        int, "levels that go through the network at once, to save memory; 0: all"
    ] = 0
    optimizer: Annotated[Literal["adam", "adamw"], "what follows the gradient"] = "adam"
    weight_decay: Annotated[float, "of adamw"] = 0.0
    learning_rate: Annotated[float, "of the optimiser"] = 1e-2
    warmup: Annotated[int, "steps in which the learning rate grows from 0, in proportion"] = 0
    decay: Annotated[
        Literal["constant", "cosine"], "of the learning rate; cosine ends at 0 after `steps`"
    ] = "cosine"
    clip: Annotated[float, "greatest norm of the gradient; 0: as it comes"] = 0.0
    feature_weight: Annotated[float, "λ_l2 of the loss; the identity has nothing to regularise"] = (
        0.0
    )
    gradient_weight: Annotated[float, "λ_grad of the loss; see feature_weight"] = 0.0
    penalty_batch: Annotated[
        int, "pairs of each level between which gradients are read, at most `batch`; 0: all"
    ] = 0
    ema: Annotated[float, "μ of the averaged weights θ_ema ← μ θ_ema + (1 - μ) θ"] = 0.98

    # How the network is run; results differ by rounding
    precision: Annotated[
        Literal["float32", "bfloat16"], "of the network; MMD and penalties are in float32"
    ] = "float32"
    channels_last: Annotated[bool, "memory layout of the unet, faster on most GPUs"] = False
    compile: Annotated[bool, "torch.compile where the network is differentiated once"] = False

    # Sampling: Algorithm 2
    sample_levels: Annotated[int, "T, noise levels from t_max down to t_min"] = 20
    sample_steps: Annotated[int, "N_s, flow steps at each level"] = 10
    particles: Annotated[int, "N_p, particles that flow together"] = 200
    clean: Annotated[int, "N_c, clean samples they flow to, drawn once"] = 2000
    step_size: Annotated[float, "c of the step, see step_rule"] = 1.5
    step_rule: Annotated[
        Literal["stable", "constant"],
        "stable: η = c σ(t)²/mean k(x, x'), which diverges near c = e; constant: η = c",
    ] = "stable"
    final_rate: Annotated[float, "c of the last two steps of dmmd_e, in units of step_size"] = 100.0
    energy_below: Annotated[
        float, "noise level below which particles flow by an energy kernel on φ; 0: never"
    ] = 0.0
    energy_step: Annotated[float, "c of the steps there, η = c min(1, t / 0.2)"] = 3.0
    samples: Annotated[int, "samples drawn and judged at the end"] = 2000

    # The run
    log_every: Annotated[int, "steps between two lines of log.jsonl"] = 10
    save_every: Annotated[int, "steps between two checkpoints"] = 100
    keep: Annotated[int, "checkpoints kept, the newest ones"] = 2
    keep_every: Annotated[
        int, "checkpoints of multiples of this step are kept for good; 0: none"
    ] = 0
    grid_every: Annotated[int, "steps between two pictures of samples, of images; 0: none"] = 0
    tensorboard: Annotated[bool, "log to TensorBoard, too, in the run's folder"] = False
    wandb: Annotated[bool, "log to Weights & Biases, too"] = False

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in _AT_LEAST_ZERO:
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} must be at least 0, got {getattr(self, name)}")
        for name in ("learning_rate", "step_size", "final_rate", "energy_step", "width_start"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.t_min <= self.t_max <= 1:
            raise SettingsError(
                f"0 <= t_min <= t_max <= 1 must hold, got {self.t_min} and {self.t_max}"
            )
        if self.penalty_batch > self.batch:
            raise SettingsError(f"penalty_batch must be at most batch, got {self.penalty_batch}")
        for name in ("ema", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.energy_below != 0 and (
            not 0 < self.energy_below <= 1 or self.features == "identity"
        ):
            raise SettingsError(
                "energy_below must be 0, or a level up to 1 with a feature network; "
                f"got {self.energy_below} and features={self.features}"
            )
        if not self.unet_multipliers or min(self.unet_multipliers) < 1:
            raise SettingsError(
                f"unet_multipliers must be at least 1 each, got {self.unet_multipliers}"
            )
        if self.kernel == "linear" and self.step_rule == "stable":
            raise SettingsError("step_rule=stable needs σ(t); give step_rule=constant with linear")

    @property
    def folder(self) -> Path:
        return Path(self.out or f"runs/{self.preset}")

    def plain(self) -> dict[str, Any]:
        """As JSON and YAML give it back: tuples are lists."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Settings":
        """The settings a checkpoint or a file holds; unknown names and wrong types are errors."""
        parser = _parser(Settings())
        try:
            return cls(**vars(parser.parse_object(dict(values))))
        except (SettingsError, TypeError, KeyError, ValueError, SystemExit) as error:
            raise SettingsError(f"settings do not fit this version: {error}") from error


# What may differ between a run and its continuation.
_FREE = {"out", "device", "backend", "steps", "log_every", "save_every", "keep"}
_FREE |= {"sample_levels", "sample_steps", "particles", "clean", "step_size", "samples"}
_FREE |= {"final_rate", "energy_below", "energy_step"}
_FREE |= {"data_root", "micro_levels", "channels_last", "compile"}
_FREE |= {"keep_every", "grid_every", "tensorboard", "wandb"}


def check_same_run(settings: Settings, stored: Mapping[str, Any]) -> None:
    """
    Raises:
        SettingsError: a setting that shapes the training differs from the stored one; one that
            was not known then had its default.
    """
    stored = Settings().plain() | dict(stored)
    free = _FREE if settings.decay == "constant" else _FREE - {"steps"}
    for name, value in settings.plain().items():
        if name not in free and stored[name] != value:
            raise SettingsError(
                f"{name} is {value!r}, the run to be continued has {stored[name]!r}; "
                "leave it out, or start a new run in another --out"
            )


def from_command_line(
    arguments: Sequence[str], presets: Mapping[str, Settings]
) -> tuple[Settings, bool]:
    """The settings of `python -m dmmd_kernels.train ARGUMENTS`, and whether --resume was given.

    Ends the process with a message on an unknown setting, a wrong value, --help, --print_config.
    """
    arguments = list(arguments)
    stored = _stored_config(arguments) if "--resume" in arguments else None
    if stored is not None:
        arguments = ["--config", str(stored), *arguments]
    chosen = _chosen_preset(arguments)
    parser = _parser(presets.get(chosen, Settings()))
    parser.add_argument("--config", action="config", help="a YAML file of settings, read in order")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in --out, with its own settings, exactly where it stopped",
    )
    if chosen not in presets:
        parser.error(f"preset must be one of {sorted(presets)}, got {chosen!r}")
    values = vars(parser.parse_args(arguments))
    try:
        return Settings(**{f.name: values[f.name] for f in fields(Settings)}), values["resume"]
    except SettingsError as error:
        parser.error(str(error))


def write_config(path: Path, settings: Settings) -> None:
    """The settings as YAML, to be read again by --config."""
    path.write_text(yaml.safe_dump(settings.plain(), sort_keys=False, allow_unicode=True))


def _parser(defaults: Settings) -> ArgumentParser:
    parser = ArgumentParser(
        prog="python -m dmmd_kernels.train",
        description="Trains a noise-conditional kernel and draws samples by its MMD flow (DMMD).",
        exit_on_error=True,
    )
    hints = get_type_hints(Settings, include_extras=True)
    for f in fields(Settings):
        kind, text = get_args(hints[f.name])
        parser.add_argument(f"--{f.name}", type=kind, default=getattr(defaults, f.name), help=text)
    return parser


def _value_of(option: str, arguments: Sequence[str]) -> list[str]:
    """All values of --option in the arguments, in both spellings."""
    found = []
    for place, argument in enumerate(arguments):
        if argument == option and place + 1 < len(arguments):
            found.append(arguments[place + 1])
        elif argument.startswith(option + "="):
            found.append(argument.partition("=")[2])
    return found


def _chosen_preset(arguments: Sequence[str]) -> str:
    """--preset wherever it is given: its defaults must be known before the rest is read."""
    chosen = "checkerboard"
    for path in _value_of("--config", arguments):
        if Path(path).is_file():
            content = yaml.safe_load(Path(path).read_text())
            if isinstance(content, dict):
                chosen = str(content.get("preset", chosen))
    return (_value_of("--preset", arguments) or [chosen])[-1]


def _stored_config(arguments: Sequence[str]) -> Path | None:
    out = _value_of("--out", arguments)
    folder = Path(out[-1]) if out else replace(Settings(), preset=_chosen_preset(arguments)).folder
    path = folder / "config.yaml"
    return path if path.is_file() else None
