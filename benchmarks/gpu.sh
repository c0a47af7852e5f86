#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine, without network. Its python3 must already have torch,
# triton, cmake, ninja, pybind11 and setuptools, and nvcc must be on PATH.
#
#     benchmarks/gpu.sh OUTDIR        writes OUTDIR/log.txt, grid.json and bench_<suite>.json
#
# Each stage has a time limit of its own, ten minutes together, and none hides the others: the
# table at the end names them all. The exit status is that of the worst.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

: >"$out/log.txt"
rows=()
status=0

# stage NAME LIMIT COMMAND...: its output goes to the log, its result into the table. Interrupted at
# its limit, pytest still reports and saves what it has.
stage() {
  local name=$1 limit=$2 start=$SECONDS result
  shift 2
  printf '\n=== %s (at most %d s)\n' "$name" "$limit" | tee -a "$out/log.txt"
  timeout --signal=INT --kill-after=5 "$limit" "$@" 2>&1 | tee -a "$out/log.txt" | tail -n 25
  case ${PIPESTATUS[0]} in
    0) result=passed ;;
    124 | 137) result="out of time" status=1 ;;
    *) result=FAILED status=1 ;;
  esac
  rows+=("$(printf '%-24s %4d s   %s' "$name" $((SECONDS - start)) "$result")")
}

skip() {
  printf '\n=== %s: skipped, %s\n' "$1" "$2"
  rows+=("$(printf '%-24s    - s   skipped: %s' "$1" "$2")")
}

has() { python3 -c "import $1" 2>/dev/null; }

# Test files that need a package this machine lacks, as FILE PACKAGE.
left_out() {
  timeout 15 python3 - <<'EOF'
import importlib
import pathlib

for path in sorted(pathlib.Path("tests").glob("test_*.py")):
    try:
        importlib.import_module(f"tests.{path.stem}")
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in ("dmmd_kernels", "tests"):
            print(path, error.name, flush=True)  # a slow disk may bring it to its limit
    except BaseException:
        pass  # pytest will say it better
EOF
}

# Warnings of whatever versions are installed here are not ours to mend, so they are no errors.
pytest_options=(-q -W default)
workers=()
has xdist && workers=(-n 6)

python3 -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"' || exit 1
export MAX_JOBS=${MAX_JOBS:-16}

stage build 100 python3 -m pip install --no-build-isolation --no-deps -v -e .
stage report 15 python3 -m dmmd_kernels

if has pytest; then
  while read -r file package; do
    skip "$file" "$package is not installed"
    pytest_options+=("--ignore=$file")
  done < <(left_out)
  # Timing under other work is worthless, so the benchmark plugin stays out of the tests.
  stage tests 100 python3 -m pytest "${pytest_options[@]}" "${workers[@]}" -p no:benchmark -m 'not slow'
else
  skip tests 'pytest is not installed'
fi

if command -v compute-sanitizer >/dev/null; then
  # torch's caching allocator would hide what lies between two tensors.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  # Compiled first without it: under the sanitizer compiling would take the time for running.
  stage warm 40 python3 tests/sanitized.py auto --device cuda
  for tool in memcheck racecheck; do
    stage $tool 40 compute-sanitizer --tool $tool --error-exitcode 9 \
      python3 tests/sanitized.py auto --device cuda
  done
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
else
  skip memcheck 'there is no compute-sanitizer'
fi

stage grid 180 python3 -m benchmarks.grid "$out" --seconds 160

if has pytest_benchmark; then
  for suite in pairwise mmd flows training; do
    stage "bench_$suite" 15 python3 -m pytest "benchmarks/bench_$suite.py" "${pytest_options[@]}" \
      --benchmark-only --benchmark-json="$out/bench_$suite.json"
  done
  stage tables 10 python3 benchmarks/tables.py "$out"/bench_*.json
else
  skip bench 'pytest-benchmark is not installed'
fi

printf '\n%s\n' "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)"
printf '%s\n' "${rows[@]}"
[ ! -f "$out/grid.txt" ] || cat "$out/grid.txt"
exit $status
