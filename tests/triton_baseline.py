"""Compiles the Triton kernels for GPUs this machine need not have, and says what they cost.

    python tests/triton_baseline.py            compare with tests/triton_baseline.json by eye
    python tests/triton_baseline.py --write    make what is measured now the new baseline

The ops themselves are called, with the launch replaced by a recording of its arguments, so what is
compiled is what a call would launch. Needs Triton, and no GPU. Registers and spills are ptxas's.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

ARCHITECTURES = (80, 90, 100)
BASELINE = Path(__file__).with_suffix(".json")


def cases() -> Iterator[tuple[str, object, dict]]:
    """(label, Triton kernel, launch arguments) of every Triton kernel in its usual forms."""
    import torch

    from dmmd_kernels import _triton as backend
    from dmmd_kernels.kernels import Mixture

    def mixture(*names: str) -> Mixture:
        return Mixture("+".join(names), torch.ones(len(names), 3))

    def run(label: str, op: str, *arguments, **options) -> Iterator[tuple[str, object, dict]]:
        with recorded_launches() as launches:
            getattr(backend, op)(*arguments, **options)
        for jit_kernel, values in launches:
            yield f"{jit_kernel.__name__.strip('_')} {label}", jit_kernel, values

    def clouds(d: int, p: int = 1, dtype=torch.float32) -> list:
        sizes = [(64, d), (96, d), (64, p), (96, p)]
        return [torch.zeros(size, dtype=dtype) for size in sizes]

    gaussian = mixture("gaussian")
    pair = mixture("gaussian", "rational_quadratic")
    bank = mixture("gaussian", "rational_quadratic", "imq", "laplace", "energy")

    z, x, v, w = clouds(3)
    yield from run("bank d=3", "potential_and_grad", z, x, w, bank)
    yield from run("bank d=3", "quadratic_form", z, v, v, bank)
    yield from run("bank d=3", "kernel_matrix", z, x, bank)
    yield from run("pair d=3", "params_grad", z, x, v, w, pair)
    yield from run("pair d=3", "tangents", z, x, v, w, pair, z, x, torch.zeros(2, 3))

    z, x, v, w = clouds(16, p=8, dtype=torch.bfloat16)
    yield from run("cubic d=16 p=8 bf16", "potential", z, x, w, mixture("polynomial3"))

    for d in (16, 64, 512):
        z, x, _, w = clouds(d)
        yield from run(f"gaussian d={d}", "potential", z, x, w, gaussian)
        yield from run(f"gaussian d={d}", "potential_grad", z, x, None, w, gaussian)

    z, x, v, w = clouds(64)
    yield from run("gaussian d=64", "potential_and_grad", z, x, w, gaussian, precision="high")


@contextlib.contextmanager
def recorded_launches() -> Iterator[list]:
    import triton

    launches: list = []
    launch = triton.JITFunction.__getitem__
    record = lambda self, grid: lambda **values: launches.append((self, values))
    triton.JITFunction.__getitem__ = record
    try:
        yield launches
    finally:
        triton.JITFunction.__getitem__ = launch


def compiled(jit_kernel, values: dict, arch: int):
    """As triton's own launcher would compile it for these arguments."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    pointers = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    constant = {p.name for p in jit_kernel.params if p.is_constexpr}
    aligned = {p.name for p in jit_kernel.params if not p.do_not_specialize}
    signature, constants, attributes = {}, {}, {}
    for index, name in enumerate(jit_kernel.arg_names):
        value = values[name]
        is_one = name in aligned and isinstance(value, int) and value == 1
        if name in constant or value is None or is_one:
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, torch.Tensor):
            signature[name] = pointers[value.dtype]
            attributes[(index,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
            if name in aligned and value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(jit_kernel, signature, constexprs=constants, attrs=attributes)
    options = {name: values[name] for name in ("num_warps", "num_stages") if name in values}
    options["enable_fp_fusion"] = True
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def cost(jit_kernel, values: dict, arch: int) -> dict:
    """Registers, bytes spilled and shared, and the instructions a change must not add or lose."""
    result = compiled(jit_kernel, values, arch)
    ptx = result.asm["ptx"]
    report = assembled(ptx, arch)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", report)
    return {
        "registers": int(re.search(r"Used (\d+) registers", report)[1]),
        "spills": sum(map(int, spills)),
        "shared": result.metadata.shared,
        "mma": len(re.findall(r"\b(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)", ptx)),
        "ex2": len(re.findall(r"\bex2\.approx", ptx)),
        "wide_offsets": bool(re.search(r"arith\.muli .*tensor<[^>]*i64>", result.asm["ttir"])),
    }


def assembled(ptx: str, arch: int) -> str:
    """What ptxas says about this code: of those that come with Triton, the first to accept it."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    names = ["ptxas", "ptxas-blackwell"] if arch < 100 else ["ptxas-blackwell", "ptxas"]
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        # The second option is Triton's own since 3.9; an older ptxas does not know it.
        for tool, extra in product(names, (["--regAllocOptLevel=2"], [])):
            if not (tools / tool).exists():
                continue
            command = [tools / tool, "-v", *extra, f"--gpu-name={target}", file]
            done = subprocess.run(
                [*map(str, command), "-o", f"{file}.cubin"], capture_output=True, text=True
            )
            if done.returncode == 0:
                return done.stdout + done.stderr
    raise RuntimeError(f"no ptxas of {names} accepts this code: {done.stdout}{done.stderr}")


def measure() -> dict:
    import triton

    costs = {
        f"{label} sm_{arch}": cost(jit_kernel, values, arch)
        for label, jit_kernel, values in cases()
        for arch in ARCHITECTURES
    }
    return {"triton": triton.__version__, "costs": costs}


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    os.environ.pop("TRITON_INTERPRET", None)
    measured = json.dumps(measure(), indent=1)
    if "--write" in sys.argv:
        BASELINE.write_text(measured + "\n")
    sys.stdout.write(measured + "\n")
