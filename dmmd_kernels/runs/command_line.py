"""The command lines of the programs, made from classes of settings.

    defaults of the preset  <  --config FILE  <  the command line

Files of settings and records of checkpoints are read by the same parser as arguments, so a wrong
name or value is one sentence wherever it stands.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from dmmd_kernels.runs.arguments import argument, as_text
from dmmd_kernels.runs.settings import (
    FIRST,
    Settings,
    SettingsError,
    SystemSettings,
    options,
)

Kinds = Mapping[str, type[SystemSettings]]
Defaults = Callable[[str, str], Settings]


class Parser(argparse.ArgumentParser):
    """Names are whole, --help keeps the lines of the description, an error is a SettingsError."""

    def __init__(self, program: str, description: str | None, *, add_help: bool = True) -> None:
        super().__init__(
            f"python -m dmmd_kernels.{program}",
            usage=f"python -m dmmd_kernels.{program} [options]",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            add_help=add_help,
        )

    def error(self, message: str) -> NoReturn:
        """
        Raises:
            SettingsError: always; `fail` ends a program with it.
        """
        raise SettingsError(message.replace("argument --", "--").replace(": must", " must"))

    def fail(self, error: Exception) -> NoReturn:
        """Ends the program with the sentence of the error and where to read on."""
        self.exit(2, f"{self.prog}: error: {sentence(error)}\n(--help explains every option)\n")

    def add_settings(self, of: type, defaults: Any = None) -> None:
        """An option for each setting of a class, those of its bases under titles of their own."""
        for home in of.__mro__:
            own = [option for option in options(of) if option.home is home]
            group = self.add_argument_group((home.__doc__ or "").splitlines()[0]) if own else self
            for option in own:
                default = option.default if defaults is None else getattr(defaults, option.name)
                group.add_argument(f"--{option.name}", **argument(option, default))

    def settings(self, arguments: Sequence[str]) -> argparse.Namespace:
        """
        Raises:
            SettingsError: an unknown name, with the nearest known one, or a wrong value.
        """
        found, rest = self.parse_known_args(list(arguments))
        if rest:
            name = rest[0].partition("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, 1)
            meant = f"; did you mean {near[0]}?" if near and name.startswith("--") else ""
            raise SettingsError(f"there is no option {name}{meant}")
        return found


def sentence(error: BaseException) -> str:
    """What an error says to the user of a program, without Python's numbers."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(error)


def read(values: Mapping[str, Any], kinds: Kinds) -> Settings:
    """The settings that a checkpoint holds, flat.

    Raises:
        SettingsError: unknown names, wrong types, values beyond their limits.
    """
    try:
        kind = _kind(str(values.get("system", FIRST)), kinds)
        parser = _run_parser(Settings(system=kind()))
        return _settings(parser.settings(as_arguments(values)), kind)
    except SettingsError as error:
        raise SettingsError(f"settings do not fit this version: {error}") from error


def read_run(
    arguments: Sequence[str],
    description: str | None,
    kinds: Kinds,
    defaults: Defaults,
    presets: Mapping[str, Collection[str]],
) -> tuple[Settings, bool]:
    """The settings of `python -m dmmd_kernels.train ARGUMENTS`, and whether --resume was given.

    Ends the process with a message on an unknown setting, a wrong value, --help, --print_config.

    Args:
        kinds: the settings of each system, by its name.
        defaults: (preset, system) → the settings it begins with.
        presets: the names of those that each system has settings for.
    """
    parser = Parser("train", description)
    try:
        arguments, resume = _with_files(list(arguments))
        early = _early_parser().parse_known_args(arguments)[0]
        system = early.system or FIRST
        kind = _kind(system, kinds)
        begin = defaults(early.preset, system)
        parser = _run_parser(begin, description, kinds, presets[system])
        found = parser.settings(arguments)
        settings = _settings(found, kind)
    except SettingsError as error:
        parser.fail(error)
    if found.print_config:
        sys.stdout.write(as_yaml(settings))
        parser.exit()
    return settings, resume


def as_yaml(settings: Settings) -> str:
    """The settings as --config reads them again."""
    return yaml.safe_dump(settings.flat(), sort_keys=False, allow_unicode=True)


