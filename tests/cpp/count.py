"""Instructions per pair of points, counted by valgrind: what a slower inner loop cannot hide.

    python tests/cpp/count.py build/cpp/tests/cpp/sweep_once             compare with the baseline
    python tests/cpp/count.py build/cpp/tests/cpp/sweep_once --save      make it the baseline

A count is the difference of two sweeps that differ in their rows, so what a call costs once falls
out. It depends on the compiler, whose version the baseline names; with another it is only shown.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

BASELINE = Path(__file__).with_name("instructions_per_pair.json")
OPS = (
    "potential",
    "potential_grad",
    "quadratic_form",
    "tangents",
    "tangent_grad",
    "kernel_matrix",
)
DIMENSIONS = (2, 6, 16, 64)
ROWS, COLUMNS = (384, 768), 768
ALLOWED = 1.03


def instructions(program: str, op: str, n: int, d: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    command += [program, op, str(n), str(COLUMNS), str(d)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.search(r"Collected : (\d+)", said)
    if found is None:
        raise RuntimeError(f"valgrind did not say how many instructions it met:\n{said}")
    return int(found[1])


def per_pair(program: str, op: str, d: int) -> float:
    few, many = (instructions(program, op, n, d) for n in ROWS)
    pairs = (ROWS[1] ** 2 - ROWS[0] ** 2) / 2 if op == "quadratic_form" else ROWS[0] * COLUMNS
    return round((many - few) / pairs, 2)


def count(program: str) -> dict[str, dict[str, float]]:
    cases = list(product(OPS, DIMENSIONS))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = dict(
            zip(cases, pool.map(lambda case: per_pair(program, *case), cases), strict=True)
        )
    return {op: {str(d): found[op, d] for d in DIMENSIONS} for op in OPS}


def compiler() -> str:
    said = subprocess.run(["c++", "--version"], check=True, capture_output=True, text=True).stdout
    return said.splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--save", action="store_true")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: there is no valgrind on PATH")
        return 0
    counts = count(arguments.program)
    if arguments.save:
        BASELINE.write_text(json.dumps({"compiler": compiler(), **counts}, indent=2) + "\n")
    baseline = json.loads(BASELINE.read_text())
    is_same = baseline["compiler"] == compiler()
    worse = 0
    for op in OPS:
        for d in map(str, DIMENSIONS):
            got, kept = counts[op][d], baseline[op][d]
            is_worse = got > ALLOWED * kept
            worse += is_worse
            print(
                f"{op:16} d = {d:3} {got:8.2f} a pair, baseline {kept:8.2f}{'  WORSE' * is_worse}"
            )
    if not is_same:
        print(f"only shown: the baseline is of {baseline['compiler']}, this is {compiler()}")
    return 1 if worse and is_same else 0


if __name__ == "__main__":
    sys.exit(main())
