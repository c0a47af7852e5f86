"""How a program is told which run it is for: --checkpoint, --device, --backend, --seed."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dmmd_kernels.runs import checkpoint
from dmmd_kernels.runs.checkpoint import CheckpointError
from dmmd_kernels.runs.command_line import Parser
from dmmd_kernels.runs.run import Run, load
from dmmd_kernels.runs.settings import FIRST, Settings, SettingsError, options
from dmmd_kernels.runs.system import System

# What a user can mend; the last two: a data set can't be read, or a library is missing.
OPEN_ERRORS = (CheckpointError, SettingsError, OSError, ImportError)


def add_opening(parser: Parser) -> None:
    """The options that `opened` reads."""
    add = parser.add_argument
    add("--checkpoint", required=True, action="append", help="folder of a run or a checkpoint")
    add("--seed", type=int, default=0, help="of the samples (0)")
    add("--device", default="auto", help="cpu, cuda, or auto (auto)")
    names = next(option.kind for option in options(Settings) if option.name == "backend").__args__
    add("--backend", choices=names, help="what computes the ops; as the run says")


def opened(path: str, chosen: argparse.Namespace, systems: Mapping[str, System]) -> Run:
    """The run at `path`, with the device and the backend that were chosen.

    Raises:
        CheckpointError, SettingsError: see runs.run.load.
    """
    run = load(path, systems, chosen.device)
    if chosen.backend is None:
        return run
    return replace(run, settings=run.settings.changed(backend=chosen.backend))


def system_of(arguments: Sequence[str], systems: Mapping[str, System]) -> System:
    """That of the first --checkpoint, whose options a program then has; of none or a damaged one
    the first of all systems."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--checkpoint", nargs="?", action="append", default=[])
    paths = [path for path in parser.parse_known_args(arguments)[0].checkpoint if path]
    record = checkpoint.peek(paths[0]) if paths else {}
    return systems.get(record.get("settings", {}).get("system", FIRST), systems[FIRST])
