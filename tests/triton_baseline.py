"""Compiles the Triton kernels for GPUs this machine need not have, and says what they cost.

    python tests/triton_baseline.py            print what is measured now
    python tests/triton_baseline.py --diff     print what differs from tests/triton_baseline.json
    python tests/triton_baseline.py --write    make what is measured now the new baseline

The ops themselves are called, with the launch replaced by a recording of its arguments, so what is
compiled is what a call would launch. Needs Triton, and no GPU. Registers, and bytes on the stack,
which are those of spilled registers, are what the compiled code says of itself.
"""

import contextlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ARCHITECTURES = (90, 100)  # for every case; the others for the case that stands for its kind
OTHERS = (80, 89, 120, "gfx942")
# Bytes of shared memory a program may have.
SHARED = {80: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376, "gfx942": 65536}
BASELINE = Path(__file__).with_suffix(".json")
_LARGE = (512, 512)  # points: enough for every sweep to take the way of large clouds
_SMALL = (5, 7)


def cases() -> Iterator[tuple[str, object, dict]]:
    """(label, Triton kernel, launch arguments) of every Triton kernel in its usual forms."""
    import torch

    from dmmd_kernels.kernels import Mixture

    def mixture(*names: str) -> Mixture:
        return Mixture("+".join(names), torch.ones(len(names), 3))

    def clouds(d: int, p: int = 1, sizes=_LARGE, dtype=torch.float32) -> list:
        n, m = sizes
        return [torch.zeros(s, dtype=dtype) for s in ((n, d), (m, d), (n, p), (m, p))]

    gaussian = mixture("gaussian")
    pair = mixture("gaussian", "rational_quadratic")
    bank = mixture("gaussian", "rational_quadratic", "imq", "laplace", "energy")

    z, x, v, w = clouds(3)
    yield from launches("bank d=3", "potential_and_grad", z, x, w, bank)
    yield from launches("bank d=3", "quadratic_form", z, v, v, bank)
    yield from launches("bank d=3", "kernel_matrix", z, x, bank)
    yield from launches("pair d=3", "params_grad", z, x, v, w, pair)
    yield from launches("pair d=3", "tangents", z, x, v, w, pair, z, x, torch.zeros(2, 3))
    z, x, v, w = clouds(3, sizes=_SMALL, dtype=torch.bfloat16)
    yield from launches("pair d=3 small", "potential_grad", z, x, v, w, pair)
    z, x, v, w = clouds(16, p=8)
    yield from launches("cubic d=16 p=8", "potential", z, x, w, mixture("polynomial3"))

    for d in (2, 8):
        z, x, v, w = clouds(d)
        yield from launches(f"gaussian d={d}", "potential", z, x, w, gaussian)
        yield from launches(f"gaussian d={d}", "potential_grad", z, x, None, w, gaussian)
        yield from launches(f"gaussian d={d}", "quadratic_form", z, v, v, gaussian)
    for d in (16, 64, 128, 256):
        z, x, v, w = clouds(d)
        yield from launches(f"gaussian value d={d}", "potential", z, x, w, gaussian)
        if d < 256:
            yield from launches(f"gaussian grad d={d}", "potential_grad", z, x, None, w, gaussian)
    z, x, v, w = clouds(64, p=2)
    yield from launches("gaussian form d=64", "quadratic_form", z, v, v, gaussian, True)
    yield from launches("gaussian grad d=64 p=2", "potential_grad", z, z, v, v, gaussian, True)
    form_and_grad = "quadratic_form_and_grad"
    yield from launches("gaussian form, grad d=64", form_and_grad, z, v, v, gaussian, None, True)
    z, x, v, w = clouds(64)
    yield from launches("bank both d=64", "potential_and_grad", z, x, w, bank)
    yield from mixtures(z, x, w)
    z, x, v, w = clouds(512)
    yield from launches("gaussian value d=512", "potential", z, x, w, gaussian)
    yield from launches("gaussian grad d=512", "potential_grad", z, x, None, w, gaussian)
    for d in (64, 128):
        points = clouds(d)
        moving = (points[0], None, None)
        yield from launches(f"gaussian z moves d={d}", "tangents", *points, gaussian, *moving)
    points = clouds(64)
    yield from launches("gaussian d=64", "params_grad", *points, gaussian)
    moving = (None, points[1], None)
    yield from launches("gaussian x moves d=64", "tangents", *points, gaussian, *moving)
    both = (points[0], points[1], None)
    yield from launches("gaussian both move d=64", "tangents", *points, gaussian, *both)
    for d in (2, 64, 512):
        z, x, _, w = clouds(d, p=64)
        yield from launches(f"gaussian d={d} p=64", "potential", z, x, w, gaussian)
    z, x, v, w = clouds(64)
    high = dict(precision="high")
    yield from launches("gaussian high d=64", "potential_grad", z, x, None, w, gaussian, **high)


def mixtures(z, x, w) -> Iterator[tuple[str, object, dict]]:
    """Those of numbers, which share exponentials and take roots. Near pairs meet them elsewhere."""
    yield from (case for case in all_of_mixtures(z, x, w) if case[0].startswith("fused"))


