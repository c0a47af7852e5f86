"""The settings of DMMD: its kernel, its training, its sampling, and those of each experiment.

Layer sizes, learning rate, step size and iterations of the paper's 2-D experiment are unpublished:
the defaults are ours, chosen on the checkerboard.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from dmmd_kernels.runs.backbone import BackboneSettings
from dmmd_kernels.runs.optimiser import OptimiserSettings
from dmmd_kernels.runs.settings import (
    AT_LEAST_0,
    AT_LEAST_1,
    POSITIVE,
    UNIT,
    Checked,
    SettingsError,
    free,
)


@dataclass(frozen=True, kw_only=True)
class DmmdSettings(BackboneSettings, OptimiserSettings):
    """DMMD"""

    name = "dmmd"

    schedule: Annotated[
        Literal["linear_beta", "discrete_beta"], "the forward process x_t = α_t x_0 + β_t ε"
    ] = "linear_beta"
    t_min: Annotated[float, "the least noise level, in training and in sampling", UNIT] = 0.02
    t_max: Annotated[float, "the greatest noise level, in training and in sampling", UNIT] = 0.98

    kernel: Annotated[
        Literal["gaussian", "rational_quadratic", "linear"], "the base kernel on features"
    ] = "gaussian"
    width_hidden: Annotated[int, "hidden units of the network σ(t)", AT_LEAST_1] = 64
    width_start: Annotated[float, "σ(t) before training, at every t", POSITIVE] = 0.5

    levels: Annotated[int, "noise levels in one step, all in one batched op", AT_LEAST_1] = 32
    micro_levels: Annotated[
        int, "levels that go through the network at once, to save memory; 0: all", AT_LEAST_0
    ] = free(0)
    feature_weight: Annotated[
        float, "λ_l2 of the loss; the identity has nothing to regularise", AT_LEAST_0
    ] = 0.0
    gradient_weight: Annotated[float, "λ_grad of the loss; see feature_weight", AT_LEAST_0] = 0.0
    penalty_batch: Annotated[
        int,
        "pairs of each level between which gradients are read, at most `batch`; 0: all",
        AT_LEAST_0,
    ] = 0

    sample_levels: Annotated[int, "T, noise levels from t_max down to t_min", AT_LEAST_1] = free(20)
    sample_steps: Annotated[int, "N_s, flow steps at each level", AT_LEAST_1] = free(10)
    particles: Annotated[int, "N_p, particles that flow together", AT_LEAST_1] = free(200)
    clean: Annotated[int, "N_c, clean samples they flow to, drawn once", AT_LEAST_1] = free(2000)
    step_size: Annotated[float, "c of the step, see step_rule", POSITIVE] = free(1.5)
    step_rule: Annotated[
        Literal["stable", "constant"],
        "stable: η = c σ(t)²/mean k(x, x'), which diverges near c = e; constant: η = c",
    ] = "stable"
    final_rate: Annotated[
        float, "c of the last two steps of dmmd_e, in units of step_size", POSITIVE
    ] = free(100.0)
    energy_below: Annotated[
        float, "noise level below which particles flow by an energy kernel on φ; 0: never", UNIT
    ] = free(0.0)
    energy_step: Annotated[float, "c of the steps there, η = c min(1, t / 0.2)", POSITIVE] = free(
        3.0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.t_min <= self.t_max:
            raise SettingsError(f"t_min must be at most t_max, got {self.t_min} and {self.t_max}")
        if self.energy_below != 0 and self.features == "identity":
            raise SettingsError(
                "energy_below must be 0 without a feature network, got "
                f"{self.energy_below} and features=identity"
            )
        if self.kernel == "linear" and self.step_rule == "stable":
            raise SettingsError("step_rule=stable needs σ(t); give step_rule=constant with linear")


@dataclass(frozen=True, kw_only=True)
class DmmdDrawing(Checked):
    """How samples are drawn; what is left out is as the run says"""

    method: Annotated[
        Literal["dmmd", "dmmd_e", "a_dmmd", "a_dmmd_a", "a_dmmd_e"] | None,
        (
            "dmmd: particles flow together (Algorithm 2); a_dmmd: along f̂, each by itself; "
            "…_e, …_a: then two last steps along f of the particles, or of f̂"
        ),
    ] = None
    levels: Annotated[int | None, "T, noise levels from t_max to t_min", AT_LEAST_1] = None
    steps: Annotated[int | None, "N_s, steps at each level", AT_LEAST_1] = None
    nfe: Annotated[
        int | None, "T N_s instead: N_s is nfe / T; the last two steps come on top", AT_LEAST_1
    ] = None
    t_max: Annotated[float | None, "the level to begin at", UNIT] = None
    energy_below: Annotated[
        float | None, "level below which particles flow by an energy kernel", UNIT
    ] = None
    particles: Annotated[int | None, "N_p, particles of a cloud", AT_LEAST_1] = None
    step_size: Annotated[
        float | None, "c of the step η; as the run says, a quarter of it along f̂", POSITIVE
    ] = None
    eta_final: Annotated[
        float | None, "c of the last two steps; a multiple of the run's step_size", POSITIVE
    ] = None
    rows: Annotated[int | None, "images in the network at once (256)", AT_LEAST_1] = None


# Above t = 0.7 a digit has 8 % of its signal left: the flow from N(0, I) can begin there. λ_l2 only
# keeps features from growing without bound; with 0.1 samples were slightly worse than with none.
DIGITS: Mapping[str, Any] = {
    "t_min": 0.05,
    "t_max": 0.7,
    "kernel": "linear",
    "features": "conv",
    "feature_count": 64,
    "feature_width": 16,
    "steps": 3000,
    "batch": 48,
    "levels": 4,
    "learning_rate": 2e-3,
    "feature_weight": 0.003,
    "gradient_weight": 1.0,
    "ema": 0.998,
    "sample_levels": 10,
    "sample_steps": 10,
    "particles": 200,
    "step_rule": "constant",
    "step_size": 0.2,
    "samples": 400,
    "log_every": 50,
    "save_every": 500,
}

# The same on a U-Net. With λ_grad = 1 slopes at high noise come to several units and the flow's
# steps are bolder there; with 10 they are 1, and samples were much worse (docs/images.md).
DIGITS_UNET: Mapping[str, Any] = {
    **DIGITS,
    "features": "unet",
    "feature_count": 128,
    "feature_width": 16,
    "unet_multipliers": (1, 2, 4),
    "unet_blocks": 1,
    "unet_attention": (4,),
    "steps": 4800,
    "batch": 32,
    "levels": 3,
    "penalty_batch": 8,
    "learning_rate": 1e-3,
    "ema": 0.998,
    "final_rate": 1.0,
    "save_every": 200,
    "keep_every": 1600,
    "grid_every": 800,
}

# What the paper gives for images (docs/images.md says what), and where it gives nothing the
# network of Ho et al. (2020) with their dropout and flips.
CIFAR10: Mapping[str, Any] = {
    "t_min": 0.2,
    "t_max": 0.98,
    "kernel": "linear",
    "features": "unet",
    "feature_count": 1024,
    "feature_width": 128,
    "unet_multipliers": (1, 2, 2, 2),
    "unet_blocks": 2,
    "unet_attention": (16,),
    "dropout": 0.1,
    "steps": 250_000,
    "batch": 64,
    "levels": 16,
    "learning_rate": 1e-4,
    "decay": "constant",
    "warmup": 5000,
    "clip": 1.0,
    "feature_weight": 0.1,
    "gradient_weight": 1.0,
    "ema": 0.9999,
    "sample_levels": 10,
    "sample_steps": 10,
    "particles": 200,
    "step_rule": "constant",
    "step_size": 1.0,
    "samples": 10_000,
    "log_every": 100,
    "save_every": 5000,
    "keep_every": 50_000,
    "grid_every": 5000,
}
CELEBA64: Mapping[str, Any] = {
    **CIFAR10,
    "unet_multipliers": (1, 2, 2, 2, 4),
    "micro_levels": 4,
}

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "checkerboard": {},
    "digits": DIGITS,
    "digits_unet": DIGITS_UNET,
    # The laptop's stand-in for natural images.
    "patches": {
        **DIGITS_UNET,
        "t_max": 0.98,
        "unet_multipliers": (1, 2, 2, 2),
        "unet_attention": (8,),
        "steps": 500,
        "batch": 16,
        "levels": 2,
        "penalty_batch": 4,
        "ema": 0.99,
        "final_rate": 100.0,
        "samples": 100,
        "log_every": 20,
        "save_every": 125,
        "keep_every": 125,
        "grid_every": 250,
    },
    "mnist": {**CIFAR10, "feature_width": 64, "dropout": 0.0},
    "cifar10": CIFAR10,
    "celeba64": CELEBA64,
    "lsun_church64": CELEBA64,
}
