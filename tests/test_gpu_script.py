"""benchmarks/gpu.sh without a GPU and its programs: what it starts, when, and what it keeps."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
TABLE = re.compile(r"^(\w+) +(\d+|-) s of +(\d+|-)(?: +(.*))?$", re.MULTILINE)
pytestmark = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("bash", "timeout", "awk")),
    reason="there is no bash, timeout or awk",
)

# Stands for Python, ncu and compute-sanitizer: says what it was asked for, and fails where told to.
STUB = """#!/usr/bin/env bash
asked="${0##*/} $*"
case $asked in
  *find_spec*) exit 0 ;;
  *--where*) [ -n "${BUILT:-}" ] && echo "$BUILT"; exit ;;
esac
echo "$asked"
if [[ -n "${FAIL:-}" && "$asked" =~ $FAIL ]]; then exit 1; fi
if [[ -n "${HANG:-}" && "$asked" =~ $HANG ]]; then trap '' INT; sleep 60 & wait; sleep 60; fi
exit 0
"""
BEFORE = ["carried", "report", "smoke"]
TESTS = ["tensor_cores", "tiles", "flow_tests", "transforms", "errors"]
AFTER = ["grid", "ncu_fused", "ncu_direct", "memcheck", "racecheck", "peers", "rest"]
STAGES = [*BEFORE, "flows", *TESTS, *AFTER]


@pytest.fixture
def start(tmp_path):
    """start(FAIL=…, …): gpu.sh with stubs on its PATH and OUT in tmp_path / "out"."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("stub", "ncu", "compute-sanitizer", "nvidia-smi", "nvcc"):
        (tools / name).write_text(STUB)
        (tools / name).chmod(0o755)
    built = tmp_path / "_C.so"
    built.touch()
    env = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYTHON": str(tools / "stub")}
    env |= {"DEVICE": "cpu", "BUILT": str(built), "TMPDIR": str(tmp_path)}
    env["CARRIED"] = str(tmp_path / "nothing")

    def run(**settings) -> subprocess.Popen:
        command = ["bash", str(SCRIPT), str(tmp_path / "out")]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=env | settings, stdout=pipe, stderr=pipe, text=True, process_group=0
        )

    return run


def table(tmp_path) -> dict[str, tuple[str, str, str]]:
    """(seconds, limit, result) by stage."""
    rows = TABLE.findall((tmp_path / "out" / "stages.txt").read_text())
    return {name: (took, most, result) for name, took, most, result in rows}


def test_every_stage_runs_in_its_order(start, tmp_path):
    run = start()
    said, errors = run.communicate(timeout=60)
    assert (run.returncode, errors) == (0, "")
    rows = table(tmp_path)
    assert list(rows) == [*STAGES, "total"]
    assert {result for _, _, result in list(rows.values())[:-1]} == {"passed"}
    assert said.endswith((tmp_path / "out" / "stages.txt").read_text())
    log = (tmp_path / "out" / "log.txt").read_text()
    order = ["smoke triton", "smoke flows", "only ours", "--tool racecheck", "only peers"]
    places = [log.index(text) for text in order]
    assert places == sorted(places)


def test_a_stage_that_fails_does_not_stop_the_next(start, tmp_path):
    run = start(FAIL=".")
    run.communicate(timeout=60)
    rows = table(tmp_path)
    total = rows.pop("total")
    assert run.returncode == 1
    assert list(rows) == STAGES
    # The report asks many programs, and is whole with what some say.
    assert {name for name, row in rows.items() if row[2] != "FAILED"} <= {"report"}
    assert int(total[0]) <= int(total[1])


def test_a_stage_that_hangs_is_ended_and_the_next_runs(start, tmp_path):
    run = start(HANG="smoke triton", BUDGET="20")
    run.communicate(timeout=60)
    rows = table(tmp_path)
    assert run.returncode == 1
    assert rows["smoke"][2] == "out of time"
    assert rows["tensor_cores"][2] == rows["grid"][2] == "passed"
    assert list(rows) == [*STAGES, "total"]


def test_the_budget_holds_where_everything_hangs(start, tmp_path):
    run = start(HANG=".", BUDGET="6")
    begin = time.monotonic()
    run.communicate(timeout=60)
    assert time.monotonic() - begin <= 6 + 5  # a busy machine takes a moment to end a process
    rows = table(tmp_path)
    assert list(rows) == [*STAGES, "total"]
    results = {result for _, _, result in list(rows.values())[:-1]}
    assert results == {"out of time", "skipped: no time is left"}


def test_a_run_that_is_killed_leaves_its_table(start, tmp_path):
    run = start(HANG="smoke triton")
    stages = tmp_path / "out" / "stages.txt"
    until = time.monotonic() + 30
    while time.monotonic() < until and not (stages.exists() and "smoke" in stages.read_text()):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()
    rows = table(tmp_path)
    assert [row[2] for row in rows.values()] == ["passed", "passed", "running"]
    assert list(rows)[-1] == "smoke"


def test_without_an_extension_the_flows_are_skipped_and_the_rest_runs(start, tmp_path):
    run = start(BUILT="", FAIL="setup.py")
    run.communicate(timeout=60)
    rows = table(tmp_path)
    assert rows["extension"][2] == "FAILED"
    assert rows["flows"][2] == "skipped: there is no extension that loads"
    assert rows["grid"][2] == "passed"


def test_without_a_gpu_it_says_so(start, tmp_path):
    run = start(DEVICE="cuda")
    (tmp_path / "tools" / "nvcc").write_text('#!/bin/sh\necho "torch sees no GPU"\n')
    run.communicate(timeout=60)
    assert run.returncode == 1
    assert "torch sees no GPU; DEVICE=cpu rehearses without one" in table(tmp_path)["smoke"][2]


@pytest.mark.parametrize("budget", [60, 240, 540, 3600])
def test_limits_use_the_budget_up_and_no_more(budget):
    """Where every stage takes all it may."""
    text = SCRIPT.read_text()
    code = text[text.index("plan='") : text.index("# -- Stages")]
    loop = "for s in $(awk 'NF == 3 {print $1}' <<<\"$plan\"); do echo $s $(limit $s); "
    code += loop + "SECONDS=$((SECONDS + $(limit $s))); done"
    done = subprocess.run(
        ["bash", "-c", f"SECONDS=0; budget={budget}\n{code}"], capture_output=True, text=True
    )
    limits = {name: int(most) for name, most in map(str.split, done.stdout.splitlines())}
    assert set(limits) == {*STAGES, "extension"}
    assert min(limits.values()) >= 0
    assert 0.9 * budget <= sum(limits.values()) <= budget
    if budget >= 240:
        assert limits["smoke"] >= 50
        assert limits["grid"] >= 70  # our times
