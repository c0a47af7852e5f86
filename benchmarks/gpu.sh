#!/usr/bin/env bash
# Checks and measures on a GPU machine, without network, what matters most first.
#
#     benchmarks/gpu.sh OUT
#
# Its python3 must have torch and triton; what else a stage needs and does not find, it names.
# Every stage is a process of its own, with a share of the seconds that are left, and writes what it
# finds at once, so a run that is cut short has everything up to there:
#
#     stages.txt       each stage: seconds, its limit, its result; from the first stage on
#     log.txt          what the stages said
#     smoke.jsonl      what runs at all, error over allowance, seconds to compile  (smoke.py)
#     accuracy.jsonl   every comparison of the tests by the accuracy rule          (errors.py)
#     grid.json grid.txt   times, ours before the peers'                           (grid.py)
#     ncu.txt          two launches, as the profiler sees them
#
# From the environment:
#
#     BUDGET=540       seconds in all, builds included; 240 are enough up to our own times
#     CARRIED=build/gpu    the folder that benchmarks/prewarm.py filled elsewhere: the extension,
#                      Triton's cache, digits; what does not fit this machine is named and left
#     DMMD_EXTENSION   a built _C*.so, instead of the one in CARRIED
#     TRITON_CACHE_DIR=build/triton
#     DEVICE=cpu       a rehearsal without a GPU: small, in Triton's interpreter
#     PYTHON=python3
#
# The exit status is 1 if a stage failed or ran out of time.
set -uo pipefail
SECONDS=0
out=$(mkdir -p "${1:?usage: benchmarks/gpu.sh OUT}" && cd "$1" && pwd) || exit 2
carried=${CARRIED:+$(realpath -m "$CARRIED")}
extension=${DMMD_EXTENSION:+$(realpath "$DMMD_EXTENSION")}
cd "$(dirname "$0")/.." || exit 2
carried=${carried:-$PWD/build/gpu}
budget=${BUDGET:-540} device=${DEVICE:-cuda} python=${PYTHON:-python3}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/build/triton} PYTHONUNBUFFERED=1
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} DMMD_RATIOS=$out/accuracy.jsonl
[ -f "$carried/digits.npz" ] && export DMMD_DIGITS=${DMMD_DIGITS:-$carried/digits.npz}
# nvcc, and the cmake and ninja that came with this Python.
PATH=$PATH:/usr/local/cuda/bin:$(dirname "$(command -v "$python")")

work=$(mktemp -d)
rows=()
status=0
# shellcheck disable=SC2329
end() {
  [ ! -f "$work/build.pid" ] || kill "$(cat "$work/build.pid")" 2>/dev/null
  rm -rf "$work"
}
trap end EXIT
rm -f "$out"/{stages,ncu,grid}.txt "$out"/{smoke,accuracy}.jsonl "$out/grid.json"
: >"$out/log.txt"

# -- Time -----------------------------------------------------------------------------------------

# The stages in their order, with the seconds that each wants of the first 240, and of 300 more.
plan='
carried 8 0
report 24 0
smoke 55 10
extension 10 20
flows 14 10
tensor_cores 22 10
tiles 14 10
flow_tests 11 7
transforms 5 5
errors 2 0
grid 75 30
ncu_fused 1 18
ncu_direct 1 15
memcheck 1 45
racecheck 1 45
peers 1 60
rest 1 30'

# limit NAME: of the seconds left, the part that this stage has of all from it on.
limit() {
  awk -v name="$1" -v budget="$budget" -v left=$((budget - SECONDS - 1)) '
    NF == 3 {
      beyond = (budget - 240) / 300
      wanted = $2 + $3 * (beyond < 0 ? 0 : beyond > 1 ? 1 : beyond)
      if ($1 == name) own = wanted
      if (own) all += wanted
    }
    END { print int(left * own / all) }' <<<"$plan"
}

