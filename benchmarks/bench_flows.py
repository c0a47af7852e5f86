"""The MMD flow: one step, where the queries are the particles, and FLOW_STEPS of them in one call.

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


FLOWS = {
    "small": {"cpu": [(64, 100, 2)], "cuda": [(200, 1000, 2)]},
    "default": {
        "cpu": [(200, 1000, 2), (200, 1000, 2, 64), (2000, 2000, 2), (200, 1000, 32)],
        "cuda": [(200, 1000, 2), (200, 1000, 2, 1024), (2000, 2000, 2), (200, 1000, 32)],
    },
    "large": {"cpu": [(10000, 10000, 2)], "cuda": [(50000, 50000, 2)]},
}


@compare("flow", FLOWS)
def bench_flow(measure, provider, case):
    measure("flow", provider, case)
