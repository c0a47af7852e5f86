"""The systems: methods that draw samples, each behind the door of runs/system.py.

A new system is a file here and its name in SYSTEMS. Systems do not know each other.
"""

from pathlib import Path

from dmmd_kernels.runs import loop, run
from dmmd_kernels.runs.run import Run
from dmmd_kernels.runs.settings import Settings
from dmmd_kernels.runs.system import System
from dmmd_kernels.systems.ddpm import DDPM
from dmmd_kernels.systems.dmmd import DMMD
from dmmd_kernels.systems.gs_mmd import GS_MMD
from dmmd_kernels.systems.mmd_flow import MMD_FLOW
from dmmd_kernels.systems.mmd_gan import MMD_GAN

SYSTEMS: dict[str, System] = {
    system.name: system for system in (DMMD, DDPM, GS_MMD, MMD_FLOW, MMD_GAN)
}


def load_run(path: str | Path, device: str = "auto") -> Run:
    """The run whose checkpoint is at `path`: a run's folder or one checkpoint of it.

    Raises:
        CheckpointError: there is none that can be read.
        SettingsError: its settings do not fit this version.
    """
    return run.load(path, SYSTEMS, device)


def fit(settings: Settings, *, resume: bool = False, progress: bool = True) -> Run | None:
    """Trains up to settings.steps; None if it was interrupted, after saving. See runs.loop.fit."""
    return loop.fit(SYSTEMS[settings.system.name], settings, resume=resume, progress=progress)
