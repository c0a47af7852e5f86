"""The metric `MaximumMeanDiscrepancy` of pytorch-ignite.

    from dmmd_kernels.compat.ignite import MaximumMeanDiscrepancy
        in place of: from ignite.metrics import …

Convention: exp(-|x - y|² / 2 var), MMD² unbiased of each batch, summed over batches, at least 0,
divided by the number of batches, and *rooted*: a float. Both tensors of a batch are of one shape
and flattened to (B, d).

Kept: that, and the accumulation in float32. Mended: distances are taken from differences, and no
B × B matrix is stored. It is the installed metric with another `update`.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

import dmmd_kernels as dk
from dmmd_kernels.compat.patching import Swap
from dmmd_kernels.ops.dtypes import common_dtype, working


def _installed() -> Any:
    try:
        from ignite.metrics import MaximumMeanDiscrepancy
    except ImportError as error:
        raise ImportError(
            "compat.ignite: ignite.metrics.MaximumMeanDiscrepancy must be importable, since the "
            "metric attaches to its engine: pip install pytorch-ignite"
        ) from error
    return MaximumMeanDiscrepancy


def _update(metric: Any, output: Sequence[Tensor]) -> None:
    """Adds the MMD² of the batch (x, y), both (B, …), to the sums of the metric."""
    x, y = output[0].detach(), output[1].detach()
    if x.shape != y.shape or x.ndim < 2:
        raise ValueError(
            "MaximumMeanDiscrepancy: x and y must be (B, …) of one shape, got "
            f"{tuple(x.shape)} and {tuple(y.shape)}"
        )
    work = working(common_dtype(x, y))  # the sums of the metric are taken in float32
    x, y, kernel = x.to(work), y.to(work), dk.gaussian(metric.var**0.5)
    # `compute` needs no more of the three sums than this combination of them.
    metric._xx_sum += dk.mmd2(x.flatten(1), y.flatten(1), kernel).to(metric._device)
    metric._num_batches += 1


def _decorated() -> Any:
    """With the original's decorator: the sums are those of one process again."""
    from ignite.metrics.metric import reinit__is_reduced

    return reinit__is_reduced(_update)


def swaps() -> list[Swap]:
    return [Swap(_installed(), "update", _decorated())]


def __getattr__(name: str) -> Any:
    """The metric is a class of ignite with another `update`; made on demand."""
    if name != "MaximumMeanDiscrepancy":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = type(name, (_installed(),), {"update": _decorated(), "__module__": __name__})
    globals()[name] = made
    return made
