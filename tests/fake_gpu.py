"""A GPU that is not there: launches compile for it, as Triton would for one, and run nothing.

    TRITON_INTERPRET=0 pytest -p tests.fake_gpu tests/test_triton_tiles.py

compiles what the tests would launch (DMMD_FAKE_SM=100 names another GPU than sm_90); what they
assert afterwards is of memory that nobody wrote, and fails. Points are on the CPU.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.triton_baseline import SHARED


class Driver:
    """What Triton asks of a driver in order to compile."""

    launcher_cls = None

    def __init__(self, sm: int) -> None:
        self.sm = sm

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.sm, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int = 0) -> int:
        return 0


class Compilations:
    """How many Triton kernels were compiled, and how many were found in the cache."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.found = 0

    def listen(self, *, src, cache_hit: bool, **_) -> None:
        if cache_hit:
            self.found += 1
        else:
            self.compiled.append(src.name)


def pretend(sm: int = 90, *, with_launchers: bool = True) -> Compilations:
    """From now on every launch of this process compiles for an NVIDIA GPU sm_<sm>, and returns.

    with_launchers: also compiles the C code that a launch goes through, where there is a compiler.
    """
    import triton
    from triton.runtime import driver

    driver.set_active(Driver(sm))
    launcher = _launcher() if with_launchers else None
    seen = Compilations()
    triton.knobs.compilation.listener = seen.listen

    def launch(self, grid):
        def call(**values):
            kernel = self.warmup(grid=grid, **values)
            if launcher is not None:
                launcher(kernel.src, kernel.metadata)

        return call

    triton.JITFunction.__getitem__ = launch
    _believe_in(sm)
    return seen


def _believe_in(sm: int) -> None:
    """The library takes the tensors of a CPU for those of the GPU."""
    from dmmd_kernels.backends import _triton
    from dmmd_kernels.backends._triton import fused, regimes

    _triton.why_not = lambda *_, **__: None
    fused.LEAST_WORK = 0
    regimes.device_regime = lambda d, grad, device, table=None: regimes.regime(
        d, grad=grad, table=table, shared=SHARED[sm], sm=sm
    )
    for name, module in list(sys.modules.items()):
        if "._triton" in name and hasattr(module, "architecture"):
            module.architecture = lambda device: sm


def _launcher():
    """Triton's class of launchers, with an empty library in the place of the driver's."""
    from triton.backends.nvidia import driver

    folder = Path(tempfile.mkdtemp())
    library = folder / "libcuda.so.1"
    command = ["cc", "-shared", "-Wl,-soname,libcuda.so.1", "-x", "c", "/dev/null", "-o", library]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        sys.setdlopenflags(os.RTLD_LAZY)  # nothing of it is called
        os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
        driver.CudaUtils()
        # Triton 3.9 has one launcher for all kernels, and compiles none.
        return driver.CudaLauncher if hasattr(driver, "make_launcher") else None
    return None


def pytest_configure(config) -> None:
    """As a plugin: whoever compares results calls the op alone."""
    seen = pretend(int(os.environ.get("DMMD_FAKE_SM", "90")))
    config.add_cleanup(lambda: print(report("pytest", seen)))  # noqa: T201
    from tests import cases

    def launched(op, name, tensors, mixture, *rest):
        cases._results(cases.backend.load(name), op, tensors, mixture, rest)

    cases.assert_as_accurate = launched


def report(name: str, seen: Compilations) -> str:
    return f"{name}: {len(seen.compiled)} compiled, {seen.found} found"
