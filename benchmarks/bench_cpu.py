"""The CPU at the sizes its users have: a cloud of 10⁴ particles, a training batch, many blocks.

docs/performance.md holds these against the processor's limits; `-k cpu` runs them with the CPU
cases of the other suites.
"""

from benchmarks.suites import compare


def on_cpu(small: tuple[int, ...], *default: tuple[int, ...]) -> dict:
    """One small shape for a trial run, and those that are compared."""
    return {"small": {"cpu": [small]}, "default": {"cpu": [*default]}, "large": {"cpu": [*default]}}


PARTICLES = on_cpu(
    (200, 200, 2), (10000, 10000, 2), (10000, 10000, 16), (10000, 10000, 64), (4000, 4000, 512),
    (2000, 2000, 3072),
)  # fmt: skip
PLANE = on_cpu((200, 200, 2), (10000, 10000, 2))
SAMPLES = on_cpu((200, 200, 2), (4096, 4096, 2), (4096, 4096, 64))
GENERATED = on_cpu((200, 200, 2), (4096, 4096, 2), (4096, 4096, 64))
MOVED = on_cpu((200, 200, 2), (10000, 10000, 16), (4000, 4000, 512))
MATRIX = on_cpu((200, 200, 2), (8192, 8192, 2), (8192, 8192, 64))
BLOCKS = on_cpu((16, 16, 4, 8), (64, 64, 16, 1024))


@compare("witness_grad", PARTICLES)
def bench_flow_of_particles(measure, provider, case):
    measure("witness_grad", provider, case)


@compare("witness_grad", PLANE, kernels=("rational_quadratic", "inverse_root", "mixture"))
def bench_flow_of_particles_in_the_plane(measure, provider, case):
    measure("witness_grad", provider, case)


@compare("mmd2_grad_sigma", SAMPLES)
def bench_training(measure, provider, case):
    measure("mmd2_grad_sigma", provider, case)


@compare("mmd2_grad_x", GENERATED)
def bench_training_of_one_sample(measure, provider, case):
    measure("mmd2_grad_x", provider, case)


@compare("flow_step", MOVED)
def bench_step_of_a_flow(measure, provider, case):
    measure("flow_step", provider, case)


@compare("mmd2_grad", BLOCKS)
def bench_many_blocks(measure, provider, case):
    measure("mmd2_grad", provider, case)


@compare("kernel_matrix", MATRIX)
def bench_matrix(measure, provider, case):
    measure("kernel_matrix", provider, case)