# -- Stages ---------------------------------------------------------------------------------------

# The table so far, in one piece.
keep() {
  printf '%s\n' ${rows[@]+"${rows[@]}"} "$@" >"$work/stages" && mv "$work/stages" "$out/stages.txt"
}

# stage NAME COMMAND...: its output goes to the log, its result into the table. It is interrupted
# before its limit, so that it can still say what it has, and killed at it.
stage() {
  local name=$1 most start=$SECONDS grace ending result
  shift
  most=$(limit "$name")
  if [ "$most" -lt 1 ]; then
    skip "$name" 'no time is left'
    return
  fi
  printf '\n=== %s (at most %d s)\n' "$name" "$most" | tee -a "$out/log.txt"
  keep "$(printf '%-13s    - s of %4d   running' "$name" "$most")"
  grace=$((most < 20 ? most / 4 : 5))
  ending=(--signal=INT "--kill-after=$grace")
  [ $grace -gt 0 ] || ending=(--signal=KILL)
  timeout "${ending[@]}" $((most - grace)) "$@" >"$work/said" 2>&1 </dev/null
  case $? in
    0) result=passed ;;
    124 | 137) result='out of time' status=1 ;;
    *) result=FAILED status=1 ;;
  esac
  tail -c 700000 "$work/said" >>"$out/log.txt"
  tail -n 12 "$work/said" | cut -c 1-200
  rows+=("$(printf '%-13s %4d s of %4d   %s' "$name" $((SECONDS - start)) "$most" "$result")")
  keep
}

skip() {
  printf '\n=== %s: skipped, %s\n' "$1" "$2" | tee -a "$out/log.txt"
  rows+=("$(printf '%-13s    - s of    -   skipped: %s' "$1" "$2")")
  keep
}

has() {
  "$python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec(sys.argv[1]) is None)' "$1"
}

# -- The extension --------------------------------------------------------------------------------

# Whether there is one that loads, and none of its sources is newer.
is_built() {
  local so
  so=$("$python" -m benchmarks.prewarm --where) || return 1
  [ -z "$(find csrc python CMakeLists.txt -type f -newer "$so" -print -quit)" ]
}

# For this GPU alone, beside the stages that need Triton only; put in its place in one piece.
build_extension() {
  local arch so
  arch=$(timeout 5 nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1)
  [ -z "$arch" ] || export CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=${arch/./}-real ${CMAKE_ARGS:-}"
  export DMMD_BUILD_DIR=$PWD/build/gpu-extension MAX_JOBS=${MAX_JOBS:-16}
  timeout $((budget - SECONDS)) "$python" setup.py build_ext --build-lib "$work/lib" \
    >"$work/build.txt" 2>&1 </dev/null &
  echo $! >"$work/build.pid"
  wait $!
  local result=$?
  for so in "$work"/lib/dmmd_kernels/_C*.so; do
    [ -f "$so" ] && cp "$so" dmmd_kernels/.new && mv dmmd_kernels/.new "dmmd_kernels/${so##*/}"
  done
  echo $result >"$work/built"
}

# shellcheck disable=SC2329
await_build() {
  while [ ! -e "$work/built" ]; do sleep 0.2; done
  tail -n 30 "$work/build.txt"
  exit "$(cat "$work/built")"
}

# The four ways of a flow, once they can run: after the build, or else before the grid.
flows_ran=
flows() {
  if [ -n "$flows_ran" ]; then return; fi
  if is_built; then
    flows_ran=1
    stage flows "$python" -m benchmarks.smoke flows --device "$device" --seconds $group_limit \
      --out "$out/smoke.jsonl"
  elif [ "$1" = last ]; then
    skip flows 'there is no extension that loads'
  fi
}

# -- The others -----------------------------------------------------------------------------------

