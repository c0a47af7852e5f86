"""One step of the MMD flow: dmmd_kernels.flow with steps=1, where the queries are the particles.

Small clouds in the plane, where overhead is what counts; a batch of them; a latent space.
"""

from benchmarks.suites import compare

SHAPES = {
    "small": {"cpu": [(128, 128, 2), (32, 64, 2, 8)], "cuda": [(512, 512, 2), (64, 64, 2, 32)]},
    "default": {
        "cpu": [(256, 256, 2), (64, 128, 2, 64), (2048, 2048, 64)],
        "cuda": [(512, 512, 2), (256, 256, 2, 132), (8192, 8192, 64)],
    },
    "large": {
        "cpu": [(4096, 4096, 2), (256, 256, 2, 64), (8192, 8192, 64)],
        "cuda": [(4096, 4096, 2), (512, 512, 2, 132), (32768, 32768, 64)],
    },
}


@compare("flow_step", SHAPES)
def bench_flow_step(measure, provider, case):
    measure("flow_step", provider, case)
