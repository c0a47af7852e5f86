"""MMD², its gradients and the witness: the ops of dmmd_kernels.ops.mmd.

n particles or samples against m, in d dimensions; a fourth number is a batch of such problems.
"""

from benchmarks.suites import compare

SHAPES = {
    "small": {"cpu": [(256, 256, 2), (256, 256, 64)], "cuda": [(1024, 1024, 2), (1024, 1024, 64)]},
    "default": {
        "cpu": [(2048, 2048, 2), (2048, 2048, 64), (512, 512, 512)],
        "cuda": [(8192, 8192, 2), (8192, 8192, 64), (4096, 4096, 512)],
    },
    "large": {
        "cpu": [(8192, 8192, 2), (8192, 8192, 64), (4096, 4096, 512)],
        "cuda": [(32768, 32768, 2), (32768, 32768, 64), (16384, 16384, 512)],
    },
}
LATENT = {mode: {device: own[1:2] for device, own in both.items()} for mode, both in SHAPES.items()}
BATCHED = {
    "small": {"cpu": [(32, 32, 16, 8)], "cuda": [(64, 64, 16, 32)]},
    "default": {"cpu": [(128, 128, 16, 64)], "cuda": [(128, 128, 64, 256)]},
    "large": {"cpu": [(128, 128, 64, 512)], "cuda": [(256, 256, 64, 2048), (64, 64, 3072, 512)]},
}
LINEAR = {
    "small": {"cpu": [(512, 512, 64)], "cuda": [(2048, 2048, 64)]},
    "default": {"cpu": [(4096, 4096, 64)], "cuda": [(16384, 16384, 512)]},
    "large": {"cpu": [(8192, 8192, 512)], "cuda": [(32768, 32768, 512)]},
}
# One line of the plot in the README: time against n.
SERIES = {
    "small": {"cpu": [(n, n, 64) for n in (128, 256)], "cuda": [(n, n, 64) for n in (512, 1024)]},
    "default": {
        "cpu": [(2**k, 2**k, 64) for k in (8, 9, 10, 11, 12)],
        "cuda": [(2**k, 2**k, 64) for k in (10, 11, 12, 13, 14, 15)],
    },
    "large": {
        "cpu": [(2**k, 2**k, 64) for k in range(8, 15)],
        "cuda": [(2**k, 2**k, 64) for k in range(10, 19)],
    },
}


@compare("mmd2", SHAPES)
def bench_mmd2(measure, provider, case):
    measure("mmd2", provider, case)


@compare("mmd2", LATENT, kernels=("rational_quadratic", "mixture"))
def bench_mmd2_of_other_kernels(measure, provider, case):
    measure("mmd2", provider, case)


@compare("mmd2", BATCHED)
def bench_mmd2_batched(measure, provider, case):
    measure("mmd2", provider, case)


@compare("mmd2_biased", LATENT)
def bench_mmd2_biased(measure, provider, case):
    measure("mmd2_biased", provider, case)


@compare("mmd2_linear", LINEAR, kernels=("linear",))
def bench_mmd2_linear(measure, provider, case):
    measure("mmd2_linear", provider, case)


@compare("mmd2_grad", SHAPES)
def bench_mmd2_grad(measure, provider, case):
    measure("mmd2_grad", provider, case)


@compare("mmd2_grad", BATCHED, kernels=("mixture",))
def bench_mmd2_grad_batched(measure, provider, case):
    measure("mmd2_grad", provider, case)


@compare("mmd2_grad_sigma", LATENT, kernels=("gaussian", "rational_quadratic"))
def bench_mmd2_grad_sigma(measure, provider, case):
    measure("mmd2_grad_sigma", provider, case)


@compare("witness", LATENT)
def bench_witness(measure, provider, case):
    measure("witness", provider, case)


@compare("witness_grad", SERIES)
def bench_witness_grad(measure, provider, case):
    measure("witness_grad", provider, case)


@compare("witness_grad", LATENT, kernels=("rational_quadratic",))
def bench_witness_grad_of_other_kernels(measure, provider, case):
    measure("witness_grad", provider, case)
