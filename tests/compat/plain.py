"""What the originals compute, written plainly: whole matrices of differences, nothing of compat.

Every function takes tensors of any dtype and is differentiable by autograd, twice.
"""

import torch
from torch import Tensor


def squares(x: Tensor, y: Tensor) -> Tensor:
    return (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)


def biased(k, x, y):
    return k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()


def within(matrix: Tensor) -> Tensor:
    """The mean over i ≠ j."""
    n = len(matrix)
    return (matrix.sum() - matrix.trace()) / (n * (n - 1))


def unbiased(k, x, y):
    return within(k(x, x)) + within(k(y, y)) - 2 * k(x, y).mean()


def neighbours(k, x, y):
    """The linear-time estimate over the pairs (i, i + 1 mod n)."""
    i = torch.arange(len(x))
    j = (i + 1) % len(x)
    return (k(x, x)[i, j] + k(y, y)[i, j] - k(x, y)[i, j] - k(x, y)[j, i]).mean()


def ladder(x, y, mul=2.0, num=5, width=None):
    """Σ_i exp(-D / (bw · mul^i)), bw the mean over pairs that differ, not differentiated."""
    if width is None:
        u = torch.cat([x, y]).detach()
        width = squares(u, u).sum() / (len(u) ** 2 - len(u))
    width = width / mul ** (num // 2)
    return lambda a, b: sum(torch.exp(-squares(a, b) / (width * mul**i)) for i in range(num))


def gaussians(sigmas):
    return lambda a, b: sum(torch.exp(-squares(a, b) / (2 * s**2)) for s in sigmas)


def rational_quadratics(alphas):
    return lambda a, b: sum((1 + squares(a, b) / (2 * t)) ** -t for t in alphas)


def decades(a, b):
    return sum(torch.exp(-(10.0**i) * squares(a, b)) for i in range(-3, 4))


def multiscale(a, b):
    return sum(w**2 / (w**2 + squares(a, b)) for w in (0.05, 0.2, 0.9))


def cubes(a, b):
    return (a @ b.T / a.shape[1] + 1) ** 3


def all_pairs_gaussian(u, alpha):
    """tllib: σ² = α times the mean over all N² pairs, zeros in."""
    square = alpha * squares(u, u).mean().detach()
    return torch.exp(-squares(u, u) / (2 * square))


def mk_mmd(x, y, alphas, linear=False):
    u = torch.cat([x, y])
    return shifted(sum(all_pairs_gaussian(u, alpha) for alpha in alphas), linear)


def joint_mmd(x, y, alphas, square, linear=False):
    """Two layers, the points and their softmax."""
    u = torch.cat([x, y])
    v = u.softmax(1)
    first = sum(all_pairs_gaussian(u, alpha) for alpha in alphas)
    return shifted(first * torch.exp(-squares(v, v) / (2 * square)), linear)


def shifted(matrix: Tensor, linear: bool) -> Tensor:
    n = len(matrix) // 2
    xx, yy, xy, yx = matrix[:n, :n], matrix[n:, n:], matrix[:n, n:], matrix[n:, :n]
    if linear:
        i = torch.arange(n)
        j = (i + 1) % n
        return (xx[i, j] + yy[i, j] - xy[i, j] - yx[i, j]).mean() + 2 / (n - 1)
    return within(xx) + within(yy) - xy.mean() - yx.mean() + 2 / (n - 1)


def classwise(x, y, labels, probabilities, step):
    """LMMD: Σ over the classes that both sides hold, of the class's own biased MMD²."""
    k, total, count = ladder(x, y), 0.0, 0
    for c in range(probabilities.shape[1]):
        if (labels == c).any() and (probabilities.argmax(1) == c).any():
            a = (labels == c).to(x) / (labels == c).sum()
            b = probabilities[:, c] / probabilities[:, c].sum()
            total = total + a @ k(x, x) @ a + b @ k(y, y) @ b - 2 * a @ k(x, y) @ b
            count += 1
    scale = 2 / (1 + torch.exp(torch.tensor(-step / 1000, dtype=torch.float64))) - 1
    return total / count * scale.item()


def deep(features, points, sigma, sigma0, epsilon):
    outer = torch.exp(-squares(points, points) / sigma)
    return ((1 - epsilon) * torch.exp(-squares(features, features) / sigma0) + epsilon) * outer


def one_sample_u(matrix: Tensor) -> Tensor:
    """The mean of h_ij over i ≠ j: pairs (x_i, y_i) left out too."""
    n = len(matrix) // 2
    h = matrix[:n, :n] + matrix[n:, n:] - matrix[:n, n:] - matrix[:n, n:].T
    return within(h)


def h_variance(matrix: Tensor) -> Tensor:
    n = len(matrix) // 2
    h = (matrix[:n, :n] + matrix[n:, n:] - matrix[:n, n:] - matrix[:n, n:].T).mean(1)
    return 4 * (h.square().mean() - h.mean().square())


def half_norm(a, x, b, y, k):
    """½ MMD² with weights a, b."""
    return (a @ k(x, x) @ a + b @ k(y, y) @ b) / 2 - a @ k(x, y) @ b


def floored(x, y):
    """Distances of geomloss, at least 1e-4."""
    return squares(x, y).clamp(min=1e-8).sqrt()
