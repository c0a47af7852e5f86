"""Sums over all pairs of two clouds: the ops of dmmd_kernels.ops.pairwise.

(n, m, d) as they occur: particles in the plane, a latent space, features of an image network.
"""

from benchmarks.suites import compare

SHAPES = {
    "small": {"cpu": [(512, 512, 2), (256, 512, 64)], "cuda": [(1024, 1024, 2), (1024, 1024, 64)]},
    "default": {
        "cpu": [(4096, 4096, 2), (2048, 4096, 64), (1024, 2048, 512)],
        "cuda": [(8192, 8192, 2), (16384, 16384, 64), (4096, 8192, 512)],
    },
    "large": {
        "cpu": [(16384, 16384, 2), (16384, 16384, 64), (4096, 8192, 512), (2048, 2048, 3072)],
        "cuda": [(65536, 65536, 2), (65536, 65536, 64), (32768, 32768, 512), (8192, 8192, 3072)],
    },
}
FIRST = {mode: {device: own[:1] for device, own in both.items()} for mode, both in SHAPES.items()}


@compare("kernel_matrix", SHAPES)
def bench_kernel_matrix(measure, provider, case):
    measure("kernel_matrix", provider, case)


@compare("potential", SHAPES)
def bench_potential(measure, provider, case):
    measure("potential", provider, case)


@compare("potential_grad", SHAPES)
def bench_potential_grad(measure, provider, case):
    measure("potential_grad", provider, case)


@compare("potential_and_grad", SHAPES)
def bench_potential_and_grad(measure, provider, case):
    measure("potential_and_grad", provider, case)


@compare("potential", FIRST, kernels=("rational_quadratic", "mixture"))
def bench_potential_of_other_kernels(measure, provider, case):
    measure("potential", provider, case)


@compare("potential_grad", FIRST, kernels=("rational_quadratic", "mixture"))
def bench_potential_grad_of_other_kernels(measure, provider, case):
    measure("potential_grad", provider, case)
