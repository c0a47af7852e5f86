"""How far samples are from data: distances of point clouds, of features, and of single images.

Everything is computed in float64 from features (N, D) that the caller extracts: which network
they come from is part of a number's meaning, so no network is built in but the digit classifier.
Two samples of the same data are not at distance 0; compare with that floor.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmmd_kernels as dk
from dmmd_kernels.data import Digits, batch_indices

_SUBSET_BYTES = 2**28


def _require(metric: str, least: int, remedy: str = "", **samples: Tensor) -> None:
    for name, sample in samples.items():
        if len(sample) < least:
            raise ValueError(
                f"{metric}: {name} must hold at least {least} points, got {len(sample)}{remedy}"
            )


def energy_distance(x: Tensor, y: Tensor, *, estimator: str = "unbiased") -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| (Székely and Rizzo, 2013): MMD² of -|x - y|.

    The biased estimate counts the pairs i = i. It is positive between two samples of the same data,
    which gives a floor that other values can be divided by, and is never negative.

    Raises:
        ValueError: a sample has fewer than two points, or one if biased.
    """
    x, y = _features("energy_distance", x, y)
    _require("energy_distance", 1 if estimator == "biased" else 2, x=x, y=y)
    value = dk.mmd2(x, y, dk.energy(), estimator=estimator).item()
    return max(value, 0.0) if estimator == "biased" else value


