"""The whole idea in two dimensions, on one screen of plots. Run: python examples/toy_2d.py

1. Noise turns the data into a normal cloud, level by level.
2. At each level a kernel width σ(t) is learned: the one that tells noised from clean data best.
3. A normal cloud flows back along the witness gradient, with the width of each level in turn.

About half a minute on two cores; --fast draws a rough picture in a few seconds.
"""

import argparse

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import dmmd_kernels as dk
from dmmd_kernels.data import checkerboard
from dmmd_kernels.data.diffusion import LinearBeta, levels, random_levels
from dmmd_kernels.networks.features import Width

T_MAX, T_MIN = 0.98, 0.02
schedule = LinearBeta()


def learn_width(data, steps, batch=256, count=32):
    """Ascends E_t MMD²_u(X_t, X_0; σ(t)) in the weights of σ (DMMD, eq. 7)."""
    width = Width()
    optimizer = torch.optim.Adam(width.parameters(), lr=1e-2)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x_0, other = data[torch.randint(len(data), (2, batch))]
        t = random_levels(T_MAX, T_MIN, count)
        x_t = schedule.noised(other, t, torch.randn(count, batch, 2))
        loss = -dk.mmd2(x_t, x_0.expand_as(x_t), dk.gaussian(width(t))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
    return width.requires_grad_(False)


def flow_back(width, data, particles=1500, steps=10, count=20):
    """Algorithm 2; the step 1.5 σ²/mean k is just below where it would overshoot, at every σ."""
    z, clouds = torch.randn(particles, 2), {}
    for t in levels(T_MAX, T_MIN, count):
        kernel = dk.gaussian(width(t))
        mean = dk.kernel_matrix(data[:500], data[:500], kernel).mean()
        for _ in range(steps):
            z = z - 1.5 * width(t) ** 2 / mean * dk.witness_grad(z, z, data, kernel)
        clouds[t.item()] = z
    return clouds


def show(axes, points, title, limit=1.8):
    axes.scatter(*points.T, s=2, linewidths=0, color="#0b6fa4")
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="toy_2d.png")
    parser.add_argument("--fast", action="store_true", help="few steps, few particles")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    data = checkerboard(2000) / 2  # fills [-1, 1]²
    width = learn_width(data, steps=20 if chosen.fast else 500)
    clouds = flow_back(width, data, *((200, 2) if chosen.fast else ()))

    figure = Figure(figsize=(15, 9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(3, 10)
    shown = [0.0, 0.1, 0.2, 0.4, 0.98]
    for i, t in enumerate(torch.tensor(shown)):
        noised = schedule.noised(data, t, torch.randn_like(data))
        show(figure.add_subplot(grid[0, 2 * i : 2 * i + 2]), noised, f"data, noised to t = {t:.2f}")
    reached = list(clouds)
    for i, t in enumerate([reached[0], reached[5], reached[14], reached[16], reached[-1]]):
        axes = figure.add_subplot(grid[1, 2 * i : 2 * i + 2])
        show(axes, clouds[t], f"particles after t = {t:.2f}")
    t = torch.linspace(T_MIN, T_MAX, 200)
    sigma = figure.add_subplot(grid[2, :5], yscale="log", title="learned width σ(t)", xlabel="t")
    sigma.plot(t, width(t), color="#0b6fa4")
    gap = figure.add_subplot(grid[2, 5:], yscale="log", xlabel="t")
    gap.set_title("biased MMD²(particles, data; t) falls along the flow, from right to left")
    kernels = {t: dk.gaussian(width(torch.tensor(t))) for t in clouds}
    values = [dk.mmd2(z, data, kernels[t], estimator="biased") for t, z in clouds.items()]
    gap.plot(list(clouds), values, color="#0b6fa4")
    figure.savefig(chosen.out)


if __name__ == "__main__":
    main()
