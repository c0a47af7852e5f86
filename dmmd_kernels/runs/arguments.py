"""A setting as an argument of a command line: how its text is read, and what --help says."""

import argparse
from collections.abc import Callable, Collection
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from dmmd_kernels.runs.settings import Option


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def argument(option: Option, default: Any) -> dict[str, Any]:
    """The keywords of add_argument."""
    kind, args = option.kind, get_args(option.kind)
    if get_origin(kind) in (Union, UnionType):  # X | None: what is left out is as the run says
        kind = args[0]
        args = get_args(kind)
    shown = "" if default in (None, "") else f" ({_shown(default)})"
    made: dict[str, Any] = {"default": default, "help": f"{option.text}{shown}".replace("%", "%%")}
    if get_origin(kind) is Literal:
        return made | {"type": one_of(args), "metavar": "{" + ",".join(args) + "}"}
    if kind is bool:
        return made | {"type": _boolean, "metavar": "{true,false}", "nargs": "?", "const": True}
    if get_origin(kind) is tuple:
        return made | {"type": _whole_numbers, "metavar": "N,N,…"}
    return made | {"type": _READ[kind], "metavar": {int: "N", float: "X"}.get(kind, "TEXT")}


def _shown(default: Any) -> str:
    return ",".join(map(str, default)) if isinstance(default, tuple) else as_text(default)


def one_of(names: Collection[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            listed = ", ".join(names)
            raise argparse.ArgumentTypeError(f"must be one of {listed}, got {text!r}")
        return text

    return read


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, got {text!r}")
    return text.lower() == "true"


def _whole_numbers(text: str) -> tuple[int, ...]:
    return tuple(_whole_number(part) for part in text.strip("()[] ").split(",") if part.strip())


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


_READ: dict[type, Callable[[str], Any]] = {
    int: _whole_number,
    float: _number,
    str: str,
    Path: Path,
}