def _features(metric: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Samples (N, D) and (M, D) in float64, whatever their dtypes."""
    _check_features(metric, x, y)
    return x.double(), y.double()


def _check_features(metric: str, x: Tensor, y: Tensor) -> None:
    for name, t in (("x", x), ("y", y)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{metric}: {name} must be a torch.Tensor, got {type(t).__name__}")
        if t.ndim != 2:
            raise ValueError(
                f"{metric}: {name} must be (N, D), got {tuple(t.shape)}; pass {name}.flatten(1)"
            )


def fid(x: Tensor, y: Tensor) -> float:
    """Fréchet distance of the normal distributions fitted to features x (N, D) and y (M, D).

    |μx - μy|² + tr(Σx + Σy - 2 (√Σx Σy √Σx)^½) (Heusel et al., NeurIPS 2017), Σ with N - 1. The
    root is taken of a symmetric matrix by its eigenvalues. Biased upwards by about D²/N: compare
    numbers of equal N only.

    Raises:
        ValueError: a sample has fewer than two points, of which there is no covariance.
    """
    x, y = _features("fid", x, y)
    _require("fid", 2, x=x, y=y)
    root_x, cov_y = _sqrtm(_cov(x)), _cov(y)
    inner = torch.linalg.eigvalsh(root_x @ cov_y @ root_x).clamp(min=0)
    traces = x.var(0).sum() + y.var(0).sum() - 2 * inner.sqrt().sum()
    return ((x.mean(0) - y.mean(0)).square().sum() + traces).item()


def _cov(x: Tensor) -> Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def _sqrtm(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def kid(
    x: Tensor, y: Tensor, *, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> float:
    """MMD² of features x (N, D) and y (M, D) with the kernel (γ⟨x, y⟩ + coef)^degree, unbiased.

    Bińkowski et al. (ICLR 2018), on all pairs at once; γ is 1/D when None. May be negative.

    Raises:
        ValueError: a sample has fewer than two points.
    """
    x, y = _features("kid", x, y)
    _require("kid", 2, x=x, y=y)
    return dk.mmd2(x, y, dk.polynomial(degree, gamma, coef)).item()


def kid_of_subsets(
    x: Tensor,
    y: Tensor,
    *,
    subsets: int = 100,
    size: int = 1000,
    seed: int = 0,
    degree: int = 3,
    gamma: float | None = None,
    coef: float = 1.0,
) -> tuple[float, float]:
    """Mean and standard deviation of `kid` over random subsets: the protocol of most tables.

    Subsets go through one batched op, as many at a time as fit in a quarter of a gigabyte. The
    deviation of one subset is NaN.

    Raises:
        ValueError: a sample has fewer points than a subset, or a subset fewer than two, or there
            are no subsets.
    """
    _check_features("kid_of_subsets", x, y)
    if subsets < 1 or size < 2:
        raise ValueError(
            f"kid_of_subsets: subsets must be at least 1 and size at least 2, got {subsets} and "
            f"{size}"
        )
    _require("kid_of_subsets", size, "; take a smaller size=", x=x, y=y)
    kernel = dk.polynomial(degree, gamma, coef)
    rows = [
        [batch_indices(len(u), size, seed=seed, step=0, stream=2 * i + s) for i in range(subsets)]
        for s, u in enumerate((x, y))
    ]
    at_once = max(1, _SUBSET_BYTES // (16 * size * max(x.shape[1], 1)))
    picked = zip(*(torch.stack(r).split(at_once) for r in rows), strict=True)
    values = torch.cat([dk.mmd2(x[i].double(), y[j].double(), kernel) for i, j in picked])
    return values.mean().item(), values.std().item() if subsets > 1 else math.nan


def cmmd(x: Tensor, y: Tensor) -> float:
    """1000 × the biased MMD² of unit-length features with a Gaussian kernel of σ = 10.

    CMMD of Jayasumana et al. (CVPR 2024), there of CLIP embeddings. Never negative.

    Raises:
        ValueError: a sample is empty.
    """
    x, y = _features("cmmd", x, y)
    _require("cmmd", 1, x=x, y=y)
    x, y = F.normalize(x, dim=1), F.normalize(y, dim=1)
    return max(1000 * dk.mmd2(x, y, dk.gaussian(10.0), estimator="biased").item(), 0.0)


def inception_score(logits: Tensor) -> float:
    """exp(mean_i KL(p(·|x_i) ‖ p(·))) of class logits (N, C) (Salimans et al., NeurIPS 2016)."""
    _require("inception_score", 1, logits=logits)
    log_p = logits.double().log_softmax(1)
    log_mean = log_p.logsumexp(0) - math.log(len(log_p))
    return (log_p.exp() * (log_p - log_mean)).sum(1).mean().exp().item()


def class_shares(logits: Tensor) -> Tensor:
    """(C,): the share of the rows of logits (N, C) whose largest entry is that class."""
    _require("class_shares", 1, logits=logits)
    return logits.argmax(1).bincount(minlength=logits.shape[1]).double() / len(logits)


def nearest_distance(samples: Tensor, data: Tensor, rows: int = 256) -> Tensor:
    """(N,): the Euclidean distance of each sample (N, ...) to its nearest datum (M, ...).

    Copies of the data are at distance 0; compare with the distances of held-out data.
    """
    _require("nearest_distance", 1, data=data)
    return nearest(samples, data, rows)[0] if len(samples) else samples.new_empty(0)


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of samples that lie among the data, and of data that lie among samples."""

    precision: float
    recall: float


def precision_recall(x: Tensor, y: Tensor, *, k: int = 3, rows: int = 256) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, eqs 1, 2).

    A cloud is taken for the union of balls about its points, each up to the k-th nearest other
    point of the cloud. Distances go by in blocks: memory is that of rows × (N + M) numbers.

    Args:
        x: features of samples, (N, D).
        y: features of data, (M, D).
        k: which neighbour a ball reaches to.
        rows: points in a block.

    Raises:
        ValueError: a cloud has no k-th other point.
    """
    if min(len(x), len(y)) <= k or k < 1:
        raise ValueError(
            f"precision_recall: x and y must hold more than k = {k} >= 1 points, "
            f"got {len(x)} and {len(y)}"
        )
    x, y = _features("precision_recall", x, y)
    return PrecisionRecall(_share_within(x, y, k, rows), _share_within(y, x, k, rows))


def _share_within(z: Tensor, cloud: Tensor, k: int, rows: int) -> float:
    """The share of z that lies in the ball of at least one point of the cloud, its rim included."""
    radii = [_distances(p, cloud).kthvalue(k + 1, 1).values for p in cloud.split(rows)]
    radius = torch.cat(radii)  # the point itself comes first
    inside = [(_distances(p, cloud) <= radius).any(1) for p in z.split(rows)]
    return torch.cat(inside).double().mean().item()


def _distances(z: Tensor, x: Tensor) -> Tensor:
    return torch.cdist(z, x, compute_mode="donot_use_mm_for_euclid_dist")


def nearest(samples: Tensor, data: Tensor, rows: int = 256) -> tuple[Tensor, Tensor]:
    """Distance (N,) of each sample (N, ...) to its nearest datum (M, ...), and which that is."""
    dtype = torch.promote_types(torch.promote_types(samples.dtype, data.dtype), torch.float32)
    z, x = samples.flatten(1).to(dtype), data.flatten(1).to(dtype)
    found = [_distances(part, x).min(1) for part in z.split(rows)]
    values, places = zip(*found, strict=True)
    return torch.cat(values), torch.cat(places)


class DigitClassifier(nn.Module):
    """Images (N, 1, 8, 8) → logits (N, 10); `features` gives the layer before, (N, 32)."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(16 * width, 32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 10)

    def features(self, images: Tensor) -> Tensor:
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))

    @torch.no_grad()
    def accuracy(self, images: Tensor, labels: Tensor) -> float:
        return (self(images).argmax(1) == labels).double().mean().item()


def train_digit_classifier(digits: Digits, *, steps: int = 800, seed: int = 0) -> DigitClassifier:
    """A classifier of the digits, fitted to the training part only, in evaluation mode.

    About 5 s on two cores. Global random numbers are left as they were.
    """
    _require("train_digit_classifier", 64, digits=digits.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = DigitClassifier()
        optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in range(steps):
            rows = batch_indices(len(digits.train), 64, seed=seed, step=step)
            images = digits.train[rows] + 0.1 * torch.randn(64, 1, 8, 8)
            loss = F.cross_entropy(net(images), digits.train_labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)
