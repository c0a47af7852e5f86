"""Compiles here what a GPU machine would take minutes for, with neither its GPU nor its network.

    python -m benchmarks.prewarm [FOLDER]             build/gpu: for this Python, torch and Triton
    python -m benchmarks.prewarm --unpack [FOLDER]    on the GPU machine; gpu.sh does it

FOLDER gets triton.tar.xz, Triton's cache of what smoke.py, grid.py and the tests of tensor cores
launch; _C*.so for one architecture, and digits.npz. Triton finds a kernel again under the same
versions of Triton and of its ptxas, and of the kernel's text. That it does is tried: the cache is
unpacked elsewhere, and the same launches must find every kernel in it.

What does not fit the machine it is unpacked on is named, and left: then things are compiled there.
"""

import argparse
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[1]
_TESTS = ("test_triton_tensor_cores.py", "test_triton_tiles.py")
_GRID = ("64", "2", "512", "16", "128")
_SIZE = 2048  # points, where the kernels are those of the grid's; nothing runs but library products


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


# -- In the process of a group --------------------------------------------------------------------


def launch_group(group: str, sm: int) -> str:
    from tests.fake_gpu import pretend, report

    kind, _, name = group.partition(":")
    calls = {"smoke": _smoke_calls, "grid": _grid_calls}[kind]
    seen = pretend(sm)
    for call in calls(name):
        try:
            call()
        except (ArithmeticError, RuntimeError) as error:  # of numbers that nobody computed
            say(f"{group}: {type(error).__name__}: {str(error)[:100]}")
    return report(group, seen)


def _smoke_calls(group: str) -> Iterator:
    from benchmarks.smoke_cases import GROUPS, OPS, Problem

    for case in GROUPS[group]:
        p = Problem(case.on("cuda"), "cpu")
        yield lambda case=case, p=p: OPS[case.op].call(p, {"backend": "triton"})


def _grid_calls(part: str) -> Iterator:
    from benchmarks.grid import cases
    from benchmarks.grid_providers import ours
    from benchmarks.problems import problem

    for op, case in cases("cpu", part, _SIZE):
        if case.data == "normal":  # the kernels are the same on others
            for provider in ours("cuda", op):
                yield lambda op=op, case=case, own=provider: own.prepare(op, problem(case))()


# -- Packing --------------------------------------------------------------------------------------


def groups(with_tests: bool) -> list[str]:
    from benchmarks.smoke_cases import TRITON

    named = [f"smoke:{name}" for name in TRITON] + [f"grid:{part}" for part in _GRID]
    return named + [f"tests:{name}" for name in _TESTS] * with_tests


def launch(group: str, cache: Path, sm: int) -> int:
    """Compiles what the group launches; how many kernels were not in the cache."""
    kind, _, name = group.partition(":")
    command = [sys.executable, "-m", "benchmarks.prewarm", f"--group={group}", f"--sm={sm}"]
    if kind == "tests":
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.fake_gpu", "--tb=no", "-rN"]
        command += ["-W", "ignore", "-p", "no:cacheprovider", "-m", "not slow", f"tests/{name}"]
    own = {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(cache), "DMMD_FAKE_SM": str(sm)}
    own["TRITON_STORE_BINARY_ONLY"] = "1"
    begin = perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if " compiled, " in line]
    if not said:
        raise SystemExit(f"prewarm: {group} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    say(f"{said[-1].replace('pytest', group)}, {perf_counter() - begin:.0f} s")
    return int(said[-1].split(": ")[1].split()[0])


def pack_cache(folder: Path, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        first, second = Path(temporary) / "first", Path(temporary) / "second"
        named = groups(not options.no_tests)
        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(lambda group: launch(group, first, options.sm), named))
        with tarfile.open(folder / "triton.tar.xz", "w:xz") as archive:
            archive.add(first, ".")
        unpack_cache(folder / "triton.tar.xz", second)
        say("Again, with what was packed:")
        with ThreadPoolExecutor(options.jobs) as pool:
            missing = sum(pool.map(lambda group: launch(group, second, options.sm), named))
    if missing:
        raise SystemExit(f"prewarm: {missing} kernels were compiled again: their keys do not match")


def pack_extension(folder: Path, sm: int) -> None:
    """For one architecture, and with no other library of C++ than its own."""
    own = {"DMMD_CUDA": "ON", "DMMD_BUILD_DIR": str(ROOT / "build" / "prewarm")}
    static = "-DCMAKE_MODULE_LINKER_FLAGS='-static-libstdc++ -static-libgcc -s'"
    own["CMAKE_ARGS"] = f"-DCMAKE_CUDA_ARCHITECTURES={sm}-real {static}"
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "setup.py", "build_ext", f"--build-lib={temporary}"]
        subprocess.run(command, cwd=ROOT, env=os.environ | own, check=True)
        (built,) = (Path(temporary) / "dmmd_kernels").glob("_C*.so")
        shutil.copy(built, folder / built.name)
    (folder / "sources.txt").write_text(sources())


