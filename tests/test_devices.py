"""Work is launched on the GPU that has the points, whichever is current. Needs no GPU."""

import contextlib

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import native_flow, reference_flow
from tests.cases import DEVICE, each_backend


@pytest.fixture
def guards(monkeypatch) -> list:
    """Tensors whose device is the current one now; what a GPU would see of torch.cuda.device_of."""
    entered: list = []

    @contextlib.contextmanager
    def device_of(tensor):
        entered.append(tensor)
        yield
        entered.remove(tensor)

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    return entered


@pytest.fixture
def runs(monkeypatch, guards) -> list:
    """How many guards each call of a backend's flow or update ran under."""
    seen: list = []
    for module in (reference_flow, native_flow):
        for name in ("flow", "flow_update"):
            run = getattr(module, name)
            spy = lambda *args, _run=run, **rest: seen.append(len(guards)) or _run(*args, **rest)
            monkeypatch.setattr(module, name, spy)
    return seen


@each_backend
def test_every_step_of_a_flow_is_under_a_guard(name, runs):
    x, y = (torch.randn(n, 2, device=DEVICE) for n in (5, 7))
    callback = lambda *_: None  # so that the steps come in pieces
    how = {"step_size": 0.1, "steps": 3, "callback": callback, "callback_every": 1}
    dk.flow(x, y, dk.gaussian(1.0), backend=name, **how)
    assert len(runs) >= 3
    assert min(runs) >= 1


def test_an_update_is_under_a_guard(runs):
    z = torch.randn(5, 2, device=DEVICE)
    dk.flow_update(z, z.clone(), step_size=0.1)
    assert runs
    assert min(runs) >= 1