# shellcheck disable=SC2329
report() {
  nvidia-smi || echo 'there is no nvidia-smi'
  nvcc --version || echo 'there is no nvcc'
  "$python" -c '
import runpy, torch
print("torch sees", "a" if torch.cuda.is_available() else "no", "GPU", flush=True)
runpy.run_module("dmmd_kernels", run_name="__main__")'
}

tests() { # STAGE FILES...
  local name=$1 package options=(-q -W default -p no:benchmark -p no:cacheprovider --maxfail=20)
  for package in pytest hypothesis; do
    has $package || { skip "$name" "$package is not installed"; return; }
  done
  has xdist && options+=(-n "$workers")
  shift
  # Warnings of whatever versions are here are not ours to mend.
  stage "$name" "$python" -m pytest "${options[@]}" -m 'not slow' "${@/#/tests/}"
}

profile() { # STAGE KERNEL GROUP
  command -v ncu >/dev/null || { skip "$1" 'there is no ncu'; return; }
  # The clocks are left as they are.
  stage "$1" ncu --clock-control none --set detailed --kernel-name "regex:$2" --launch-count 1 \
    --log-file "$work/ncu.txt" \
    "$python" -m benchmarks.smoke "$3" --once --case gradient --device "$device" --size "$profiled"
  [ ! -f "$work/ncu.txt" ] || cat "$work/ncu.txt" >>"$out/ncu.txt"
}

sanitize() { # TOOL GROUPS...
  local tool=$1
  shift
  command -v compute-sanitizer >/dev/null || {
    skip "$tool" 'there is no compute-sanitizer'
    return
  }
  # torch's caching allocator would hide what lies between two tensors.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" compute-sanitizer --tool "$tool" \
    --error-exitcode 9 "$python" -m benchmarks.smoke "$@" --once --device "$device"
}

measure() { # STAGE ARGUMENTS...
  local name=$1 most
  shift
  most=$(limit "$name")
  # It ends by itself, before it would be interrupted.
  stage "$name" "$python" -m benchmarks.grid "$out" --append --device "$device" --size "$measured" \
    --until $(($(date +%s) + most - (most < 36 ? most / 3 : 12))) "$@"
}

# -- The run --------------------------------------------------------------------------------------

profiled=16384 measured=32768 jobs=4 workers=8 group_limit=20
[ "$device" != cpu ] || profiled=37 measured=128 jobs=2 workers=2 group_limit=60
export python work
export -f report await_build

stage carried "$python" -m benchmarks.prewarm --unpack "$carried"
[ -z "$extension" ] || cp "$extension" dmmd_kernels/
is_built || build_extension &
stage report bash -c report
if [ "$device" != cpu ] && grep -q '^torch sees no GPU' "$out/log.txt"; then
  skip smoke 'torch sees no GPU; DEVICE=cpu rehearses without one'
  exit 1
fi
stage smoke "$python" -m benchmarks.smoke triton --device "$device" --jobs $jobs \
  --seconds $group_limit --out "$out/smoke.jsonl"
is_built || stage extension bash -c await_build
flows first
tests tensor_cores test_triton_tensor_cores.py
tests tiles test_triton_tiles.py
tests flow_tests test_flows.py test_philox.py
tests transforms test_transforms.py
stage errors "$python" -m benchmarks.errors "$out/accuracy.jsonl"
flows last
measure grid --only ours --parts 64 2 512 16 128 flows
profile ncu_fused fused_kernel fused_64
profile ncu_direct potential_grad_kernel direct
sanitize memcheck fused_64 panels sides second_order direct flow_block flow_cluster flow_grid
sanitize racecheck fused_64 sides flow_block flow_cluster
measure peers --only peers --parts 64 2 512 16 128 flows
measure rest --parts rest

rows+=("$(printf '%-13s %4d s of %4d' total $SECONDS "$budget")")
keep
[ ! -f "$out/grid.txt" ] || tail -n 60 "$out/grid.txt"
printf '\n'
cat "$out/stages.txt"
exit $status
