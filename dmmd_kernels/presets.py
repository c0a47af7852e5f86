"""The experiments: what each is learned from; a system's own settings for it are the system's.

A new experiment is an entry of PRESETS and of `defaults` of each system that can do it.
"""

from collections.abc import Mapping
from typing import Any

from dmmd_kernels.runs.settings import Settings, SettingsError
from dmmd_kernels.systems import SYSTEMS

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "checkerboard": {},
    "digits": {"data": "digits"},
    "digits_unet": {"data": "digits"},
    "patches": {"data": "patches", "data_size": 2000},
    "mnist": {"data": "mnist"},
    "cifar10": {"data": "cifar10", "flip": True},
    "celeba64": {"data": "celeba", "flip": True},
    "lsun_church64": {"data": "lsun_church", "flip": True},
}


def settings_of(preset: str, system: str = "dmmd") -> Settings:
    """What a run of the system begins with in an experiment.

    Raises:
        SettingsError: the system has no settings for it; the message names those it has.
    """
    chosen = SYSTEMS[system]
    if preset not in chosen.defaults:
        raise SettingsError(
            f"--preset of {system} must be one of {', '.join(chosen.defaults)}, got {preset!r}"
        )
    values = {**PRESETS[preset], **chosen.defaults[preset]}
    return Settings(preset=preset, system=chosen.settings()).changed(**values)
