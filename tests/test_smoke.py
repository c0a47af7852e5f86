"""The smoke program: it sees what is wrong, and outlives what ends a group's process."""

import json
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from threading import Event, main_thread

import pytest
import torch

from benchmarks import smoke
from benchmarks.smoke_cases import FLOWS, GROUPS, OPS, TRITON, Case, Problem, ratio

ROOT = Path(__file__).parents[1]
H200 = "{132, 232448, true, true}"  # processors, bytes of shared memory, clusters, cooperative


def options(out):
    usual = {"device": "cpu", "size": None, "case": None, "seconds": 60, "jobs": 1}
    return Namespace(**usual, out=[out])


@pytest.mark.parametrize("op", sorted(OPS))
def test_a_right_result_keeps_the_rule_and_a_wrong_one_breaks_it(op):
    how = {"backend": "reference"}
    p = Problem(Case(op, 3, blocks=3 if op.startswith(("block", "flow")) else 0).on("cpu"), "cpu")
    results = OPS[op].call(p, how)
    assert ratio(p, results) <= 1
    assert ratio(p, tuple(1.001 * t for t in results)) > 1
    assert ratio(p, tuple(t * torch.nan for t in results)) == float("inf")


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_the_flows_go_their_four_ways_on_a_gpu_with_clusters(tmp_path):
    cases = [case for group in FLOWS for case in GROUPS[group]]
    plans = "".join(
        f"puts(kWayNames[int(plan_flow({c.blocks}, {c.n}, {c.n - 3}, {c.d}, {H200}).way)]);"
        for c in cases
    )
    header = ROOT / "csrc" / "cuda" / "flow_plan.h"
    head = f'#include <cstdio>\n#include "{header}"\nusing namespace dmmd::cuda;\n'
    (tmp_path / "plan.cpp").write_text(f"{head}int main() {{{plans}}}\n")
    command = ["c++", "-std=c++20", str(tmp_path / "plan.cpp"), "-o", str(tmp_path / "plan")]
    subprocess.run(command, check=True)
    ways = subprocess.run([str(tmp_path / "plan")], capture_output=True, text=True).stdout.split()
    named = [group for group in FLOWS for _ in GROUPS[group]]
    assert [f"flow_{way}" for way in ways] == named


def test_sizes_on_a_gpu_are_those_of_tensor_cores():
    cases = [case.on("cuda") for group in TRITON for case in GROUPS[group] if case.d > 8]
    work = [max(case.blocks, 1) * case.n * (case.n - 3) * case.d for case in cases]
    assert min(work) >= 2**29  # fused.LEAST_WORK
    assert all(case.n % 16 for case in cases)


def test_a_group_has_a_process_and_writes_a_line_for_each_case(tmp_path, capfd):
    out = tmp_path / "smoke.jsonl"
    assert smoke.run_apart("flow_grid", options(out))
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert [line["d"] for line in lines] == [2, 32]
    assert all(line["ratio"] <= 1 and line["ms"] > 0 for line in lines)
    assert capfd.readouterr().out.count("flow_grid") == 2


@pytest.mark.parametrize(
    ("end", "note"),
    [
        ((-11, "a\nlast words\n"), "its process ended with signal 11; it said last: last words"),
        ((1, ""), "its process ended with exit status 1; it said last: nothing"),
        ((None, ""), "did not end within 60 s"),
    ],
)
def test_cases_that_a_dead_group_did_not_reach_are_named(end, note, tmp_path, monkeypatch):
    monkeypatch.setattr(smoke, "limited", lambda *_: end)
    out = tmp_path / "smoke.jsonl"
    assert not smoke.run_apart("fused_16", options(out))
    failed = [json.loads(text)["failed"] for text in out.read_text().splitlines()]
    assert failed == [note, *2 * ["not begun: fused_16 had ended"]]


def test_a_process_is_ended_at_its_limit():
    python = [sys.executable, "-c"]
    assert smoke.limited([*python, "while True: pass"], 0.3)[0] is None
    assert smoke.limited([*python, "import os; os.kill(os.getpid(), 11)"], 20)[0] == -11
    assert smoke.limited([*python, "import sys; sys.stderr.write('3')"], 20) == (0, "3")


def test_interrupted_it_ends_what_runs_and_begins_nothing(tmp_path, monkeypatch):
    out, are_all_asked = tmp_path / "smoke.jsonl", Event()
    monkeypatch.setattr(smoke, "_is_over", Event())
    monkeypatch.setattr(smoke.signal, "signal", lambda *_: None)

    def groups():
        yield from ("matrix", "sides")
        are_all_asked.set()

    def interrupt(command, seconds):
        are_all_asked.wait(60)
        signal.pthread_kill(main_thread().ident, signal.SIGINT)
        return None, "" if smoke._is_over.wait(60) else "nobody saw it"

    monkeypatch.setattr(smoke, "limited", interrupt)
    with pytest.raises(KeyboardInterrupt):
        smoke.run_all(groups(), options(out))
    lines = [json.loads(text) for text in out.read_text().splitlines()]
    assert {line["group"] for line in lines} == {"matrix"}
    assert lines[0]["failed"] == "the run was interrupted"


def test_groups_are_asked_for_by_name():
    assert smoke.chosen(["triton", "flow_grid"]) == [*TRITON, "flow_grid"]
    assert smoke.chosen([]) == [*TRITON, *FLOWS]
    with pytest.raises(SystemExit, match=r"groups are direct, .*got \['nothing'\]"):
        smoke.chosen(["nothing"])
