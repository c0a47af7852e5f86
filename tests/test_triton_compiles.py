"""The Triton kernels compile for the GPUs we support, and cost what they did. Needs no GPU."""

import json
import os
import re
import subprocess
import sys

import pytest

from tests.triton_baseline import BASELINE, SHARED, as_lines, difference

triton = pytest.importorskip("triton", reason="Triton is not installed")

VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
SPILL_LIMIT = 512  # bytes; more than that, and the tile is wrong for this Triton
SMALL_SPILL = 16  # bytes
# Which older Tritons compile worse.
CROWDED = re.compile(
    "sides|parameter|tangent|fused_kernel gaussian (grad d=(128|64 p=2)|form, grad)"
)


@pytest.fixture(scope="module")
def costs() -> dict:
    """Measured in a process of its own: in this one Triton interprets."""
    if VERSION < (3, 4):
        pytest.skip("before 3.4 Triton's compiler crashes on these kernels, and no call reaches it")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(BASELINE.with_suffix(".py"))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["costs"]


@pytest.fixture(scope="module")
def baseline() -> dict:
    stored = json.loads(BASELINE.read_text())
    if stored["triton"] != triton.__version__:
        pytest.skip(f"the baseline is of Triton {stored['triton']}, this is {triton.__version__}")
    return stored["costs"]


def test_every_kernel_stays_in_registers(costs):
    assert {label: c["spills"] for label, c in costs.items() if c["spills"] > SPILL_LIMIT} == {}


def spilled(costs, most: int) -> dict:
    ours = {k: c["spills"] for k, c in costs.items() if k.endswith(("sm_90", "sm_100"))}
    return {k: bytes for k, bytes in ours.items() if bytes > most}


def test_hopper_and_blackwell_spill_little_with_any_triton(costs):
    assert {k for k in spilled(costs, SMALL_SPILL) if not CROWDED.match(k)} == set()


@pytest.mark.usefixtures("baseline")
def test_hopper_and_blackwell_spill_nothing_with_the_triton_of_the_baseline(costs):
    assert spilled(costs, 0) == {}


def test_every_kernel_fits_its_gpu(costs):
    limit = {str(arch): bytes_ for arch, bytes_ in SHARED.items()}
    over = lambda label, c: c["shared"] > limit[label.split()[-1].removeprefix("sm_")]
    assert {label: c["shared"] for label, c in costs.items() if over(label, c)} == {}


def test_offsets_are_multiplied_in_64_bits(costs):
    assert [label for label, c in costs.items() if not c["wide_offsets"]] == []


def test_what_a_kernel_costs_does_not_grow(costs, baseline):
    grown = {
        (label, name): (c[name], baseline[label][name])
        for label, c in costs.items()
        for name in ("registers", "spills", "shared", "issued", "reloads")
        if (c.get(name) or 0) > (baseline[label].get(name) or 0)
    }
    assert grown == {}, "(now, before); if it is meant, run tests/triton_baseline.py --write"


def test_the_model_knows_the_code_it_judges(baseline):
    from benchmarks import model

    assert all(baseline[label]["issued"] > 8 for label in model.COMPILED.values())
    assert model.against_targets().count("\n") == 3 + len(model.TARGETS)
    assert model.against_separate_sweeps().count("\n") == 1 + len(model.INSTEAD)


def test_tensor_cores_are_used_where_they_are_meant_to_be(costs):
    meant = re.compile("fused|sides|parameter|tangent_.* move")
    assert all((c["mma"] > 0) == bool(meant.match(label)) for label, c in costs.items())


def test_matrix_and_exponential_instructions_are_those_of_the_baseline(costs, baseline):
    count = lambda c: (c["mma"], c["ex2"])
    assert {k: count(c) for k, c in costs.items()} == {k: count(c) for k, c in baseline.items()}


def test_the_baseline_has_a_line_for_each_case_and_a_diff_names_the_changes(baseline):
    stored = {"triton": triton.__version__, "costs": baseline}
    assert as_lines(stored) == BASELINE.read_text()
    first, second = sorted(baseline)[:2]
    changed = {**baseline, first: {**baseline[first], "issued": 1.5}, "new": {}}
    del changed[second]
    said = difference({"triton": "9.9", "costs": changed}, stored).splitlines()
    assert said[0] == f"Triton {triton.__version__} → 9.9"
    assert said[1:] == [
        f"{first}: issued {baseline[first]['issued']} → 1.5", f"{second}: gone", "new: new"
    ]  # fmt: skip
