"""Tables and the plot from saved measurements.

    python benchmarks/tables.py bench.json            print the tables of a pytest-benchmark JSON
    python benchmarks/tables.py bench.json --save     also keep it in benchmarks/results
    python benchmarks/tables.py --readme              write all kept results into both READMEs

A kept result is one file per suite and hardware, one row per measurement, without the rounds.
"""

import argparse
import json
import re
import sys
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
PLOTTED_D = 64
ALONE = "memory_and_threads"  # the suite without peers

Row = dict
Result = dict  # suite, hardware, device, date, machine, rows


# -- Reading and keeping --------------------------------------------------------------------------


def load(path: Path) -> list[Result]:
    """The results in a kept file, or in what pytest-benchmark saved."""
    saved = json.loads(path.read_text())
    if "rows" in saved:
        return [saved]
    machine = saved["machine_info"]["dmmd"]
    measured: dict[tuple[str, str], list[Row]] = {}
    for benchmark in saved["benchmarks"]:
        suite = benchmark["fullname"].split("::")[0].rsplit("/")[-1]
        suite = suite.removeprefix("bench_").removesuffix(".py")
        row = kept_row(benchmark)
        measured.setdefault((suite, row["device"]), []).append(row)
    return [
        {
            "suite": suite,
            "hardware": hardware(machine, device),
            "device": device,
            "date": saved["datetime"][:10],
            "machine": machine,
            "rows": rows,
        }
        for (suite, device), rows in measured.items()
    ]


def kept_row(benchmark: dict) -> Row:
    """What was noted and the 20th, 50th and 80th percentiles, to four digits."""
    stats = benchmark["stats"]
    times = sorted(stats.get("data") or [stats["q1"], stats["median"], stats["q3"]])
    at = lambda share: times[round(share * (len(times) - 1))]
    row = benchmark["extra_info"] | {
        "median_ms": 1e3 * stats["median"],
        "low_ms": 1e3 * at(0.2),
        "high_ms": 1e3 * at(0.8),
        "rounds": stats["rounds"],
    }
    return {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()}


def hardware(machine: dict, device: str) -> str:
    return (
        machine["gpu"] if device == "cuda" else f"{machine['cpu']}, threads: {machine['threads']}"
    )


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def keep(result: Result) -> Path:
    path = RESULTS / f"{result['suite']}-{slug(result['hardware'])}.json"
    path.parent.mkdir(exist_ok=True)
    rows = ",\n".join(json.dumps(row) for row in result["rows"])
    head = json.dumps({key: value for key, value in result.items() if key != "rows"}, indent=1)
    path.write_text(f'{head.rstrip("}").rstrip()},\n "rows": [\n{rows}\n]}}\n')
    path.with_suffix(".md").write_text(page(result) + "\n")
    return path


# -- Tables ---------------------------------------------------------------------------------------


def page(result: Result) -> str:
    """Every measurement of a suite, one table per op; of ours alone, one table."""
    suite = result["suite"].replace("_", " ")
    lines = [f"### {suite} on {result['hardware']}", "", caption(result)]
    if result["suite"] == ALONE:
        return "\n".join([*lines, "", *table_alone(result["rows"])])
    for op, rows in groupby(sorted(result["rows"], key=order), key=lambda row: row["op"]):
        lines += ["", f"`{op}`", "", *table(list(rows))]
    return "\n".join(lines)


def caption(result: Result) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    measured = f"{result['date']}, sizes: {machine['mode']}; {versions}."
    if result["device"] == "cuda":
        return measured
    return (
        f"{measured}\nMeasured in the same run: sgemm {machine['sgemm_gflops']:.0f} GFLOP/s, "
        f"copy {machine['copy_gb_per_s']:.0f} GB/s ({machine['instructions']})."
    )


def order(row: Row) -> tuple:
    return row["op"], row["kernel"], row["batch"], row["evaluations"], row["d"], row["n"]


def shape(row: Row) -> str:
    blocks = f"{row['batch']} × " if row["batch"] else ""
    return f"{blocks}{row['n']} × {row['m']} × {row['d']}"


