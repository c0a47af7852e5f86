"""Who imports whom: rooms, arrows that run up, and circles.

    python -m tests.imports            the whole repository
    python -m tests.imports --files    each arrow between rooms, with the files that draw it

A room is a folder of dmmd_kernels, or a module beside them; benchmarks, tests and examples are not
part of the house, but must be free of circles like it.
"""

import argparse
import ast
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = "dmmd_kernels"

# Imports run down this list: a room knows the rooms above its line, never one below or beside it.
LAYERS = [
    ["parameters"],
    ["kernels"],
    ["backends"],
    ["autograd"],
    ["ops"],
    [PACKAGE],  # `import dmmd_kernels as dk`: the public names
    ["compat", "data", "networks"],
    ["metrics"],
    ["runs"],
    ["systems"],
    ["evaluation"],
    ["__main__", "presets"],
    ["evaluate", "sample", "train"],
]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> str:
    """The dotted name; of a package its own, without __init__."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The folder or module directly below the package that holds it; the package for itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def imported(path: Path, known: set[str]) -> set[str]:
    """The modules among `known` that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in known else str(node.module))
    return found & known


def graph(folders: Iterable[str]) -> dict[str, set[str]]:
    """Module → modules that it imports, over the files of the folders."""
    files = {module_of(path): path for folder in folders for path in sources(folder)}
    known = {*files, f"{PACKAGE}._C"}
    return {module: imported(path, known) - {module} for module, path in files.items()}


def arrows(modules: dict[str, set[str]]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(room, room) → the imports between their files, over the package alone."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for module, others in modules.items():
        for other in sorted(others):
            if module.split(".")[0] == other.split(".")[0] == PACKAGE:
                ends = room_of(module), room_of(other)
                if ends[0] != ends[1] and ends[1] != "_C":
                    found.setdefault(ends, []).append((module, other))
    return found


def runs_up(arrow: tuple[str, str]) -> bool:
    """Whether a room imports one of its own line or of a line below it in LAYERS."""
    above, below = (LEVEL.get(room, len(LAYERS)) for room in arrow)
    return above <= below


def circles(modules: dict[str, set[str]]) -> list[list[str]]:
    """Ways that lead back to where they began, each as its modules; none of their arrows twice."""
    left = {module: set(others) for module, others in modules.items()}
    found = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            *way, begin = error.args[1]
            left[begin].discard(way[-1])
            found.append(way)
        else:
            return found


def report(*, files: bool) -> str:
    """The rooms from the top floor down, each with what it knows; then what is wrong."""
    modules = graph([PACKAGE, "benchmarks", "examples", "tests"])
    between = arrows(modules)
    rooms = {room_of(module) for module in modules if module.split(".")[0] == PACKAGE}
    lines = []
    for room in sorted(rooms, key=lambda room: (-LEVEL.get(room, len(LAYERS)), room)):
        known = sorted(end for start, end in between if start == room)
        lines.append(f"{LEVEL.get(room, '?'):>3}  {room:<14} {' '.join(known)}")
        if files:
            pairs = [pair for end in known for pair in between[room, end]]
            lines += [f"{'':>8}{start} → {end}" for start, end in sorted(pairs)]
    up = sorted(f"{start} → {end}" for start, end in between if runs_up((start, end)))
    rings = [" ↔ ".join(circle) for circle in circles(modules)]
    lines.append(f"{len(rooms)} rooms on {len(LAYERS)} floors, {len(between)} arrows")
    lines += [f"{len(up)} run up" + "".join(f"\n     {line}" for line in up)]
    lines += [f"{len(rings)} circles" + "".join(f"\n     {line}" for line in rings)]
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m tests.imports", description=__doc__)
    parser.add_argument("--files", action="store_true", help="with the files behind each arrow")
    print(report(files=parser.parse_args().files))
