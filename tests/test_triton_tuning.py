"""dk.tune(): which tiles are tried and kept. No time is measured here; the clock is the test's."""

import json
from itertools import product
from operator import itemgetter

import pytest
import torch

import dmmd_kernels as dk
from dmmd_kernels.backends import _triton
from tests.cases import DEVICE, assert_as_accurate, compiled_form, problem

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.runtime.errors import OutOfResources  # noqa: E402

from dmmd_kernels.backends._triton import (  # noqa: E402
    fused,
    parameter_tiles,
    regimes,
    second_order,
    sides,
    tunable,
    tuning,
)


@pytest.fixture(autouse=True)
def _nothing_is_tuned(monkeypatch):
    monkeypatch.setattr(fused, "LEAST_WORK", 0)
    monkeypatch.setattr(tuning, "_FASTER", {})


def prefers(words: str, z, x, kernel, op: str, file=None) -> str:
    """Tunes with a clock by which the tiles of these words are the fastest."""
    clock = lambda _: 0.0 if words in _triton.regime(z, x, kernel, op=op) else 1.0
    return _triton.tune(z, x, kernel, op=op, file=file, clock=clock)


@pytest.mark.parametrize(
    ("op", "d", "words"),
    [
        *product(["value", "gradient"], [3], ["direct, tiles of 64 × 8, 2 warps"]),
        *product(["value", "gradient"], [20], ["fused, tiles of 128 × 16"]),
        ("sides", 3, "direct, tiles of 128 × 32, 8 warps"),
        ("sides", 12, "sides, tiles of 128 × 32, 8 warps"),
        ("second_order", 12, "tiles, tiles of 128 × 16, 8 warps"),
        ("parameters", 12, "tiles, tiles of 128 × 32, 8 warps"),
    ],
)
def test_the_fastest_tiles_are_kept_and_accurate(op, d, words):
    z, x, v, w = problem(20, 30, d)
    kernel, other = compiled_form("gaussian", z), compiled_form("imq", z)
    has = lambda op, k: words in _triton.regime(z, x, k, op=op)
    assert not has(op, kernel)
    assert words in prefers(words, z, x, kernel, op)
    assert [o for o in tunable.OPS if has(o, kernel)] == [op]
    assert not has(op, other)
    name, tensors = {
        "value": ("potential", (z, x, w)),
        "gradient": ("potential_grad", (z, x, None, w)),
        "sides": ("potential", (z, x, w.expand(-1, 16).contiguous())),
        "second_order": ("tangents", (z, x, v, w, z, None, None)),
        "parameters": ("params_grad", (z, x, v, w)),
    }[op]
    assert_as_accurate(name, "triton", tensors, kernel)


def test_what_was_found_does_not_depend_on_the_number_of_points():
    z, x, _, _ = problem(20, 30, 20)
    kernel = compiled_form("gaussian", z)
    found = prefers("64 × 16, 8 warps", z, x, kernel, "gradient")
    assert _triton.regime(z[:3], x[:7], kernel, op="gradient") == found


def test_tiles_that_do_not_fit_are_passed_over():
    z, x, _, _ = problem(20, 30, 20)

    def clock(call):
        if "64 × 16, 4 warps" not in _triton.regime(z, x, kernel, op="value"):
            raise OutOfResources(300000, 232448, "shared memory")
        return 1.0

    kernel = compiled_form("gaussian", z)
    assert "64 × 16" in _triton.tune(z, x, kernel, op="value", file=None, clock=clock)


def test_a_file_saves_the_next_process_the_search(tmp_path, monkeypatch):
    z, x, _, _ = problem(20, 30, 20)
    kernel, file = compiled_form("gaussian", z), tmp_path / "tiles.json"
    found = prefers("64 × 16, 8 warps", z, x, kernel, "gradient", file)
    prefers("64 × 64, 8 warps", z, x, kernel, "value", file)
    assert len(json.loads(file.read_text())) == 2
    monkeypatch.setattr(tuning, "_FASTER", {})
    assert _triton.tune(z, x, kernel, op="gradient", file=file, clock=pytest.fail) == found


