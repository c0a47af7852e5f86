"""DMMD: a noise-conditional kernel, trained by a forward diffusion, and the flows of its witness.

Galashov, De Bortoli and Gretton, "Deep MMD Gradient Flow without adversarial training", ICLR 2025.
docs/method.md has every equation with its place.
"""

from dmmd_kernels.runs.system import System
from dmmd_kernels.systems.dmmd.draws import METHODS, draw, draw_each, evaluations
from dmmd_kernels.systems.dmmd.settings import DEFAULTS, DmmdDrawing, DmmdSettings
from dmmd_kernels.systems.dmmd.training import build, step

DMMD = System(
    name="dmmd",
    title="DMMD",
    settings=DmmdSettings,
    drawing=DmmdDrawing,
    build=build,
    step=step,
    draw=draw,
    draw_each=draw_each,
    evaluations=evaluations,
    defaults=DEFAULTS,
    variants={method: DmmdDrawing().changed(method=method) for method in METHODS},
    preview=DmmdDrawing(particles=64),
)
