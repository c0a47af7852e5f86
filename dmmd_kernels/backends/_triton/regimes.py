"""Which way a sweep takes in d dimensions, and the tiles it takes there: a table, and nothing else.

    direct   differences, a row per lane                       direct.py, pairwise.py
    fused    tensor cores, sums in registers                   tensor_cores.py, near.py
    panels   a library product per panel, fused with the rest  panels.py
    sides    many right-hand sides, a product on tensor cores  sides.py
    tiles    second order on tensor cores                      tangent_tiles.py

Rows are tried in order; the first that covers d, does what is asked and fits the GPU's shared
memory is taken. No entry depends on n or m."""

from dataclasses import dataclass
from functools import cache

import torch
import triton

LARGEST = 2**31  # no limit on d


@dataclass(frozen=True)
class Regime:
    """One row of the table: up to d dimensions, with tiles of rows × columns pairs.

    grad: whether the row is for sweeps with a gradient. near: pairs with |z - x|² below this part
    of |z|² + |x|² are taken from differences; smaller where independent points often come so near.
    shared: bytes of shared memory a program needs. oldest, newest: the sm_<number> it is meant for.
    """

    kind: str
    d: int
    grad: bool
    rows: int = 128
    columns: int = 16
    warps: int = 4
    stages: int = 1
    near: float = 0.25
    shared: int = 0
    oldest: int = 0
    newest: int = 999


Table = tuple[Regime, ...]
_HOPPER = dict(oldest=90, newest=90)  # whose tensor cores read both factors from shared memory


def _fused(
    d: int, columns: int, kilobytes: int, *, grad: bool, near: float = 0.25, **gpus
) -> Regime:
    memory = kilobytes << 10
    return Regime("fused", d, grad, 64, columns, stages=2, near=near, shared=memory, **gpus)


TABLE = (
    Regime("direct", d=8, grad=False),
    Regime("direct", d=8, grad=True),
    _fused(16, 64, 18, grad=False, near=1 / 16),
    _fused(32, 64, 34, grad=False, near=1 / 8),
    _fused(64, 64, 50, grad=False),
    _fused(128, 64, 98, grad=False),
    _fused(256, 64, 194, grad=False, **_HOPPER),
    _fused(256, 32, 130, grad=False),
    _fused(16, 64, 18, grad=True, near=1 / 16, **_HOPPER),
    _fused(16, 32, 18, grad=True, near=1 / 16),
    _fused(32, 64, 34, grad=True, near=1 / 8, **_HOPPER),
    _fused(32, 32, 34, grad=True, near=1 / 8),
    _fused(64, 64, 50, grad=True, **_HOPPER),
    _fused(64, 32, 50, grad=True),
    _fused(128, 16, 58, grad=True),
    Regime("panels", d=LARGEST, grad=False, rows=64, columns=16),
    Regime("panels", d=LARGEST, grad=True, rows=64, columns=16),
)

# For many right-hand sides.
SIDES = (
    Regime("direct", 8, grad=False, rows=64, columns=64),
    Regime("sides", 16, grad=False, rows=64, columns=64, stages=2, near=1 / 16, shared=42 << 10),
    Regime("sides", 32, grad=False, rows=64, columns=64, stages=2, near=1 / 8, shared=58 << 10),
    Regime("sides", 64, grad=False, rows=64, columns=64, stages=2, shared=98 << 10),
    Regime(
        "sides", LARGEST, grad=False, rows=64, columns=64, shared=90 << 10, oldest=90, newest=119
    ),
    Regime("sides", LARGEST, grad=False, rows=64, columns=32, shared=66 << 10),
    Regime("direct", LARGEST, grad=False, rows=64, columns=64),
)

# For second order. Streamed, each 64 coordinates of the gradient compute q and q̇ again, from all d:
# beyond 1024 that is little less than differences cost.
TANGENTS = (
    Regime("direct", 8, grad=True, columns=8),
    Regime("tiles", 16, grad=True, rows=64, columns=32, near=1 / 16, shared=42 << 10),
    Regime("tiles", 32, grad=True, rows=64, columns=32, near=1 / 8, shared=58 << 10),
    Regime("tiles", 64, grad=True, rows=64, columns=32, shared=90 << 10),
    Regime("tiles", 1024, grad=True, rows=64, columns=32, shared=90 << 10),  # streamed
    Regime("direct", LARGEST, grad=True, columns=8),
)

# For the gradients of parameters.
PARAMETERS = (
    Regime("direct", 8, grad=False, columns=8),
    Regime("tiles", 16, grad=False, rows=64, columns=64, near=1 / 16, shared=42 << 10),
    Regime("tiles", 32, grad=False, rows=64, columns=64, near=1 / 8, shared=58 << 10),
    Regime("tiles", 64, grad=False, rows=64, columns=64, shared=90 << 10),
    Regime("direct", LARGEST, grad=False, columns=8),
)


def regime(
    d: int, *, grad: bool, shared: int = LARGEST, sm: int = 90, table: Table | None = None
) -> Regime:
    """The first row that covers d, on a GPU sm_<sm> with `shared` bytes of shared memory."""
    return next(
        row
        for row in table or TABLE
        if d <= row.d
        and row.grad == grad
        and row.shared <= shared
        and row.oldest <= sm <= row.newest
    )


@cache
def device_regime(d: int, grad: bool, device: torch.device, table: Table | None = None) -> Regime:
    """The same for a device; Triton's interpreter is taken for an sm_90 without limits."""
    if device.type != "cuda":
        return regime(d, grad=grad, table=table)
    shared = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return regime(d, grad=grad, shared=shared, sm=architecture(device), table=table)


def architecture(device: torch.device) -> int:
    """The number of sm_<number>; 0 for what is no NVIDIA GPU."""
    if device.type != "cuda" or torch.version.hip is not None:
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def via_histogram(arch: int) -> bool:
    """Whether Triton's compiler needs the detour of tensor_cores.py for the GPU sm_<arch>."""
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    return version < (3, 9) and 100 <= arch < 120
