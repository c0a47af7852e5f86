"""Builds dmmd_kernels._C with CMake. Metadata is in pyproject.toml, compiling in CMakeLists.txt.

pip install .                               # CUDA is used when a working nvcc is found
DMMD_CUDA=OFF pip install .                 # or ON: fail without one
DMMD_NATIVE=0 pip install .                 # pure Python and Triton, no compiler needed
CMAKE_ARGS=-DCMAKE_BUILD_TYPE=Debug pip install .
DMMD_BUILD_DIR=build/pip pip install -e .   # keeps what it compiles: the next one compiles changes
"""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def jobs() -> str:
    """As many as there are cores, but 2 GB of memory for each; the usual variables overrule."""
    for name in ("CMAKE_BUILD_PARALLEL_LEVEL", "MAX_JOBS"):
        if os.environ.get(name):
            return os.environ[name]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return str(max(1, min(cores or 1, memory // (2 * 1024**3))))


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        import pybind11

        build = Path(os.environ.get("DMMD_BUILD_DIR") or self.build_temp).resolve()
        install = (Path.cwd() / self.get_ext_fullpath(ext.name)).parent
        options = [
            "-GNinja",
            # That of this build: pip has each in an environment of its own, also in a kept folder.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja') or 'ninja'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DCMAKE_INSTALL_PREFIX={install}",
            f"-DDMMD_CUDA={os.environ.get('DMMD_CUDA', 'AUTO')}",
            *shlex.split(os.environ.get("CMAKE_ARGS", "")),
        ]
        subprocess.run(["cmake", "-S", ROOT, "-B", build, *options], check=True)
        compile_ = ["cmake", "--build", build, "--target", "install", "--parallel", jobs()]
        subprocess.run(compile_, check=True)


native = os.environ.get("DMMD_NATIVE", "1") != "0"
setup(
    ext_modules=[Extension("dmmd_kernels._C", sources=[])] if native else [],
    cmdclass={"build_ext": CMakeBuild},
)
