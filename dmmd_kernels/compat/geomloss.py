"""The kernel norms of geomloss: `SamplesLoss("gaussian" | "laplacian" | "energy")`.

    from dmmd_kernels.compat.geomloss import SamplesLoss
        in place of: from geomloss import SamplesLoss

Convention: ½ MMD², biased, with weights that default to 1/n; exp(-|x - y|²/2 blur²),
exp(-|x - y|/blur), -|x - y|. `potentials=True` returns F, the witness at x, and G, *minus* the
witness at y. Other losses, and kernels of one's own, are those of the installed geomloss.

Kept: distances are at least 1e-4 (of |x - y|/blur for the laplacian) where a point meets itself.
Elsewhere pairs nearer than that count exactly here. Mended: second derivatives are right (there the
trick that halves the work of the first spoils them), and so are the derivatives of the potentials;
no size needs KeOps; all of `backend` is accepted and ignored.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

import dmmd_kernels as dk
from dmmd_kernels.compat.patching import Swap
from dmmd_kernels.compat.sums import of_samples
from dmmd_kernels.ops.dtypes import common_dtype, floating, in_dtype, loss_dtype, working

KERNELS = ("gaussian", "laplacian", "energy")
_NEAREST = 1e-4


def _kernel(loss: str, blur: float) -> dk.Kernel:
    if loss == "gaussian":
        return dk.gaussian(blur)
    return dk.laplace(blur) if loss == "laplacian" else dk.energy()


def _diagonal_excess(loss: str) -> float:
    """k(x, x) of the original, less that of the kernel."""
    return {"gaussian": 0.0, "laplacian": math.expm1(-_NEAREST), "energy": -_NEAREST}[loss]


@of_samples("a", "x", "b", "y")
def kernel_norm(
    a: Tensor, x: Tensor, b: Tensor, y: Tensor, loss: str, blur: float = 0.05
) -> Tensor:
    """½ MMD² of x (…, n, d) with weights a (…, n) and y (…, m, d) with weights b (…, m) → (…,)."""
    kernel = _kernel(loss, blur)
    value = dk.mmd2(x, y, kernel, estimator="biased", weights_x=a, weights_y=b) / 2
    if excess := _diagonal_excess(loss):
        value = value + excess / 2 * (a.square().sum(-1) + b.square().sum(-1))
    return value


@of_samples("a", "x", "b", "y")
def kernel_potentials(
    a: Tensor, x: Tensor, b: Tensor, y: Tensor, loss: str, blur: float = 0.05
) -> tuple[Tensor, Tensor]:
    """The witness at x, (…, n), and minus the witness at y, (…, m)."""
    u, w = torch.cat([x, y], -2), torch.cat([a, -b], -1)
    f = dk.potential(u, u, w, _kernel(loss, blur)) + _diagonal_excess(loss) * w
    n = x.shape[-2]
    return f[..., :n], -f[..., n:]


def _original() -> Any:
    try:
        import geomloss
    except ImportError as error:
        raise ImportError(
            "SamplesLoss: loss must be 'gaussian', 'laplacian' or 'energy', with kernel=None; for "
            "others geomloss must be installed: pip install geomloss"
        ) from error
    return geomloss.SamplesLoss


class SamplesLoss(nn.Module):
    """`loss(x, y)`, `loss(a, x, b, y)` or `loss(l_x, a, x, l_y, b, y)`; labels are not needed.

    x is (N, D) or (B, N, D), a is (N,), (N, 1), (B, N) or (B, N, 1). Returns () or (B,), or the two
    potentials in the shapes of the weights, without a last dimension of one.
    """

    def __init__(
        self,
        loss: str = "sinkhorn",
        p: int = 2,
        blur: float = 0.05,
        reach: float | None = None,
        diameter: float | None = None,
        scaling: float = 0.5,
        truncate: float | None = 5,
        cost: Any = None,
        kernel: Any = None,
        cluster_scale: float | None = None,
        debias: bool = True,
        potentials: bool = False,
        verbose: bool = False,
        backend: str = "auto",
    ):
        super().__init__()
        self.loss, self.blur, self.potentials, self.backend = loss, blur, potentials, backend
        self.p, self.reach, self.diameter, self.scaling = p, reach, diameter, scaling
        self.truncate, self.cost, self.kernel, self.debias = truncate, cost, kernel, debias
        self.cluster_scale, self.verbose = cluster_scale, verbose
        self.delegate = None
        if loss not in KERNELS or kernel is not None:
            named = {name: value for name, value in vars(self).items() if name in _OPTIONS}
            self.delegate = _original()(**named)

    def forward(self, *args: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.delegate is not None:
            return self.delegate(*args)
        compute = kernel_potentials if self.potentials else kernel_norm
        if not (tensors := floating(args)):
            return compute(*_arguments(*args), self.loss, self.blur)
        args = in_dtype(args, working(common_dtype(*tensors)))  # for 1/n, which halves do not hold
        return in_dtype(compute(*_arguments(*args), self.loss, self.blur), loss_dtype(*tensors))


_OPTIONS = (
    "loss",
    "p",
    "blur",
    "reach",
    "diameter",
    "scaling",
    "truncate",
    "cost",
    "kernel",
    "cluster_scale",
    "debias",
    "potentials",
    "verbose",
    "backend",
)


def _arguments(*args: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if len(args) == 6:
        args = args[1], args[2], args[4], args[5]
    if len(args) not in (2, 4):
        raise ValueError(
            "SamplesLoss: arguments must be (x, y), (a, x, b, y) or (l_x, a, x, l_y, b, y), "
            f"got {len(args)} of them"
        )
    x, y = args[-3::2] if len(args) == 4 else args
    for name, cloud in (("x", x), ("y", y)):
        if cloud.ndim not in (2, 3):
            raise ValueError(
                f"SamplesLoss: {name} must be (N, D) or (B, N, D), got {tuple(cloud.shape)}"
            )
    if x.ndim != y.ndim or x.shape[:-2] != y.shape[:-2]:
        shapes = f"{tuple(x.shape)} and {tuple(y.shape)}"
        raise ValueError(f"SamplesLoss: x and y must have one batch size, got {shapes}")
    a, b = args[::2] if len(args) == 4 else (_equal_weights(x), _equal_weights(y))
    return _one_each("a", a, x), x, _one_each("b", b, y), y


def _equal_weights(x: Tensor) -> Tensor:
    return x.new_full(x.shape[:-1], 1 / max(x.shape[-2], 1))


def _one_each(name: str, w: Tensor, x: Tensor) -> Tensor:
    w = w.squeeze(-1) if w.ndim == x.ndim and w.shape[-1] == 1 else w
    if w.shape != x.shape[:-1]:
        raise ValueError(
            f"SamplesLoss: weights {name} must be {tuple(x.shape[:-1])}, got {tuple(w.shape)}"
        )
    return w


def _routine(loss: str, original: Any) -> Any:
    """What geomloss's table of routines holds for (loss, backend)."""

    def routine(a, x, b, y, **options):
        if options.get("kernel") is not None:
            return original(a, x, b, y, **options)
        compute = kernel_potentials if options.get("potentials") else kernel_norm
        return compute(a, x, b, y, loss, options["blur"])

    return routine


def swaps() -> list[Swap]:
    import importlib

    try:
        table = importlib.import_module("geomloss._legacy.samples_loss").routines
    except ModuleNotFoundError:  # before 0.3
        table = importlib.import_module("geomloss.samples_loss").routines
    return [
        Swap(table[loss], backend, _routine(loss, original))
        for loss in KERNELS
        for backend, original in table[loss].items()
    ]