def as_arguments(values: Mapping[str, Any]) -> list[str]:
    """Settings of a file as a command line has them.

    Raises:
        SettingsError: what can be no name, or a value that no setting has.
    """
    found = []
    for name, value in values.items():
        if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]*", name):
            raise SettingsError(f"there is no option {name!r}")
        parts = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(part, str | int | float) for part in parts):
            kinds = ", ".join(sorted({type(part).__name__ for part in parts}))
            raise SettingsError(f"{name} must be text, a number, true or false, got {kinds}")
        found.append(f"--{name}={','.join(map(as_text, parts))}")
    return found


def given(found: argparse.Namespace, of: type) -> dict[str, Any]:
    """The settings of a class that were given on a command line whose defaults are None."""
    values = {option.name: getattr(found, option.name) for option in options(of)}
    return {name: value for name, value in values.items() if value is not None}


def _kind(system: str, kinds: Kinds) -> type[SystemSettings]:
    if system not in kinds:
        raise SettingsError(f"--system must be one of {', '.join(kinds)}, got {system!r}")
    return kinds[system]


def _settings(found: argparse.Namespace, kind: type[SystemSettings]) -> Settings:
    parts = [
        {option.name: getattr(found, option.name) for option in options(part)}
        for part in (kind, Settings)
    ]
    return Settings(system=kind(**parts[0]), **parts[1])


def _early_parser() -> Parser:
    """What must be known before the rest can be read."""
    parser = Parser("train", None, add_help=False)
    parser.add_argument("--preset", default="checkerboard")
    parser.add_argument("--system")
    parser.add_argument("--out", default="")
    parser.add_argument("--config", action="append", type=Path, default=[])
    parser.add_argument("--resume", action="store_true")
    return parser


def _run_parser(
    defaults: Settings,
    description: str | None = None,
    kinds: Kinds | None = None,
    presets: Collection[str] = (),
) -> Parser:
    parser = Parser("train", description)
    name = defaults.system.name
    parser.epilog = f"presets of {name}: {', '.join(presets)}"
    listed = f": {', '.join(kinds)}; each has options of its own" if kinds else ""
    parser.add_argument("--system", default=name, help=f"what is trained{listed} ({name})")
    parser.add_argument("--config", action="append", help="a YAML file of settings, read in order")
    parser.add_argument("--print_config", action="store_true", help="print the settings and end")
    resume = "continue the run in --out, with its own settings, exactly where it stopped"
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_settings(Settings, defaults)
    parser.add_settings(type(defaults.system), defaults.system)
    return parser


def _with_files(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments behind those of the files they name, and whether a run is to be continued.

    Raises:
        SettingsError: a file can't be read, or the run to be continued is one of another system.
    """
    early = _early_parser()
    found = early.parse_known_args(arguments)[0]
    before: list[str] = []
    if found.resume:
        wanted = Settings(preset=found.preset, out=found.out, system=_named(found.system or FIRST))
        stored = wanted.folder / "config.yaml"
        before = _file(stored) if stored.is_file() else []
        system = early.parse_known_args(before)[0].system or FIRST
        if before and found.system not in (None, system):
            raise SettingsError(
                f"system is {found.system!r}, the run to be continued has {system!r}; "
                "leave it out, or start a new run in another --out"
            )
    return before + [
        text for path in found.config for text in _file(path)
    ] + arguments, found.resume


def _named(system: str) -> SystemSettings:
    """Settings that know a system's name alone, for the folder of its runs."""
    return type("Named", (SystemSettings,), {"name": system})()


class _NoAliases(yaml.SafeLoader):
    """Settings never need them, and a few lines with them can stand for more than memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it must not have aliases")
        return super().compose_node(parent, index)


def _file(path: Path) -> list[str]:
    """
    Raises:
        SettingsError: there is no such file, or it holds no settings.
    """
    try:
        content = yaml.load(path.read_text(), _NoAliases)
    except OSError as error:
        raise SettingsError(f"--config {path} can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        told = " ".join(str(error).split())
        raise SettingsError(f"--config {path} is no YAML of settings: {told}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise SettingsError(f"--config {path} must hold lines `name: value`, got {kind}")
    return as_arguments(content)
