#!/usr/bin/env bash
# Builds, tests and measures on a GPU machine, without network. It must already have torch, triton,
# nvcc, cmake, ninja, pybind11 and setuptools.
#
#     benchmarks/gpu.sh OUTDIR
#
# Each stage has a time limit of its own, nine minutes together, and none hides the others: the
# table at the end names them all. The exit status is that of the worst.
set -uo pipefail
out=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUTDIR}" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

rows=()
status=0

# stage NAME LIMIT COMMAND...: its log goes to OUTDIR/NAME.log, its result into the table.
stage() {
  local name=$1 limit=$2 start=$SECONDS result
  shift 2
  printf '\n=== %s (at most %d s)\n' "$name" "$limit"
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$out/$name.log" | tail -n 25
  case ${PIPESTATUS[0]} in
    0) result=passed ;;
    124 | 137) result="out of time" status=1 ;;
    *) result=FAILED status=1 ;;
  esac
  rows+=("$(printf '%-12s %4d s   %s' "$name" $((SECONDS - start)) "$result")")
}

skip() {
  printf '\n=== %s: skipped, %s\n' "$1" "$2"
  rows+=("$(printf '%-12s    - s   skipped: %s' "$1" "$2")")
}

has() { python -c "import $1" 2>/dev/null; }

# Test files that need a package this machine lacks, as FILE PACKAGE.
left_out() {
  python - <<'EOF'
import importlib
import pathlib

for path in sorted(pathlib.Path("tests").glob("test_*.py")):
    try:
        importlib.import_module(f"tests.{path.stem}")
    except ModuleNotFoundError as error:
        if error.name.split(".")[0] not in ("dmmd_kernels", "tests"):
            print(path, error.name)
    except BaseException:
        pass  # pytest will say it better
EOF
}

# Warnings of whatever versions are installed here are not ours to mend, so they are no errors.
pytest_options=(-q -W default)
workers=()
has xdist && workers=(-n 6)

python -c 'import torch; assert torch.cuda.is_available(), "torch sees no GPU"' || exit 1
export MAX_JOBS=${MAX_JOBS:-16}

stage build 150 pip install --no-build-isolation --no-deps -v -e .
stage report 30 python -m dmmd_kernels

if has pytest; then
  while read -r file package; do
    skip "$file" "$package is not installed"
    pytest_options+=("--ignore=$file")
  done < <(left_out)
  # Timing under other work is worthless, so the benchmark plugin stays out of the tests.
  stage tests 150 python -m pytest "${pytest_options[@]}" "${workers[@]}" -p no:benchmark -m 'not slow'
else
  skip tests 'pytest is not installed'
fi

if command -v compute-sanitizer >/dev/null; then
  # torch's caching allocator would hide what lies between two tensors.
  export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  stage memcheck 70 compute-sanitizer --tool memcheck --error-exitcode 9 \
    python tests/sanitized.py auto --device cuda
  unset PYTORCH_NO_CUDA_MEMORY_CACHING
else
  skip memcheck 'there is no compute-sanitizer'
fi

if has pytest_benchmark; then
  stage bench 120 python -m pytest benchmarks "${pytest_options[@]}" --benchmark-only \
    --benchmark-json="$out/bench.json"
else
  skip bench 'pytest-benchmark is not installed'
fi

printf '\n%s\n' "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader)"
printf '%s\n' "${rows[@]}"
exit $status
