"""torch-fidelity's KID of given features, patched against unpatched, and against plain code."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

from dmmd_kernels import compat
from dmmd_kernels.compat.torch_fidelity import kernel_mmd
from tests.compat import plain

KERNELS = [
    {},
    {"kid_kernel_poly_degree": 2, "kid_kernel_poly_gamma": 0.2, "kid_kernel_poly_coef0": 0.5},
    {"kid_kernel": "rbf", "kid_kernel_rbf_sigma": 3.0},
]


def features(n: int, shift: float = 0.0, d: int = 16) -> torch.Tensor:
    return torch.randn(n, d) + shift


def stand_in(name: str) -> types.ModuleType:
    """A module of torchvision with any class in it: the package imports it, KID does not use it."""
    module = types.ModuleType(name)
    module.__getattr__ = lambda _: object
    return module


@pytest.fixture
def metric_kid(monkeypatch):
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("torch-fidelity is not installed")
    names = ["torchvision", "torchvision.datasets", "torchvision.transforms"]
    for name in [*names, "torchvision.transforms.functional"]:
        monkeypatch.setitem(sys.modules, name, stand_in(name))
        parent, _, child = name.rpartition(".")
        setattr(sys.modules.get(parent, sys.modules[name]), child, sys.modules[name])
    return importlib.import_module("torch_fidelity.metric_kid")


@pytest.mark.parametrize("options", KERNELS, ids=["cubic", "square", "rbf"])
def test_the_metric_is_the_same_patched_and_unpatched(metric_kid, options):
    how = {"kid_subsets": 5, "kid_subset_size": 30, "verbose": False, "rng_seed": 3, **options}
    x, y = features(60).double(), features(70, 0.2).double()
    want = metric_kid.kid_features_to_metric(x, y, **how)
    with compat.patch("torch_fidelity"):
        got = metric_kid.kid_features_to_metric(x, y, **how)
    assert got == pytest.approx(want, rel=1e-9)
    with compat.patch("torch_fidelity"):
        single = metric_kid.kid_features_to_metric(x.float(), y.float(), **how)
    assert single == pytest.approx(want, rel=1e-4)


def test_the_function_is_that_of_plain_code():
    x, y = features(30), features(30, 0.3)
    got = kernel_mmd(x.numpy(), y.numpy(), kid_subsets=7)
    assert isinstance(got, float)
    want = plain.unbiased(plain.cubes, x.double(), y.double()).item()
    assert got == pytest.approx(want, rel=1e-12)


def test_inputs_that_do_not_fit_are_named():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="kid_kernel must be 'poly' or 'rbf', got 'cubic'"):
        kernel_mmd(x, x, kid_kernel="cubic")
    with pytest.raises(ValueError, match="of one size, got 3 and 2"):
        kernel_mmd(x, x[:2])
