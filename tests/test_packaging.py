"""What is shipped: metadata, the compiled extension, the cost of the import, habits of a file."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dmmd_kernels as dk
from tests.imports import LAYERS

ROOT = Path(__file__).parents[1]
FOLDERS = ["dmmd_kernels", "csrc", "python", "tests", "benchmarks", "docs", "examples", ".ci"]
KINDS = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh", ".md", ".sh", ".toml", ".cff", ".yaml", ""}

FILES = sorted(
    path
    for place in [ROOT.glob("*"), *((ROOT / folder).rglob("*") for folder in FOLDERS)]
    for path in place
    if path.is_file() and path.suffix in KINDS and not {"__pycache__", ".git"} & set(path.parts)
)
CODE = [path for path in FILES if path.suffix in {".py", ".h", ".cpp", ".cu", ".cuh"}]
PACKAGE = [path for path in CODE if ROOT / "dmmd_kernels" in path.parents]

# A path of one machine, as opposed to one of a system.
MACHINE_PATH = re.compile(r"(^|[^\w.$}])/(?:tmp|work|opt|root|home)/", flags=re.MULTILINE)


def each(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda p: str(p.relative_to(ROOT)))


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def readme_command(name: str) -> str:
    command = [str(ROOT / ".ci" / "command"), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_version_is_the_same_everywhere():
    stated = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    logged = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert {stated[1], cited[1], logged[1]} == {dk.__version__}


def test_package_is_marked_as_typed():
    assert (ROOT / "dmmd_kernels" / "py.typed").exists()


def test_setup_stays_short():
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 60


def test_sdist_takes_along_what_is_compiled_and_tested():
    """setuptools adds the package, pyproject.toml and setup.py; `make install` compiles all."""
    manifest = (ROOT / "MANIFEST.in").read_text()
    grafted = set(re.findall(r"^graft (.*)$", manifest, re.MULTILINE))
    included = set(" ".join(re.findall(r"^include (.*)$", manifest, re.MULTILINE)).split())
    named = re.findall(r"[\w/]+/[\w./]+\.\w+", (ROOT / "CMakeLists.txt").read_text())
    assert {"csrc", "python"} <= {name.partition("/")[0] for name in named} <= grafted
    assert set(FOLDERS) - {"dmmd_kernels"} <= grafted
    assert included >= {"*.md", "CITATION.cff", "CMakeLists.txt", "LICENSE", "Makefile"}


def test_extension_links_neither_torch_nor_the_cuda_runtime():
    """So that one build serves every torch, and a machine without a GPU can import it."""
    spec = importlib.util.find_spec("dmmd_kernels._C")
    if spec is None:
        pytest.skip("the C++ extension was not built")
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not on PATH")
    command = ["readelf", "--dynamic", "--wide", spec.origin]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", done.stdout)
    assert needed
    assert not [name for name in needed if re.match(r"lib(torch|c10|cuda|python)", name)], needed


def test_import_loads_none_of_the_programs_and_none_of_their_libraries():
    unwanted = {"matplotlib", "sklearn", "PIL", "yaml", "safetensors", "tqdm", "triton"}
    upper = [room for floor in LAYERS[LAYERS.index(["dmmd_kernels"]) + 1 :] for room in floor]
    unwanted |= {f"dmmd_kernels.{room}" for room in upper}
    code = "import sys, torch; before = set(sys.modules); import dmmd_kernels"
    loaded = python(f"{code}; print(*set(sys.modules) - before)").split()
    assert "dmmd_kernels" in loaded
    assert not unwanted & set(loaded)


def test_import_adds_little_to_that_of_torch():
    """In processor time, the best of three: other work on the machine must not count."""
    code = "import time, torch; t = time.process_time(); import dmmd_kernels"
    seconds = [float(python(f"{code}; print(time.process_time() - t)")) for _ in range(3)]
    assert min(seconds) < 0.2


def test_ci_runs_the_commands_of_the_readme():
    script = (ROOT / ".ci" / "run").read_text()
    for name, core in [("main", "pip install -e ."), ("test", "pip install -e '.[test]'")]:
        assert f".ci/command {name})" in script
        assert readme_command(name).startswith(core)


def test_workflow_runs_the_ci_script():
    assert "run: .ci/run\n" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_ci_runs_targets_that_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    used = re.findall(
        r"^stage .*\bmake ([a-z-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE
    )
    assert used
    assert set(used) <= set(targets)


@each(PACKAGE)
def test_package_never_unpickles(path):
    """Loading a pickle runs whatever code the file holds, `weights_only` or not."""
    tree = ast.walk(ast.parse(path.read_text()))
    names = {ast.unparse(node) for node in tree if isinstance(node, (ast.Attribute, ast.alias))}
    assert not names & {"pickle", "torch.load", "torch.save", "joblib.load", "dill", "shelve"}
    assert "allow_pickle=True" not in path.read_text()


def test_no_program_loads_what_it_does_not_name():
    """The programs read command lines with the standard library alone."""
    code = "import sys, dmmd_kernels.train, dmmd_kernels.sample, dmmd_kernels.evaluate"
    loaded = python(f"{code}; print(*sys.modules)").split()
    assert "argparse" in loaded
    assert not {"jsonargparse", "typeshed_client", "docstring_parser"} & set(loaded)


@each(CODE)
def test_file_fits_in_a_head(path):
    assert len(path.read_text().splitlines()) <= 400


@each(FILES)
def test_file_speaks_of_no_single_machine(path):
    found = [line for line in path.read_text().splitlines() if MACHINE_PATH.search(line)]
    assert not found
