"""The dependency rules of CONTRIBUTING.md, checked on the source so that they stay true."""

import ast
import re
from pathlib import Path

import pytest

from dmmd_kernels.systems import SYSTEMS
from tests.imports import (
    LAYERS,
    LEVEL,
    PACKAGE,
    ROOT,
    arrows,
    circles,
    graph,
    module_of,
    room_of,
    runs_up,
    sources,
)

FILES = sources(PACKAGE)
MODULES = graph([PACKAGE, "benchmarks", "examples", "tests"])
OWN = [module for module in MODULES if module.split(".")[0] == PACKAGE]
BETWEEN = arrows(MODULES)

# What only dispatch may know. Code that uses the library as its users do goes without.
OPS = {"parameters", "kernels", "backends", "autograd", "ops"}
USERS = sorted(
    module
    for module in MODULES
    if module.split(".")[0] in ("benchmarks", "examples")
    or room_of(module) in ("compat", "systems")
)
# Stand-ins may use these modules' public names beside those of dmmd_kernels itself: what tests,
# widths and losses of ours are made of, so that theirs promote, tie and refuse alike.
LENT = {
    f"{PACKAGE}.ops.{name}"
    for name in (
        *("bandwidth", "two_sample", "pooled", "relabellings", "ties"),
        *("checks", "dtypes", "products"),
    )
}


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(ROOT)))


def reached(*modules: str) -> set[str]:
    """The modules, all that they import, and so on."""
    found, left = set(), list(modules)
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += MODULES.get(module, ())
    return found


def test_every_module_stands_on_a_floor():
    assert {room_of(module) for module in OWN} == set(LEVEL)
    assert sum(map(len, LAYERS)) == len(LEVEL), "a room has one floor"


@pytest.mark.parametrize("arrow", BETWEEN, ids=" → ".join)
def test_imports_run_down(arrow):
    assert not runs_up(arrow), BETWEEN[arrow]


def test_nothing_leads_back_to_where_it_began():
    """Of the package, its tests, benchmarks and examples."""
    assert not circles(MODULES)


def test_the_package_needs_nothing_outside_it():
    others = {other.split(".")[0] for module in OWN for other in MODULES[module]}
    assert others == {PACKAGE}


def test_few_modules_lie_at_the_root_of_the_package():
    assert len([path for path in FILES if path.parent == ROOT / PACKAGE]) <= 10


def test_the_loop_and_its_settings_know_no_system():
    runs = [module for module in OWN if room_of(module) == "runs"]
    assert not [m for m in reached(*runs) if room_of(m) == "systems"]


def home(system: str, module: str) -> bool:
    place = f"{PACKAGE}.systems.{system}"
    return module == place or module.startswith(f"{place}.")


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_do_not_know_each_other(name):
    """Not by way of what they share either; their list alone knows them all."""
    own = [module for module in OWN if home(name, module)]
    assert own, f"{name} must have a module or folder of its name in systems/"
    assert f"{PACKAGE}.systems" not in reached(*own)
    strangers = {m for m in reached(*own) for other in set(SYSTEMS) - {name} if home(other, m)}
    assert not strangers


def test_data_and_networks_need_none_of_the_ops():
    modules = [module for module in OWN if room_of(module) in ("data", "networks")]
    assert not {room_of(m) for m in reached(*modules)} & {*OPS, PACKAGE}


@pytest.mark.parametrize("name", [PACKAGE, f"{PACKAGE}.__main__"])
def test_the_roof_stays_clear_of_the_programs(name):
    """Else `import dmmd_kernels` would pay for plotting, data sets and command lines."""
    rooms = {room_of(module) for module in reached(name) - {name}} - {"_C"}
    assert rooms <= {*OPS, PACKAGE}


def test_only_native_imports_the_extension():
    named = {module for module in OWN if f"{PACKAGE}._C" in MODULES[module]}
    assert named == {f"{PACKAGE}.backends.native"}


@pytest.mark.parametrize("module", USERS)
def test_users_keep_to_the_public_interface(module):
    inner = {other for other in MODULES[module] if room_of(other) in {*OPS, "_C"}}
    inner = {other for other in inner if other.split(".")[0] == PACKAGE}
    wrong = inner - (LENT if room_of(module) == "compat" else set())
    assert not wrong, f"import from dmmd_kernels itself, not from {sorted(wrong)}"


@each(sources(f"{PACKAGE}/compat"))
def test_stand_ins_borrow_public_names_alone(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if is_lent(node)]
    borrowed = [alias.name for node in nodes for alias in node.names]
    assert not [name for name in borrowed if name.startswith("_")]


def is_lent(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module in LENT


@each(FILES)
def test_no_module_is_named_after_its_content(path):
    """Else `from package import name` is the function or the module, whichever came last."""
    defined = {getattr(node, "name", None) for node in ast.parse(path.read_text()).body}
    assert module_of(path).split(".")[-1] not in defined


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
