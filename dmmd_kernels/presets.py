"""The experiments: for each its settings and what is done with the trained kernel at the end.

A new experiment is an entry of PRESETS; its data set has a name in experiment.DATASETS.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from tqdm import tqdm

from dmmd_kernels.evaluation import comparison, digit_quality
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.sample import draw_samples, write_samples


class Preset(NamedTuple):
    """Defaults of the settings, and the function that samples, judges and writes results."""

    settings: Settings
    evaluate: Callable[[Run], None]


# Above t = 0.7 a digit has 8 % of its signal left: the flow from N(0, I) can begin there. λ_l2 only
# keeps features from growing without bound; with 0.1 samples were slightly worse than with none.
DIGITS = Settings(
    preset="digits",
    data="digits",
    t_min=0.05,
    t_max=0.7,
    kernel="linear",
    features="conv",
    feature_count=64,
    feature_width=16,
    steps=3000,
    batch=48,
    levels=4,
    learning_rate=2e-3,
    feature_weight=0.003,
    gradient_weight=1.0,
    ema=0.998,
    sample_levels=10,
    sample_steps=10,
    particles=200,
    step_rule="constant",
    step_size=0.2,
    samples=400,
    log_every=50,
    save_every=500,
)

# The same on a U-Net. With λ_grad = 1 slopes at high noise come to several units and the flow's
# steps are bolder there; with 10 they are 1, and samples were much worse (docs/images.md).
DIGITS_UNET = replace(
    DIGITS,
    preset="digits_unet",
    features="unet",
    feature_count=128,
    feature_width=16,
    unet_multipliers=(1, 2, 4),
    unet_blocks=1,
    unet_attention=(4,),
    steps=4800,
    batch=32,
    levels=3,
    penalty_batch=8,
    learning_rate=1e-3,
    ema=0.998,
    final_rate=1.0,
    save_every=200,
    keep_every=1600,
    grid_every=800,
)

# What the paper gives for images (docs/images.md says what), and where it gives nothing the
# network of Ho et al. (2020) with their dropout and flips.
CIFAR10 = Settings(
    preset="cifar10",
    data="cifar10",
    flip=True,
    t_min=0.2,
    t_max=0.98,
    kernel="linear",
    features="unet",
    feature_count=1024,
    feature_width=128,
    unet_multipliers=(1, 2, 2, 2),
    unet_blocks=2,
    unet_attention=(16,),
    dropout=0.1,
    steps=250_000,
    batch=64,
    levels=16,
    learning_rate=1e-4,
    decay="constant",
    warmup=5000,
    clip=1.0,
    feature_weight=0.1,
    gradient_weight=1.0,
    ema=0.9999,
    sample_levels=10,
    sample_steps=10,
    particles=200,
    step_rule="constant",
    step_size=1.0,
    samples=10_000,
    log_every=100,
    save_every=5000,
    keep_every=50_000,
    grid_every=5000,
)
MNIST = replace(CIFAR10, preset="mnist", data="mnist", flip=False, feature_width=64, dropout=0.0)
CELEBA64 = replace(
    CIFAR10,
    preset="celeba64",
    data="celeba",
    unet_multipliers=(1, 2, 2, 2, 4),
    micro_levels=4,
)
LSUN_CHURCH64 = replace(CELEBA64, preset="lsun_church64", data="lsun_church")

# The laptop's stand-in for natural images.
PATCHES = replace(
    DIGITS_UNET,
    preset="patches",
    data="patches",
    data_size=2000,
    t_max=0.98,
    unet_multipliers=(1, 2, 2, 2),
    unet_attention=(8,),
    steps=500,
    batch=16,
    levels=2,
    penalty_batch=4,
    ema=0.99,
    final_rate=100.0,
    samples=100,
    log_every=20,
    save_every=125,
    keep_every=125,
    grid_every=250,
)

# Millions of parameters of the feature networks.
PARAMETERS = {
    "digits_unet": 0.68,
    "patches": 0.91,
    "mnist": 13.14,
    "cifar10": 39.94,
    "celeba64": 95.48,
    "lsun_church64": 95.48,
}


def draw(run: Run) -> None:
    """Samples alone: samples.npz and grid.png in the run's folder."""
    samples = draw_samples(run, run.settings.samples, progress=True)
    write_samples(run.folder / "samples.npz", samples)
    write_samples(run.folder / "grid.png", samples[:100])
    tqdm.write(
        f"{len(samples)} samples are in {run.folder}; judge them with\n"
        f"  python -m dmmd_kernels.evaluate --checkpoint {run.folder} --features inception "
        "--weights FILE"
    )


PRESETS = {
    "checkerboard": Preset(Settings(), comparison.evaluate),
    "digits": Preset(DIGITS, digit_quality.evaluate),
    "digits_unet": Preset(DIGITS_UNET, digit_quality.evaluate),
    "patches": Preset(PATCHES, draw),
    "mnist": Preset(MNIST, draw),
    "cifar10": Preset(CIFAR10, draw),
    "celeba64": Preset(CELEBA64, draw),
    "lsun_church64": Preset(LSUN_CHURCH64, draw),
}
