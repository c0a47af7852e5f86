"""The worst errors of a test run, in units of what the accuracy rule allows.

    DMMD_RATIOS=accuracy.jsonl pytest tests/test_triton_tensor_cores.py
    python -m benchmarks.errors accuracy.jsonl [--most 30]

One line for each test, the worst first: its largest ratio, how many of its comparisons were above
1, and of how many. The exit status is 1 if any was.
"""

import argparse
import json
import math
import sys
from pathlib import Path


def ratio(found: dict) -> float:
    """NaN counts as infinite, and no error as none where none is allowed."""
    error, allowed = found["error"], found["allowed"]
    if math.isnan(error):
        return math.inf
    return error / allowed if allowed else math.inf if error else 0.0


def by_test(lines: list[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in lines:
        one = json.loads(line)
        name = one["test"].split("::")[-1].split("[")[0]
        found.setdefault(f"{name}, {one['op']}", []).append(ratio(one))
    return dict(sorted(found.items(), key=lambda item: -max(item[1])))


def table(found: dict[str, list[float]], most: int) -> str:
    lines = [f"{'worst':>8} {'above 1':>8} {'of':>5}  test, op"]
    for name, ratios in list(found.items())[:most]:
        above = sum(r > 1 for r in ratios)
        lines.append(f"{max(ratios):8.3f} {above:8} {len(ratios):5}  {name}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--most", type=int, default=30, help="lines of the table")
    options = parser.parse_args()
    if not options.file.exists():
        print(f"errors: there is no {options.file}: no test compared anything")  # noqa: T201
        return 1
    found = by_test(options.file.read_text().splitlines())
    print(table(found, options.most))  # noqa: T201
    return 1 if any(max(ratios) > 1 for ratios in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
