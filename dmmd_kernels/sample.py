"""Samples from a trained run.

    python -m dmmd_kernels.sample --checkpoint runs/checkerboard --n 1000 --out samples.npz
    python -m dmmd_kernels.sample --checkpoint runs/digits --n 100 --method a_dmmd_e --out x.png
    python -m dmmd_kernels.sample --checkpoint runs/digits --n 100 --out x.png --trajectory x.gif

Sample i follows from the run, the options, the seed, and i: not from how many are drawn. How
samples can be drawn differs between systems: --help with a --checkpoint shows the options of its.
"""

import sys
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from dmmd_kernels.evaluation.outputs import write_samples, write_trajectory
from dmmd_kernels.runs.command_line import Parser, given
from dmmd_kernels.runs.openings import OPEN_ERRORS, add_opening, opened, system_of
from dmmd_kernels.runs.run import draw_samples
from dmmd_kernels.runs.settings import SettingsError
from dmmd_kernels.systems import SYSTEMS

SUFFIXES = (".npz", ".png")


def _parser(arguments: list[str]) -> Parser:
    parser = Parser("sample", __doc__)
    add_opening(parser)
    parser.add_argument("--n", type=int, default=1000, help="how many samples (1000)")
    parser.add_argument("--out", required=True, type=Path, help="a .npz file, or a .png picture")
    parser.add_argument("--trajectory", type=Path, help="a .gif of the first samples on their way")
    parser.add_settings(system_of(arguments, SYSTEMS).drawing)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser(arguments)
    try:
        chosen = parser.settings(arguments)
        if chosen.n < 1:
            raise SettingsError(f"--n must be at least 1, got {chosen.n}")
        if chosen.out.suffix not in SUFFIXES:
            raise SettingsError(f"--out must end in .npz or .png, got {chosen.out}")
        if chosen.trajectory is not None and chosen.trajectory.suffix != ".gif":
            raise SettingsError(f"--trajectory must end in .gif, got {chosen.trajectory}")
        run = opened(chosen.checkpoint[-1], chosen, SYSTEMS)
        drawing = run.system.drawing(**given(chosen, run.system.drawing))
        nfe = run.system.evaluations(run.settings, drawing)
    except OPEN_ERRORS as error:
        parser.fail(error)
    states: list[tuple[str, Tensor]] = []
    keep = lambda *state: states.append(state) if chosen.trajectory else None
    try:
        samples = draw_samples(
            run, chosen.n, drawing, seed=chosen.seed, progress=True, on_state=keep
        )
    except FloatingPointError as error:
        tqdm.write(str(error), file=sys.stderr)
        return 1
    write_samples(chosen.out, samples)
    if chosen.trajectory:
        write_trajectory(chosen.trajectory, states)
    name = getattr(drawing, "method", None) or run.system.name
    tqdm.write(f"{chosen.n} samples of {name}, {nfe} evaluations each, in {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
