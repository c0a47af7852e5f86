"""Trains a system, by default DMMD's noise-conditional kernel, then draws samples and judges them.

    python -m dmmd_kernels.train                    the paper's 2-D experiment: runs/checkerboard
    python -m dmmd_kernels.train --preset digits    8 × 8 handwritten digits
    python -m dmmd_kernels.train --preset cifar10 --data_root FOLDER
    python -m dmmd_kernels.train --system mmd_gan   another system; its options: --help with it
    python -m dmmd_kernels.train --resume           goes on exactly where a run stopped

The defaults are those of the preset; --config FILE goes before them, the command line before both.
A run continues bit for bit, on the same machine with the same number of threads.
"""

import sys

from tqdm import tqdm

from dmmd_kernels.evaluation.conclusion import conclude
from dmmd_kernels.evaluation.curves import training_figure
from dmmd_kernels.presets import settings_of
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.command_line import read_run, sentence
from dmmd_kernels.runs.loop import how_to_resume
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems import SYSTEMS, fit

# What a user can mend: one sentence, not a traceback.
KNOWN_ERRORS = (
    CheckpointError,
    SettingsError,
    FloatingPointError,
    OSError,  # a data set that is not there, a disk that is full
    ImportError,  # of a library that a setting asks for
)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    kinds = {name: system.settings for name, system in SYSTEMS.items()}
    presets = {name: list(system.defaults) for name, system in SYSTEMS.items()}
    settings, resume = read_run(arguments, __doc__, kinds, settings_of, presets)
    try:
        run = fit(settings, resume=resume)
        if run is None:
            return 130
        training_figure(run.folder)
        conclude(run)
    except KNOWN_ERRORS as error:
        tqdm.write(sentence(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        tqdm.write(f"\nstopped; go on with\n  {how_to_resume(settings)}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
