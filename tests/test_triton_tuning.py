"""dk.tune(): which tiles are tried and kept. No time is measured here; the clock is the test's."""

import json

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels import _triton
from tests.cases import DEVICE, assert_as_accurate, compiled_form, problem

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.errors import OutOfResources  # noqa: E402

from dmmd_kernels._triton import fused, tuning  # noqa: E402


@pytest.fixture(autouse=True)
def _nothing_is_tuned(monkeypatch):
    monkeypatch.setattr(fused, "LEAST_WORK", 0)
    monkeypatch.setattr(tuning, "_FASTER", {})


def prefers(words: str, z, x, kernel, *, grad: bool, file=None) -> str:
    """Tunes with a clock by which the tiles of these words are the fastest."""
    clock = lambda _: 0.0 if words in _triton.regime(z, x, kernel, grad=grad) else 1.0
    return _triton.tune(z, x, kernel, grad=grad, file=file, clock=clock)


@pytest.mark.parametrize(
    ("d", "words"), [(3, "direct, tiles of 64 × 8, 2 warps"), (20, "fused, tiles of 128 × 16")]
)
@pytest.mark.parametrize("grad", [False, True])
def test_the_fastest_tiles_are_kept_and_accurate(d, words, grad):
    z, x, _, w = problem(20, 30, d)
    kernel, other = compiled_form("gaussian", z), compiled_form("imq", z)
    assert words not in _triton.regime(z, x, kernel, grad=grad)
    assert words in prefers(words, z, x, kernel, grad=grad)
    assert words in _triton.regime(z, x, kernel, grad=grad)
    assert words not in _triton.regime(z, x, kernel, grad=not grad)
    assert words not in _triton.regime(z, x, other, grad=grad)
    op, tensors = ("potential_grad", (z, x, None, w)) if grad else ("potential", (z, x, w))
    assert_as_accurate(op, "triton", tensors, kernel)


def test_what_was_found_does_not_depend_on_the_number_of_points():
    z, x, _, _ = problem(20, 30, 20)
    kernel = compiled_form("gaussian", z)
    found = prefers("64 × 16, 8 warps", z, x, kernel, grad=True)
    assert _triton.regime(z[:3], x[:7], kernel, grad=True) == found


def test_tiles_that_do_not_fit_are_passed_over():
    z, x, _, _ = problem(20, 30, 20)

    def clock(call):
        if "64 × 16, 4 warps" not in _triton.regime(z, x, kernel, grad=False):
            raise OutOfResources(300000, 232448, "shared memory")
        return 1.0

    kernel = compiled_form("gaussian", z)
    assert "64 × 16" in _triton.tune(z, x, kernel, grad=False, file=None, clock=clock)


def test_a_file_saves_the_next_process_the_search(tmp_path, monkeypatch):
    z, x, _, _ = problem(20, 30, 20)
    kernel, file = compiled_form("gaussian", z), tmp_path / "tiles.json"
    found = prefers("64 × 16, 8 warps", z, x, kernel, grad=True, file=file)
    prefers("64 × 64, 8 warps", z, x, kernel, grad=False, file=file)
    assert len(json.loads(file.read_text())) == 2
    monkeypatch.setattr(tuning, "_FASTER", {})
    assert _triton.tune(z, x, kernel, grad=True, file=file, clock=pytest.fail) == found


def test_without_a_gpu_there_is_nothing_to_time():
    points = torch.zeros(3, 2)
    with pytest.raises(dk.BackendError, match=r"tune: z must be on a CUDA GPU.*got cpu"):
        dk.tune(points, points, dk.gaussian(1.0))


@pytest.mark.skipif(DEVICE == "cpu", reason="times on a GPU")
def test_a_gpu_finds_tiles():
    z = torch.randn(1000, 3, device=DEVICE)
    assert dk.tune(z, z, dk.gaussian(1.0)).startswith("triton: direct")
