"""The grid of a GPU, small and on the CPU: rows are kept at once, whatever ends a process."""

import json
import math
import sys
from argparse import Namespace
from types import SimpleNamespace

import numpy
import pytest
import torch

from benchmarks import errors, grid, notes
from benchmarks.model import Hardware
from benchmarks.problems import Case, exact, problem
from benchmarks.samples import SAMPLES, _pixels


@pytest.fixture
def options(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "_SECONDS", 0.0)
    monkeypatch.setattr(notes, "cpu", lambda: Hardware("cpu", slots=1e12, bandwidth=1e11))
    monkeypatch.setattr(grid, "FLOWS", ((0, 20, 2),))
    usual = {"device": "cpu", "size": 40, "only": "ours", "out": tmp_path, "until": math.inf}
    return Namespace(**usual, parts=["64"], seconds=60)


def test_ours_come_first_and_all_data_sets_with_them(options):
    assert grid.run_part(options, "64") == 0
    rows = grid.kept(options.out)
    assert [r["op"] for r in rows[::2]] == [
        *("witness_grad", "mmd2", "kernel_matrix"),
        *2 * ("witness_grad", "mmd2"),
    ]
    assert [r["data"] for r in rows[::2]] == [*3 * ["normal"], *2 * ["digits"], *2 * ["clusters"]]
    assert all(r["error"] < 1e-4 and r["ms"] > 0 and r["percent"] > 0 for r in rows)
    text = (options.out / "grid.txt").read_text()
    assert text.count("\n") == 1 + 7


def test_a_row_is_not_measured_twice(options, monkeypatch):
    grid.run_part(options, "flows")
    before = grid.kept(options.out)
    monkeypatch.setattr(grid, "row", lambda *_: pytest.fail("measured again"))
    assert grid.run_part(options, "flows") == 0
    assert grid.kept(options.out) == before
    assert grid.left_out(options) == 14


def test_a_row_that_ends_its_process_is_known_by_its_note(options, monkeypatch):
    def end(*_):
        raise SystemExit  # as a signal would

    monkeypatch.setattr(grid, "row", end)
    with pytest.raises(SystemExit):
        grid.run_part(options, "2")
    (row,) = grid.kept(options.out)
    assert (row["op"], row["failed"]) == ("witness_grad", True)
    assert row["note"] == "it began, and its process did not live to see the end"
    monkeypatch.undo()
    grid.run_part(options, "2")
    assert [r.get("failed") for r in grid.kept(options.out)[:2]] == [True, None]


def test_a_part_goes_on_behind_a_row_that_ended_it(options, monkeypatch):
    """Each process measures a row; the first two end at theirs, and the third at its end."""
    waits = iter([-11, -11, 3, 3, 0, 0])  # each process is waited for again, once it is ended

    def popen(command, cwd):
        found = grid.about(*next(grid.tasks(options, "64")))
        rows = grid.kept(options.out)
        grid.keep(options.out, [*rows, found | {"n": len(rows)}], "cpu")
        return SimpleNamespace(wait=lambda _=None: next(waits), kill=lambda: None)

    monkeypatch.setattr(grid.subprocess, "Popen", popen)
    grid.run_parts(options)
    assert len(grid.kept(options.out)) == 3


def test_after_an_error_of_the_gpu_the_process_ends(options, monkeypatch):
    broken = {"note": "CUDA error: an illegal memory access", "failed": True}
    monkeypatch.setattr(grid, "row", lambda *task: grid.about(*task) | broken)
    monkeypatch.setattr(grid, "is_lost", lambda _: True)
    assert grid.run_part(options, "64") == grid._LOST
    assert len(grid.kept(options.out)) == 1


@pytest.mark.parametrize("data", sorted(SAMPLES))
def test_samples_are_the_same_again_and_near_each_other(data):
    case = Case("cpu", "gaussian", 50, 40, 64, data=data)
    first = problem(case)
    problem.cache_clear()
    assert torch.equal(first.x, problem(case).x)
    assert [t.shape for t in (first.z, first.x, first.y)] == [(50, 64), (50, 64), (40, 64)]
    u = torch.cat([first.x, first.y]) - first.x.mean(0)
    near = torch.cdist(u, u) ** 2 < (u.square().sum(1)[:, None] + u.square().sum(1)) / 4
    assert near.fill_diagonal_(False).any()


def test_digits_come_from_a_file_where_one_is_named(tmp_path, monkeypatch):
    pixels = _pixels()
    numpy.savez_compressed(tmp_path / "digits.npz", pixels=pixels[:3].astype(numpy.uint8))
    monkeypatch.setenv("DMMD_DIGITS", str(tmp_path / "digits.npz"))
    assert numpy.array_equal(_pixels.__wrapped__(), pixels[:3])
    monkeypatch.delenv("DMMD_DIGITS")
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RuntimeError, match="DMMD_DIGITS names no file"):
        _pixels.__wrapped__()


def test_the_answer_in_float64_is_that_of_differences():
    case = Case("cpu", "gaussian", 30, 20, 5)
    p = problem(case)
    z, y = p.z.double(), p.y.double()
    by_differences = torch.exp(-(z[:, None] - y).square().sum(-1) / (2 * p.sigma**2))
    torch.testing.assert_close(exact("kernel_matrix", case)[0], by_differences, rtol=1e-13, atol=0)


def test_errors_are_told_worst_first(tmp_path):
    line = lambda test, op, error, allowed: json.dumps(
        {"test": f"tests/a.py::{test}[x]", "op": op, "error": error, "allowed": allowed}
    )
    lines = [line("b", "f", 1.0, 4.0), line("a", "f", 3.0, 2.0), line("a", "f", 1.0, 2.0)]
    lines.append(line("c", "g", math.nan, 1.0))
    found = errors.by_test(lines)
    assert found == {"c, g": [math.inf], "a, f": [1.5, 0.5], "b, f": [0.25]}
    assert errors.table(found, 2).splitlines()[2].split() == ["1.500", "1", "2", "a,", "f"]
