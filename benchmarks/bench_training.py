"""Second order, as training needs it: the gradient of a penalty on the witness gradient.

mean (|∇f(z)| - 1)² is differentiated in the queries z and in both samples.
"""

from benchmarks.suites import compare

SHAPES = {
    "small": {"cpu": [(64, 64, 16)], "cuda": [(256, 256, 64)]},
    "default": {
        "cpu": [(256, 256, 16), (512, 512, 64)],
        "cuda": [(1024, 1024, 16), (2048, 2048, 64)],
    },
    "large": {"cpu": [(1024, 1024, 16), (1024, 1024, 512)], "cuda": [(4096, 4096, 512)]},
}


@compare("penalty", SHAPES, kernels=("gaussian", "rational_quadratic"))
def bench_penalty(measure, provider, case):
    measure("penalty", provider, case)
