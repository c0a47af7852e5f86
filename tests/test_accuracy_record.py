"""What the accuracy rule found can be kept: an error and what was allowed, a line each."""

import json

import pytest
import torch

from tests.cases import assert_as_accurate, assert_within, compiled_form, problem


def test_every_comparison_leaves_a_line(monkeypatch, tmp_path):
    monkeypatch.setenv("DMMD_RATIOS", str(tmp_path / "ratios.jsonl"))
    z, x, _, w = problem(20, 70, 3)
    tensors = (z, x, w)
    assert_as_accurate("potential_and_grad", "reference", tensors, compiled_form("gaussian", z))
    with pytest.raises(AssertionError, match="max error 2"):
        assert_within(torch.tensor(2.0), torch.tensor(1.0), op="none")
    lines = [json.loads(line) for line in (tmp_path / "ratios.jsonl").read_text().splitlines()]
    assert [line["op"] for line in lines] == ["potential_and_grad", "potential_and_grad", "none"]
    assert [line.get("result") for line in lines] == [0, 1, None]
    assert lines[2]["error"] == 2 * lines[2]["allowed"] == 2
    assert lines[0]["error"] <= lines[0]["allowed"]
    assert lines[0]["test"].endswith("::test_every_comparison_leaves_a_line")