def is_ours(row: Row) -> bool:
    return row["provider"].startswith("dmmd-")


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| kernel | n × m × d | provider | median ms | 20–80 % | error | vs best peer | of floor |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    for _, group in groupby(rows, key=order):
        group = sorted(group, key=lambda row: row["median_ms"])
        peers = [row["median_ms"] for row in group if not is_ours(row)]
        for row in group:
            faster = f"{min(peers) / row['median_ms']:.2g}×" if is_ours(row) and peers else ""
            name = f"**{row['provider']}**" if is_ours(row) else row["provider"]
            cells = [
                row["kernel"],
                shape(row),
                name,
                digits(row["median_ms"]),
                f"{digits(row['low_ms'])}–{digits(row['high_ms'])}",
                f"{row['error']:.1e}",
                faster,
                share(row),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def table_alone(rows: list[Row]) -> list[str]:
    """What a call of ours takes in memory, and gains from its threads."""
    lines = [
        "| op | kernel | n × m × d | ms | error | threads | ms on one | gain | MB of memory |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        cells = [
            f"`{row['op']}`",
            row["kernel"],
            shape(row),
            digits(row["median_ms"]),
            f"{row['error']:.1e}",
            f"{row['threads']}",
            digits(row["one_thread_ms"]) if "one_thread_ms" in row else "",
            f"{row['speedup']:.2f}×" if "speedup" in row else "",
            digits(row["peak_mb"]) if "peak_mb" in row else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def summary(results: list[Result]) -> str:
    """For each hardware and op, our fastest backend and the fastest peer on its largest problem."""
    lines = []
    compared = (result for result in results if result["suite"] != ALONE)
    by_hardware = sorted(
        compared, key=lambda result: (result["device"] != "cuda", result["hardware"])
    )
    for name, group in groupby(by_hardware, key=lambda result: result["hardware"]):
        rows = [row for result in group for row in result["rows"]]
        lines += [
            f"**{name}**",
            "",
            "| op | kernel | n × m × d | ours, ms | error | floor | peer, ms | error | faster |",
            "|---|---|---|--:|--:|--:|--:|--:|--:|",
            *(line for line in map(duel, largest(rows)) if line),
            "",
        ]
    return "\n".join(lines).rstrip()


def largest(rows: list[Row]) -> list[list[Row]]:
    """The rows of the problem with the most arithmetic, for each op, single and batched."""
    kind = lambda row: (row["op"], row["batch"] > 0)
    chosen = []
    for _, group in groupby(sorted(rows, key=kind), key=kind):
        group = list(group)
        top = order(max(group, key=lambda row: (row["kernel"] == "gaussian", row["flops"])))
        chosen.append([row for row in group if order(row) == top])
    return chosen


def duel(rows: list[Row]) -> str | None:
    fastest = lambda some: min(some, key=lambda row: row["median_ms"], default=None)
    ours, peer = fastest(filter(is_ours, rows)), fastest(r for r in rows if not is_ours(r))
    if ours is None or peer is None:
        return None
    backend = ours["provider"].removeprefix("dmmd-")
    cells = [
        f"`{ours['op']}`",
        ours["kernel"],
        shape(ours),
        f"{digits(ours['median_ms'])} ({backend})",
        f"{ours['error']:.0e}",
        share(ours),
        f"{digits(peer['median_ms'])} ({peer['provider']})",
        f"{peer['error']:.0e}",
        f"{peer['median_ms'] / ours['median_ms']:.1f}×",
    ]
    return "| " + " | ".join(cells) + " |"


def digits(number: float) -> str:
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def share(row: Row) -> str:
    return f"{row['percent_of_floor']:.0f} %" if "percent_of_floor" in row else ""


# -- Plot -----------------------------------------------------------------------------------------


def plot(result: Result) -> Path | None:
    """witness_grad: time against n, for every provider. None when there is no line to draw."""
    if result["suite"] == ALONE:
        return None
    lines: dict[str, dict[int, float]] = {}
    for row in result["rows"]:
        is_square = row["n"] == row["m"] and row["d"] == PLOTTED_D and not row["batch"]
        if row["op"] == "witness_grad" and row["kernel"] == "gaussian" and is_square:
            lines.setdefault(row["provider"], {})[row["n"]] = row["median_ms"]
    if not any(len(line) > 1 for line in lines.values()):
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for provider, line in sorted(lines.items(), key=lambda item: -max(item[1].values())):
        n = sorted(line)
        width, layer = (2.5, 3) if provider.startswith("dmmd-") else (1.2, 2)
        times = [line[k] for k in n]
        axes.plot(n, times, marker="o", markersize=3, label=provider, linewidth=width, zorder=layer)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="particles n = data m", ylabel="median time, ms")
    axes.set_title(f"witness_grad, Gaussian, d = {PLOTTED_D}\n{result['hardware']}", fontsize=10)
    axes.grid(which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path = RESULTS / f"witness_grad-{slug(result['hardware'])}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


# -- READMEs --------------------------------------------------------------------------------------


def replace_block(readme: Path, text: str) -> bool:
    """Puts the text between the two marks; False when they are not there."""
    old = readme.read_text() if readme.exists() else ""
    if BEGIN not in old or END not in old:
        return False
    head, tail = old.split(BEGIN, 1)[0], old.split(END, 1)[1]
    readme.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}")
    return True


def write_readmes(results: list[Result], plots: list[Path]) -> None:
    picture = lambda path, root: f"![witness_grad: time against n]({path.relative_to(root)})"
    pages = "\n\n".join(page(result) for result in results)
    for readme, tables in (
        (HERE.parent / "README.md", summary(results)),
        (HERE / "README.md", pages),
    ):
        pictures = "\n\n".join(picture(path, readme.parent) for path in plots)
        if not replace_block(readme, f"{tables}\n\n{pictures}".strip()):
            sys.stderr.write(f"{readme}: no {BEGIN} … {END}, left as it is\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, help="benchmarks/results/*.json if absent")
    parser.add_argument("--save", action="store_true", help="keep results, tables and plots")
    parser.add_argument("--readme", action="store_true", help="write tables into the READMEs")
    options = parser.parse_args()
    files = options.files or sorted(RESULTS.glob("*.json"))
    results = [result for file in files for result in load(file)]
    if options.save:
        for result in results:
            sys.stderr.write(f"{keep(result)}\n")
    plots = []
    if options.save or options.readme:
        plots = [path for result in results if (path := plot(result))]
    if options.readme:
        write_readmes(results, plots)
    else:
        sys.stdout.write("\n\n".join([summary(results), *map(page, results)]) + "\n")


if __name__ == "__main__":
    main()
