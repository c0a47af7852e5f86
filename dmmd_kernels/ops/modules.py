"""Losses and kernels as torch.nn modules: for training loops, with state_dict, repr and .to().

loss = dk.MMDLoss(dk.gaussian(2.0))                                  a fixed kernel
loss = dk.MMDLoss(dk.gaussian(2.0), root=True)                       MMD itself, not its square
loss = dk.MMDLoss(dk.LearnableKernel(dk.gaussian(2.0)))              its width is learned
loss = dk.MMDLoss(dk.gaussian(2.0), features=encoder)                a deep kernel
loss = dk.MMDLoss(lambda x, y: dk.gaussian(dk.median_sigma(x, y)))   a width read off the batch
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dmmd_kernels.kernels import Kernel, Term, check_kernel, energy
from dmmd_kernels.ops.checks import refuse_images
from dmmd_kernels.ops.dtypes import HALVES, common_dtype, loss_dtype, working
from dmmd_kernels.ops.mmd import mmd2

KernelRule = Callable[[Tensor, Tensor], Kernel]
_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": torch.mean,
    "sum": torch.sum,
    "none": lambda values: values,
}
_SCALED = ("gaussian", "rational_quadratic", "laplace", "matern32", "matern52", "imq")


class LearnableKernel(nn.Module):
    """A kernel Σ λ ψ(s |x - y|²; a) whose λ, s or a are learned, as logarithms: they stay positive.

    Args:
        kernel: where to begin. Its terms with a width are learned, gaussian, rational_quadratic,
            laplace, matern and imq; others are kept.
        learn: any of "widths" (the scale s of each term; for a gaussian s = 1/2σ²), "weights" (λ;
            when MMD² is maximised they grow without bound) and "shapes" (α of rational_quadratic,
            at fixed s).

    Shapes:
        log_scale, log_weight: (terms,), if they are learned; log_shape: (terms,) too, but of the
            rational_quadratic ones alone, as the others have no shape.

    Raises:
        ValueError: an unknown name in `learn`, or a kernel that has nothing to learn of that name,
            or whose parameters are tensors already.
    """

    log_scale: nn.Parameter | None
    log_weight: nn.Parameter | None
    log_shape: nn.Parameter | None

    def __init__(self, kernel: Kernel, learn: Sequence[str] = ("widths",)) -> None:
        super().__init__()
        check_kernel("LearnableKernel", kernel)
        if not set(learn) <= {"widths", "weights", "shapes"} or not learn:
            raise ValueError(
                f"LearnableKernel: learn must name 'widths', 'weights' or 'shapes', got {learn!r}"
            )
        terms = [term for term in kernel.terms if term.profile in _SCALED]
        if kernel.parameters or not terms:
            raise ValueError(
                "LearnableKernel: kernel must have numbers as parameters and a gaussian, "
                f"rational_quadratic, laplace, matern or imq among its terms, got {kernel}"
            )
        shapes = [term.shape for term in terms if term.profile == "rational_quadratic"]
        if "shapes" in learn and not shapes:
            raise ValueError(
                "LearnableKernel: kernel must have a rational_quadratic among its terms for "
                f"learn='shapes', got {kernel}"
            )
        self.base = kernel
        self.learn = tuple(learn)
        self._register("log_scale", "widths", [term.scale for term in terms])
        self._register("log_weight", "weights", [term.weight for term in terms])
        self._register("log_shape", "shapes", shapes)

    def _register(self, name: str, kind: str, start: list) -> None:
        logarithm = None
        if kind in self.learn:  # of the numbers in float64: 1/σ² may be less than float32 can hold
            logarithm = nn.Parameter(torch.tensor([math.log(value) for value in start]))
        self.register_parameter(name, logarithm)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None) -> Kernel:
        """The kernel of now; x and y are not needed."""
        learned = {
            field: iter(logarithm.exp())
            for field, logarithm in (
                ("scale", self.log_scale),
                ("weight", self.log_weight),
                ("shape", self.log_shape),
            )
            if logarithm is not None
        }
        return Kernel(tuple(_with(term, learned) for term in self.base.terms))

    def extra_repr(self) -> str:
        return f"{self.base}, learn={self.learn}"


def _with(term: Term, learned: dict[str, Iterator[Tensor]]) -> Term:
    """The term with the next learned value of each field that it has."""
    if term.profile not in _SCALED:
        return term
    fields = [f for f in learned if f != "shape" or term.profile == "rational_quadratic"]
    values: dict[str, Any] = {field: next(learned[field]) for field in fields}
    return replace(term, label=f"learned {term.label}", **values)


class MMDLoss(nn.Module):
    """MMD² between two samples, or its root, as a loss: `forward(x (…, n, d), y (…, m, d))` → ().

    Dtypes are promoted as by `mmd2`; under torch.autocast half precision gives float32, as with
    torch's own losses.

    Args:
        kernel: a Kernel; or what maps (x, y) to one, such as LearnableKernel or a rule for the
            width. A rule that is a module is a part of this one, and so is each nn.Parameter of a
            Kernel: `kernel_0`, `kernel_1` and so on, in the order of the kernel's parameters.
        features: a network φ applied to both samples first: the kernel is then k(φ(x), φ(y)).
        estimator: "biased", which is never negative: what rounding puts below 0 becomes 0, and its
            gradient stays that of MMD². Or "unbiased", which is right on average and may be
            negative.
        reduction: over the batch (…,): "mean", "sum" or "none".
        root: of the biased estimate, MMD = √MMD², taken before the reduction. Its gradient is 0
            where MMD² is 0, and never infinite or NaN.
        backend: as in `mmd2`.

    Raises:
        TypeError: kernel is neither a Kernel nor callable.
        ValueError: an unknown reduction or estimator, or a root of the unbiased estimate; on
            calling, as `mmd2` does, and for what looks like images, (B, 1 or 3, side, side), or
            like widths per dimension.
    """

    def __init__(
        self,
        kernel: Kernel | KernelRule,
        *,
        features: nn.Module | None = None,
        estimator: str = "biased",
        reduction: str = "mean",
        root: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if reduction not in _REDUCTIONS:
            raise ValueError(
                f"{type(self).__name__}: reduction must be 'mean', 'sum' or 'none', "
                f"got {reduction!r}"
            )
        if estimator not in ("biased", "unbiased"):
            raise ValueError(
                f"{type(self).__name__}: estimator must be 'biased' or 'unbiased', "
                f"got {estimator!r}"
            )
        if not callable(kernel):
            check_kernel(type(self).__name__, kernel)
        if root and estimator == "unbiased":
            raise ValueError(
                f"{type(self).__name__}: estimator must be 'biased' for root=True, got 'unbiased', "
                "which may be negative"
            )
        self.kernel = kernel
        self._held = _parameters_once(kernel)
        for index, parameter in enumerate(self._held):
            self.register_parameter(f"kernel_{index}", parameter)
        self.features = features
        self.estimator = estimator
        self.reduction = reduction
        self.root = root
        self.backend = backend

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        *,
        weights_x: Tensor | None = None,
        weights_y: Tensor | None = None,
    ) -> Tensor:
        """Weights (…, n) and (…, m) as in `mmd2`. Returns (), or (…,) for reduction="none"."""
        if self.features is not None:
            x, y = self.features(x), self.features(y)
        result = None
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.ndim < 4 and _agree(x, y)):
            refuse_images(type(self).__name__, x=x, y=y)
            result, work = loss_dtype(x, y), working(common_dtype(x, y))
            x, y = x.to(work), y.to(work)
        kernel = self.kernel
        kernel = self._kernel_of_now(kernel) if isinstance(kernel, Kernel) else kernel(x, y)
        values = mmd2(
            x,
            y,
            kernel,
            estimator=self.estimator,
            weights_x=weights_x,
            weights_y=weights_y,
            backend=self.backend,
        )
        if values.ndim and x.ndim == y.ndim == 2 and values.shape[-1] == x.shape[-1]:
            raise ValueError(
                f"{type(self).__name__}: the kernel's parameters must be one for all points, got "
                f"{tuple(values.shape)} of them; for a width per dimension divide the points by "
                "their widths"
            )
        if self.estimator == "biased":
            values = _not_negative(values)
        value = _REDUCTIONS[self.reduction](_root(values) if self.root else values)
        return value if result is None else value.to(result)

    def _kernel_of_now(self, kernel: Kernel) -> Kernel:
        """With the parameters that the module has, which torch may have exchanged."""
        now = [getattr(self, f"kernel_{index}") for index in range(len(self._held))]
        if all(old is new for old, new in zip(self._held, now, strict=True)):
            return kernel
        places = {id(old): new for old, new in zip(self._held, now, strict=True)}
        return kernel.changed(lambda value: places.get(id(value), value))

    def extra_repr(self) -> str:
        kernel = f"{self.kernel}, " if isinstance(self.kernel, Kernel) else ""
        root = ", root=True" if self.root else ""
        return f"{kernel}estimator={self.estimator!r}, reduction={self.reduction!r}{root}"


def _not_negative(values: Tensor) -> Tensor:
    """max(values, 0), with the gradient of the values."""
    return values - values.detach().clamp(max=0)


def _root(values: Tensor) -> Tensor:
    """√values, with the gradient 0 at 0, where that of a root is infinite."""
    is_zero = values == 0
    return values.where(~is_zero, 1).sqrt().where(~is_zero, 0)


def _agree(x: Tensor, y: Tensor) -> bool:
    """Whether they are of one dtype that is computed in as it is."""
    return x.dtype == y.dtype and x.dtype not in HALVES


def _parameters_once(kernel: object) -> list[nn.Parameter]:
    """The nn.Parameters of a Kernel, each once."""
    held = kernel.parameters if isinstance(kernel, Kernel) else ()
    return list({id(p): p for p in held if isinstance(p, nn.Parameter)}.values())


class EnergyLoss(MMDLoss):
    """The energy distance 2 E|x - y|^β - E|x - x'|^β - E|y - y'|^β: MMD² of -|x - y|^β.

    Args:
        beta: 0 < β < 2.
        features, estimator, reduction, root, backend: as in MMDLoss.
    """

    def __init__(
        self,
        beta: float = 1.0,
        *,
        features: nn.Module | None = None,
        estimator: str = "biased",
        reduction: str = "mean",
        root: bool = False,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            energy(beta),
            features=features,
            estimator=estimator,
            reduction=reduction,
            root=root,
            backend=backend,
        )
