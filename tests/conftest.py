import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before the first `import triton`

import pytest
from hypothesis import settings

from tests.interpreter import quicken

if os.environ.get("TRITON_INTERPRET") == "1":
    quicken()

settings.register_profile("default", max_examples=50, deadline=None, print_blob=True)
settings.register_profile("nightly", max_examples=500, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("DMMD_HYPOTHESIS", "default"))


# Where files are dealt to processes in this order, the processes end together.
LONGEST = ("test_backends.py", "test_triton_compiles.py", "test_triton.py", "test_flows.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*LONGEST, item.path.name).index(item.path.name))


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch):
    """Uninitialised tensors start as NaN, so an element that no kernel wrote cannot pass."""

    def poison(make):
        def poisoned(*args, **kwargs):
            new = make(*args, **kwargs)
            return new.fill_(float("nan")) if new.is_floating_point() else new

        return poisoned

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))


@pytest.fixture(autouse=True)
def _same_numbers_alone_and_in_company():
    """A test draws the same random numbers whichever tests ran before it."""
    torch.manual_seed(0)