def all_of_mixtures(z, x, w) -> Iterator[tuple[str, object, dict]]:
    import dmmd_kernels as dk

    octaves = dk.mixture([dk.gaussian(2**l) for l in range(5)]).lower(z).mixtures[0]
    halves = dk.mixture([dk.gaussian(2 ** (l / 2)) for l in range(5)]).lower(z).mixtures[0]
    alphas = [dk.rational_quadratic(a) for a in (0.2, 0.5, 1, 2, 5)]
    tails = dk.mixture(alphas).lower(z).mixtures[0]
    (tail,) = dk.rational_quadratic(0.3).lower(z).mixtures
    v = w.expand(-1, 2).contiguous()
    for name, several in (("octaves", octaves), ("half octaves", halves), ("tails", tails)):
        yield from launches(f"{name} value d=64", "potential", z, x, w, several)
        yield from launches(f"{name} grad d=64", "potential_grad", z, x, None, w, several)
    yield from launches("octaves form d=64", "quadratic_form", z, v, v, octaves, True)
    yield from launches("one tail value d=64", "potential", z, x, w, tail)


def launches(label: str, op: str, *arguments, **options) -> Iterator[tuple[str, object, dict]]:
    """What calling the op launches."""
    from dmmd_kernels.backends import _triton

    with recorded_launches() as recorded:
        getattr(_triton, op)(*arguments, **options)
    seen: list = []
    for jit_kernel, values in recorded:
        seen.append(jit_kernel)
        again = " again" * (seen.count(jit_kernel) - 1)
        yield f"{jit_kernel.__name__.strip('_')} {label}{again}", jit_kernel, values


def is_worth_compiling(label: str, arch: int | str) -> bool:
    """On GPUs other than sm_90."""
    if arch == 100:
        return not re.search("half octaves|(octaves|tail) value|octaves grad|both move", label)
    return label in (
        "potential_grad_kernel gaussian d=2",
        "fused_kernel gaussian value d=64",
        "fused_kernel gaussian grad d=64",
    )


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


def compiled(jit_kernel, values: dict, arch: int | str):
    """As triton's own launcher would compile it for these arguments."""
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dmmd_kernels.backends._triton import regimes

    pointers = {
        torch.float32: "*fp32",
        torch.float16: "*fp16",
        torch.bfloat16: "*bf16",
        torch.int32: "*i32",
    }
    constant = {p.name for p in jit_kernel.params if p.is_constexpr}
    aligned = {p.name for p in jit_kernel.params if not p.do_not_specialize}
    if "VIA_HISTOGRAM" in values:
        detour = isinstance(arch, int) and regimes.via_histogram(arch)
        values = values | {"VIA_HISTOGRAM": detour}
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
    target = GPUTarget("hip", arch, 64) if isinstance(arch, str) else GPUTarget("cuda", arch, 32)
    return triton.compile(source, target=target, options=options)


def cost(jit_kernel, values: dict, arch: int | str) -> dict:
    """Registers, bytes spilled and shared, and the instructions a change must not add or lose."""
    result = compiled(jit_kernel, values, arch)
    wide = bool(re.search(r"arith\.muli .*: (?:tensor<[^>]*)?i64", result.asm["ttir"]))
    if isinstance(arch, str):
        return amd_cost(result.asm["amdgcn"], result.metadata.shared) | {"wide_offsets": wide}
    ptx, cubin = result.asm["ptx"], result.asm["cubin"]
    usage = tool("cuobjdump", "-res-usage", cubin=cubin)
    ex2 = len(re.findall(r"\bex2\.approx", ptx))
    mma = len(re.findall(r"\b(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)", ptx))
    return {
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spills": int(re.search(r"STACK:(\d+)", usage)[1]),
        "shared": result.metadata.shared,
        "mma": mma,
        "ex2": ex2,
        "wide_offsets": wide,
        **(per_pair(cubin, values, mma > 0) if ex2 else {}),
    }


def per_pair(cubin: bytes, values: dict, on_tensor_cores: bool) -> dict:
    """Instructions of the loop over tiles, by the pairs of a tile that a thread has; and how many
    of a round move spilled registers. Others do so before the loop or after it.

    The loop is the smallest one around most exponentials. What a branch can jump over (near pairs,
    the diagonal) is seldom run and left out. Nothing for a kernel without such a loop.
    """
    lines = tool("nvdisasm", "-c", cubin=cubin).splitlines()
    labels = {line[:-1].strip(): at for at, line in enumerate(lines) if line.startswith(".L")}
    exps = lambda first, last: sum("MUFU.EX2" in line for line in lines[first:last])
    loops = []
    for at, line in enumerate(lines):
        target = re.search(r"\bBRA(?:\.\w+)* .*?`\((\.L\w+)\)", line)
        first = labels.get(target[1], at) if target else at
        if first < at and 2 * exps(first, at) > exps(0, len(lines)):
            loops.append(lines[first:at])
    if not loops:
        return {}
    kept = _always_run(min(loops, key=len), on_tensor_cores)
    pairs = values["BLOCK_N"] * values["BLOCK_M"] / (32 * values["num_warps"])
    moved = sum(bool(re.search(r"\b(STL|LDL)\b", line)) for line in kept)
    return {"issued": round(len(kept) / pairs, 1), "reloads": moved}