def pack_digits(folder: Path) -> None:
    import numpy
    from sklearn.datasets import load_digits

    pixels = load_digits().data.astype(numpy.uint8)
    numpy.savez_compressed(folder / "digits.npz", pixels=pixels)


def sources() -> str:
    """A hash of all that the extension is made of."""
    paths = [
        p for name in ("csrc", "python") for p in sorted((ROOT / name).rglob("*")) if p.is_file()
    ]
    digest = hashlib.sha256()
    for path in (*paths, ROOT / "CMakeLists.txt"):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


# -- Unpacking ------------------------------------------------------------------------------------


def unpack(folder: Path, package: Path, cache: Path) -> list[str]:
    """A line for each thing that was carried: where it went, or why it was left."""
    said = [
        f"extension: {unpack_extension(path, package)}" for path in sorted(folder.glob("_C*.so"))
    ]
    if (folder / "triton.tar.xz").exists():
        said.append(f"Triton's cache: {unpack_cache(folder / 'triton.tar.xz', cache)} kernels")
    return said or [f"nothing was carried in {folder}"]


def unpack_extension(path: Path, package: Path) -> str:
    if not any(path.name == f"_C{suffix}" for suffix in importlib.machinery.EXTENSION_SUFFIXES):
        return f"{path.name} is of another Python, so it is left"
    kept = path.with_name("sources.txt")
    if not kept.exists() or kept.read_text() != sources():
        return f"{path.name} was made of other sources, so it is left"
    if reason := why_not_loaded(path):
        return f"{path.name} does not load here, so it is left: {reason}"
    shutil.copy(path, package / ".carried")
    (package / ".carried").replace(package / path.name)
    return f"{path.name} is in its place"


def unpack_cache(archive: Path, cache: Path) -> int:
    """How many kernels. Triton's lists of a kernel's files hold whole paths: they are made new."""
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as opened:
        opened.extractall(cache, filter="data")
    lists = list(cache.glob("*/__grp__*.json"))
    for path in lists:
        names = json.loads(path.read_text())["child_paths"]
        moved = {name: str(path.parent / Path(old).name) for name, old in names.items()}
        path.write_text(json.dumps({"child_paths": moved}))
    return len(lists)


def why_not_loaded(path: Path) -> str | None:
    spec = importlib.util.spec_from_file_location("_C", path)
    try:
        importlib.util.module_from_spec(spec)
    except ImportError as error:
        return str(error)
    return None


def where() -> Path | None:
    """The extension in its place, if it loads."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = ROOT / "dmmd_kernels" / f"_C{suffix}"
        if path.exists() and not why_not_loaded(path):
            return path
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/gpu"))
    parser.add_argument("--sm", type=int, default=90, help="of the GPU, 90 for sm_90")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-extension", action="store_true", help="build it on the GPU machine")
    parser.add_argument("--no-tests", action="store_true", help="only smoke.py and grid.py")
    parser.add_argument("--unpack", action="store_true", help="put what was carried in its places")
    parser.add_argument("--where", action="store_true", help="print the extension that loads here")
    parser.add_argument("--group", help=argparse.SUPPRESS)  # of a process of `launch`
    options = parser.parse_args()
    if options.where:
        found = where()
        say(str(found or "there is no extension that loads"))
        return 0 if found else 1
    if options.group:
        say(launch_group(options.group, options.sm))
    elif options.unpack:
        cache = Path(os.environ.get("TRITON_CACHE_DIR", ROOT / "build" / "triton"))
        say("\n".join(unpack(options.folder, ROOT / "dmmd_kernels", cache)))
    else:
        options.folder.mkdir(parents=True, exist_ok=True)
        pack_digits(options.folder)
        pack_cache(options.folder, options)
        if not options.no_extension:
            pack_extension(options.folder, options.sm)
        for path in sorted(options.folder.iterdir()):
            say(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
