from torch import Tensor

built_with_cuda: bool
profiles: list[str]
max_gpu_flow_d: int
max_gpu_flow_components: int

class Kernel:
    def __init__(self, profiles: str, high: bool = False) -> None: ...

class Motion:
    def __init__(
        self, momentum: float, max_norm: float, seed: int, first_flow: int, first_step: int
    ) -> None: ...

def use_exchange(api: object) -> None: ...
def instruction_set() -> str: ...
def instruction_sets() -> str: ...
def limit_instruction_set(name: str) -> bool: ...
def tile_unit() -> str: ...
def thread_model() -> str: ...
def potential(
    z: Tensor, x: Tensor, w: Tensor, params: Tensor, kernel: Kernel, skip_diagonal: bool,
    threads: int, f: Tensor,
) -> None: ...  # fmt: skip
def potential_grad(
    z: Tensor, x: Tensor, v: Tensor | None, w: Tensor, params: Tensor, kernel: Kernel,
    skip_diagonal: bool, threads: int, g: Tensor,
) -> None: ...  # fmt: skip
def potential_and_grad(
    z: Tensor, x: Tensor, w: Tensor, params: Tensor, kernel: Kernel, threads: int,
    f: Tensor, g: Tensor,
) -> None: ...  # fmt: skip
def params_grad(
    z: Tensor, x: Tensor, v: Tensor | None, w: Tensor, params: Tensor, kernel: Kernel,
    skip_diagonal: bool, threads: int, q: Tensor,
) -> None: ...  # fmt: skip
def tangents(
    z: Tensor, x: Tensor, v: Tensor | None, w: Tensor, params: Tensor, kernel: Kernel,
    a: Tensor | None, b: Tensor | None, c: Tensor | None, skip_diagonal: bool, threads: int,
    f: Tensor, g: Tensor, q: Tensor,
) -> None: ...  # fmt: skip
def kernel_matrix(
    z: Tensor, x: Tensor, params: Tensor, kernel: Kernel, threads: int, k: Tensor
) -> None: ...
def quadratic_form(
    u: Tensor, v: Tensor, w: Tensor, params: Tensor, kernel: Kernel, skip_diagonal: bool,
    threads: int, s: Tensor, g: Tensor | None, q: Tensor | None,
) -> None: ...  # fmt: skip
def row_sums(
    x: Tensor, w: Tensor | None, o: Tensor, threads: int, s: Tensor, q: Tensor
) -> None: ...
def row_sums_grad(
    x: Tensor, w: Tensor | None, o: Tensor, a: Tensor, b: Tensor, threads: int, g: Tensor
) -> None: ...
def flow(
    x: Tensor, velocity: Tensor | None, y: Tensor, w: Tensor, radial_params: Tensor | None,
    radial: Kernel, polynomial_params: Tensor | None, polynomial: Kernel, step_size: Tensor,
    noise: Tensor | None, motion: Motion, failed: Tensor, threads: int,
) -> None: ...  # fmt: skip
def flow_on_gpu(
    x: Tensor, velocity: Tensor | None, y: Tensor, w: Tensor, radial_params: Tensor | None,
    radial: Kernel, polynomial_params: Tensor | None, polynomial: Kernel, step_size: Tensor,
    noise: Tensor | None, motion: Motion, failed: Tensor, workspace: Tensor, stream: int,
) -> None: ...  # fmt: skip
def flow_workspace(blocks: int, n: int, m: int, d: int) -> int: ...
def flow_plan(blocks: int, n: int, m: int, d: int) -> str: ...
def flow_update(
    z: Tensor, velocity: Tensor | None, g: Tensor, step_size: Tensor, noise: Tensor | None,
    motion: Motion, threads: int,
) -> None: ...  # fmt: skip