def _always_run(lines: list[str], on_tensor_cores: bool) -> list[str]:
    """The instructions that no branch forward can jump over.

    A loop that is jumped over counts, as it may have no rounds; on tensor cores it is for near
    pairs, and does not.
    """
    labels = {line.strip()[:-1]: at for at, line in enumerate(lines) if line.startswith(".L")}
    jumps = [
        (at, labels[target[1]])
        for at, line in enumerate(lines)
        if (target := re.search(r"\bBRA.* `\((\.L\w+)\)", line)) and target[1] in labels
    ]
    kept, until = [], 0
    for at, line in enumerate(lines):
        if at < until:
            continue
        if re.match(r"\s+/\*[0-9a-f]{4,}\*/", line):
            kept.append(line)
        end = next((to for source, to in jumps if source == at and to > at), 0)
        if on_tensor_cores or not any(at < to < source < end for source, to in jumps):
            until = end
    return kept


def tool(name: str, option: str, *, cubin: bytes) -> str:
    """What a tool that comes with Triton, or else with CUDA, says about this code."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(path) if path.exists() else name, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def amd_cost(assembly: str, shared: int) -> dict:
    count = lambda name: int(re.search(rf"\.{name}:\s*(\d+)", assembly)[1])
    return {
        "registers": count("vgpr_count"),
        "spills": count("vgpr_spill_count") * 4,
        "shared": shared,
        "mma": len(re.findall(r"\bv_mfma_", assembly)),
        "ex2": len(re.findall(r"\bv_exp_f32", assembly)),
    }


def measure(architectures: tuple = (*ARCHITECTURES, *OTHERS)) -> dict:
    """The costs of all cases, once where two would compile the same code; all processors at it."""
    import triton

    seen = set()
    for arch in architectures:
        for label, jit_kernel, values in cases_of(arch):
            key = (arch, jit_kernel.__name__, form(jit_kernel, values))
            if key in seen or (arch != 90 and not is_worth_compiling(label, arch)):
                continue
            seen.add(key)
            name = arch if isinstance(arch, str) else f"sm_{arch}"
            _tasks[f"{label} {name}"] = (jit_kernel, values, arch)
    workers = len(os.sched_getaffinity(0))
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        costs = pool.map(_cost_of, _tasks, chunksize=1)
    return {"triton": triton.__version__, "costs": dict(zip(_tasks, costs, strict=True))}


_tasks: dict[str, tuple] = {}  # a Triton kernel cannot be sent to a process, but one forked has it


def _cost_of(label: str) -> dict:
    return cost(*_tasks[label])


def cases_of(arch: int | str) -> Iterator[tuple[str, object, dict]]:
    """The cases as a GPU of this kind would launch them."""
    from dmmd_kernels.backends._triton import fused, regimes

    kind = {"shared": SHARED[arch], "sm": arch if isinstance(arch, int) else 0}
    before = regimes.device_regime, fused.LEAST_WORK, fused.architecture
    regimes.device_regime = lambda d, grad, device, table=None: regimes.regime(
        d, grad=grad, table=table, **kind
    )
    fused.LEAST_WORK, fused.architecture = 0, lambda device: kind["sm"]
    try:
        yield from cases()
    finally:
        regimes.device_regime, fused.LEAST_WORK, fused.architecture = before


def form(jit_kernel, values: dict) -> str:
    """What the code depends on: constants, absent tensors, and types."""
    constant = {p.name for p in jit_kernel.params if p.is_constexpr}
    fixed = lambda name, v: name in constant or name.startswith("num_") or v is None
    return str([(k, v if fixed(k, v) else getattr(v, "dtype", int)) for k, v in values.items()])


def as_lines(measured: dict) -> str:
    """JSON with a line for each case, in order of their names: a change is a line of a diff."""
    costs = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(measured["costs"].items())]
    version = json.dumps(measured["triton"])
    return f'{{\n "triton": {version},\n "costs": {{\n' + ",\n".join(costs) + "\n }\n}\n"


def difference(measured: dict, stored: dict) -> str:
    """A line for each number that is not what it was, and for cases that came or went."""
    lines = [f"Triton {stored['triton']} → {measured['triton']}"]
    before, now = stored["costs"], measured["costs"]
    for label in sorted({*before, *now}):
        if label not in before or label not in now:
            lines.append(f"{label}: {'new' if label in now else 'gone'}")
            continue
        changes = [
            f"{name} {before[label].get(name)} → {value}"
            for name, value in now[label].items()
            if before[label].get(name) != value
        ]
        lines += [f"{label}: {', '.join(changes)}"] if changes else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    os.environ.pop("TRITON_INTERPRET", None)
    found = measure()
    if "--write" in sys.argv:
        BASELINE.write_text(as_lines(found))
    stored = json.loads(BASELINE.read_text())
    sys.stdout.write(difference(found, stored) if "--diff" in sys.argv else as_lines(found))
