"""Two moons flow to a checkerboard, in one call, drawn as a GIF. Run: python examples/flows_2d.py

The width of the kernel shrinks from step to step, the step with it, and a little noise moves where
the gradient is read, so that no particle stays behind. Prints how many particles the flow moves a
second. About half a minute on two cores; --fast draws a rough picture in a few seconds.
"""

import argparse
import time

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import dmmd_kernels as dk
from dmmd_kernels.data import checkerboard, generator_of, two_moons


def flow_to(data, start, steps, frames):
    """The trajectory (frames, N, 2), and particles × steps per second."""
    sigma = torch.logspace(0, -0.9, steps)
    began = time.perf_counter()
    result = dk.flow(
        start,
        data,
        dk.gaussian(sigma),
        step_size=8 * sigma**1.5,
        noise=0.3 * sigma,
        steps=steps,
        seed=0,
        record_every=steps // frames,
    )
    return result.trajectory, len(start) * steps / (time.perf_counter() - began)


def draw(points, title, limit=2.3):
    """A frame, (400, 400, 3)."""
    figure = Figure(figsize=(4, 4), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])
    axes.set(aspect="equal", title=title)
    axes.scatter(*points.T, s=3, linewidths=0, color="#0b6fa4")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="flows_2d.gif")
    parser.add_argument("--fast", action="store_true", help="few steps, few particles")
    chosen = parser.parse_args()
    count, steps, frames = (200, 60, 6) if chosen.fast else (2000, 2000, 40)
    data = checkerboard(2 * count, generator_of(0))
    start = two_moons(count, generator_of(1))
    trajectory, rate = flow_to(data, start, steps, frames)
    print(f"{count} particles, {2 * count} data points: {rate:.3g} particles × steps per second")
    each = steps // frames
    clouds = [start, *trajectory]
    pictures = [Image.fromarray(draw(z, f"step {i * each}")) for i, z in enumerate(clouds)]
    times = [80] * (len(pictures) - 1) + [1500]
    pictures[0].save(chosen.out, save_all=True, append_images=pictures[1:], duration=times, loop=0)


if __name__ == "__main__":
    main()