@pytest.mark.parametrize(
    ("op", "d", "launches"),
    [("sides", 3, 1), ("sides", 12, 1), ("second_order", 12, 4), ("parameters", 12, 1)],
)
def test_every_tile_is_launched_by_what_is_timed(op, d, launches, monkeypatch):
    z, x, _, _ = problem(20, 30, d)
    seen: list = []
    tile = itemgetter("BLOCK_N", "BLOCK_M", "num_warps", "num_stages")

    class Recorder:
        def __getitem__(self, grid):
            return lambda **values: seen.append(tile(values))

    monkeypatch.setattr(sides, "sides_kernel", Recorder())
    monkeypatch.setattr(second_order, "tangent_grad_kernel", Recorder())
    monkeypatch.setattr(second_order, "tangent_sums_kernel", Recorder())
    monkeypatch.setattr(parameter_tiles, "parameter_kernel", Recorder())
    clock = lambda call: len([call()])
    _triton.tune(z, x, compiled_form("gaussian", z), op=op, file=None, clock=clock)
    assert sorted(seen) == sorted(launches * tuning._TILES[op])


def test_the_tables_own_tiles_are_among_those_tried():
    tables = (
        (regimes.TABLE, None),
        (regimes.SIDES, "sides"),
        ([row for row in regimes.TANGENTS if row.kind == "tiles"], "second_order"),
        ([row for row in regimes.PARAMETERS if row.kind == "tiles"], "parameters"),
    )
    for table, op in tables:
        for row in table:
            tile = row.rows, row.columns, row.warps, row.stages
            assert tile in tuning._TILES[op or row.kind]


def test_lanes_of_their_own_have_nothing_to_tune():
    z, x, _, _ = problem(20, 30, 3)
    kernel = compiled_form("gaussian", z)
    for op in ("second_order", "parameters"):
        found = _triton.tune(z, x, kernel, op=op, file=None, clock=pytest.fail)
        assert found == "direct, fixed tiles"


@pytest.mark.parametrize("text", ["", "[1]", '{"sides": ', "\udcff"])
def test_a_file_of_another_kind_is_refused(text, tmp_path):
    z, x, _, _ = problem(20, 30, 12)
    file = tmp_path / "tiles.json"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(ValueError, match=r"^tune: file must be JSON that tune wrote, got .*tiles"):
        prefers("32", z, x, compiled_form("gaussian", z), "sides", file)


@pytest.mark.parametrize(
    "entry", [None, 3, {}, {"rows": 64, "columns": 48, "warps": 4, "stages": 1}]
)
def test_tiles_that_were_never_tried_are_refused(entry, tmp_path):
    z, x, _, _ = problem(20, 30, 12)
    kernel, file = compiled_form("gaussian", z), tmp_path / "tiles.json"
    prefers("128", z, x, kernel, "parameters", file)
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: entry}))
    with pytest.raises(ValueError, match=r"^tune: 'parameters: tiles d<=16 .* must be tiles that"):
        _triton.tune(z, x, kernel, op="parameters", file=file, clock=pytest.fail)


@pytest.mark.parametrize(("op", "grad"), [("potential", False), ("sides", True)])
def test_ops_that_have_no_tiles_are_refused(op, grad):
    points = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=f"^tune: op must be.*got op='{op}', grad={grad}"):
        dk.tune(points, points, dk.gaussian(1.0), op=op, grad=grad)


def test_without_a_gpu_there_is_nothing_to_time():
    points = torch.zeros(3, 2)
    with pytest.raises(dk.BackendError, match=r"tune: z must be on a CUDA GPU.*got cpu"):
        dk.tune(points, points, dk.gaussian(1.0))


@pytest.mark.skipif(DEVICE == "cpu", reason="times on a GPU")
def test_a_gpu_finds_tiles():
    z = torch.randn(1000, 3, device=DEVICE)
    assert dk.tune(z, z, dk.gaussian(1.0)).startswith("triton: direct")


@pytest.mark.skipif(DEVICE == "cpu", reason="times on a GPU")
@pytest.mark.parametrize(("op", "kind"), [("sides", "sides"), ("second_order", "tiles")])
def test_a_gpu_finds_tiles_of_other_ops(op, kind):
    z = torch.randn(1000, 12, device=DEVICE)
    assert dk.tune(z, z, dk.gaussian(1.0), op=op).startswith(f"triton: {kind}")
