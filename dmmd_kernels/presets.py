"""The experiments: for each its settings and what is done with the trained kernel at the end.

A new experiment is an entry of PRESETS; its data set has a name in experiment.DATASETS.
"""

from collections.abc import Callable
from typing import NamedTuple

from dmmd_kernels import comparison, digit_quality
from dmmd_kernels.experiment import Run
from dmmd_kernels.settings import Settings


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

PRESETS = {
    "checkerboard": Preset(Settings(), comparison.evaluate),
    "digits": Preset(DIGITS, digit_quality.evaluate),
}
