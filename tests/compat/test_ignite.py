"""pytorch-ignite's metric, swapped, patched and as it is, over batches of an engine."""

import math

import pytest
import torch

from dmmd_kernels import compat
from tests.compat import plain

metrics = pytest.importorskip("ignite.metrics", reason="pytorch-ignite is not installed")
each_shape = pytest.mark.parametrize("shape", [(10, 4), (6, 2, 3, 2)], ids=str)


def batches(shape):
    return [(torch.randn(shape), torch.randn(shape) + 1) for _ in range(3)]


def run(metric, data) -> float:
    from ignite.engine import Engine

    engine = Engine(lambda _, batch: batch)
    metric.attach(engine, "mmd")
    return engine.run(data).metrics["mmd"]


@each_shape
def test_the_metric_is_the_same_swapped_patched_and_unpatched(shape):
    from dmmd_kernels.compat.ignite import MaximumMeanDiscrepancy

    data = batches(shape)
    want = run(metrics.MaximumMeanDiscrepancy(var=2.0), data)
    assert run(MaximumMeanDiscrepancy(var=2.0), data) == pytest.approx(want, rel=1e-5)
    with compat.patch("ignite"):
        assert run(metrics.MaximumMeanDiscrepancy(var=2.0), data) == pytest.approx(want, rel=1e-5)


def test_the_metric_is_the_root_of_the_mean_of_plain_values():
    data = batches((10, 4))

    def k(a, b):
        return torch.exp(-plain.squares(a, b) / 4)

    want = sum(plain.unbiased(k, x.double(), y.double()).item() for x, y in data) / 3
    with compat.patch("ignite"):
        got = run(metrics.MaximumMeanDiscrepancy(var=2.0), data)
    assert got == pytest.approx(math.sqrt(want), rel=1e-5)


def test_batches_that_do_not_fit_are_named():
    with compat.patch("ignite"):
        metric = metrics.MaximumMeanDiscrepancy()
        with pytest.raises(ValueError, match=r"x and y must be \(B, …\) of one shape"):
            metric.update((torch.ones(3, 2), torch.ones(4, 2)))
