"""What runs at all on this GPU, and how accurately: every way of Triton and of a flow, once.

    python -m benchmarks.smoke                      all groups, each in a process of its own
    python -m benchmarks.smoke fused_64 flow_grid   these
    python -m benchmarks.smoke triton               the ten groups of Triton; flows: the four ways
    python -m benchmarks.smoke --device cpu         small, in Triton's interpreter, without a GPU
    python -m benchmarks.smoke direct --once        only the calls, for a profiler

One CUDA error ends all later work of its process, so a group has a process, and a limit in seconds.
Every case is a line of a table and, with --out, of JSON, both written at once: error in units of
what the accuracy rule allows (above 1 it is broken), seconds of the first call, compiled Triton
kernels, milliseconds of a later call. With --jobs the times are those of a busy machine. The exit
status is 1 if a case failed, ended its process or broke the rule.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import dmmd_kernels as dk
from benchmarks.clock import synchronize, timed, times
from benchmarks.smoke_cases import FLOWS, GROUPS, OPS, TRITON, Case, Problem, ratio

ROOT = Path(__file__).parents[1]
_ROUNDS, _SECONDS = 20, 0.3
_HEAD = (
    f"{'group':14} {'case':28} {'n':>6} {'ratio':>8} {'first s':>8} {'compiled':>8} {'ms':>9}  note"
)
_alive: set[subprocess.Popen] = set()
_is_over = Event()  # who runs this wants it to end


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


# -- In the process of a group --------------------------------------------------------------------


def run_case(group: str, case: Case, device: str) -> dict:
    """What is known of one case; `failed` says why there is no more."""
    found = {"group": group, "case": case.name, "op": case.op, "d": case.d, "n": case.n}
    found |= {"device": device, "failed": None}
    try:
        p = Problem(case, device)
        call = lambda: OPS[case.op].call(p, {"backend": "native" if group in FLOWS else "triton"})
        with Compiled() as compiled:
            results, found["first_s"] = timed(call, device)
        found |= {"compiled": len(compiled), "compile_s": sum(compiled)}
        found["way"] = way(p)
        found["ratio"] = ratio(p, results)
        few = {"least": 1, "most": 1} if device == "cpu" else {"most": _ROUNDS}  # interpreted
        found["ms"] = 1e3 * statistics.median(times(call, device, seconds=_SECONDS, **few))
    except Exception as error:
        found["failed"] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def way(p: Problem) -> str | None:
    """The tiles that a GPU takes for the op, where that can be asked."""
    what = {"value": {}, "gradient": {"grad": True}, "penalty": {"op": "second_order"}}
    what["sigma_grad"] = {"op": "parameters"}
    if not p.z.is_cuda or p.case.op not in what:
        return None
    how = {"op": "sides"} if p.case.sides > 1 else what[p.case.op]
    return dk.regime(p.z, p.x, p.kernel, **how)


class Compiled(list):
    """The seconds of each compilation of a Triton kernel while it is entered."""

    def __enter__(self) -> "Compiled":
        self._knobs = knobs()
        if self._knobs is not None:
            self._before, self._knobs.listener = self._knobs.listener, self._listen
        return self

    def __exit__(self, *_) -> None:
        if self._knobs is not None:
            self._knobs.listener = self._before

    def _listen(self, *, times, cache_hit: bool, **_) -> None:
        if not cache_hit:
            self.append(times.total / 1e6)


def knobs():
    try:
        from triton import knobs
    except ImportError:  # Triton is optional: there are flows without it
        return None
    return knobs.compilation


def prepare(device: str) -> None:
    if device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")
        from tests.interpreter import quicken, use_tensor_cores_for_few_points

        quicken()
        use_tensor_cores_for_few_points()


def sized(groups: list[str], options: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    for group in groups:
        for case in GROUPS[group]:
            if options.case in (None, case.op):
                yield group, case.on(options.device, options.size)


def run_here(groups: list[str], options: argparse.Namespace) -> None:
    """Every case, and its line at once; after a CUDA error no other has a chance."""
    prepare(options.device)
    for group, case in sized(groups, options):
        found = run_case(group, case, options.device) | {"jobs": options.jobs}
        for out in options.out:
            write(found, out)
        say(line(found))
        if found["failed"]:
            synchronize(options.device)  # raises where the GPU is lost to this process


def run_once(groups: list[str], options: argparse.Namespace) -> None:
    prepare(options.device)
    for group, case in sized(groups, options):
        backend = "native" if group in FLOWS else "triton"
        OPS[case.op].call(Problem(case, options.device), {"backend": backend})
        synchronize(options.device)
        say(f"{group} {case.name}: called")


# -- Around it ------------------------------------------------------------------------------------


def line(found: dict) -> str:
    show = lambda name, form: format(found[name], form) if name in found else "–"
    note = found["failed"] or ("breaks the accuracy rule" if found["ratio"] > 1 else "")
    return (
        f"{found['group']:14} {found['case']:28} {found['n']:>6} {show('ratio', '.3f'):>8} "
        f"{show('first_s', '.2f'):>8} {show('compiled', 'd'):>8} {show('ms', '.3f'):>9}  {note}"
    )


def write(found: dict, out: Path) -> None:
    """One line in one write, so that processes may share the file."""
    with out.open("a") as file:
        file.write(f"{json.dumps(found)}\n")


def run_apart(group: str, options: argparse.Namespace) -> bool:
    """The group in a process of its own; whether all of it ran and kept the rule."""
    if _is_over.is_set():
        return False
    cases = [case for _, case in sized([group], options)]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "found.jsonl"
        command = [sys.executable, "-m", "benchmarks.smoke", group, "--here"]
        command += [f"--out={out}" for out in (kept, *options.out)]
        command += [f"--device={options.device}", f"--jobs={options.jobs}"]
        command += [f"--case={options.case}"] * bool(options.case)
        command += [f"--size={options.size}"] * bool(options.size)
        done, said = limited(command, options.seconds)
        lines = kept.read_text().splitlines() if kept.exists() else []
    found = [json.loads(text) for text in lines]
    reason = why_ended(done, said, options.seconds)
    for place, case in enumerate(cases[len(found) :]):
        why = f"not begun: {group} had ended" if place else reason
        about = {"op": case.op, "d": case.d, "n": case.n, "device": options.device}
        found.append({"group": group, "case": case.name, **about, "failed": why})
        say(line(found[-1]))
        for out in options.out:
            write(found[-1], out)
    return all(not each["failed"] and each["ratio"] <= 1 for each in found)


def limited(command: list[str], seconds: float) -> tuple[int | None, str]:
    """(exit status, or None where the limit ended it; the end of what it complained of)."""
    # In the process group of this one, so that who ends this one ends it too.
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, cwd=ROOT, stderr=said)
        _alive.add(child)
        try:
            done = child.wait(seconds)
        except subprocess.TimeoutExpired:
            done = None
        finally:
            child.kill()
            child.wait()
            _alive.discard(child)
        said.seek(0)
        return done, said.read().decode(errors="replace")[-2000:]


def run_all(groups: list[str], options: argparse.Namespace) -> bool:
    """A group for each job at a time; interrupted, none is begun any more."""
    with ThreadPoolExecutor(options.jobs) as pool:
        try:
            runs = [pool.submit(run_apart, group, options) for group in groups]
            return all([run.result() for run in runs])
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # `timeout` sends it twice
            _is_over.set()
            for child in list(_alive):
                child.kill()
            raise


def why_ended(done: int | None, said: str, seconds: float) -> str:
    if _is_over.is_set():
        return "the run was interrupted"
    if done is None:
        return f"did not end within {seconds:.0f} s"
    last = next((text for text in reversed(said.splitlines()) if text.strip()), "nothing")
    how = f"signal {-done}" if done < 0 else f"exit status {done}"
    return f"its process ended with {how}; it said last: {last[:160]}"


def chosen(names: list[str]) -> list[str]:
    several = {"triton": TRITON, "flows": FLOWS, "all": tuple(GROUPS)}
    groups = [group for name in names or ["all"] for group in several.get(name, (name,))]
    if unknown := [group for group in groups if group not in GROUPS]:
        raise SystemExit(f"smoke: groups are {', '.join(GROUPS)}, triton and flows; got {unknown}")
    return groups


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; or triton, or flows")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--seconds", type=float, default=20, help="the limit of each group")
    parser.add_argument("--jobs", type=int, default=1, help="groups at a time")
    parser.add_argument("--out", type=Path, action="append", default=[], metavar="FILE",
                        help="gets a line of JSON for each case")  # fmt: skip
    parser.add_argument("--case", choices=OPS, help="only cases of this op")
    parser.add_argument("--size", type=int, help="points, instead of those of the case")
    parser.add_argument("--once", action="store_true", help="call each case once, in this process")
    parser.add_argument("--here", action="store_true", help="check each case, in this process")
    options = parser.parse_args()
    groups = chosen(options.groups)
    if options.once or options.here:
        (run_once if options.once else run_here)(groups, options)
        return 0
    say(_HEAD)
    return 0 if run_all(groups, options) else 1


if __name__ == "__main__":
    sys.exit(main())
