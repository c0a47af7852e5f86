"""The dependency rules of CONTRIBUTING.md, checked on the source so that they stay true."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dmmd_kernels"

# Each layer may import the layers before it, never those after it or beside it.
LAYERS = [
    ["kernels", "clouds", "philox", "profiles"],
    ["reference", "native", "_triton", "motion"],
    ["backend", "native_flow"],
    ["ops"],
    [
        "losses",
        "modules",
        "flows",
        "two_sample",
        "power",
        "bandwidth",
        "diffusion",
        "models",
        "unet",
    ],
]
# All other modules are the programs and their parts: above these, and free among themselves.
TOP = len(LAYERS)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ROOF = {"__init__", "__main__"}

# What only dispatch may know. Code that uses the library as its users do goes without.
INTERNAL = {
    "kernels",
    "profiles",
    "reference",
    "native",
    "native_flow",
    "_triton",
    "backend",
    "ops",
    "_C",
}

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - ROOF
USERS = sorted(
    path
    for folder in ("dmmd_kernels/compat", "dmmd_kernels/baselines", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
)


def imports(path: Path) -> set[str]:
    """The modules of dmmd_kernels that the file imports, anywhere in it; a package is one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            names = [f"{node.module}.{a.name}" for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("dmmd_kernels.")}
    return found & (MODULES | {"_C"})


def module(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def level(name: str) -> int:
    return LEVEL.get(name, TOP)


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(ROOT)))


@each([path for path in FILES if module(path) not in ROOF])
def test_imports_point_down(path):
    own = level(module(path))
    others = imports(path) - {module(path), "_C"}
    wrong = {name for name in others if level(name) > own or level(name) == own != TOP}
    assert not wrong, f"{module(path)} must not import {sorted(wrong)}"


@each([path for path in FILES if module(path) in ROOF])
def test_the_roof_stays_clear_of_the_programs(path):
    """Else `import dmmd_kernels` would pay for plotting, data sets and command lines."""
    wrong = {name for name in imports(path) - {"_C"} if level(name) == TOP}
    assert not wrong, f"{path.name} must not import {sorted(wrong)}"


def test_only_native_imports_the_extension():
    assert {module(path) for path in FILES if "_C" in imports(path)} <= {"native"}


@each(USERS)
def test_users_keep_to_the_public_interface(path):
    wrong = imports(path) & INTERNAL
    assert not wrong, f"import from dmmd_kernels itself, not from {sorted(wrong)}"


@each(FILES)
def test_no_module_is_named_after_its_content(path):
    """Else `from package import name` is the function or the module, whichever came last."""
    defined = {getattr(node, "name", None) for node in ast.parse(path.read_text()).body}
    assert path.stem not in defined


def native_files(folder: str) -> list[Path]:
    kinds = {".h", ".cpp", ".cu", ".cuh"}
    return sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in kinds)


def includes(path: Path) -> tuple[list[str], list[str]]:
    """The quoted and the angled includes of a file."""
    found = re.findall(r'^\s*#\s*include\s*(["<])([^">]+)', path.read_text(), flags=re.MULTILINE)
    quoted = [name for kind, name in found if kind == '"']
    return quoted, [name for kind, name in found if kind == "<"]


@each(native_files("csrc"))
def test_csrc_includes_itself_the_standard_library_and_cuda(path):
    quoted, angled = includes(path)
    assert all((ROOT / "csrc") in (path.parent / name).resolve().parents for name in quoted)
    folders = {name.split("/")[0] for name in angled if "/" in name}
    assert folders <= {"cuda", "cooperative_groups", "sys"}, folders
    assert not {"Python.h"} & set(angled)


@each(native_files("python"))
def test_python_includes_csrc_and_pybind11(path):
    quoted, angled = includes(path)
    homes = {ROOT / "csrc", ROOT / "python"}
    assert all(homes & set((path.parent / name).resolve().parents) for name in quoted)
    assert {name.split("/")[0] for name in angled if "/" in name} <= {"pybind11"}
